package writeback

import (
	"context"
	"testing"
	"testing/synctest"

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
		top, _ := must[uint64, uint64](t)(w.tryRemove("top"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		q := newQueue(ctx, w.s)
		q.takeChanges()
		d := w.ino("d")
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
