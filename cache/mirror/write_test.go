package mirror

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drivefs/drivefs/drive"
)

func get(t testing.TB, m *Mirror, id string) Record {
	t.Helper()
	rec, ok, err := m.ByID(id)
	if err != nil || !ok {
		t.Fatalf("%s: %v %v", id, ok, err)
	}
	return rec
}

func same(t testing.TB, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got\n%s", what, diff)
	}
}

func newIno(t testing.TB, m *Mirror) Ino {
	t.Helper()
	ino, err := m.NewIno()
	if err != nil {
		t.Fatal(err)
	}
	return ino
}

// count is how many nodes are in dir.
func count(t testing.TB, m *Mirror, dir Ino) (n int) {
	t.Helper()
	if err := m.List(dir, 0, 1<<20, func(*Record) bool { n++; return true }); err != nil {
		t.Error(err)
	}
	return n
}

// told returns changes in words, and fails the test on an error.
func told(t testing.TB, m *Mirror) func([]Change, error) []string {
	return func(changes []Change, err error) []string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return words(t, m, changes)
	}
}

// TestOwnUpload: an upload of ours, and its echo in the feed after the answer,
// before it, and twice.
func TestOwnUpload(t *testing.T) {
	n := leaf("f", "mine.txt", 1)
	t.Run("answer first", func(t *testing.T) {
		m := open(t, Options{})
		ino := newIno(t, m)
		same(t, "answer", []string{"-> /mine.txt own"}, told(t, m)(m.Answer(n, true, ino)))
		same(t, "answer again", []string{}, told(t, m)(m.Answer(n, true, ino)))
		same(t, "echo", []string{}, apply(t, m, n))
		same(t, "echo again", []string{}, apply(t, m, n))
		same(t, "inode", ino, get(t, m, "f").Ino)
	})
	t.Run("echo first", func(t *testing.T) {
		m := open(t, Options{})
		ino := newIno(t, m)
		same(t, "echo", []string{"-> /mine.txt"}, apply(t, m, n))
		other := get(t, m, "f").Ino
		same(t, "answer", []string{"-> /mine.txt own", "/mine.txt ->  own"}, told(t, m)(m.Answer(n, true, ino)))
		same(t, "inode", ino, get(t, m, "f").Ino)
		if _, ok, _ := m.Get(other); ok {
			t.Error("the other inode lives on")
		}
		same(t, "echo again", []string{}, apply(t, m, n))
	})
	t.Run("folder with children told before", func(t *testing.T) {
		for _, complete := range []bool{false, true} {
			m := open(t, Options{})
			if complete {
				if err := m.FeedEnd(day0); err != nil {
					t.Fatal(err)
				}
			}
			ino := newIno(t, m)
			apply(t, m, leaf("x", "child", 1, "d"), leaf("y", "CHILD", 1, "d"), leaf("z", "both", 1, rootID, "d"), leaf("w", "both2", 1, "d", rootID))
			apply(t, m, status(leaf("t", "trashed", 1, "d"), drive.Trashed))
			told(t, m)(m.Answer(dir("d", "made", 1), true, ino))
			same(t, "inode", ino, get(t, m, "d").Ino)
			wantPaths(t, m, "/made=d", "/made/child=x", "/made/CHILD (y)=y", "/made/both=z", "/both=z", "/made/both2=w", "/both2=w")
			apply(t, m, leaf("t", "restored", 2, "d"))
			wantPaths(t, m, "/made=d", "/made/child=x", "/made/CHILD (y)=y", "/made/both=z", "/both=z", "/made/both2=w", "/both2=w", "/made/restored=t")
		}
	})
}

// TestGen: the generation counts what others did to the content, and survives.
func TestGen(t *testing.T) {
	var ours string
	m := open(t, Options{OwnContent: func(_ string, _ int64, md5 string) bool { return md5 == ours }})
	apply(t, m, leaf("f", "a", 1))
	gen := func(want uint64) {
		t.Helper()
		if g := get(t, m, "f").Gen; g != want {
			t.Errorf("generation %d, want %d", g, want)
		}
	}
	gen(0)
	same(t, "own overwrite", []string{"/a attr own"}, told(t, m)(m.Answer(content(leaf("f", "a", 2), 2, md5B), true, 0)))
	gen(0)
	same(t, "foreign overwrite", []string{"/a content attr"}, apply(t, m, content(leaf("f", "a", 3), 3, md5C)))
	gen(1)
	same(t, "foreign overwrite by a get", []string{"/a content attr"}, told(t, m)(m.Answer(content(leaf("f", "a", 4), 4, md5B), false, 0)))
	gen(2)
	ours = md5C
	same(t, "echo of ours before its answer", []string{"/a attr"}, apply(t, m, content(leaf("f", "a", 5), 5, md5C)))
	gen(2)
	same(t, "trashed and changed meanwhile", []string{"/a ->"}, apply(t, m, status(content(leaf("f", "a", 6), 6, md5B), drive.Trashed)))
	same(t, "back", []string{"-> /a"}, apply(t, m, content(leaf("f", "a", 7), 6, md5B)))
	gen(3)
}

