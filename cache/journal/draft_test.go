package journal

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func remote(n int64) *DraftState {
	return &DraftState{Size: n, Limit: n, BaseID: "node", BaseGen: 3, BaseLen: n, BaseMD5: "md5"}
}

// commitTo commits the draft and puts the state into e.
func commitTo(t testing.TB, j *Journal, d *Draft, e *Entry) DraftState {
	t.Helper()
	st := d.Commit()
	e.Draft = &st
	put(t, j, e)
	return st
}

func TestAppendToLargeRemoteFileNeedsNothing(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	const size = 5 << 30
	d := must(j.OpenDraft(7, remote(size)))
	defer d.Close()
	if d.Dirty() || d.Size() != size {
		t.Fatalf("dirty %t, size %d", d.Dirty(), d.Size())
	}
	must(d.WriteAt([]byte("tail"), size))
	st := d.Commit()
	want := DraftState{Gen: st.Gen, File: st.File, Size: size + 4, Limit: size, BaseID: "node", BaseGen: 3, BaseLen: size, BaseMD5: "md5"}
	if diff := cmp.Diff(want, st, ignoreBlobs); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Extent{{100, 200}}, d.Missing(100, 100)); diff != "" {
		t.Error(diff)
	}
	if got := d.Missing(size, 100); got != nil {
		t.Errorf("the appended part misses %v", got)
	}
	if got := d.Missing(size-5, 1<<62+1<<62-1); !cmp.Equal(got, []Extent{{size - 5, size}}) {
		t.Errorf("to the end: %v", got)
	}
}

func TestSequentialWriteTouchesNoJournal(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	d := must(j.OpenDraft(7, nil))
	defer d.Close()
	before := j.seq
	buf := make([]byte, 4096)
	off := int64(0)
	allocs := testing.AllocsPerRun(200, func() {
		must(d.WriteAt(buf, off))
		off += int64(len(buf))
	})
	if allocs != 0 {
		t.Errorf("%v allocations a write", allocs)
	}
	if j.seq != before {
		t.Error("writing wrote to the journal")
	}
}

func TestFillNeverOverwritesLocalBytes(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	const size = 1 << 16
	base := bytes.Repeat([]byte{'b'}, size)
	d := must(j.OpenDraft(7, remote(size)))
	defer d.Close()
	var wg sync.WaitGroup
	for w := range 4 {
		rng := rand.New(rand.NewPCG(uint64(w), 5))
		wg.Go(func() { // each writer owns every fourth byte block
			for i := w * 64; i < size; i += 4 * 64 {
				if rng.IntN(3) == 0 {
					if _, err := d.WriteAt(bytes.Repeat([]byte{'L'}, 64), int64(i)); err != nil {
						t.Error(err)
					}
				}
			}
		})
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 6))
			for d.Missing(0, size) != nil {
				off := rng.Int64N(size)
				end := min(off+1000, size)
				if err := d.Fill(base[off:end], off); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := make([]byte, size)
	must(d.ReadAt(got, 0))
	for i := 0; i < size; i += 64 {
		if n := bytes.Count(got[i:i+64], []byte{'L'}); n != 0 && n != 64 {
			t.Fatalf("block at %d has %d of its 64 local bytes", i, n)
		}
	}
	if n := bytes.Count(got, []byte{'L'}); n < size/8 {
		t.Errorf("only %d bytes are local: they were overwritten", n)
	}
	if bytes.IndexByte(got, 0) >= 0 {
		t.Error("a hole is left")
	}
	if st := d.Commit(); st.Limit != 0 || st.BaseID != "" || st.Local != nil {
		t.Errorf("a complete draft still names its base: %+v", st)
	}
}

