package chunk

import (
	"context"
	"os"
	"time"
)

// roomTick is how often the tier looks whether others fill the disk.
const roomTick = 5 * time.Second

// Yield frees at least n bytes of what the disk tier holds, as far as it has
// them, and tells whether it freed any: what the user writes needs the room
// more. It waits for the file that is being written.
func (c *Cache) Yield(n int64) bool {
	if c.disk == nil {
		return false
	}
	return c.disk.yield(n) > 0
}

func (d *disk) yield(n int64) (freed int64) {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.checked = time.Time{} // before the tier writes again, it looks what is left
	for freed < n {
		d.mu.Lock()
		class := 0
		if d.lru[0].Len() == 0 {
			class = 1
		}
		front := d.lru[class].Front()
		if front == nil {
			d.mu.Unlock()
			break
		}
		e := front.Value.(*entry)
		d.removeLocked(e)
		d.mu.Unlock()
		if os.Remove(d.path(e.diskKey, e.edge)) == nil {
			freed += e.cost
		}
	}
	return freed
}

// keepReserve makes the tier give room up also when it does not write itself.
func (d *disk) keepReserve(ctx context.Context) {
	t := time.NewTicker(roomTick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		d.writing.Lock()
		d.checked = time.Time{}
		_ = d.makeRoom(0) // there is no more of ours to give
		d.writing.Unlock()
	}
}
