package settle

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// A worker that lists a removed folder finds what is to leave it; then that is
// removed as well, and waits for the folder in its turn.
func TestWaitsForWhatIsRemovedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("top")
		w.mkdir("top/d")
		w.write("top/d/f", "x")
		w.flush()
		w.stop()
		w.stop = nil

		w.rename("top/d", "d")
		w.remove("top")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		q := newQueue(ctx, w.s)
		q.takeChanges()
		top, d := w.h.removedOf(t, "top"), w.h.ino("d")
		q.start(q.items[top], laneCalls)
		r := <-q.reports
		if r.kind != waits || r.on != d {
			t.Fatalf("the worker reports %+v", r)
		}
		q.report(r)
		w.remove("d/f")
		w.remove("d")
		q.takeChanges()
		if it := q.items[top]; it.state == blocked {
			t.Errorf("the folder waits for %d, which waits for it", it.on)
		}
		cancel()
		q.work.Wait()

		w.start()
		w.flush()
		w.wantTree(map[string]string{})
		w.wantTrash("top")
	})
}

// ino is the inode that the user sees under a path.
func (h *memHost) ino(p string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.walkLocked(p)
}

// removedOf is the inode of a removed entry of that name.
func (h *memHost) removedOf(t *testing.T, name string) (ino uint64) {
	t.Helper()
	for _, i := range h.j.Inos() {
		h.j.Peek(i, func(e *journal.Entry) {
			if e.Removed && e.Place.Name == name {
				ino = i
			}
		})
	}
	return ino
}
