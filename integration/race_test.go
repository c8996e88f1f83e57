package integration

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// fate is what must become of a content once everything settled: a content
// that nobody replaced or removed knowingly is on the drive exactly once,
// whatever happened to its file at the other end meanwhile (P1 to P3). One
// that somebody saw and removed may be there still, where a change at the
// other end won, but never twice.
type fate int

const (
	mustLive fate = iota
	mayLive
)

// raceTest lets both ends change the same few files without waiting for each
// other.
type raceTest struct {
	*modelTest
	fates map[string]fate
	born  map[string]string // content → what made it
	swept bool              // somebody else trashed a folder, with whatever came into it at that moment
}

func (w *raceTest) made(content []byte, what string) []byte {
	w.fates[string(content)] = mustLive
	w.born[string(content)] = what
	return content
}

func (w *raceTest) text(who string) []byte {
	w.n++
	return fmt.Appendf(nil, "<%s%d>%s", who, w.n, strings.Repeat("x", w.rng.IntN(100)))
}

// seen is one file of the mount as its user sees it.
type seen struct {
	path    string
	dir     uint64
	e       cache.Entry
	content string
}

// view lists the mount.
func (w *raceTest) view() (files, folders []seen) {
	folders = []seen{{path: "/", e: cache.Entry{Attr: cache.Attr{Ino: w.s.Root(), Folder: true}}}}
	for i := 0; i < len(folders); i++ {
		d := folders[i]
		dir, err := w.s.OpenDir(ctx, d.e.Ino)
		if err != nil {
			continue // it went while we looked
		}
		es, err := dir.Read(ctx, 0, 1000)
		if err != nil {
			continue
		}
		for _, e := range es {
			at := seen{path: path.Join(d.path, e.Name), dir: d.e.Ino, e: e}
			if e.Folder {
				folders = append(folders, at)
			} else {
				files = append(files, at)
			}
		}
	}
	return files, folders
}

// read opens a file and reads it; false when it went away meanwhile.
func (w *raceTest) read(f *seen, flags uint32) (*cache.Handle, bool) {
	h, err := w.s.Open(ctx, f.e.Ino, f.e.Gen, flags)
	if err != nil {
		return nil, false
	}
	content, err := readAll(h)
	if err != nil {
		h.Release()
		return nil, false
	}
	f.content = string(content)
	return h, true
}

// here is one operation of the mount's user.
func (w *raceTest) here() {
	quiet := w.effects.Load()
	files, folders := w.view()
	dir, name := pick(w.rng, folders), w.name()
	f := pick(w.rng, files)
	k := w.rng.IntN(10)
	if f.e.Ino == 0 && k > 2 {
		k = 0
	}
	switch {
	case k < 3:
		_, h, err := w.s.Create(ctx, dir.e.Ino, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0)
		if err != nil {
			return
		}
		content := w.made(w.text("here"), "here at "+path.Join(dir.path, name))
		w.did("here: new %s/%s %.10s", dir.path, name, content)
		w.fill(h, content)
	case k < 5:
		h, ok := w.read(&f, unix.O_RDWR)
		if !ok {
			return
		}
		size := int64(0)
		if _, err := w.s.Setattr(ctx, h.Ino(), h.Gen(), h, cache.SetAttr{Size: &size}); err != nil {
			w.fail("truncate: %v", err)
		}
		content := w.made(w.text("here"), "here over "+f.path)
		w.did("here: overwrite %s %.10s with %.10s", f.path, f.content, content)
		w.fates[f.content] = mayLive
		w.fill(h, content)
	case k < 7:
		h, ok := w.read(&f, 0)
		if !ok {
			return
		}
		h.Release()
		if err := w.s.Unlink(ctx, f.dir, f.e.Name); err != nil {
			return
		}
		w.did("here: unlink %s %.10s", f.path, f.content)
		w.replaced(f, quiet)
	case k < 9:
		var over seen
		for _, o := range files {
			if o.dir == dir.e.Ino && drive.Fold(o.e.Name) == drive.Fold(name) && o.e.Ino != f.e.Ino {
				over = o
			}
		}
		if over.e.Ino != 0 {
			h, ok := w.read(&over, 0)
			if !ok {
				return
			}
			h.Release()
		}
		if err := w.s.Rename(ctx, f.dir, f.e.Name, dir.e.Ino, name, over.e.Ino == 0); err != nil {
			return
		}
		w.did("here: rename %s %s/%s over %.10s", f.path, dir.path, name, over.content)
		if over.e.Ino != 0 {
			w.replaced(over, quiet)
		}
	default:
		switch w.rng.IntN(3) {
		case 0:
			_, err := w.s.Mkdir(ctx, dir.e.Ino, name, 0)
			w.did("here: mkdir %s/%s: %v", dir.path, name, err)
		case 1:
			if d := pick(w.rng, folders[1:]); d.e.Ino != 0 {
				err := w.s.Rmdir(ctx, d.dir, d.e.Name)
				w.did("here: rmdir %s: %v", d.path, err)
			}
		case 2:
			if d := pick(w.rng, folders[1:]); d.e.Ino != 0 {
				err := w.s.Rename(ctx, d.dir, d.e.Name, dir.e.Ino, name, true)
				w.did("here: rename folder %s %s/%s: %v", d.path, dir.path, name, err)
			}
		}
	}
}

