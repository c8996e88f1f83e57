package journal

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// memFile is a small content in memory; Draft.mu guards it. It never gets
// longer than smallMax: see Draft.grow.
type memFile struct{ b []byte }

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.grow(off + int64(len(p)))
	return copy(f.b[off:], p), nil
}

func (f *memFile) grow(n int64) {
	if n <= int64(len(f.b)) {
		return
	}
	if n > int64(cap(f.b)) {
		b := make([]byte, len(f.b), min(max(2*n, 512), smallMax))
		copy(b, f.b)
		f.b = b
	}
	was := len(f.b)
	f.b = f.b[:n]
	clear(f.b[was:])
}

func (f *memFile) Truncate(n int64) error {
	f.grow(n)
	f.b = f.b[:n]
	return nil
}

func (f *memFile) Allocate(mode uint32, off, n int64) error {
	switch mode {
	case unix.FALLOC_FL_KEEP_SIZE:
	case unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE:
		if off < int64(len(f.b)) {
			clear(f.b[off:min(off+n, int64(len(f.b)))])
		}
	default:
		return errors.ErrUnsupported
	}
	return nil
}

func (f *memFile) Length() (int64, error) { return int64(len(f.b)), nil }
func (f *memFile) Datasync() error        { return nil }
func (f *memFile) Close() error           { return nil }