func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	fs := newRecFS(dir)
	j := open(t, Options{small: -1, Dir: dir, fs: fs, GroupCommit: time.Hour})
	e := file1(10, "a")
	content(t, j, e, "closed content")
	d := must(j.OpenDraft(11, nil))
	defer d.Close()
	must(d.WriteAt([]byte("12345"), 0))

	fs.setRoom(3)
	n, err := d.WriteAt([]byte("abcdef"), 5)
	if n != 3 || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("WriteAt on a full disk: %d, %v", n, err)
	}
	if d.Size() != 8 {
		t.Errorf("size %d after 3 bytes more", d.Size())
	}
	st := d.Commit()
	e2 := file1(11, "b")
	e2.Draft = &st
	if err := j.Put(e2); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("Put on a full disk: %v", err)
	}
	d.Abort(st)
	if !d.Dirty() {
		t.Error("not dirty after Abort")
	}
	if _, ok := j.Clone(11); ok {
		t.Error("a Put that failed is visible")
	}
	if got := readBack(t, j, 10); got != "closed content" {
		t.Errorf("other content: %q", got)
	}

	fs.setRoom(10) // half a frame
	if err := j.Put(e2); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("Put on a full disk: %v", err)
	}
	fs.setRoom(-1)
	must(d.WriteAt([]byte("def"), 8))
	commitTo(t, j, d, e2)
	kill(t, j)
	j = open(t, Options{Dir: dir})
	if got := readBack(t, j, 11); got != "12345abcdef" {
		t.Errorf("after the disk had room again: %q", got)
	}
	if p := j.Problems(); len(p) > 0 {
		t.Errorf("problems %q", p)
	}
}

// What the drive has by now does not keep a full disk full.
func TestDiskFullOfWhatIsDone(t *testing.T) {
	dir := t.TempDir()
	fs := newRecFS(dir)
	j := open(t, Options{small: -1, Dir: dir, fs: fs, GroupCommit: time.Hour})
	e := file1(10, "a")
	content(t, j, e, "closed content")
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := must(j.OpenDraft(11, nil))
	defer d.Close()
	fs.roomAfterRemove = true
	fs.setRoom(3)
	if n, err := d.WriteAt([]byte("abcdef"), 0); n != 3 || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("WriteAt on a full disk: %d, %v", n, err)
	}
	fs.setRoom(100)
	if ok, err := j.Done(10, e.Rev); !ok || err != nil {
		t.Fatal(ok, err)
	}
	fs.setRoom(2)
	if n, err := d.WriteAt([]byte("defghi"), 3); n != 6 || err != nil {
		t.Fatalf("WriteAt on a disk full of what is done: %d, %v", n, err)
	}
	b := make([]byte, 9)
	if n, err := d.ReadAt(b, 0); n != 9 || string(b) != "abcdefghi" {
		t.Errorf("%q, %v", b[:n], err)
	}
}

