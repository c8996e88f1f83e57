package tree

import (
	"sync"
	"time"
)

// DirTimes are the modification times of folders that were changed here since
// the start: the service's own do not tell of children (API §5.4). It keeps a
// bounded number; a folder that falls out shows the drive's time again. The
// zero value is empty; methods are safe for concurrent use.
type DirTimes struct {
	mu sync.Mutex
	m  map[uint64]time.Time
}

// Touch notes that something in dir changed now.
func (d *DirTimes) Touch(dir uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.m == nil || len(d.m) >= maxRecent {
		d.m = map[uint64]time.Time{}
	}
	d.m[dir] = time.Now()
}

// Forget ends that dir shows a time of its own.
func (d *DirTimes) Forget(dir uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.m, dir)
}

// Latest is t, or the time of a later change here.
func (d *DirTimes) Latest(dir uint64, t time.Time) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if here, ok := d.m[dir]; ok && here.After(t) {
		return here
	}
	return t
}
