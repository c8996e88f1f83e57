package writeback

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// A pause of contents lets names and places go on, and a flush lists what it
// does not wait for: contents, and what waits for them.
func TestPauseContents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("old", "old")
		w.mkdir("gone")
		w.flush()
		w.s.PauseContents(true)
		w.write("new", "new")
		w.write("old", "newer")
		w.mkdir("d")
		w.rename("old", "d/moved")
		w.write("gone/f", "f")
		failed, err := w.s.Flush(w.ctx())
		if err != nil || len(failed) != 3 {
			t.Errorf("flush: %v, %v", failed, err)
		}
		for _, f := range failed {
			if !errors.Is(f.Err, ErrPaused) {
				t.Errorf("%d: %v", f.Ino, f.Err)
			}
		}
		if got := w.tree(); len(got) != 3 || got["d"] != "/" || got["d/moved"] != "old" || got["gone"] != "/" {
			t.Errorf("while paused the drive has %v", got)
		}
		w.s.PauseContents(false)
		w.flush()
		w.wantTree(map[string]string{"d": "/", "d/moved": "newer", "new": "new", "gone": "/", "gone/f": "f"})

		// A pause ends the waiting of a flush that is under way.
		w.srv.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{{Op: "content.upload", Fault: drivetest.Fault{Status: 503}}}})
		w.write("later", "later")
		type result struct {
			failed []Failure
			err    error
		}
		done := make(chan result, 1)
		go func() {
			failed, err := w.s.Flush(w.ctx())
			done <- result{failed, err}
		}()
		w.until("it is tried", func() bool { return w.s.Stats().Failed > 0 })
		w.s.PauseContents(true)
		if r := <-done; r.err != nil || len(r.failed) != 1 || !errors.Is(r.failed[0].Err, ErrPaused) {
			t.Errorf("flush: %v, %v", r.failed, r.err)
		}
		w.srv.SetFaults(drivetest.Faults{})
		w.s.PauseContents(false)
		w.flush()
	})
}