func TestSnapshotAndWriters(t *testing.T) {
	tests := []struct {
		name  string
		after func(d *Draft) error // when 4 of 10 bytes were read
		over  bool                 // the rest cannot be read
		again bool                 // reading again from the start works
	}{
		{"nothing", func(*Draft) error { return nil }, false, true},
		{"append", func(d *Draft) error { _, err := d.WriteAt([]byte("more"), 10); return err }, false, true},
		{"append with a gap", func(d *Draft) error { _, err := d.WriteAt([]byte("more"), 100); return err }, false, true},
		{"behind", func(d *Draft) error { _, err := d.WriteAt([]byte("x"), 2); return err }, false, false},
		{"ahead", func(d *Draft) error { _, err := d.WriteAt([]byte("x"), 7); return err }, true, false},
		{"across", func(d *Draft) error { _, err := d.WriteAt([]byte("xx"), 3); return err }, true, false},
		{"across the end", func(d *Draft) error { _, err := d.WriteAt([]byte("xx"), 9); return err }, true, false},
		{"cut", func(d *Draft) error { return d.Truncate(8) }, true, false},
		{"cut behind", func(d *Draft) error { return d.Truncate(2) }, true, false},
		{"cut to nothing", func(d *Draft) error { return d.Truncate(0) }, true, false},
		{"longer", func(d *Draft) error { return d.Truncate(20) }, false, true},
		{"allocate", func(d *Draft) error { return d.Allocate(0, 100, false) }, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := open(t, Options{Dir: t.TempDir()})
			e := file1(10, "a")
			st := content(t, j, e, "0123456789")
			d := must(j.OpenDraft(10, nil))
			defer d.Close()
			s := must(d.Snapshot(st.Gen))
			defer s.Close()
			buf := make([]byte, 4)
			must(io.ReadFull(s, buf))
			if err := tt.after(d); err != nil {
				t.Fatal(err)
			}
			over := false
			select {
			case <-s.Superseded():
				over = true
			default:
			}
			if over != tt.over {
				t.Errorf("superseded: %t", over)
			}
			rest, err := io.ReadAll(s)
			if tt.over != errors.Is(err, ErrSuperseded) || (!tt.over && string(rest) != "456789") {
				t.Errorf("the rest: %q, %v", rest, err)
			}
			must(s.Seek(0, io.SeekStart))
			all, err := io.ReadAll(s)
			if tt.again != (err == nil) || (tt.again && string(all) != "0123456789") {
				t.Errorf("again: %q, %v", all, err)
			}
			// A later snapshot of the same generation: only when nothing in
			// it was changed.
			s2, err := d.Snapshot(st.Gen)
			if tt.again != (err == nil) || (err != nil && !errors.Is(err, ErrSuperseded)) {
				t.Errorf("another snapshot: %v", err)
			}
			if err == nil {
				if got := must(io.ReadAll(s2)); string(got) != "0123456789" {
					t.Errorf("another snapshot reads %q", got)
				}
				s2.Close()
			}
			if d.Dirty() {
				commitTo(t, j, d, e)
			}
		})
	}
}

func TestSnapshotReadAt(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	e := file1(10, "a")
	st := content(t, j, e, "0123456789")
	d := must(j.OpenDraft(10, nil))
	defer d.Close()
	s := must(d.Snapshot(st.Gen))
	defer s.Close()
	must(d.WriteAt([]byte("behind the end"), 10))
	buf := make([]byte, 20)
	if n, err := s.ReadAt(buf, 4); n != 6 || err != io.EOF || string(buf[:n]) != "456789" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	must(d.WriteAt([]byte("x"), 0))
	if _, err := s.ReadAt(buf[:2], 4); !errors.Is(err, ErrSuperseded) {
		t.Errorf("after a change: %v", err)
	}
	commitTo(t, j, d, e)
}

func TestAbortOfNothingNew(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	content(t, j, file1(10, "a"), "recorded")
	d := must(j.OpenDraft(10, nil))
	defer d.Close()
	must(d.WriteAt([]byte("R"), 0))
	e, _ := j.Clone(10)
	st := commitTo(t, j, d, e)
	d.Abort(d.Commit()) // a Put of other fields failed
	if d.Dirty() {
		t.Error("what is recorded became dirty")
	}
	must(d.Snapshot(st.Gen)).Close()
}

func TestSnapshotNeedsAllBytes(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	e := file1(10, "a")
	d := must(j.OpenDraft(10, remote(8)))
	defer d.Close()
	must(d.WriteAt([]byte("xy"), 3))
	st := commitTo(t, j, d, e)
	if _, err := d.Snapshot(st.Gen); !errors.Is(err, ErrIncomplete) {
		t.Fatalf("Snapshot of a part: %v", err)
	}
	if err := d.Fill([]byte("01234567"), 0); err != nil {
		t.Fatal(err)
	}
	s := must(d.Snapshot(st.Gen))
	defer s.Close()
	if got := must(io.ReadAll(s)); string(got) != "012xy567" {
		t.Errorf("%q", got)
	}
	if _, err := d.Snapshot(st.Gen + 1); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Snapshot of another generation: %v", err)
	}
}

