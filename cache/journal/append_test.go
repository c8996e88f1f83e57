package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// logFS fails and holds up writes to the log.
type logFS struct {
	lazyFS
	fail  func(name string, p []byte) (n int, err error) // nil = none; n bytes go out
	lie   bool                                           // all goes out, whatever is said
	gate  chan struct{}                                  // a write waits for a value in it; nil = none waits
	began chan struct{}                                  // gets one when a write waits
}

type gatedLog struct {
	file
	fs   *logFS
	name string
}

func (g *logFS) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := g.lazyFS.OpenFile(name, flag, perm)
	if err != nil || !isLog(name) {
		return f, err
	}
	return &gatedLog{f, g, name}, nil
}

func (f *gatedLog) WriteAt(p []byte, off int64) (int, error) {
	if f.fs.gate != nil {
		f.fs.began <- struct{}{}
		<-f.fs.gate
	}
	if f.fs.fail != nil {
		if n, err := f.fs.fail(f.name, p); err != nil {
			if f.fs.lie {
				_, werr := f.file.WriteAt(p, off)
				return n, errors.Join(err, werr)
			}
			m, werr := f.file.WriteAt(p[:n], off)
			return m, errors.Join(err, werr)
		}
	}
	return f.file.WriteAt(p, off)
}

// appendOne appends one entry and returns its number.
func appendOne(t testing.TB, j *Journal, undo func(error), es ...*Entry) uint64 {
	t.Helper()
	var cs []Change
	for _, e := range es {
		cs = append(cs, Change{Ino: e.Ino, Entry: e})
	}
	seq, err := j.Append(cs, undo)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return seq
}

// TestAppendShowsAtOnceAndIsWrittenTogether: what was appended is seen before
// it is written, Changed waits for the log, and one write takes all.
func TestAppendShowsAtOnceAndIsWrittenTogether(t *testing.T) {
	writes := 0
	fs := &logFS{fail: func(string, []byte) (int, error) { writes++; return 0, nil }}
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, fs: fs, GroupCommit: time.Hour})
	j.TakeChanged()
	a, b := file1(10, "a"), file1(11, "b")
	appendOne(t, j, nil, a)
	seq := appendOne(t, j, nil, b)
	if e, ok := j.Child(1, "a"); !ok || e.Ino != 10 || e == a || a.Rev != 1 {
		t.Errorf("appended: %+v", e)
	}
	select {
	case <-j.Changed():
		t.Error("Changed before the log has it")
	default:
	}
	if got := j.TakeChanged(); len(got) != 0 || writes != 0 {
		t.Errorf("changed %v after %d writes", got, writes)
	}
	if err := j.Written(seq); err != nil || writes != 1 {
		t.Fatalf("%v after %d writes", err, writes)
	}
	<-j.Changed()
	if got := j.TakeChanged(); len(got) != 2 {
		t.Errorf("changed %v", got)
	}
	// Progress wakes nobody and leaves Rev and Order alone.
	e, _ := j.Clone(10)
	e.NodeID, e.Base, e.Rev, e.Order = "n", &Base{}, 77, 77
	seq, err := j.Append([]Change{{Ino: 10, Entry: e, Progress: true}}, nil)
	if err = errors.Join(err, j.Written(seq)); err != nil {
		t.Fatal(err)
	}
	if e, _ := j.ByNode("n"); e == nil || e.Rev != 1 || e.Order != a.Order || len(j.TakeChanged()) != 0 {
		t.Errorf("after progress: %+v", e)
	}
	for name, cs := range map[string][]Change{
		"no number":        {{Entry: file1(0, "x")}},
		"another's entry":  {{Ino: 5, Entry: file1(6, "x")}},
		"progress of none": {{Ino: 5, Entry: file1(5, "x"), Progress: true}},
		"half":             {{Ino: 5, Entry: file1(5, "x")}, {Ino: 6, Entry: &Entry{Ino: 6, Intent: Intent{Draft: &DraftState{}}}}},
	} {
		if _, err := j.Append(cs, func(error) { t.Error("undone") }); !errors.Is(err, ErrInvalid) || j.Has(5) {
			t.Errorf("%s: %v", name, err)
		}
	}
	kill(t, j)
	j = open(t, Options{Dir: dir})
	if d := cmp.Diff([]uint64{10, 11}, j.Inos()); d != "" {
		t.Error(d)
	}
}

