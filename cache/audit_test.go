package cache

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// TestAudit: what the feed never told is found in time, by a few calls an hour,
// also over restarts and not while the drive is away.
func TestAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const folders = 9
		w := newBubbleWorld(t, func(srv *drivetest.Server) {
			for i := range folders {
				if _, err := srv.Else().PutPath(fmt.Sprintf("d%d/old", i), []byte("text")); err != nil {
					t.Fatal(err)
				}
			}
		}, false)
		listings := func() int { return w.srv.Requests()["nodes.children"] }
		for i := range folders { // and nobody hears of it
			if _, err := w.other.Rename(w.id(fmt.Sprintf("d%d/old", i)), "new"); err != nil {
				t.Fatal(err)
			}
		}
		left := func() (n int) {
			for i := range folders {
				if _, err := w.s.Resolve(t.Context(), fmt.Sprintf("/d%d/old", i)); err == nil {
					n++
				} else if !errors.Is(err, ErrNotExist) {
					t.Fatal(err)
				}
			}
			return n
		}
		before := listings()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := listings() - before; n < 2 || n > 8 {
			t.Errorf("%d listings in an hour", n)
		}
		some := left()
		if some == folders {
			t.Error("an hour mended nothing")
		}
		w.close()
		w.deaf = true
		w.open()
		// It goes on where it was: the rest, and the root, are enough.
		time.Sleep(time.Duration(some+1) * auditEvery * 3 / 2)
		synctest.Wait()
		if n := left(); n > 0 {
			t.Errorf("%d of %d folders are not mended after each was looked at", n, folders)
		}
		if len(w.s.Status().Events) == 0 {
			t.Error("nothing in the status tells of it")
		}

		w.srv.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{{Fault: drivetest.Fault{Status: 503}}}})
		if _, err := w.o.Remote.Root(t.Context()); err == nil || w.o.Remote.State().Kind != drive.Offline {
			t.Fatal("the drive should be away", err)
		}
		before = listings()
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		if n := listings() - before; n > 0 {
			t.Errorf("%d listings while the drive is away", n)
		}
		w.srv.SetFaults(drivetest.Faults{})
	})
}