// TestSnapshotNeverMixes sends generations while a writer overwrites: what
// was read to the end is one generation.
func TestSnapshotNeverMixes(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	const size = 64 << 10
	e := file1(10, "a")
	d := must(j.OpenDraft(10, nil))
	defer d.Close()
	must(d.WriteAt(bytes.Repeat([]byte{1}, size), 0))
	commitTo(t, j, d, e)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for v := byte(2); ; v++ {
			select {
			case <-stop:
				return
			default:
			}
			for off := int64(0); off < size; off += 4096 {
				must(d.WriteAt(bytes.Repeat([]byte{v}, 4096), off))
			}
			commitTo(t, j, d, e)
		}
	})
	whole, over := 0, 0
	for whole < 20 && whole+over < 20000 {
		s, err := d.Snapshot(d.Gen())
		if err != nil {
			over++
			continue
		}
		b, err := io.ReadAll(s)
		s.Close()
		switch {
		case errors.Is(err, ErrSuperseded):
			over++
		case err != nil:
			t.Fatal(err)
		case len(b) != size || bytes.Count(b, b[:1]) != size:
			t.Fatalf("a snapshot of %d bytes mixes generations", len(b))
		default:
			whole++
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d whole, %d superseded", whole, over)
}

func TestAbortKeepsTheGenerationBefore(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	e := file1(10, "a")
	st := content(t, j, e, "first")
	d := must(j.OpenDraft(10, nil))
	defer d.Close()
	must(d.WriteAt([]byte(" and more"), 5))
	d.Abort(d.Commit())
	s := must(d.Snapshot(st.Gen)) // only appended to
	if got := must(io.ReadAll(s)); string(got) != "first" {
		t.Errorf("%q", got)
	}
	s.Close()
	must(d.WriteAt([]byte("F"), 0))
	d.Abort(d.Commit())
	if _, err := d.Snapshot(st.Gen); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Snapshot of changed bytes after Abort: %v", err)
	}
	commitTo(t, j, d, e)
	if got := readBack(t, j, 10); got != "First and more" {
		t.Errorf("%q", got)
	}
}

