package logs

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
)

// mostFile is how large a log's file may be; then a new one is begun, and one
// old one kept.
const mostFile = 8 << 20

// rotating writes to a file, and begins a new one when that is large.
type rotating struct {
	path string
	mu   sync.Mutex // guards the rest
	f    *os.File
	size int64
}

// openRotating opens the file at path, whose directory is made. What is no
// regular file is only written to.
func openRotating(path string) (*rotating, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	r := &rotating{path: path}
	return r, r.open()
}

func (r *rotating) open() error {
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.f, r.size = f, st.Size()
	if !st.Mode().IsRegular() {
		r.size = -1
	}
	return nil
}

// Write writes one line.
func (r *rotating) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size >= 0 && r.size+int64(len(line)) > mostFile && os.Rename(r.path, r.path+".1") == nil {
		old := r.f
		if err := r.open(); err != nil {
			r.size = -1 // goes on in the one that was renamed
		} else {
			_ = old.Close()
		}
	}
	n, err := r.f.Write(line)
	if r.size >= 0 {
		r.size += int64(n)
	}
	return n, err
}

func (r *rotating) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.f.Close()
}
