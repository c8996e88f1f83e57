package journal

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// fsys is the part of the filesystem that log and drafts use. It is an
// interface so that the power failure tests can record every write and sync
// and replay them up to any point.
type fsys interface {
	OpenFile(name string, flag int, perm os.FileMode) (file, error)
	Remove(name string) error
	Rename(from, to string) error
	SyncDir(name string) error
}

type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Datasync() error
	Allocate(mode uint32, off, n int64) error
	Length() (int64, error)
}

// osFS is the filesystem.
type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

type osFile struct{ *os.File }

func (f osFile) Datasync() error {
	return f.control(func(fd int) error { return unix.Fdatasync(fd) })
}

func (f osFile) Allocate(mode uint32, off, n int64) error {
	return f.control(func(fd int) error { return unix.Fallocate(fd, mode, off, n) })
}

func (f osFile) Length() (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// control runs fn on the descriptor, which stays open meanwhile, and repeats
// it while a signal interrupts it.
func (f osFile) control(fn func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Control(func(fd uintptr) {
		for {
			if failed = fn(int(fd)); !errors.Is(failed, unix.EINTR) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return failed
}
