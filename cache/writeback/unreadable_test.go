package writeback

import (
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// A mirror that cannot be read does not know; that is not "gone", "free" or
// "another's". Everything waits, and comes about when it can be read again.
func TestUnreadableMirror(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("d")
		w.write("d/a", "a")
		w.write("d/b", "b")
		w.write("d/c", "c")
		w.flush()
		w.s.Pause(true)
		w.write("d/new", "new")
		w.write("d/a", "changed")
		w.rename("d/b", "moved")
		w.mkdir("e")
		w.write("e/f", "f")
		if err := w.m.Close(); err != nil {
			t.Fatal(err)
		}
		w.blind = true
		w.unpause()
		time.Sleep(time.Second)
		for p := range w.tree() {
			if p != "d" && p != "d/a" && p != "d/b" && p != "d/c" {
				t.Errorf("on the drive, out of ignorance: %s", p)
			}
		}
		if st := w.s.Stats(); st.Failed == 0 {
			t.Errorf("nothing is said: %+v", st)
		}
		w.reopen()
		w.run()
		w.flush()
		w.wantTree(map[string]string{"d": "/", "d/a": "changed", "d/c": "c", "d/new": "new", "moved": "b", "e": "/", "e/f": "f"})
		w.wantTrash()
		if n := w.notes(""); len(n) > 0 {
			t.Errorf("reported: %q", n)
		}
	})
}