// tidied returns when what a commit made superfluous is unlinked: the next
// commit begins after that.
func tidied(t testing.TB, j *Journal) {
	t.Helper()
	for range 2 {
		if err := errors.Join(j.ReserveIno(j.MaxIno()+1), j.Sync(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDoneWhileOpen(t *testing.T) {
	j := open(t, Options{small: -1, Dir: t.TempDir()})
	e := file1(10, "a")
	content(t, j, e, "uploaded")
	d := must(j.OpenDraft(10, nil))
	if ok, err := j.Done(10, e.Rev); !ok || err != nil {
		t.Fatal(ok, err)
	}
	tidied(t, j)
	if got := draftFiles(t, j); len(got) != 1 {
		t.Fatalf("files of an open draft: %v", got)
	}
	// Written again and closed: a new wish with all its bytes.
	must(d.WriteAt([]byte("!"), 8))
	e = file1(10, "a")
	commitTo(t, j, d, e)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if got := readBack(t, j, 10); got != "uploaded!" {
		t.Errorf("%q", got)
	}
	if ok, err := j.Done(10, e.Rev); !ok || err != nil {
		t.Fatal(ok, err)
	}
	tidied(t, j)
	if got := draftFiles(t, j); len(got) != 0 {
		t.Errorf("files after the last: %v", got)
	}
}

func TestRemovedWhileOpen(t *testing.T) {
	j := open(t, Options{small: -1, Dir: t.TempDir()})
	e := file1(10, "a")
	content(t, j, e, "content")
	d := must(j.OpenDraft(10, nil))
	e.Removed = true
	put(t, j, e)
	if ok, err := j.Done(10, e.Rev); !ok || err != nil {
		t.Fatal(ok, err)
	}
	tidied(t, j)
	if got := draftFiles(t, j); len(got) != 0 {
		t.Errorf("files of a removed inode: %v", got)
	}
	must(d.WriteAt([]byte("C"), 0))
	buf := make([]byte, 7)
	must(d.ReadAt(buf, 0))
	if string(buf) != "Content" {
		t.Errorf("%q", buf)
	}
	// The inode comes back: it does not meet the old handle's bytes.
	d2 := must(j.OpenDraft(10, nil))
	if d2.Size() != 0 {
		t.Errorf("%d bytes in a new draft", d2.Size())
	}
	if err := errors.Join(d.Close(), d2.Close()); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err == nil {
		t.Error("closing twice went unnoticed")
	}
}

// TestTruncateKeepsClosedContent: O_TRUNC, some bytes, kill: the content that
// was closed is still what goes to the drive.
func TestTruncateKeepsClosedContent(t *testing.T) {
	for _, size := range []int64{0, 3} {
		dir := t.TempDir()
		j := open(t, Options{small: -1, Dir: dir})
		content(t, j, file1(10, "a"), "closed content")
		d := must(j.OpenDraft(10, nil))
		if err := d.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			must(d.WriteAt([]byte("half"), 0))
		}
		kill(t, j)
		j = open(t, Options{Dir: dir})
		if got := readBack(t, j, 10); got != "closed content" {
			t.Errorf("cut to %d: %q", size, got)
		}
		if len(j.Problems()) > 0 {
			t.Errorf("problems %q", j.Problems())
		}
	}
}

func TestCloseOfChangedWishKeepsTheDraft(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	e := file1(10, "a")
	content(t, j, e, "before")
	d := must(j.OpenDraft(10, nil))
	must(d.WriteAt([]byte("AFTER!"), 0))
	if err := d.Close(); err != nil { // the caller could not Put
		t.Fatal(err)
	}
	d = must(j.OpenDraft(10, nil))
	if !d.Dirty() {
		t.Error("the change is forgotten")
	}
	if _, err := d.Snapshot(e.Draft.Gen); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Snapshot of changed bytes: %v", err)
	}
	commitTo(t, j, d, e)
	d.Close()
	if got := readBack(t, j, 10); got != "AFTER!" {
		t.Errorf("%q", got)
	}
}

func TestUncommittedDraftLeavesNoTrace(t *testing.T) {
	j := open(t, Options{small: -1, Dir: t.TempDir()})
	for _, base := range []*DraftState{nil, remote(1000)} {
		d := must(j.OpenDraft(10, base))
		must(d.WriteAt([]byte("x"), 0))
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if got := draftFiles(t, j); len(got) != 0 {
			t.Errorf("files %v", got)
		}
	}
	if _, err := j.OpenDraft(10, &DraftState{Size: 1, Limit: 2}); !errors.Is(err, ErrInvalid) {
		t.Errorf("impossible base: %v", err)
	}
	if d, err := j.ContinueDraft(10); d != nil || err != nil {
		t.Errorf("ContinueDraft of nothing: %v, %v", d, err)
	}
	if got := draftFiles(t, j); len(got) != 0 {
		t.Errorf("files %v", got)
	}
}

// A file that settled while it was open, and is then written anew, leaves the
// bytes alone that the database still wishes for: a power failure would bring
// a mixture of both to the drive.
func TestTruncateAfterDone(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{small: -1, Dir: dir, GroupCommit: time.Hour})
	e := file1(10, "f")
	d := must(j.OpenDraft(10, nil))
	must(d.WriteAt([]byte("settled"), 0))
	st := d.Commit()
	e.Draft = &st
	put(t, j, e)
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, draftsDir, draftFiles(t, j)[0])
	if ok, err := j.Done(10, e.Rev); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := d.Truncate(0); err != nil {
		t.Fatal(err)
	}
	must(d.WriteAt([]byte("new"), 0))
	if b, err := os.ReadFile(path); err != nil || string(b) != "settled" {
		t.Errorf("the database wishes for %q: %v", b, err)
	}
	st = d.Commit()
	e.Draft = &st
	put(t, j, e)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	shut(t, j)
	j = open(t, Options{Dir: dir})
	if got := draftFiles(t, j); len(got) != 1 || readBack(t, j, 10) != "new" {
		t.Errorf("files %v", got)
	}
}