func (w *raceTest) fill(h *cache.Handle, content []byte) {
	w.Helper()
	if _, err := h.Write(ctx, content, 0); err != nil {
		w.fail("write: %v", err)
	}
	if err := h.Flush(); err != nil {
		w.fail("close: %v", err)
	}
	h.Release()
}

// replaced notes that what was seen at a path was removed. If the view moved
// between looking and removing, it may have been another content.
func (w *raceTest) replaced(f seen, quiet int64) {
	w.fates[f.content] = mayLive
	if w.effects.Load() == quiet {
		return
	}
	w.did("… while the view moved")
	for c := range w.fates {
		w.fates[c] = mayLive
	}
}

// there is one operation of somebody else.
func (w *raceTest) there() {
	have := holds(w.other)
	var files, dirs []string
	for _, p := range slices.Sorted(maps.Keys(have)) {
		if have[p].folder {
			dirs = append(dirs, p)
		} else {
			files = append(files, p)
		}
	}
	file, name := pick(w.rng, files), w.name()
	dir, dirID := "", w.other.Root()
	if d := pick(w.rng, append(dirs, "")); d != "" {
		dir, dirID = d, have[d].id
	}
	// gone: what is at and below p is seen and goes. between: what went was
	// another content than was seen, as it may for those who do not ask first.
	var was int64
	gone := func(p string) {
		for q, h := range have {
			if (q == p || strings.HasPrefix(q, p+"/")) && !h.folder {
				n, _ := w.other.Get(h.id)
				was = n.Content.Version
				w.fates[string(contentOf(w, w.other, h.id))] = mayLive
			}
		}
	}
	between := func(n drivetest.Node, grown int64) {
		if n.Content == nil || n.Content.Version == was+grown {
			return
		}
		w.did("… another one than it saw")
		for c := range w.fates {
			w.fates[c] = mayLive
		}
	}
	switch k := w.rng.IntN(10); {
	case k < 3:
		content := w.text("there")
		if _, err := w.other.Put(dirID, name, bytes.NewReader(content)); err == nil {
			w.made(content, "there at "+dir+"/"+name)
			w.did("there: put %s/%s %.10s", dir, name, content)
		}
	case k < 6 && file != "":
		content := w.text("there")
		gone(file)
		if n, err := w.other.Overwrite(have[file].id, bytes.NewReader(content)); err == nil {
			between(n, 1)
			w.made(content, "there over "+file)
			w.did("there: overwrite %s with %.10s (%s)", file, content, n.Status)
			if n.Status != drivetest.StatusAvailable {
				w.fates[string(content)] = mayLive // it was removed while we looked
			}
		}
	case k == 6 && file != "":
		_, err := w.other.Rename(have[file].id, name)
		w.did("there: rename %s %s: %v", file, name, err)
	case k == 7 && file != "":
		n, _ := w.other.Get(have[file].id)
		if len(n.Parents) > 0 {
			_, err := w.other.Move(n.ID, n.Parents[0], dirID)
			w.did("there: move %s %s: %v", file, dir, err)
		}
	case k == 8 && file != "":
		gone(file)
		n, err := w.other.Trash(have[file].id)
		w.did("there: trash %s: %v", file, err)
		between(n, 0)
	case k == 9 && dir != "":
		gone(dir)
		_, err := w.other.Trash(dirID)
		w.did("there: trash folder %s: %v", dir, err)
		w.swept = true
	}
}

