package cache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// TestSpace: a caller waits for the first answer no longer than a call may, gets
// the last one at once from then on, and questions are shared and rare.
func TestSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBubbleWorld(t, func(*drivetest.Server) {}, false)
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			if op.Name == "account.quota" {
				return &drivetest.Fault{Do: drivetest.DoDelay, Delay: 3 * time.Second}
			}
			return nil
		})
		asked := func() int { return w.srv.Requests()["account.quota"] }
		begun := time.Now()
		if total, free := w.s.Space(t.Context()); total != spaceUnknown || free != spaceUnknown {
			t.Errorf("before the first answer: %d, %d free", total, free)
		}
		if d := time.Since(begun); d != w.s.o.CallTimeout {
			t.Errorf("waited %v", d)
		}
		time.Sleep(5 * time.Second)
		begun = time.Now()
		total, free := w.s.Space(t.Context())
		if total <= 0 || total == spaceUnknown || free > total {
			t.Errorf("after the answer: %d, %d free", total, free)
		}
		if n := asked(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		time.Sleep(spaceLife)
		for range 3 {
			if now, _ := w.s.Space(t.Context()); now != total {
				t.Errorf("while it is asked again: %d", now)
			}
		}
		if d := time.Since(begun); d != spaceLife {
			t.Errorf("waited %v for what is known", d-spaceLife)
		}
		time.Sleep(5 * time.Second)
		if n := asked(); n != 2 {
			t.Errorf("asked %d times in all", n)
		}
	})
}
