package journal

import (
	"errors"
	"fmt"
	"io"
)

// Overlay reads the file as it is at one moment, [off, off+len(p)) of it: local
// bytes are laid over p, in which the parts listed in base hold the base's bytes
// already. n is less than len(p) at the end of the file only. ok=false: a part
// is neither local nor in base; ask Missing again.
func (d *Draft) Overlay(p []byte, off int64, base []Extent) (n int, ok bool, err error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if off < 0 {
		return 0, false, fmt.Errorf("%w: read at %d", ErrInvalid, off)
	}
	end := min(off+int64(len(p)), d.size)
	if off >= end {
		return 0, true, nil
	}
	var missing []Extent
	if limit := min(end, d.base.Limit); off < limit {
		missing = d.local.missing(off, limit)
	}
	read := func(from, to int64) error {
		if from >= to {
			return nil
		}
		part := p[from-off : to-off]
		got, err := d.f.ReadAt(part, from)
		if errors.Is(err, io.EOF) { // the rest was never written
			clear(part[got:])
			err = nil
		}
		return err
	}
	at := off
	for _, x := range missing {
		if !covers(base, x) {
			return 0, false, nil
		}
		if err := read(at, x.Off); err != nil {
			return 0, false, err
		}
		at = x.End
	}
	return int(end - off), true, read(at, end)
}

// covers tells whether x lies in one of xs.
func covers(xs []Extent, x Extent) bool {
	for _, have := range xs {
		if have.Off <= x.Off && x.End <= have.End {
			return true
		}
	}
	return false
}
