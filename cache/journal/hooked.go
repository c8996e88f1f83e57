package journal

import "os"

// hooked is a filesystem on which each fsync begins with a call of sync, and
// each write with one of write, whose error it answers: for tests of what a
// slow disk holds up and a failing one leaves behind. Either may be nil.
type hooked struct {
	fsys
	sync  func()
	write func() error
}

func (fs hooked) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := fs.fsys.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &hookedFile{f, fs}, nil
}

func (fs hooked) SyncDir(name string) error {
	if fs.sync != nil {
		fs.sync()
	}
	return fs.fsys.SyncDir(name)
}

type hookedFile struct {
	file
	fs hooked
}

func (f *hookedFile) Datasync() error {
	if f.fs.sync != nil {
		f.fs.sync()
	}
	return f.file.Datasync()
}

func (f *hookedFile) WriteAt(p []byte, off int64) (int, error) {
	if f.fs.write != nil {
		if err := f.fs.write(); err != nil {
			return 0, err
		}
	}
	return f.file.WriteAt(p, off)
}
