package cache

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// replace is what install, git and tar do with a file that is there.
func (w *world) replace(p, content string, mode uint32) {
	w.Helper()
	w.unlink(p)
	w.makeNew(p, content, mode)
}

func (w *world) makeNew(p, content string, mode uint32) {
	w.Helper()
	dir, name := w.dir(p)
	_, h, err := w.s.Create(w.Context(), dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, ModeSet|mode)
	if err != nil {
		w.Fatal("create", p, err)
	}
	defer h.Release()
	if _, err := h.Write(w.Context(), []byte(content), 0); err != nil {
		w.Fatal("write", p, err)
	}
	if err := h.Flush(); err != nil {
		w.Fatal("flush", p, err)
	}
}

func TestMadeAnew(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.mkdir("/d")
	w.write("/d/doc", "one")
	w.write("/d/two", "two")
	w.flush()
	id := w.id("/d/doc")
	old, err := w.s.Resolve(t.Context(), "/d/doc")
	if err != nil {
		t.Fatal(err)
	}

	w.replace("/d/doc", "new", 0o755)
	w.want(w.read("/d/doc"), "new")
	e, err := w.s.Resolve(t.Context(), "/d/doc")
	if err != nil || e.Ino == old.Ino {
		t.Errorf("inode %d after %d: %v", e.Ino, old.Ino, err)
	}
	w.flush()
	w.want(w.drive("/d/doc"), "new")
	if got := w.id("/d/doc"); got != id {
		t.Errorf("the document is another node")
	}
	if tr := w.other.TrashList(); len(tr) > 0 {
		t.Errorf("in the trash: %v", tr)
	}
	w.poll()
	if e, err := w.s.Resolve(t.Context(), "/d/doc"); err != nil || e.Mode&0o777 != 0o755 {
		t.Errorf("mode %o, %v", e.Mode, err)
	}

	// Removed after all.
	w.replace("/d/doc", "newer", 0o644)
	w.unlink("/d/doc")
	w.flush()
	if tr := w.other.TrashList(); len(tr) != 1 || tr[0].ID != id {
		t.Errorf("in the trash: %v", tr)
	}

	// Who has the old one open reads on in it.
	h := w.openAt("/d/two", unix.O_RDONLY)
	w.replace("/d/two", "the last", 0o644)
	w.flush()
	s, err := w.readHandle(h)
	if err != nil {
		t.Error(err)
	}
	w.want(s, "two")
	h.Release()
	w.want(w.drive("/d/two"), "the last")

	// It was changed elsewhere meanwhile: both are kept.
	w.put("/d/two", "theirs")
	w.replace("/d/two", "ours", 0o644)
	w.flush()
	w.poll()
	var all []string
	for p, n := range w.other.Tree() {
		if n.Content != nil {
			all = append(all, w.drive(p))
		}
	}
	if slices.Sort(all); !slices.Equal(all, []string{"ours", "theirs"}) {
		t.Errorf("the drive has %q", all)
	}
}

// TestMadeAnewRandom: whatever is replaced, renamed and removed while the
// drive hears of it, in the end it has what was made.
func TestMadeAnewRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Millisecond })
	want := map[string]string{}
	names := []string{"a", "b", "c", "d"}
	for i := range 80 {
		p, q := "/"+names[rng.IntN(4)], "/"+names[rng.IntN(4)]
		content := fmt.Sprint(i)
		_, there := want[p]
		switch rng.IntN(8) {
		case 0, 1, 2, 3:
			if there {
				w.replace(p, content, 0o644)
			} else {
				w.makeNew(p, content, 0o644)
			}
			want[p] = content
		case 4:
			w.write(p, content)
			want[p] = content
		case 5:
			if there {
				w.unlink(p)
				delete(want, p)
			}
		case 6:
			if there && p != q {
				w.rename(p, q)
				want[q] = want[p]
				delete(want, p)
			}
		case 7:
			if rng.IntN(4) == 0 {
				w.reopen()
			} else {
				w.flush()
			}
		}
		for p, content := range want {
			w.want(w.read(p), content)
		}
	}
	w.flush()
	w.poll()
	have := map[string]string{}
	for p, n := range w.other.Tree() {
		if n.Content != nil {
			have["/"+p] = w.drive(p)
		}
	}
	if !maps.Equal(have, want) {
		t.Errorf("the drive has %v, want %v", have, want)
	}
}
