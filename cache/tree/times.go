package tree

import (
	"sync"
	"time"

	"github.com/drivefs/drivefs/cache/recent"
)

// DirTimes are the modification times of folders that were changed here since
// the start: the service's own do not tell of children (API §5.4). It keeps a
// bounded number; a folder that falls out shows the drive's time again. The
// zero value is empty; methods are safe for concurrent use.
type DirTimes struct {
	mu sync.Mutex
	m  recent.Map[uint64, time.Time]
}

// Touch notes that something in dir changed now.
func (d *DirTimes) Touch(dir uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.m.Put(dir, time.Now())
}

// Forget ends that dir shows a time of its own.
func (d *DirTimes) Forget(dir uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.m.Delete(dir)
}

// Latest is t, or the time of a later change here.
func (d *DirTimes) Latest(dir uint64, t time.Time) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if here, ok := d.m.Get(dir); ok && here.After(t) {
		return here
	}
	return t
}
