package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/drivefs/drivefs/drive"
)

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestKilled: the file as a killed process leaves it, at each commit, is the
// mirror of that moment: checkpoint and nodes agree, and the feed goes on.
func TestKilled(t *testing.T) {
	dirPath := t.TempDir()
	o := Options{Path: filepath.Join(dirPath, "mirror.db")}
	m, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.SetRoot(root()); err != nil {
		t.Fatal(err)
	}
	a := newAccount()
	var batches []drive.Batch
	var copies []string
	for i := range 12 {
		b := a.batch(50)
		if i%3 == 2 {
			b.Nodes = append(b.Nodes, leaf(fmt.Sprint("early", i), "early", 1, fmt.Sprint("ghost", i)), status(leaf(fmt.Sprint("dead", i), "dead", 1), drive.Trashed))
		}
		batches = append(batches, b)
	}
	snapshot := func(name string) {
		c := filepath.Join(dirPath, name)
		copyFile(t, o.Path, c)
		if _, err := os.Stat(o.Path + ".unsynced"); err == nil {
			copyFile(t, o.Path+".unsynced", c+".unsynced")
		}
		copies = append(copies, c)
	}
	for i, b := range batches {
		if _, err := m.Apply(b); err != nil {
			t.Fatal(err)
		}
		snapshot(fmt.Sprint("copy", i))
		if i == 7 {
			if err := m.FeedEnd(time.Now()); err != nil {
				t.Fatal(err)
			}
			snapshot("ended")
		}
	}
	want, err := tree(m)
	if err != nil {
		t.Fatal(err)
	}
	inos := map[string]Ino{}
	for _, b := range batches {
		for _, n := range b.Nodes {
			inos[n.ID], _ = m.Ino(n.ID)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for i, path := range copies {
		k, err := Open(Options{Path: path, NoSync: true})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		at, _ := k.Checkpoint()
		for _, err := range k.Check(t.Context()) {
			t.Errorf("%s: %v", path, err)
		}
		seen := false
		for _, b := range batches {
			if seen {
				if _, err := k.Apply(b); err != nil {
					t.Fatal(err)
				}
				continue
			}
			for _, n := range b.Nodes {
				if ino, ok := k.Ino(n.ID); !ok || ino != inos[n.ID] {
					t.Errorf("copy %d at %s: %s is inode %d %v, was %d", i, at, n.ID, ino, ok, inos[n.ID])
				}
			}
			seen = b.Checkpoint == at
		}
		if !seen {
			t.Errorf("copy %d is at %q, which nobody told", i, at)
		}
		got, err := tree(k)
		if err != nil {
			t.Fatal(err)
		}
		same(t, path, want, got)
		for _, err := range k.Check(t.Context()) {
			t.Errorf("%s, continued: %v", path, err)
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPowerFailure: what was not synced is not believed after another boot;
// what was is.
func TestPowerFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mirror.db")
	otherBoot := func() {
		t.Helper()
		if err := os.WriteFile(path+".unsynced", []byte("another boot\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	marked := func() bool {
		_, err := os.Stat(path + ".unsynced")
		return err == nil
	}
	reopen := func() *Mirror {
		t.Helper()
		m, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := reopen()
	a := newAccount()
	if _, err := m.Apply(a.batch(10)); err != nil {
		t.Fatal(err)
	}
	if !marked() {
		t.Error("a first load is not marked")
	}
	if err := m.Close(); err != nil || marked() {
		t.Error("closed, and still marked:", err)
	}
	m = reopen()
	if _, err := m.Apply(a.batch(10)); err != nil {
		t.Fatal(err)
	}
	if err := m.FeedEnd(time.Now()); err != nil || marked() {
		t.Error("ended, and still marked:", err)
	}
	if _, err := m.Apply(a.batch(lazyFrom - 1)); err != nil || marked() {
		t.Error("few news are synced at once:", err)
	}
	if _, err := m.Apply(a.batch(lazyFrom)); err != nil || !marked() {
		t.Error("many news are not:", err)
	}
	if _, err := m.Apply(a.batch(1)); err != nil || marked() {
		t.Error("a small commit syncs all before it:", err)
	}
	if _, err := m.Apply(a.batch(lazyFrom)); err != nil || !marked() {
		t.Error("many news are not:", err)
	}
	if err := m.FeedEnd(time.Now()); err != nil || marked() {
		t.Error("ended, and still marked:", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	otherBoot()
	if m, err := Open(Options{Path: path}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a file that was not synced before the power failed: %v %v", m, err)
	}
	if err := os.Rename(path, path+".damaged"); err != nil {
		t.Fatal(err)
	}
	m = reopen() // the marker is of the file set aside
	if m.Nodes() != 0 {
		t.Error("a fresh mirror knows something")
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestInUse(t *testing.T) {
	m := open(t, Options{})
	if m2, err := Open(Options{Path: m.o.Path}); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v %v", m2, err)
	}
}

func TestNewer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mirror.db")
	m, err := Open(Options{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = m.cur.Load().bolt.Update(func(tx *bolt.Tx) error { return tx.Bucket(bMeta).Put([]byte(keyFormat), be(format+1)) })
	if err := errors.Join(err, m.Close()); err != nil {
		t.Fatal(err)
	}
	if m, err := Open(Options{Path: path}); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer file: %v %v", m, err)
	}
}

// TestDamaged: whatever happens to the bytes, opening and reading end with
// ErrDamaged or with an answer, and never take the process down.
func TestDamaged(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "mirror.db")
	m, err := Open(Options{Path: whole, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.SetRoot(root())
	if err != nil {
		t.Fatal(err)
	}
	load(t, m, 3000, 500)
	// As a killed process leaves it: not closed.
	killed := filepath.Join(t.TempDir(), "mirror.db")
	copyFile(t, whole, killed)
	var size int64
	err = m.view(func(_ *file, tx *bolt.Tx) error {
		size = tx.Size()
		return nil
	})
	if err := errors.Join(err, m.Close()); err != nil {
		t.Fatal(err)
	}
	use := func(path string) error {
		m, err := Open(Options{Path: path, NoSync: true})
		if err != nil {
			return err
		}
		errs := m.Check(t.Context())
		err = m.Dump(io.Discard)
		_, _, _, e := m.Lookup(RootIno, "Folder 000001")
		_, e2 := m.Apply(drive.Batch{Nodes: []drive.Node{leaf("f", "a", 1), root()}, Checkpoint: "x"})
		e3 := m.List(RootIno, 0, 1000, func(*Record) bool { return true })
		return errors.Join(errors.Join(errs...), err, e, e2, e3, m.Close())
	}
	r := rand.New(rand.NewPCG(5, 6))
	damages := map[string]func(f *os.File) error{
		"empty":    func(f *os.File) error { return f.Truncate(0) },
		"cut":      func(f *os.File) error { return f.Truncate(size / 2) },
		"cut page": func(f *os.File) error { return f.Truncate(100) },
		"garbage":  func(f *os.File) error { _, err := f.WriteAt([]byte(strings.Repeat("garbage ", 1024)), 0); return err },
	}
	for i := range 40 {
		at := 2*4096 + r.Int64N(size-2*4096)
		kind := [...]string{"page", "killed"}[i%2]
		damages[fmt.Sprint(kind, i)] = func(f *os.File) error {
			b := make([]byte, 300)
			for j := range b {
				b[j] = byte(r.Uint32())
			}
			_, err := f.WriteAt(b, at&^4095)
			return err
		}
	}
	found := 0
	for name, damage := range damages {
		path := filepath.Join(t.TempDir(), "mirror.db")
		if strings.HasPrefix(name, "killed") {
			copyFile(t, killed, path)
		} else {
			copyFile(t, whole, path)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil {
			err = errors.Join(damage(f), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		random := strings.HasPrefix(name, "page") || strings.HasPrefix(name, "killed") // may hit a free page
		switch err := use(path); {
		case err == nil:
			if !random && name != "empty" {
				t.Errorf("%s: nobody noticed", name)
			}
		default:
			found++
			if !errors.Is(err, ErrDamaged) && !random {
				t.Errorf("%s: %v", name, err)
			}
			// What was found in use is told at the next start.
			if errors.Is(err, ErrDamaged) {
				if m, err := Open(Options{Path: path, NoSync: true}); !errors.Is(err, ErrDamaged) {
					t.Errorf("%s: opened again: %v %v", name, m, err)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d of %d damages were found", found, len(damages))
	}
}

// TestCallersPanic: a bug of a caller is not mistaken for damage.
func TestCallersPanic(t *testing.T) {
	m := open(t, Options{})
	apply(t, m, leaf("f", "a", 1))
	defer func() {
		if r := recover(); r != "bug" {
			t.Errorf("recovered %v", r)
		}
	}()
	err := m.List(RootIno, 0, 1, func(*Record) bool { panic("bug") })
	t.Errorf("no panic, but %v", err)
}

// TestIdsBounded: a first load larger than what is held in memory.
func TestIDTable(t *testing.T) {
	ids := newIDTable()
	for i, id := range []string{"short", "AbCdEfGhIjKlMnOpQrStUv", strings.Repeat("x", 100), ""} {
		ids.set(id, Ino(i+1))
		if ino, ok := ids.get(id); !ok || ino != Ino(i+1) || ids.len() != i+1 {
			t.Errorf("%q: %d %v", id, ino, ok)
		}
	}
	ids.remove("short")
	ids.remove("AbCdEfGhIjKlMnOpQrStUv")
	if _, ok := ids.get("short"); ok || ids.len() != 2 {
		t.Error("removed and there")
	}
	m := open(t, Options{})
	a := newAccount()
	first := a.batch(500)
	if _, err := m.Apply(first); err != nil {
		t.Fatal(err)
	}
	m.wmu.Lock()
	err := m.indexIDs(m.cur.Load(), locked, nil)
	m.wmu.Unlock()
	if err != nil || m.cur.Load().ids.Load().len() != 0 {
		t.Fatal(err)
	}
	if _, err := m.Apply(a.batch(500)); err != nil {
		t.Fatal(err)
	}
	for _, n := range first.Nodes {
		if _, ok := m.Ino(n.ID); !ok {
			t.Fatalf("%s was forgotten", n.ID)
		}
	}
	if changes, err := m.Apply(first); err != nil || len(changes) > 0 {
		t.Fatal(changes, err)
	}
}

func TestDump(t *testing.T) {
	m := open(t, Options{})
	apply(t, m, leaf("f", "a.txt", 1, rootID, "ghost"), status(leaf("g", "b", 1), drive.Trashed))
	text := dump(m)
	for _, want := range []string{
		`id=f name="a.txt" parents=[1 `, "link home=1 level=0", "tomb ", "rank=2", `"ghost"`, `name 1/"a.txt"`, "meta root", "md5=5d41402abc4b2a76b9719d911017c592", `table 0 "text/plain"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if binary.BigEndian.Uint64(be(7)) != 7 {
		t.Error("numbers are written the other way round")
	}
}