// TestRebind: an editor saved by renaming a new file over the node.
func TestRebind(t *testing.T) {
	for _, complete := range []bool{false, true} {
		t.Run(fmt.Sprint("complete=", complete), func(t *testing.T) {
			m := open(t, Options{})
			if complete {
				if err := m.FeedEnd(day0); err != nil {
					t.Fatal(err)
				}
			}
			apply(t, m, leaf("f", "a", 1), leaf("g", "g", 1))
			old, ino := get(t, m, "f").Ino, newIno(t, m)
			changes, err := m.Rebind("f", ino)
			if err != nil || len(changes) != 2 {
				t.Fatal(changes, err)
			}
			same(t, "inode", ino, get(t, m, "f").Ino)
			if _, ok, _ := m.Get(old); ok {
				t.Error("the old inode lives on")
			}
			same(t, "again", []string{}, told(t, m)(m.Rebind("f", ino)))
			if _, err := m.Rebind("g", ino); !errors.Is(err, ErrBound) {
				t.Error("an inode of two nodes:", err)
			}
			if _, err := m.Rebind("g", RootIno); !errors.Is(err, ErrBound) {
				t.Error("as the root:", err)
			}
			if _, err := m.Rebind(rootID, newIno(t, m)); !errors.Is(err, ErrBound) {
				t.Error("the root:", err)
			}
			// A trashed node gives its number up.
			apply(t, m, status(leaf("f", "a", 2), drive.Trashed))
			told(t, m)(m.Rebind("g", ino))
			same(t, "inode of g", ino, get(t, m, "g").Ino)
			apply(t, m, leaf("f", "a", 3))
			if get(t, m, "f").Ino == ino {
				t.Error("two nodes of one inode")
			}
			// Bound before anybody told about it.
			early := newIno(t, m)
			told(t, m)(m.Rebind("h", early))
			apply(t, m, leaf("h", "h", 1))
			same(t, "inode of h", early, get(t, m, "h").Ino)
			// A ghost's number is asked for.
			apply(t, m, leaf("i", "i", 1, "ghost"))
			ghost, ok := m.Ino("ghost")
			if !ok {
				t.Fatal("no ghost")
			}
			told(t, m)(m.Rebind("j", ghost))
			apply(t, m, dir("ghost", "ghost", 1), dir("j", "j", 1))
			wantPaths(t, m, "/g=g", "/a=f", "/h=h", "/ghost=ghost", "/ghost/i=i", "/j=j")
		})
	}
}

func TestGone(t *testing.T) {
	m := open(t, Options{})
	apply(t, m, leaf("f", "a", 4), dir("d", "dir", 1), leaf("g", "b", 1, "d"))
	same(t, "an older version is gone", []string{}, told(t, m)(m.Gone("f", 3)))
	same(t, "gone", []string{"/a ->"}, told(t, m)(m.Gone("f", 0)))
	same(t, "gone again", []string{}, told(t, m)(m.Gone("f", 0)))
	same(t, "told late", []string{}, apply(t, m, leaf("f", "a", 4)))
	same(t, "listed late", []string{}, listing(t, m, RootIno, leaf("f", "a", 4)))
	same(t, "by id it is there", []string{"-> /a"}, told(t, m)(m.Answer(leaf("f", "a", 4), false, 0)))
	same(t, "gone at a version", []string{"/a ->"}, told(t, m)(m.Gone("f", 6)))
	same(t, "told before that", []string{}, told(t, m)(m.Answer(leaf("f", "a", 5), false, 0)))
	same(t, "told after that", []string{"-> /a"}, apply(t, m, leaf("f", "a", 7)))
	same(t, "a folder", []string{"/dir ->"}, told(t, m)(m.Gone("d", 0)))
	wantPaths(t, m, "/a=f")
	same(t, "unknown", []string{}, told(t, m)(m.Gone("nobody", 0)))
	same(t, "the root", []string{}, told(t, m)(m.Gone(rootID, 0)))
}

