package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// gateFS makes draft files of one inode only when it is told to.
type gateFS struct {
	osFS
	prefix string // of the held names
	held   chan string
	pass   chan error // nil: make it; else fail so
	synced atomic.Int32
}

func newGateFS(ino uint64) *gateFS {
	return &gateFS{prefix: fmt.Sprint(ino, "-"), held: make(chan string), pass: make(chan error)}
}

func (g *gateFS) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	if flag&os.O_CREATE != 0 && strings.HasPrefix(filepath.Base(name), g.prefix) {
		g.held <- name
		if err := <-g.pass; err != nil {
			return nil, err
		}
	}
	return g.osFS.OpenFile(name, flag, perm)
}

func (g *gateFS) SyncDir(name string) error {
	g.synced.Add(1)
	return g.osFS.SyncDir(name)
}

type opened struct {
	d   *Draft
	err error
}

func openLater(j *Journal, ino uint64) chan opened {
	c := make(chan opened, 1)
	go func() {
		d, err := j.OpenDraft(ino, remote(1<<20))
		c <- opened{d, err}
	}()
	return c
}

// TestSlowCreateHoldsNobodyUp: the journal is at work while the filesystem
// makes a draft's file, and whoever wants the same draft gets the same.
func TestSlowCreateHoldsNobodyUp(t *testing.T) {
	g := newGateFS(10)
	j := open(t, Options{Dir: t.TempDir(), fs: g})
	first := openLater(j, 10)
	<-g.held
	put(t, j, file1(11, "other"))
	content(t, j, file1(12, "third"), "bytes")
	second := openLater(j, 10)
	g.pass <- nil
	a, b := <-first, <-second
	if a.err != nil || b.err != nil || a.d != b.d {
		t.Fatal(a, b)
	}
	must(a.d.WriteAt([]byte("hello"), 0))
	e := file1(10, "slow")
	commitTo(t, j, a.d, e)
	if err := errors.Join(a.d.Close(), b.d.Close()); err != nil {
		t.Fatal(err)
	}
	again := must(j.OpenDraft(10, nil))
	got := make([]byte, 5)
	must(again.ReadAt(got, 0))
	if again.Close(); string(got) != "hello" {
		t.Errorf("%q", got)
	}
	if got := draftFiles(t, j); len(got) != 1 {
		t.Errorf("files: %q", got)
	}
}

// TestNameMadeDuringSync: a sync of the directory that began before a file was
// in it does not count for that file.
func TestNameMadeDuringSync(t *testing.T) {
	g := newGateFS(10)
	j := open(t, Options{Dir: t.TempDir(), fs: g})
	slow := openLater(j, 10)
	<-g.held
	other := must(j.OpenDraft(11, nil))
	for range 2 {
		// Its own name is there. That this is not remembered costs a sync.
		if err := other.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	g.pass <- nil
	o := <-slow
	if o.err != nil {
		t.Fatal(o.err)
	}
	before := g.synced.Load()
	if err := o.d.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := g.synced.Load(); n != before+1 {
		t.Errorf("%d syncs of the directory, want 1", n-before)
	}
	if err := errors.Join(o.d.Sync(), other.Sync()); err != nil {
		t.Fatal(err)
	}
	if n := g.synced.Load(); n != before+1 {
		t.Errorf("%d syncs of the directory after all names were on the disk", n-before-1)
	}
	if err := errors.Join(o.d.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestFailedCreate: the error goes to who began, the next one tries again.
func TestFailedCreate(t *testing.T) {
	g := newGateFS(10)
	j := open(t, Options{Dir: t.TempDir(), fs: g})
	first := openLater(j, 10)
	<-g.held
	second := openLater(j, 10)
	full := errors.New("disk full")
	g.pass <- full
	<-g.held
	g.pass <- nil
	got := []opened{<-first, <-second}
	slices.SortFunc(got, func(a, b opened) int {
		if a.err != nil {
			return -1
		}
		return 1
	})
	if !errors.Is(got[0].err, full) || got[1].err != nil {
		t.Fatal(got)
	}
	if err := got[1].d.Close(); err != nil {
		t.Fatal(err)
	}
	if got := draftFiles(t, j); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

// TestCloseWaitsForCreate: nothing is made in the directory after Close.
func TestCloseWaitsForCreate(t *testing.T) {
	g := newGateFS(10)
	dir := t.TempDir()
	j := must(Open(Options{Dir: dir, fs: g}))
	o := openLater(j, 10)
	<-g.held
	closed := make(chan error, 1)
	go func() { closed <- j.Close() }()
	for { // Close has begun once nothing can be opened any more
		if _, err := j.ContinueDraft(11); errors.Is(err, ErrClosed) {
			break
		}
	}
	select {
	case err := <-closed:
		t.Fatal("closed beside a file that is being made:", err)
	default:
	}
	g.pass <- nil
	a := <-o
	if err := errors.Join(a.err, <-closed); err != nil {
		t.Fatal(err)
	}
	if err := a.d.Close(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkGetBesideCreates is how long a look into the journal takes while
// another makes files.
func BenchmarkGetBesideCreates(b *testing.B) {
	j := open(b, Options{Dir: b.TempDir(), fs: osFS{}})
	put(b, j, file1(2, "looked at"))
	var wg sync.WaitGroup
	var stop atomic.Bool
	var made atomic.Int64
	wg.Go(func() {
		for n := uint64(10); !stop.Load(); n++ {
			content(b, j, file1(n, fmt.Sprint(n)), "ten bytes.")
			made.Add(1)
		}
	})
	for b.Loop() {
		if _, ok := j.Get(2); !ok {
			b.Fatal("gone")
		}
	}
	stop.Store(true)
	wg.Wait()
	b.ReportMetric(float64(made.Load())/b.Elapsed().Seconds(), "files/s")
}