// judge settles everything and looks what became of each content.
func (w *raceTest) judge() {
	w.Helper()
	w.did("settle")
	w.srv.SetFaults(drivetest.Faults{})
	w.settle()
	have := holds(w.other)
	if !same(w, "shown", w.shown(), have) {
		w.fail("the mount shows something else than the drive has")
	}
	noTraces(w, w.other)
	count := map[string]int{}
	for p, h := range have {
		if h.folder {
			continue
		}
		c := string(contentOf(w, w.other, h.id))
		if _, known := w.fates[c]; !known {
			w.fail("%s holds %q, which nobody wrote", p, c)
		}
		count[c]++
	}
	trashed := map[string]bool{}
	for _, n := range w.other.TrashList() {
		if n.Content != nil {
			trashed[string(contentOf(w, w.other, n.ID))] = true
		}
	}
	for c, f := range w.fates {
		switch {
		case count[c] > 1:
			w.fail("%.12s, %s, is on the drive %d times", c, w.born[c], count[c])
		case count[c] == 0 && f == mustLive && !w.swept:
			w.fail("%.12s, %s, is lost (in the trash: %v)", c, w.born[c], trashed[c])
		case count[c] == 0:
			delete(w.fates, c)
		default:
			w.fates[c] = mustLive
		}
	}
	w.swept = false
}

// TestRace lets the mount's user and somebody else change the same files at
// the same time, with polls, crashes and uncertain uploads between. Nothing
// that was closed or put is lost, nothing is doubled, nothing of the other's
// is overwritten unseen.
func TestRace(t *testing.T) {
	rounds := 15
	switch {
	case soak():
		rounds = 3000
	case os.Getenv("DRIVEFS_SEED") != "":
		rounds = 40
	}
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 2))
	w := &raceTest{modelTest: &modelTest{rng: rng, removed: map[string]bool{}}, fates: map[string]fate{}, born: map[string]string{}}
	w.bare = newBare(t, drivetest.Options{}, func(o *cache.Options) {
		o.CallTimeout = 20 * time.Millisecond
	})
	defer func() {
		if t.Failed() {
			w.tell()
			t.Logf("run it again with DRIVEFS_SEED=%d", s)
		}
	}()
	w.poll()
	for range rounds {
		if rng.IntN(3) == 0 {
			w.srv.SetFaults(pick(rng, troubles(rng.Uint64())[:8]))
		}
		for range 5 + rng.IntN(25) {
			switch k := rng.IntN(20); {
			case k < 11:
				w.here()
			case k < 16:
				w.there()
			case k < 18:
				w.did("poll")
				w.poll()
			case k == 18:
				<-time.After(time.Duration(rng.IntN(10)) * time.Millisecond)
			case rng.IntN(4) == 0:
				w.did("crash")
				w.crash()
			}
		}
		w.judge()
	}
	t.Logf("%d rounds", rounds)
}
