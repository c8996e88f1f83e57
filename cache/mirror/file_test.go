package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
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

// TestNumbersSurvive: what is begun anew gives known ids the numbers they had,
// and nobody else's to new ones: after an upgrade, and after damage.
func TestNumbersSurvive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mirror.db")
	m, err := Open(Options{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	nodes := append([]drive.Node{root()}, newAccount().batch(500).Nodes...)
	apply(t, m, nodes...)
	if err := errors.Join(m.FeedEnd(time.Now()), m.SetMeta("owner", "me")); err != nil {
		t.Fatal(err)
	}
	numbers := map[string]Ino{}
	for _, n := range nodes {
		numbers[n.ID], _ = m.Ino(n.ID)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(db *bolt.DB) error{
		"older format": func(db *bolt.DB) error {
			return db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bMeta).Put([]byte(keyFormat), be(1)) })
		},
		"records lost": func(db *bolt.DB) error {
			return db.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket(bNode) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Path: filepath.Join(t.TempDir(), "mirror.db"), NoSync: true, FirstIno: 5}
			copyFile(t, path, o.Path)
			db, err := bolt.Open(o.Path, 0o600, nil)
			if err == nil {
				err = errors.Join(spoil(db), db.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			m := open(t, o)
			if _, _, err := m.Get(numbers[nodes[1].ID]); err != nil && !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			m.healing.Wait()
			if m.Root().ID != rootID || m.Complete() || m.Meta("owner") != "me" {
				t.Errorf("root %+v, complete %v, owner %q", m.Root(), m.Complete(), m.Meta("owner"))
			}
			if cp, _ := m.Checkpoint(); cp != "" {
				t.Errorf("goes on at %q", cp)
			}
			begin(t, m)
			tell(t, m, "c1", append(nodes, leaf("new", "new", 1))...)
			commit(t, m)
			for id, ino := range numbers {
				if now, ok := m.Ino(id); !ok || now != ino {
					t.Errorf("%s is inode %d, was %d", id, now, ino)
				}
				if rec := get(t, m, id); id != rootID && rec.Gen == 0 {
					t.Errorf("%s is of generation 0 again", id)
				}
			}
			if ino := get(t, m, "new").Ino; slices.Contains(slices.Collect(maps.Values(numbers)), ino) {
				t.Errorf("%d was given twice", ino)
			}
		})
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
// ErrDamaged or with an answer, and never take the process down; and the file is
// begun anew at once, with the root and a number for each id that can be read.
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
	err = m.view(func(v *view) error {
		size = v.tx.Size()
		return nil
	})
	if err := errors.Join(err, m.Close()); err != nil {
		t.Fatal(err)
	}
	// use returns how often the file was begun anew, and what was met.
	use := func(path string) (int, error) {
		var healed atomic.Int32
		m, err := Open(Options{Path: path, NoSync: true, Damaged: func(string, error) { healed.Add(1) }})
		if err != nil {
			return 0, err
		}
		errs := m.Check(t.Context())
		err = m.Dump(io.Discard)
		_, _, _, e := m.Lookup(RootIno, "Folder 000001")
		_, e2 := m.Apply(drive.Batch{Nodes: []drive.Node{leaf("f", "a", 1), root()}, Checkpoint: "x"})
		e3 := m.List(RootIno, 0, 1000, func(*Record) bool { return true })
		err = errors.Join(errors.Join(errs...), err, e, e2, e3)
		if errors.Is(err, ErrDamaged) {
			m.healing.Wait()
			for _, e := range m.Check(t.Context()) {
				t.Errorf("%s: healed while running: %v", path, e)
			}
			if m.Root().ID != rootID {
				t.Errorf("the root is %q", m.Root().ID)
			}
			if _, e := m.Apply(drive.Batch{Nodes: []drive.Node{leaf("f", "a", 1)}, Checkpoint: "x"}); e != nil {
				t.Errorf("healed while running: %v", e)
			}
		}
		return int(healed.Load()), errors.Join(err, m.Close())
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
		healed, err := use(path)
		if err != nil && !errors.Is(err, ErrDamaged) && !random {
			t.Errorf("%s: %v", name, err)
		}
		if healed > 0 {
			found++
		}
		if healed == 0 && !random && name != "empty" {
			t.Errorf("%s: nobody noticed", name)
		}
		if errors.Is(err, ErrDamaged) && healed != 1 {
			t.Errorf("%s: begun anew %d times after %v", name, healed, err)
		}
		if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) != healed {
			t.Errorf("%s: set aside: %q", name, aside)
		}
		if healed, err := use(path); err != nil || healed > 0 {
			t.Errorf("%s: again, %d times healed: %v", name, healed, err)
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

func TestDump(t *testing.T) {
	m := open(t, Options{})
	apply(t, m, leaf("f", "a.txt", 1, rootID, "ghost"), status(leaf("g", "b", 1), drive.Trashed))
	text := dump(m)
	for _, want := range []string{
		`id=f name="a.txt" parents=[1 `, "link home=1", "state=1 id=ghost", "state=4 since=", `name 1/"a.txt"`, "meta root", "md5=5d41402abc4b2a76b9719d911017c592", `type="text/plain"`, "live flags=0 home=1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if binary.BigEndian.Uint64(be(7)) != 7 {
		t.Error("numbers are written the other way round")
	}
}
