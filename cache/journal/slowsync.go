package journal

import "os"

// slowSync is a filesystem on which each fsync begins with a call of before: for
// tests of what a slow disk holds up.
type slowSync struct {
	fsys
	before func()
}

func (fs slowSync) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := fs.fsys.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &slowFile{f, fs.before}, nil
}

func (fs slowSync) SyncDir(name string) error {
	fs.before()
	return fs.fsys.SyncDir(name)
}

type slowFile struct {
	file
	before func()
}

func (f *slowFile) Datasync() error {
	f.before()
	return f.file.Datasync()
}
