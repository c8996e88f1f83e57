package cache

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// What a lagging listing still shows is no difference, what really differs is.
func TestCheckBearsLaggingListings(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	w := newWorld(t)
	w.stop()
	w.srv = drivetest.New(t, drivetest.Options{ListingLag: 5 * time.Second, Clock: func() time.Time { return time.Unix(0, now.Load()) }})
	w.other = w.srv.Else()
	w.o.StateDir, w.o.CacheDir = t.TempDir(), t.TempDir()
	must := func(n drivetest.Node, err error) drivetest.Node {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a, b := must(w.other.MkdirAll("a")), must(w.other.MkdirAll("b"))
	gone, moved := must(w.other.PutPath("a/gone", []byte("1"))), must(w.other.PutPath("a/moved", []byte("2")))
	written := must(w.other.PutPath("a/written", []byte("3")))
	now.Add(int64(time.Minute))
	w.open()
	must(w.other.Trash(gone.ID))
	must(w.other.Move(moved.ID, a.ID, b.ID))
	must(w.other.Overwrite(written.ID, strings.NewReader("33")))
	must(w.other.PutPath("a/fresh", []byte("4")))
	w.poll()
	check := func() (said []string) {
		t.Helper()
		n, err := w.s.Check(t.Context(), false, func(s string) { said = append(said, s) })
		if err != nil || n != len(said) {
			t.Fatal(n, err)
		}
		return said
	}
	if said := check(); len(said) > 0 {
		t.Errorf("with the listings behind: %q", said)
	}
	now.Add(int64(time.Minute))
	must(w.other.Rename(written.ID, "renamed"))
	now.Add(int64(time.Minute))
	if said := check(); len(said) != 1 || !strings.Contains(said[0], "/a/renamed") {
		t.Errorf("a rename the mirror has not heard of: %q", said)
	}
}

// What a lagging listing does not tell is asked for by id.
func TestTimesAfterALaggingListing(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	w := newWorld(t)
	w.stop()
	w.srv = drivetest.New(t, drivetest.Options{ListingLag: 5 * time.Second, Clock: func() time.Time { return time.Unix(0, now.Load()) }})
	w.other = w.srv.Else()
	w.o.StateDir, w.o.CacheDir = t.TempDir(), t.TempDir()
	w.open()
	w.mkdir("/d")
	w.write("/d/f", "x")
	e, err := w.s.Resolve(t.Context(), "/d/f")
	if err != nil {
		t.Fatal(err)
	}
	mtime := time.Unix(981173106, 0)
	w.setattr("/d/f", SetAttr{Mtime: &mtime})
	w.flush()
	w.stop()
	w.o.StateDir = t.TempDir()
	w.open()
	w.write("/owner", "which tells the owner name")
	w.flush()
	w.ls("/d")
	if e, err = w.s.Resolve(t.Context(), "/d/f"); err != nil || !e.Mtime.Equal(mtime) {
		t.Error(e.Mtime, err)
	}
}

// TestCheckFindsAnyDifference: each way in which a mirror may be wrong is found,
// and a repair changes nothing but what was.
func TestCheckFindsAnyDifference(t *testing.T) {
	w := newWorld(t)
	for _, p := range []string{"a/f", "a/g", "a/deep/h", "b/i"} {
		w.put(p, "text of "+p)
	}
	two := w.put("a/two", "in two folders")
	if _, err := w.other.AddParent(two.ID, w.id("b")); err != nil {
		t.Fatal(err)
	}
	w.poll()
	check := func(repair bool) (said []string) {
		t.Helper()
		n, err := w.s.Check(t.Context(), repair, func(s string) { said = append(said, s) })
		if err != nil || n != len(said) {
			t.Fatal(n, err)
		}
		return said
	}
	// dump is the mirror line by line, without how often contents changed.
	dump := func() string {
		t.Helper()
		var b strings.Builder
		if err := w.s.mirror.Dump(&b); err != nil {
			t.Fatal(err)
		}
		gen := regexp.MustCompile(` gen=\d+`)
		var lines []string
		for line := range strings.Lines(gen.ReplaceAllString(b.String(), "")) {
			// What never was leaves an id, and a tombstone for two days.
			if !strings.HasPrefix(line, "meta ") && !strings.Contains(line, "never-was") && !strings.Contains(line, "unknown") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	node := func(path string) drive.Node {
		t.Helper()
		n, err := w.o.Remote.Get(t.Context(), w.id(path))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	right := dump()
	for name, wrong := range map[string]struct {
		of     string
		change func(*drive.Node)
	}{
		"name":       {"a/f", func(n *drive.Node) { n.Name = "other" }},
		"case":       {"a/f", func(n *drive.Node) { n.Name = "F" }},
		"kind":       {"a/deep", func(n *drive.Node) { n.Kind = drive.File }},
		"size":       {"a/f", func(n *drive.Node) { n.Content.Size++ }},
		"md5":        {"a/f", func(n *drive.Node) { n.Content.MD5 = strings.Repeat("0", 32) }},
		"content":    {"a/f", func(n *drive.Node) { n.Content.Version++ }},
		"version":    {"a/f", func(n *drive.Node) { n.Version += 7 }},
		"modified":   {"a/f", func(n *drive.Node) { n.Modified = n.Modified.Add(time.Hour) }},
		"created":    {"a/f", func(n *drive.Node) { n.Created = n.Created.Add(-time.Hour) }},
		"place":      {"a/f", func(n *drive.Node) { n.Parents = []string{w.id("b")} }},
		"no place":   {"a/f", func(n *drive.Node) { n.Parents = []string{"unknown"} }},
		"one place":  {"a/two", func(n *drive.Node) { n.Parents = n.Parents[:1] }},
		"three":      {"a/two", func(n *drive.Node) { n.Parents = append(n.Parents, w.other.Root()) }},
		"too much":   {"a/f", func(n *drive.Node) { n.ID, n.Name = "never-was", "never was" }},
		"dead":       {"a/f", func(n *drive.Node) { n.Status, n.Version = drive.Trashed, n.Version+5 }},
		"no folder":  {"a/deep", func(n *drive.Node) { n.Status, n.Version = drive.Trashed, n.Version+5 }},
		"not there":  {"b", func(n *drive.Node) { n.Status, n.Version = drive.Trashed, n.Version+5 }},
		"wrong tree": {"a/deep", func(n *drive.Node) { n.Parents = []string{w.id("b")} }},
	} {
		n := node(wrong.of)
		if n.Content != nil {
			c := *n.Content
			n.Content = &c
		}
		n.Parents = slices.Clone(n.Parents)
		wrong.change(&n)
		was, known, err := w.s.mirror.ByID(n.ID)
		if err != nil {
			t.Fatal(err)
		}
		against := int64(mirror.NotLive)
		if known {
			against = was.Version
		}
		if cs, err := w.s.mirror.Believe(n, against+1); err != nil || len(cs) > 0 {
			t.Fatal("against another version: ", cs, err)
		}
		if _, err := w.s.mirror.Believe(n, against); err != nil {
			t.Fatal(err)
		}
		if dump() == right {
			t.Fatalf("%s: the mirror was not changed", name)
		}
		if said := check(false); len(said) == 0 {
			t.Errorf("%s: not found", name)
		}
		if said := check(true); len(said) == 0 {
			t.Errorf("%s: not found when it was to be mended", name)
		}
		if said := check(false); len(said) > 0 {
			t.Errorf("%s: not mended: %q", name, said)
		}
		if now := dump(); now != right {
			t.Fatalf("%s: mended otherwise: -was +is\n%s", name, cmp.Diff(strings.Split(right, "\n"), strings.Split(now, "\n")))
		}
	}
}

// TestCheckKeepsNobodyWaiting: a check of the mirror holds no lock of the view.
func TestCheckKeepsNobodyWaiting(t *testing.T) {
	w := newWorld(t)
	w.put("d/f", "text")
	w.poll()
	did := false
	ctx := meanwhile{t.Context(), new(sync.Once), func() {
		did = true
		// Each of these would wait for ever.
		w.mkdir("/made")
		w.write("/d/g", "more")
		w.put("d/h", "theirs")
		w.poll()
		w.want(w.read("/d/f"), "text")
	}}
	for _, err := range w.s.checkLocal(ctx) {
		t.Error(err)
	}
	if !did {
		t.Error("nothing was done meanwhile")
	}
	w.flush()
}

// meanwhile is a context that does something when it is first looked at.
type meanwhile struct {
	context.Context
	once *sync.Once
	do   func()
}

func (m meanwhile) Err() error {
	m.once.Do(m.do)
	return m.Context.Err()
}
