package cache

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMkdirRefusedWithItsParent: a folder that could not be made because the
// one above it went to the trash is made at once where that is made again; of
// what was refused nothing can come that would have to be waited for.
func TestMkdirRefusedWithItsParent(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.put("/d/old", "base")
	w.poll()
	if _, err := w.other.Trash(w.id("/d")); err != nil {
		t.Fatal(err)
	}
	w.srv.ResetRequests()
	w.mkdir("/d/new")
	w.write("/d/new/f", "text")
	w.flush()
	w.want(w.drive("/d/new/f"), "text")
	if n := w.srv.Requests()["nodes.list"]; n > 2 {
		t.Errorf("looked for %d times", n)
	}
}

// A folder goes to the trash elsewhere while files in it, and deeper, are made
// and edited here: they are shown where they will be as soon as that is told.
func TestContentNeverVanishesWithItsFolder(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	d, err := w.other.MkdirAll("/d")
	if err != nil {
		t.Fatal(err)
	}
	w.put("/d/edited", "one")
	w.put("/d/sub/deep", "one")
	w.put("/d/other", "theirs")
	w.poll()
	w.write("/d/edited", "edited here")
	w.write("/d/new", "new here")
	w.write("/d/sub/deep", "deep here")
	h := w.create("/d/open", unix.O_WRONLY|unix.O_CREAT)
	defer h.Release()
	if _, err := w.other.Trash(d.ID); err != nil {
		t.Fatal(err)
	}
	w.poll()
	for p, want := range map[string]string{"/d/edited": "edited here", "/d/new": "new here", "/d/sub/deep": "deep here", "/d/open": ""} {
		w.want(w.read(p), want)
	}
	w.flush()
	w.poll()
	for p, want := range map[string]string{"/d/edited": "edited here", "/d/new": "new here", "/d/sub/deep": "deep here"} {
		w.want(w.read(p), want)
		w.want(w.drive(p), want)
	}
}

// A node with several parents, all of them trashed, while it is edited: the
// edit is shown at once, and arrives.
func TestEditOfWhatLostAllParents(t *testing.T) {
	for _, committed := range []bool{false, true} {
		w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
		n := w.put("/a/f", "one")
		w.addParent(n.ID, "/b")
		w.poll()
		h := w.openAt("/a/f", unix.O_RDWR)
		w.writeTo(h, "edited", 0)
		if committed {
			if err := h.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range []string{"/a", "/b"} {
			if _, err := w.other.Trash(w.id(p)); err != nil {
				t.Fatal(err)
			}
		}
		w.poll()
		w.writeTo(h, "!", 6)
		w.shut(h)
		shown := 0
		for _, text := range w.snapshot() {
			if strings.HasPrefix(text, "edited!") {
				shown++
			}
		}
		if shown == 0 {
			t.Errorf("committed %v: shown is %v", committed, w.snapshot())
		}
		w.flush()
		w.poll()
		if !w.has("edited!") {
			t.Errorf("committed %v: the drive has %v", committed, w.contents())
		}
	}
}