// TestVacator: the removed entry that gave up a place last, over a restart.
func TestVacator(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	gone := func(ino uint64, at Vacated) *Entry {
		e := file1(ino, "x")
		e.Removed, e.Vacated, e.Trashed = true, at, true
		return e
	}
	at := Vacated{7, "doc"}
	put(t, j, gone(30, at))
	put(t, j, gone(20, at))
	put(t, j, gone(25, Vacated{7, "other"}))
	live := file1(40, "y")
	live.Vacated = at
	put(t, j, live)
	for range 2 {
		if e, ok := j.Vacator(7, "doc"); !ok || e.Ino != 20 || !e.Trashed {
			t.Fatalf("%+v", e)
		}
		if err := j.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		kill(t, j)
		j = open(t, Options{Dir: dir})
	}
	if _, err := j.Done(20, 1); err != nil {
		t.Fatal(err)
	}
	if e, ok := j.Vacator(7, "doc"); !ok || e.Ino != 30 {
		t.Errorf("after the last one ended: %+v", e)
	}
	put(t, j, file1(30, "back"))
	if e, ok := j.Vacator(7, "doc"); ok {
		t.Errorf("%+v", e)
	}
}

// TestAppendFromManySides: every number that Written vouches for is found by
// the next Open, whoever wrote it.
func TestAppendFromManySides(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, GroupCommit: time.Millisecond, segment: 10_000}
	j := open(t, o)
	var wg sync.WaitGroup
	const workers, each = 16, 100
	for w := range uint64(workers) {
		wg.Go(func() {
			for i := range uint64(each) {
				ino := 10 + w*each + i
				e := file1(ino, fmt.Sprint(ino))
				seq, err := j.Append([]Change{{Ino: ino, Entry: e}, {Ino: 5, Entry: file1(5, fmt.Sprint("shared ", ino))}}, func(error) { t.Error("undone") })
				if i%3 == 0 {
					err = errors.Join(err, j.Update(ino, func(e *Entry) bool { e.Attempts = 1; return true }))
				}
				if err := errors.Join(err, j.Written(seq)); err != nil {
					t.Error(err)
				}
				j.Children(1, func(*Entry) bool { return false })
			}
		})
	}
	wg.Wait()
	if e, _ := j.Get(5); e.Rev != workers*each {
		t.Errorf("%d changes of one inode, want %d", e.Rev, workers*each)
	}
	kill(t, j)
	j = open(t, o)
	if j.Len() != workers*each+1 || len(j.Problems()) > 0 {
		t.Errorf("%d entries, problems %q", j.Len(), j.Problems())
	}
}

// journalState is all that can be seen of a journal.
func journalState(j *Journal) string {
	var b bytes.Buffer
	for _, ino := range j.Inos() {
		e, _ := j.Get(ino)
		fmt.Fprintf(&b, "%d order %d: %x\n", ino, e.Order, appendEntry(nil, e))
		if p := j.syncedLocked(e); p != nil {
			fmt.Fprintf(&b, " synced %d", p.Gen)
		}
	}
	for _, dir := range []uint64{1, 7} {
		for _, name := range []string{"a", "b", "c"} {
			if e, ok := j.Child(dir, name); ok {
				fmt.Fprintf(&b, "%d/%s: %d\n", dir, name, e.Ino)
			}
			if e, ok := j.Vacator(dir, name); ok {
				fmt.Fprintf(&b, "%d/%s vacated by %d\n", dir, name, e.Ino)
			}
		}
	}
	fmt.Fprintln(&b, j.PendingBytes(), j.Len())
	return b.String()
}

// TestWriteFails lets the write of a group end after every possible number of
// bytes, honestly and with more on the disk than was said: what went out whole
// is good, the rest is taken back as if it had never been, newest first, and
// is not found by a later Open either.
func TestWriteFails(t *testing.T) {
	for seed := range uint64(rounds(6)) {
		size := writeFails(t, seed, -1, false)
		rng := rand.New(rand.NewPCG(seed, 3))
		for n := 0; n < size; n += 1 + rng.IntN(23) {
			writeFails(t, seed, n, rng.IntN(3) == 0)
			if t.Failed() {
				t.Fatalf("seed %d, after %d of %d bytes", seed, n, size)
			}
		}
	}
}

