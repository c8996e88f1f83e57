package cache

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// TestCloseOnFullDisk: a close that the journal had no room for keeps the bytes,
// is counted, and made up for when there is room. What began from another
// version than the drive has by then is a conflict, as ever.
func TestCloseOnFullDisk(t *testing.T) {
	for _, theirs := range []bool{false, true} {
		each(t, edits, func(w *world, h *Handle, old, want string) {
			if theirs && old == "" {
				h.Release()
				return
			}
			w.full.Store(true)
			if err := h.Flush(); !errors.Is(err, unix.ENOSPC) {
				w.Errorf("close on a full disk: %v", err)
			}
			h.Release()
			if theirs {
				time.Sleep(12 * time.Second) // the rest of it is here by then
				w.put("/f", "another's, and longer than that")
				w.poll()
			}
			time.Sleep(62 * time.Second)
			w.want(w.read("/f"), want)
			if st := w.s.Status(); st.Unsaved != 1 || st.Pending > 1 {
				w.Errorf("status: %+v", st)
			}
			w.full.Store(false)
			time.Sleep(62 * time.Second)
			synctest.Wait()
			if st := w.s.Status(); st.Unsaved != 0 || st.Open != 0 {
				w.Errorf("status: %+v", st)
			}
			w.flush()
			if !theirs {
				w.want(w.drive("/f"), want)
				return
			}
			w.want(w.drive("/f"), "another's, and longer than that")
			for _, p := range w.paths() {
				if strings.Contains(p, "(conflict here") {
					w.want(w.drive(p), want)
					return
				}
			}
			w.Errorf("no conflict copy in %q", w.paths())
		})
	}
}

// TestEndOnFullDisk: what has room before the end is kept.
func TestEndOnFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBubbleWorld(t, func(*drivetest.Server) {}, false)
		h := w.create("/f", unix.O_RDWR|unix.O_CREAT)
		putAt("text", 0)(t, h)
		w.full.Store(true)
		h.Release()
		w.full.Store(false)
		w.reopen()
		w.want(w.read("/f"), "text")
	})
}
