package cache

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// A part of a file was changed here, and the rest of its version is lost: zeros
// that nobody wrote are neither sent nor shown, and a flush ends.
func TestLostBase(t *testing.T) {
	const size = 300_000
	old := strings.Repeat("old text ", size/9+1)[:size]
	for name, c := range map[string]struct {
		edit  func(w *world)
		purge bool
		want  map[string]string // on the drive, by the beginning of the name; nil = theirs alone
		aside string            // bytes that are set aside
	}{
		"appended": {edit: func(w *world) { w.writeAt("/f", "our line\n", size, unix.O_WRONLY) },
			want: map[string]string{"f": "theirs\n", "f (conflict ": "theirs\nour line\n"}},
		"changed inside": {edit: func(w *world) { w.writeAt("/f", "ours inside", 1000, unix.O_WRONLY) }, aside: "ours inside"},
		"cut": {edit: func(w *world) {
			n := int64(1000)
			w.setattr("/f", SetAttr{Size: &n})
		}},
		"changed, and purged there": {edit: func(w *world) { w.writeAt("/f", "ours inside", 1000, unix.O_WRONLY) },
			purge: true, want: map[string]string{}, aside: "ours inside"},
		"appended, and purged there": {edit: func(w *world) { w.writeAt("/f", "our line\n", size, unix.O_WRONLY) },
			purge: true, want: map[string]string{}, aside: "our line\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.Backoff = 5 * time.Millisecond })
			n := w.put("/f", old)
			w.poll()
			away := true
			w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
				if away && op.Name == "content.download" {
					return &drivetest.Fault{Do: drivetest.DoStatus, Status: 503}
				}
				return nil
			})
			c.edit(w)
			if c.purge {
				if _, err := w.other.Trash(n.ID); err != nil {
					t.Fatal(err)
				}
				if err := w.other.Purge(n.ID); err != nil {
					t.Fatal(err)
				}
			} else {
				w.put("/f", "theirs\n")
			}
			w.srv.Hook(nil)
			if c.purge {
				w.poll() // a 404 alone is a question
			}
			w.flush()
			w.poll()
			w.flush()
			have := w.contents()
			want := c.want
			if want == nil {
				want = map[string]string{"f": "theirs\n"}
			}
			for p, content := range have {
				if strings.Contains(content, "\x00") {
					t.Errorf("%s has zeros", p)
				}
				found := false
				for prefix, body := range want {
					found = found || strings.HasPrefix(p, "/"+prefix) && content == body
				}
				if !found {
					t.Errorf("the drive has %q in %s", content[:min(40, len(content))], p)
				}
			}
			if len(have) != len(want) {
				t.Errorf("the drive has %d files, not %d", len(have), len(want))
			}
			w.wantAside(c.aside)
		})
	}
}

// wantAside checks what is in the state directory's quarantine.
func (w *world) wantAside(want string) {
	w.Helper()
	files, _ := filepath.Glob(filepath.Join(w.o.StateDir, "aside", "*"))
	found := false
	for _, p := range files {
		b, err := os.ReadFile(p)
		if err != nil {
			w.Fatal(err)
		}
		found = found || want != "" && bytes.Contains(b, []byte(want))
	}
	if found != (want != "") {
		w.Errorf("set aside: %q, want %q", files, want)
	}
}

// The rest of a file is fetched soon after the first write, long before it is
// sent: a version that is replaced later is not missed.
func TestBaseIsFetchedSoon(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	old := strings.Repeat("old text ", 40_000)
	w.put("/f", old)
	w.poll()
	w.writeAt("/f", "OURS", 10, unix.O_WRONLY)
	e, err := w.s.Resolve(t.Context(), "/f")
	if err != nil {
		t.Fatal(err)
	}
	w.until("the base is here", func() bool {
		j, ok := w.s.journal.Get(e.Ino)
		return ok && j.Draft != nil && j.Draft.Limit == 0
	})
	w.put("/f", "theirs")
	w.poll()
	want := old[:10] + "OURS" + old[14:]
	w.want(w.read("/f"), want)
	w.flush()
	w.poll()
	if !w.has("theirs") || !w.has(want) {
		t.Errorf("the drive has %d files", len(w.contents()))
	}
}