// writeFails appends a random group and lets its write end after n bytes, <0 =
// not. lie: all is on the disk although the call says otherwise. It returns the
// size of the group.
func writeFails(t *testing.T, seed uint64, n int, lie bool) (size int) {
	dir := t.TempDir()
	broken := false
	broke := &os.PathError{Op: "write", Path: "log", Err: unix.EIO}
	fs := &logFS{}
	o := Options{Dir: dir, fs: fs, GroupCommit: time.Hour, proveAfter: time.Hour}
	j := open(t, o)
	defer func() { kill(t, j) }()
	rng := rand.New(rand.NewPCG(seed, 4))
	for ino := range uint64(4) {
		content(t, j, file1(10+ino, string(rune('a'+ino%3))), fmt.Sprint("content ", ino))
	}
	d := must(j.OpenDraft(10, nil))
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if rng.IntN(2) == 0 {
		if err := j.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if rng.IntN(2) == 0 { // history lies behind the end of the file
		put(t, j, file1(13, "c"))
	}

	states := []string{journalState(j)}
	var undone []int
	var seqs []uint64
	var held bool // by the hook, as the tree's lock would be
	j.SetRollback(func(rollback func()) {
		held = true
		rollback()
		held = false
	})
	for i := range 6 {
		cs := randomChanges(j, rng)
		seq, err := j.Append(cs, func(err error) {
			undone = append(undone, i)
			if !errors.Is(err, unix.EIO) || !held || journalState(j) != states[i] {
				t.Errorf("undo of %d: %v, hook %t, state\n%swant\n%s", i, err, held, journalState(j), states[i])
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		seqs, states = append(seqs, seq), append(states, journalState(j))
	}
	fs.fail = func(_ string, p []byte) (int, error) {
		size = max(size, len(p))
		if n < 0 || broken {
			return 0, nil
		}
		broken = true
		return n, broke
	}
	fs.lie = lie
	files := draftFiles(t, j)
	var failed []int
	for i, seq := range seqs {
		if err := j.Written(seq); err != nil {
			failed = append(failed, i)
		}
	}
	good := len(seqs) - len(failed)
	if n >= 0 && len(failed) == 0 {
		t.Errorf("all written with %d of %d bytes", n, size)
	}
	slices.Reverse(undone)
	if !slices.Equal(undone, failed) || (len(failed) > 0 && failed[0] != good) {
		t.Errorf("undone %v, failed %v", undone, failed)
	}
	if got := journalState(j); got != states[good] {
		t.Errorf("after %d of %d:\n%swant\n%s", good, len(seqs), got, states[good])
	}
	for _, err := range j.Check() {
		if !strings.Contains(err.Error(), "more than once") { // random names meet
			t.Error(err)
		}
	}
	if good == 0 && !slices.Equal(draftFiles(t, j), files) {
		t.Errorf("files %v, were %v", draftFiles(t, j), files)
	}
	// It goes on, or is killed at once.
	want := j.Len()
	if rng.IntN(2) == 0 {
		put(t, j, file1(77, "next"))
		want++
	}
	if rng.IntN(2) == 0 {
		if err := j.Sync(t.Context()); err != nil {
			t.Error(err)
		}
	}
	inos := j.Inos()
	kill(t, j)
	fs.fail = nil
	j = open(t, o)
	if !slices.Equal(j.Inos(), inos) || j.Len() != want || len(j.Problems()) > 0 {
		t.Errorf("after a restart %v, were %v; problems %q", j.Inos(), inos, j.Problems())
	}
	return size
}

// randomChanges is what a transaction of the tree may do.
func randomChanges(j *Journal, rng *rand.Rand) (cs []Change) {
	for range 1 + rng.IntN(2) {
		ino := 10 + rng.Uint64N(5)
		e, ok := j.Clone(ino)
		switch k := rng.IntN(6); {
		case !ok:
			e = file1(ino, string(rune('a'+rng.IntN(3))))
			cs = append(cs, Change{Ino: ino, Entry: e})
		case k == 0:
			cs = append(cs, Change{Ino: ino})
		case k == 1:
			e.Removed, e.Vacated, e.NodeID, e.Base = true, Vacated{1, string(rune('a' + rng.IntN(3)))}, fmt.Sprint("n", ino), &Base{}
			cs = append(cs, Change{Ino: ino, Entry: e})
		case k == 2:
			e.Draft = nil
			cs = append(cs, Change{Ino: ino, Entry: e})
		case k == 3:
			e.Attempts++
			cs = append(cs, Change{Ino: ino, Entry: e, Progress: true})
		default:
			e.Place.Shown = string(rune('a' + rng.IntN(3)))
			cs = append(cs, Change{Ino: ino, Entry: e})
		}
		if len(cs) == 2 && cs[0].Ino == cs[1].Ino {
			return cs[:1]
		}
	}
	return cs
}

// TestUndoneContentKeepsItsFiles: neither the content before nor the new one
// loses its file, its map or its handle by a change that is taken back.
func TestUndoneContentKeepsItsFiles(t *testing.T) {
	for name, small := range map[string]int64{"files": -1, "beside the log": 0} {
		t.Run(name, func(t *testing.T) { undoneContentKeepsItsFiles(t, small) })
	}
}

func undoneContentKeepsItsFiles(t *testing.T, small int64) {
	dir := t.TempDir()
	var broken atomic.Bool
	fs := &logFS{fail: func(_ string, p []byte) (int, error) {
		if broken.Load() {
			return 0, unix.ENOSPC
		}
		return 0, nil
	}}
	j := open(t, Options{Dir: dir, fs: fs, GroupCommit: time.Millisecond, proveAfter: time.Hour, small: small})
	e := file1(10, "a")
	content(t, j, e, "old")
	d := must(j.OpenDraft(10, nil))
	if err := d.Truncate(0); err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	broken.Store(true)
	for i := range 3 { // three closes, none of them written
		must(d.WriteAt([]byte(fmt.Sprint("new ", i)), 0))
		st := d.Commit()
		c, _ := j.Clone(10)
		c.Draft = &st
		seqs = append(seqs, appendOne(t, j, func(error) { d.Abort(st) }, c))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	// And the removal of everything.
	seq, err := j.Append([]Change{{Ino: 10}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	seqs = append(seqs, seq)
	for _, seq := range seqs {
		if err := j.Written(seq); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("Written: %v", err)
		}
	}
	broken.Store(false)
	if e, ok := j.Get(10); !ok || e.Draft == nil || e.Draft.Size != 3 || small < 0 && len(draftFiles(t, j)) != 2 {
		t.Errorf("%+v, files %v", e, draftFiles(t, j))
	}
	// The next one who opens the file finds what was closed last.
	d = must(j.OpenDraft(10, nil))
	got := make([]byte, d.Size())
	must(d.ReadAt(got, 0))
	if string(got) != "new 2" || !d.Dirty() {
		t.Errorf("%q, dirty %t", got, d.Dirty())
	}
	if d.committed == nil || d.committed.Size != 3 {
		t.Errorf("committed %+v", d.committed)
	}
	st := d.Commit()
	e, _ = j.Clone(10)
	e.Draft = &st
	put(t, j, e)
	if err := errors.Join(d.Close(), j.Sync(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := readBack(t, j, 10); got != "new 2" {
		t.Errorf("%q", got)
	}
	kill(t, j)
	j = open(t, Options{Dir: dir})
	if got := readBack(t, j, 10); got != "new 2" || small < 0 && len(draftFiles(t, j)) != 1 {
		t.Errorf("%q, files %v", got, draftFiles(t, j))
	}
}

// TestNothingUnwrittenIsInABase: the log is rewritten while changes wait for
// it: the new one has what the old one had.
func TestNothingUnwrittenIsInABase(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, GroupCommit: time.Hour})
	put(t, j, file1(10, "a"), file1(11, "b"))
	seq := appendOne(t, j, nil, file1(10, "c"), file1(12, "new"))
	if _, err := j.Append([]Change{{Ino: 11}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := j.rewrite(); err != nil {
		t.Fatal(err)
	}
	if j.decided >= seq {
		t.Fatal("written by the way")
	}
	kill(t, j)
	j = open(t, Options{Dir: dir})
	if e, _ := j.Get(10); e == nil || e.Place.Shown != "a" || !j.Has(11) || j.Has(12) || len(j.Problems()) > 0 {
		t.Errorf("%v, %+v, problems %q", j.Inos(), e, j.Problems())
	}
}

// TestAppendDuringAWrite: the lock is not held over the write, later changes
// gather, and go with the failed write that they build on.
func TestAppendDuringAWrite(t *testing.T) {
	var fail atomic.Bool
	fs := &logFS{gate: make(chan struct{}), began: make(chan struct{}), fail: func(string, []byte) (int, error) {
		if fail.Load() {
			return 0, unix.EIO
		}
		return 0, nil
	}}
	gate := fs.gate
	fs.gate = nil
	j := open(t, Options{Dir: t.TempDir(), fs: fs, GroupCommit: time.Hour})
	fs.gate = gate
	for _, broken := range []bool{false, true} {
		fail.Store(broken)
		first := appendOne(t, j, nil, file1(10, "a"))
		result := make(chan error, 3)
		go func() { result <- j.Written(first) }()
		<-fs.began
		if !j.Has(10) {
			t.Error("not seen")
		}
		second := appendOne(t, j, nil, file1(10, "b"))
		third := appendOne(t, j, nil, file1(11, "c"))
		for _, seq := range []uint64{second, third} {
			go func() { result <- j.Written(seq) }()
		}
		gate <- struct{}{}
		if !broken {
			<-fs.began
			gate <- struct{}{}
		}
		for range 3 {
			if err := <-result; errors.Is(err, unix.EIO) != broken {
				t.Errorf("broken %t: %v", broken, err)
			}
		}
		if e, _ := j.Get(10); e.Place.Shown != "b" || e.Rev != 2 {
			t.Errorf("broken %t: %+v", broken, e)
		}
	}
	fs.gate = nil
}
