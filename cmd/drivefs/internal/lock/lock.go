// Package lock answers one question: which mount has a state directory? One at
// a time; the file says which, so that a second one can be told, and verbs
// find the first. The lock is the kernel's (an open file description lock), so
// it ends with its process, and asking for its holder does not disturb it.
package lock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Holder is the mount that has the directory.
type Holder struct {
	PID        int    `json:"pid"`
	Mountpoint string `json:"mountpoint"`
	Control    string `json:"control"` // path of its control socket
}

// HeldError refuses a directory that is in use.
type HeldError struct {
	Dir    string
	Holder Holder
}

func (e *HeldError) Error() string {
	if e.Holder.PID == 0 {
		return fmt.Sprintf("the state directory %s is in use by a mount that is starting", e.Dir)
	}
	return fmt.Sprintf("the state directory %s is in use by the mount on %s (process %d)", e.Dir, e.Holder.Mountpoint, e.Holder.PID)
}

// Lock is held until Release, or the end of the process.
type Lock struct{ f *os.File }

// Path is the lock's file in a state directory.
func Path(dir string) string { return filepath.Join(dir, "mount.lock") }

// Take locks dir, which is made when missing, for h. *HeldError: it is taken.
func Take(dir string, h Holder) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(Path(dir), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	switch err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole); {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		held := &HeldError{Dir: dir, Holder: read(f)}
		return nil, errors.Join(held, f.Close())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
	}
	b, err := json.Marshal(h)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(b, '\n'), 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Lock{f}, nil
}

// Release gives the directory free. The file stays, so that two who come at
// once always lock the same one.
func (l *Lock) Release() error {
	return errors.Join(l.f.Truncate(0), l.f.Close())
}

// read is the zero Holder while there is none written, or a writer is at it.
func read(f *os.File) Holder {
	var h Holder
	b, _ := io.ReadAll(io.NewSectionReader(f, 0, 1<<16))
	if json.Unmarshal(b, &h) != nil {
		return Holder{}
	}
	return h
}

// Find is who has the state directory dir; false when nobody does.
func Find(dir string) (Holder, bool) {
	f, err := os.OpenFile(Path(dir), os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return Holder{}, false
	}
	defer f.Close()
	return read(f), held(f)
}

func held(f *os.File) bool {
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &whole) == nil && whole.Type != unix.F_UNLCK
}

// WaitFree waits until nobody holds the lock at path: its process is done with
// the directory. A file that is gone is free.
func WaitFree(ctx context.Context, path string) error {
	// The path is from an answer, which may be anybody's: looked at before it is
	// opened, and not followed.
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no lock", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for held(f) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
