package cache

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// contents are the files of the drive and what they hold.
func (w *world) contents() map[string]string {
	w.Helper()
	all := map[string]string{}
	for p, n := range w.other.Tree() {
		if n.Content != nil {
			all["/"+p] = w.drive("/" + p)
		}
	}
	return all
}

// has tells whether some file of the drive holds a content.
func (w *world) has(content string) bool {
	w.Helper()
	for _, c := range w.contents() {
		if c == content {
			return true
		}
	}
	return false
}

// A new file here, another of that name elsewhere: both are shown as soon as
// the feed tells, and what a program does to the name that it thinks is its own
// does not cost the other.
func TestNewHereAndThere(t *testing.T) {
	for name, do := range map[string]func(w *world){
		"install":     func(w *world) { w.unlink("/f"); w.makeNew("/f", "new", 0o644) },
		"rename over": func(w *world) { w.write("/.f.AbCdEf", "new"); w.rename("/.f.AbCdEf", "/f") },
		"truncate":    func(w *world) { w.write("/f", "new") },
	} {
		t.Run(name, func(t *testing.T) { newHereAndThere(t, do) })
	}
}

func newHereAndThere(t *testing.T, do func(*world)) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.write("/f", "ours")
	w.put("/f", "theirs, and longer")
	w.poll()
	names := w.ls("/")
	at := strings.Index(names, "f (conflict here ")
	if at < 0 || !strings.Contains(names, "f ") {
		t.Fatalf("shown: %q", names)
	}
	do(w)
	w.flush()
	w.poll()
	if !w.has("ours") || !w.has("new") || !w.has("theirs, and longer") {
		t.Errorf("the drive has %v", w.contents())
	}
}

// Changed here and waiting; renamed elsewhere to a name at which a new file was
// made here meanwhile: both are shown, and each name acts on its own file.
func TestRenamedThereOntoNewHere(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	n := w.put("/f", "one")
	w.poll()
	w.write("/f", "changed here")
	if _, err := w.other.Rename(n.ID, "g"); err != nil {
		t.Fatal(err)
	}
	w.write("/g", "new here")
	w.poll()
	w.want(w.read("/g"), "new here")
	names := w.ls("/")
	at := strings.Index(names, "g (conflict here ")
	if at < 0 {
		t.Fatalf("shown: %q", names)
	}
	w.write("/.g.AbCdEf", "saved over g")
	w.rename("/.g.AbCdEf", "/g")
	w.flush()
	w.poll()
	if !w.has("changed here") || !w.has("saved over g") {
		t.Errorf("the drive has %v", w.contents())
	}
}

// The same after the other name was trashed there, then unlinked here: what is
// unlinked is what the name showed.
func TestUnlinkActsOnWhatIsShown(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	f := w.put("/f", "f")
	g := w.put("/g", "g")
	w.poll()
	w.write("/g", "g changed here")
	if _, err := w.other.Trash(f.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.other.Rename(g.ID, "f"); err != nil {
		t.Fatal(err)
	}
	w.unlink("/f")
	w.write("/f", "new f here")
	w.poll()
	w.want(w.read("/f"), "new f here")
	w.unlink("/f")
	w.flush()
	w.poll()
	if !w.has("g changed here") {
		t.Errorf("the drive has %v", w.contents())
	}
}

// Replaced elsewhere, which nothing told yet; the answer to a rename, move,
// chmod or link of ours is the first to tell.
func TestAnswerTellsOfNewContent(t *testing.T) {
	for name, do := range map[string]func(w *world){
		"rename": func(w *world) { w.rename("/f", "/g") },
		"move":   func(w *world) { w.mkdir("/d"); w.rename("/f", "/d/g") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.write("/first", "tells the owner")
			w.flush()
			w.put("/f", "the old content")
			w.poll()
			h := w.openAt("/f", unix.O_RDONLY)
			defer h.Release()
			s, err := w.readHandle(h)
			if err != nil {
				t.Fatal(err)
			}
			w.want(s, "the old content")
			before, err := w.s.Resolve(t.Context(), "/f")
			if err != nil {
				t.Fatal(err)
			}
			w.put("/f", "new, and of another size")
			do(w)
			w.flush()
			p := "/g"
			if name == "move" {
				p = "/d/g"
			}
			e, err := w.s.Resolve(t.Context(), p)
			if err != nil || e.Ino != before.Ino || e.Gen == before.Gen {
				t.Errorf("inode %d, version %d, after %d, %d: %v", e.Ino, e.Gen, before.Ino, before.Gen, err)
			}
			w.want(w.read(p), "new, and of another size")
			a, err := h.Attr(t.Context())
			if err != nil || a.Size != int64(len("the old content")) {
				t.Errorf("the open version has %d bytes, %v", a.Size, err)
			}
		})
	}
}

// Open for writing and not written: a new open sees what came meanwhile, also
// its size; the first write pins, and both contents are kept.
func TestUnwrittenOpenHidesNothing(t *testing.T) {
	w := newWorld(t)
	w.put("/f", "one")
	w.poll()
	h := w.openAt("/f", unix.O_RDWR)
	w.put("/f", "the second")
	w.poll()
	w.want(w.read("/f"), "the second")
	e, err := w.s.Resolve(t.Context(), "/f")
	if err != nil || e.Size != int64(len("the second")) {
		t.Errorf("size %d, %v", e.Size, err)
	}
	if s, err := w.readHandle(h); err == nil {
		w.want(s, "one") // or ESTALE, where the service cannot give it any more
	}
	w.writeTo(h, "written into one", 0)
	w.shut(h)
	w.flush()
	w.poll()
	if !w.has("the second") || !w.has("written into one") {
		t.Errorf("the drive has %v", w.contents())
	}
}