func listing(t testing.TB, m *Mirror, dir Ino, nodes ...drive.Node) []string {
	t.Helper()
	changes, err := m.Listing(dir, nodes, false)
	if err != nil {
		t.Fatal(err)
	}
	return words(t, m, changes)
}

// TestListing: a listing adds, never removes, and may lag.
func TestListing(t *testing.T) {
	m := open(t, Options{})
	apply(t, m, dir("d", "dir", 1), leaf("f", "moved", 3), leaf("g", "there", 1, "d"), leaf("h", "also", 1, "d"))
	d := get(t, m, "d").Ino
	if m.Listed(d) || m.Listed(RootIno) {
		t.Error("listed before anybody did")
	}
	changes, err := m.Listing(d, []drive.Node{
		leaf("g", "there", 1, "d"),
		leaf("f", "moved", 2, "d"),                           // as it was before it was moved
		leaf("k", "foreign", 1),                              // names another parent
		leaf("", "nameless", 1, "d"),                         // not even an id
		status(leaf("i", "dead", 2, "d"), drive.Trashed),     // listed for a while
		with(leaf("j", "new", 1, "d"), func(*drive.Node) {}), // news
		status(leaf("l", "half", 1, "d"), drive.Pending),     // an upload
		with(leaf("a", "asset", 1, "d"), func(n *drive.Node) { n.Kind = drive.Asset }),
	}, true)
	same(t, "changes", []string{"-> d/new"}, told(t, m)(changes, err))
	wantPaths(t, m, "/dir=d", "/moved=f", "/dir/there=g", "/dir/also=h", "/dir/new=j")
	if !m.Listed(d) || m.Listed(RootIno) {
		t.Error("the folder was listed, the root was not")
	}
	if _, err := m.Listing(get(t, m, "f").Ino, nil, true); !errors.Is(err, ErrUnknown) {
		t.Error("a file was listed:", err)
	}
	if _, err := m.Listing(4711, nil, true); !errors.Is(err, ErrUnknown) {
		t.Error("an unknown folder was listed:", err)
	}
	if err := m.FeedEnd(day0); err != nil {
		t.Fatal(err)
	}
	if !m.Listed(RootIno) {
		t.Error("after the whole feed all is listed")
	}
	apply(t, m, status(dir("d", "dir", 2), drive.Trashed))
	if n := count(t, m, d); n != 0 {
		t.Errorf("%d nodes in a folder that is gone", n)
	}
}

func TestFreshFolderIsListed(t *testing.T) {
	m := open(t, Options{})
	ino := newIno(t, m)
	told(t, m)(m.Answer(dir("d", "made", 1), true, ino))
	apply(t, m, dir("e", "foreign", 1))
	if !m.Listed(ino) || m.Listed(get(t, m, "e").Ino) {
		t.Error("only the folder made by us is known to be empty")
	}
}

func TestProps(t *testing.T) {
	owner := ""
	m := open(t, Options{Owner: func() string { return owner }})
	asked := func(version int64, props map[string]map[string]string) drive.Node {
		return with(leaf("f", "a", version), func(n *drive.Node) { n.Properties = props })
	}
	apply(t, m, asked(1, map[string]map[string]string{"me": {"m": "1"}}))
	if r := get(t, m, "f"); r.Props != nil {
		t.Errorf("props of an unknown owner: %v", r.Props)
	}
	owner = "me"
	same(t, "props", []string{"/a attr"}, apply(t, m, asked(1, map[string]map[string]string{"me": {"m": "1"}, "you": {"x": "y"}})))
	same(t, "of us", map[string]string{"m": "1"}, get(t, m, "f").Props)
	same(t, "the feed has none", []string{"/a attr"}, apply(t, m, leaf("f", "a", 2)))
	r := get(t, m, "f")
	same(t, "kept", map[string]string{"m": "1"}, r.Props)
	same(t, "as of", int64(1), r.PropsVersion)
	same(t, "asked, none there", []string{"/a attr"}, told(t, m)(m.Answer(asked(2, map[string]map[string]string{}), false, 0)))
	if r := get(t, m, "f"); r.Props == nil || len(r.Props) != 0 || r.PropsVersion != 2 {
		t.Errorf("props %v of %d", r.Props, r.PropsVersion)
	}
	same(t, "set", []string{"/a attr own"}, told(t, m)(m.SetProps("f", 3, map[string]string{"k": "v"})))
	same(t, "set again", []string{}, told(t, m)(m.SetProps("f", 3, map[string]string{"k": "v"})))
	same(t, "older", []string{}, told(t, m)(m.SetProps("f", 2, map[string]string{"k": "old"})))
	same(t, "value", map[string]string{"k": "v"}, get(t, m, "f").Props)
	same(t, "forget", []string{"/a attr own"}, told(t, m)(m.SetProps("f", 0, nil)))
	if r := get(t, m, "f"); r.Props != nil {
		t.Errorf("props %v", r.Props)
	}
	same(t, "unknown node", []string{}, told(t, m)(m.SetProps("nobody", 1, nil)))
}

func TestRoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mirror.db")
	m, err := Open(Options{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	if r := m.Root(); r.Ino != RootIno || r.ID != "" || !r.Folder {
		t.Errorf("root before it is known: %+v", r)
	}
	if _, err := m.Apply(drive.Batch{Nodes: []drive.Node{leaf("f", "a", 1)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.SetRoot(root()); err != nil {
		t.Fatal(err)
	}
	wantPaths(t, m, "/a=f")
	other := root()
	other.ID = "another"
	if _, err := m.SetRoot(other); !errors.Is(err, ErrRoot) {
		t.Error("another root:", err)
	}
	apply(t, m, other) // the feed may say what it likes
	apply(t, m, status(root(), drive.Trashed))
	if r := m.Root(); r.ID != rootID {
		t.Errorf("root %+v", r)
	}
	if p, ok := m.Path(RootIno); !ok || len(p) != 0 {
		t.Error("path of the root:", p, ok)
	}
	for _, err := range m.Check(t.Context()) {
		t.Error(err)
	}
}

func TestLookup(t *testing.T) {
	for _, exactOnly := range []bool{false, true} {
		m := open(t, Options{NamesExact: exactOnly})
		apply(t, m, dir("d", "Straße", 1), leaf("f", "a/b", 1, "d"), leaf("g", strings.Repeat("é", 200), 1, "d"))
		rec, exact, ok, err := m.Lookup(RootIno, "Straße")
		if err != nil || !ok || !exact || rec.ID != "d" {
			t.Error(rec, exact, ok, err)
		}
		rec, exact, ok, err = m.Lookup(RootIno, "STRAßE")
		if err != nil || ok == exactOnly || exact || ok && rec.ID != "d" {
			t.Error(exactOnly, rec, exact, ok, err)
		}
		d := get(t, m, "d").Ino
		if rec, exact, ok, _ := m.Lookup(d, "a／b"); !ok || !exact || rec.Name != "a/b" {
			t.Error(rec, exact, ok)
		}
		for _, name := range []string{"", "nothing", strings.Repeat("x", 256), "a/b"} {
			if rec, _, ok, err := m.Lookup(RootIno, name); ok || err != nil {
				t.Errorf("%q: %v %v", name, rec, err)
			}
		}
		if p, ok := m.Path(get(t, m, "f").Ino); !ok || !slices.Equal(p, []string{"Straße", "a／b"}) {
			t.Error(p, ok)
		}
		if n := count(t, m, d); n != 2 {
			t.Error(n)
		}
		if n := count(t, m, get(t, m, "f").Ino); n != 0 {
			t.Error("a file is no folder:", n)
		}
	}
}

// TestByName: who is in the way of a name on the drive.
func TestByName(t *testing.T) {
	m := open(t, Options{})
	long := strings.Repeat("ä", 139) + "X"
	apply(t, m,
		born(leaf("a1", "Name", 1), 5), born(leaf("a2", "NAME", 1), 3),
		leaf("b1", "x/y", 1), leaf("b2", "x／y", 1),
		leaf("c1", long, 1),
		leaf("d1", strings.Repeat("Ⱥ", 120), 1), // 240 bytes; 360 when folded
		dir("dir", "dir", 1), leaf("e1", "Both", 1, "dir", rootID),
	)
	for name, want := range map[string]string{
		"name": "a2", "nAmE": "a2", "x/y": "b1", "X/Y": "b1", "x／y": "b2", "Name (a1)": "",
		long: "c1", strings.ToUpper(long): "c1", strings.ToLower(long): "c1", long[:100]: "",
		strings.Repeat("ⱥ", 120): "d1", strings.Repeat("Ⱥ", 120): "d1", "both": "e1", "": "",
	} {
		rec, ok, err := m.ByName(RootIno, name)
		if err != nil || ok != (want != "") || rec.ID != want {
			t.Errorf("%q: %q %v %v, want %q", name, rec.ID, ok, err, want)
		}
	}
	if rec, ok, _ := m.ByName(get(t, m, "dir").Ino, "BOTH"); !ok || rec.Shown != "Both" || len(rec.Parents) != 2 {
		t.Errorf("%+v %v", rec, ok)
	}
}

// TestInos: numbers are reserved before they are used and never used twice.
func TestInos(t *testing.T) {
	var reserved Ino
	o := Options{
		Path: filepath.Join(t.TempDir(), "mirror.db"), NoSync: true, FirstIno: 1000,
		Reserve: func(upTo Ino) error { reserved = max(reserved, upTo); return nil },
	}
	used := map[Ino]bool{}
	for range 3 {
		m, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		for range inoBlock + 10 {
			ino := newIno(t, m)
			if used[ino] || ino < 1000 || ino >= reserved {
				t.Fatalf("%d, %d reserved", ino, reserved)
			}
			used[ino] = true
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	o.Reserve = func(Ino) error { return errors.New("full") }
	o.FirstIno = reserved + 10
	if _, err := Open(o); err == nil {
		t.Error("numbers were handed out that could not be reserved")
	}
}

// TestPrune: what is in the trash is known until it is purged; what was purged,
// or found missing, is for a while, and folders with children longer.
func TestPrune(t *testing.T) {
	for _, complete := range []bool{false, true} {
		m := open(t, Options{})
		if complete {
			if err := m.FeedEnd(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		apply(t, m, dir("d", "dir", 1), leaf("f", "a", 1, "d"), leaf("g", "b", 1), dir("e", "empty", 1), leaf("x", "missing", 1), leaf("p", "purged", 1))
		d := get(t, m, "d").Ino
		apply(t, m, status(dir("d", "dir", 2), drive.Trashed), status(leaf("g", "b", 2), drive.Trashed), status(dir("e", "empty", 2), drive.Trashed))
		apply(t, m, drive.Node{ID: "p", Status: drive.Purged})
		if _, err := m.Gone("x", 0); err != nil {
			t.Fatal(err)
		}
		known := func(want map[string]bool) {
			t.Helper()
			for id, want := range want {
				if _, ok := m.Ino(id); ok != want {
					t.Errorf("%s is known: %v", id, ok)
				}
			}
		}
		prune := func(before time.Time) {
			t.Helper()
			if _, err := m.write(sourceAnswer, false, func(w *wtx) error { _, err := w.prune(0, before); return err }); err != nil {
				t.Fatal(err)
			}
		}
		prune(time.Now().Add(-tombFor))
		known(map[string]bool{"d": true, "e": true, "g": true, "x": true, "p": true})
		prune(time.Now().Add(time.Hour))
		known(map[string]bool{"d": true, "f": true, "e": true, "g": true, "x": false, "p": false})
		apply(t, m, drive.Node{ID: "d", Status: drive.Purged}, drive.Node{ID: "e", Status: drive.Purged}, drive.Node{ID: "g", Status: drive.Purged})
		prune(time.Now().Add(time.Hour))
		known(map[string]bool{"d": true, "f": true, "e": false, "g": false})
		apply(t, m, drive.Node{ID: "f", Status: drive.Purged})
		prune(time.Now().Add(time.Hour))
		prune(time.Now().Add(time.Hour))
		known(map[string]bool{"d": false, "f": false})
		apply(t, m, dir("h", "dir", 1))
		if get(t, m, "h").Ino == d {
			t.Error("a number was used again")
		}
	}
}

// TestTrashIsWhole: all that was known of what is in the trash stays known, and
// of what was purged nothing.
func TestTrashIsWhole(t *testing.T) {
	m := open(t, Options{})
	apply(t, m, dir("d", "dir", 1), leaf("f", "a", 1, "d"))
	was := get(t, m, "f")
	apply(t, m, drive.Node{ID: "f", Status: drive.Trashed, Version: 2})
	load := func() (e entry) {
		t.Helper()
		if _, err := m.write(sourceAnswer, false, func(w *wtx) error { _, err := w.load(was.Ino, &e); return err }); err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := load(); e.Name != was.Name || e.MD5 != was.MD5 || e.Size != was.Size || len(e.raw) != 1 {
		t.Errorf("in the trash as %+v", e)
	}
	apply(t, m, drive.Node{ID: "f", Status: drive.Purged})
	if e := load(); e.state != statePurged || e.Name != "" || e.MD5 != "" || len(e.raw) != 0 {
		t.Errorf("purged as %+v", e)
	}
}

// TestUnstorable: what cannot be stored is left out, told once, and all the
// rest arrives, by every way in.
func TestUnstorable(t *testing.T) {
	long := strings.Repeat("x", 40<<10)
	negative := leaf("neg", "negative", 1)
	negative.Content.Size = -1
	bad := map[string]drive.Node{
		"id": leaf(long, "a", 1), "name": leaf("n", long, 1), "size": negative,
		"parent": leaf("pp", "lost", 1, long), "etag": func() drive.Node { n := leaf("e", "tag", 1); n.ETag = long; return n }(),
		"version": leaf("v", "version", -5),
	}
	for name, n := range bad {
		t.Run(name, func(t *testing.T) {
			var said []string
			m := open(t, Options{Skipped: func(id, why string) { said = append(said, why) }})
			apply(t, m, dir("d", "dir", 1), n, leaf("f", "good", 1, "d"))
			in := n
			in.Parents = append(slices.Clone(n.Parents), "d")
			if _, err := m.Listing(get(t, m, "d").Ino, []drive.Node{in, leaf("g", "too", 1, "d")}, true); err != nil {
				t.Error(err)
			}
			if _, err := m.Answer(n, false, 0); err != nil {
				t.Error(err)
			}
			apply(t, m, n)
			wantPaths(t, m, "/dir=d", "/dir/good=f", "/dir/too=g")
			if m.Skipped() != 1 || len(said) != 1 {
				t.Errorf("%d were left out, said %q", m.Skipped(), said)
			}
			if cp, _ := m.Checkpoint(); cp == "" {
				t.Error("the feed does not go on")
			}
		})
	}
	m := open(t, Options{})
	apply(t, m, leaf("n", "before", 1))
	apply(t, m, leaf("n", long, 2))
	wantPaths(t, m, "/before=n")
}

func TestMeta(t *testing.T) {
	m := open(t, Options{})
	for _, v := range []string{"one", "two", ""} {
		if err := m.SetMeta("owner", v); err != nil {
			t.Fatal(err)
		}
		same(t, "value", v, m.Meta("owner"))
	}
	if m.Meta("checkpoint") != "" {
		t.Error("own keys are not the caller's")
	}
}

// TestRecordRoundTrip: what is written is read, field by field.
func TestRecordRoundTrip(t *testing.T) {
	at := time.UnixMilli(1433149811120).UTC()
	for _, e := range []entry{
		{},
		{Record: Record{ID: "i", Name: "n", Folder: true, Version: -1}, raw: []Ino{5}},
		{Record: Record{ID: "i", Name: "n", Version: 1 << 62, ETag: "e", Created: at, Modified: at.Add(-time.Hour), CreatedBy: "x",
			Content: 3, Size: 1 << 40, MD5: md5B, ContentType: "a/b", Gen: 7, Props: map[string]string{"a": "b", "c": ""}, PropsVersion: 4, Seen: dayTime(9000)}, raw: []Ino{5, 6, 1 << 60}},
		{Record: Record{MD5: "NOT-HEX", Size: -1, Modified: at, Props: map[string]string{}, ContentType: strings.Repeat("long", 100)}},
		{Record: Record{MD5: strings.ToUpper(md5B)}},
	} {
		v := appendRecord(nil, &e)
		var got entry
		home := e.home()
		if err := decodeRecord(v, home, e.Ino, &got); err != nil {
			t.Errorf("%+v: %v", e, err)
			continue
		}
		want := e
		want.state = stateLive
		if want.Seen.IsZero() {
			want.Seen = seenEpoch
		}
		if diff := cmp.Diff(want.Record, got.Record); diff != "" || !slices.Equal(want.raw, got.raw) {
			t.Errorf("-want +got\n%s %v %v", diff, got.raw, want.raw)
		}
		// No cut of it is taken for a record, and none panics.
		for i := range v {
			if err := decodeRecord(v[:i], home, 9, &got); err == nil {
				t.Errorf("%d of %d bytes are a record", i, len(v))
			} else if !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(appendRecord(nil, &entry{Record: Record{ID: "i", Props: map[string]string{"a": "b"}}, raw: []Ino{1, 2}}))
	f.Fuzz(func(t *testing.T, v []byte) {
		var e entry
		_ = decodeRecord(v, 1, 2, &e)
		_ = decodeHidden(v, 2, &e)
		_, _ = decodeLink(v)
		_, _ = decodeClaims(nil, v)
	})
}
