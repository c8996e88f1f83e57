package journal

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSumsAgainstTheFile: whatever is written, cut and filled in whatever
// order, the sums are those of the file.
func TestSumsAgainstTheFile(t *testing.T) {
	for seed := range uint64(rounds(30)) {
		rng := rand.New(rand.NewPCG(seed, 21))
		j := open(t, Options{Dir: t.TempDir(), small: -1, proveAfter: time.Hour})
		d := must(j.OpenDraft(10, nil))
		e := file1(10, "f")
		for range 60 {
			off := rng.Int64N(5 * granule)
			switch rng.IntN(6) {
			case 0:
				if err := d.Truncate(off); err != nil {
					t.Fatal(err)
				}
			case 1:
				off = d.Size()
				fallthrough
			case 2, 3, 4:
				p := make([]byte, 1+rng.IntN(2*granule))
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				must(d.WriteAt(p, off))
			case 5:
				st := commitTo(t, j, d, e)
				want := must(readSums(io.NewSectionReader(d.f, 0, st.Size), st.Size))
				if st.Size > 0 && (st.c.sums.Load() == nil || !slices.Equal(*st.c.sums.Load(), want) || st.Sums != digest(want)) && d.mem == nil {
					t.Fatalf("seed %d: sums of %d bytes are wrong", seed, st.Size)
				}
				s := must(d.Snapshot(st.Gen))
				n, err := io.Copy(io.Discard, struct{ io.Reader }{s})
				if s.Close(); err != nil || n != st.Size {
					t.Fatalf("seed %d: %d of %d bytes, %v", seed, n, st.Size, err)
				}
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHugeHolesAreNotSummed: a sparse file costs neither time nor memory.
func TestHugeHolesAreNotSummed(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	d := must(j.OpenDraft(10, nil))
	defer d.Close()
	if err := d.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	must(d.WriteAt([]byte("end"), 1<<40))
	if st := d.Commit(); st.Sums != 0 || len(d.sums) > sumsReread {
		t.Errorf("%x, %d sums", st.Sums, len(d.sums))
	}
	d.Abort(DraftState{})
}

var big = bytes.Repeat([]byte("0123456789abcdef"), 3*granule/16)

func draftFile(t *testing.T, dir string) string {
	t.Helper()
	files := must(os.ReadDir(filepath.Join(dir, draftsDir)))
	if len(files) != 1 {
		t.Fatalf("%d draft files", len(files))
	}
	return filepath.Join(dir, draftsDir, files[0].Name())
}

func flip(b []byte) []byte { b[granule+5] ^= 1; return b }

// TestChangedDraftIsNeverSent: a file that is not what was closed ends the
// reading before a byte of the changed part is given out; after a restart it
// does not begin.
func TestChangedDraftIsNeverSent(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, proveAfter: time.Hour})
	st := content(t, j, file1(10, "f"), string(big))
	edit(t, draftFile(t, dir), flip)
	d := must(j.OpenDraft(10, nil))
	s := must(d.Snapshot(st.Gen))
	got, err := io.ReadAll(s)
	if !errors.Is(err, ErrDamaged) || len(got) != granule {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	s.Close()
	d.Close()
	kill(t, j)
	j = open(t, Options{Dir: dir})
	d = must(j.OpenDraft(10, nil))
	defer d.Close()
	if _, err := d.Snapshot(st.Gen); !errors.Is(err, ErrDamaged) {
		t.Errorf("after a restart: %v", err)
	}
}

// TestOverwrittenAndKilled: what a program overwrote in place before a crash
// of drivefs is the file's content, as on any disk.
func TestOverwrittenAndKilled(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, proveAfter: time.Hour})
	content(t, j, file1(10, "f"), string(big))
	d := must(j.OpenDraft(10, nil))
	must(d.WriteAt([]byte("OVERWRITTEN"), granule))
	kill(t, j)
	if _, err := os.Stat(draftFile(t, dir)); err != nil || !touchedSince(draftFile(t, dir), 2) {
		t.Fatal("no attribute", err)
	}
	j = open(t, Options{Dir: dir})
	want := append(slices.Clone(big[:granule]), "OVERWRITTEN"...)
	if got := readBack(t, j, 10); !bytes.HasPrefix([]byte(got), want) || len(got) != len(big) {
		t.Errorf("%d bytes", len(got))
	}
}

// TestClosedAndPowerFailed: content that was closed and not synced is kept
// after a power failure when its sums prove it whole, and set aside when not.
func TestClosedAndPowerFailed(t *testing.T) {
	for _, whole := range []bool{true, false} {
		dir := t.TempDir()
		j := open(t, Options{Dir: dir, bootID: "one", proveAfter: time.Hour})
		content(t, j, file1(10, "f"), string(big))
		kill(t, j)
		if !whole {
			edit(t, draftFile(t, dir), flip)
		}
		j = open(t, Options{Dir: dir, bootID: "two"})
		if j.Has(10) != whole || (len(j.Problems()) == 0) != whole {
			t.Errorf("whole %t: %v, problems %q", whole, j.Inos(), j.Problems())
		}
		if whole {
			if got := readBack(t, j, 10); got != string(big) {
				t.Error("changed")
			}
		}
	}
}

// syncFS fails the syncs of draft files, as often as it is told.
type syncFS struct {
	lazyFS
	fails atomic.Int32
}

type syncFile struct {
	file
	fs *syncFS
}

func (s *syncFS) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := s.lazyFS.OpenFile(name, flag, perm)
	if err != nil || filepath.Base(filepath.Dir(name)) != draftsDir {
		return f, err
	}
	return &syncFile{f, s}, nil
}

func (f *syncFile) Datasync() error {
	if f.fs.fails.Add(-1) >= 0 {
		return unix.EIO
	}
	return nil
}

// TestFailedSyncIsFinal: after one sync that failed every later one of the same
// file fails, also after it was closed and opened again; the content is copied
// when its sums prove it whole, and never sent when not.
func TestFailedSyncIsFinal(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{"whole": nil, "lost": flip} {
		t.Run(name, func(t *testing.T) {
			fs := &syncFS{}
			dir := t.TempDir()
			j := open(t, Options{Dir: dir, fs: fs, proveAfter: time.Hour})
			e := file1(10, "f")
			content(t, j, e, string(big))
			d := must(j.OpenDraft(10, nil))
			fs.fails.Store(1)
			for range 2 {
				if err := d.Sync(); !errors.Is(err, unix.EIO) {
					t.Errorf("Sync: %v", err)
				}
			}
			d.Close()
			if d = must(j.OpenDraft(10, nil)); !errors.Is(d.Sync(), unix.EIO) {
				t.Error("forgotten after a close")
			}
			if j.syncedLocked(j.index.items[10]) != nil {
				t.Error("durable")
			}
			before := draftFile(t, dir)
			if damage != nil {
				edit(t, before, damage)
			}
			err := d.rescue()
			if damage != nil {
				if !errors.Is(err, ErrDamaged) || draftFile(t, dir) != before {
					t.Errorf("rescue: %v", err)
				}
				s := must(d.Snapshot(e.Draft.Gen))
				if got, err := io.ReadAll(s); !errors.Is(err, ErrDamaged) || len(got) > granule {
					t.Errorf("%d bytes were read, %v", len(got), err)
				}
				s.Close()
				d.Close()
				return
			}
			if err := errors.Join(err, d.Sync(), j.Sync(t.Context()), d.Close()); err != nil {
				t.Fatal(err)
			}
			stale := e.Clone() // who read it before the copy keeps the copy
			put(t, j, stale)
			tidied(t, j)
			if after := draftFile(t, dir); after == before || j.syncedLocked(j.index.items[10]) == nil {
				t.Error("not copied, or not durable")
			}
			kill(t, j)
			j = open(t, Options{Dir: dir, bootID: "another"})
			if got := readBack(t, j, 10); got != string(big) || len(j.Problems()) > 0 {
				t.Errorf("%d bytes, problems %q", len(got), j.Problems())
			}
		})
	}
}

// TestCutAfterFsync: the content of an fsync, cut since, has no sums of its
// own: after a power failure it is what counts.
func TestCutAfterFsync(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, bootID: "one", proveAfter: time.Hour})
	e := file1(10, "f")
	content(t, j, e, string(big))
	d := must(j.OpenDraft(10, nil))
	if err := errors.Join(d.Sync(), j.Sync(t.Context()), d.Truncate(2*granule)); err != nil {
		t.Fatal(err)
	}
	commitTo(t, j, d, e)
	must(d.WriteAt([]byte("and more"), 2*granule))
	commitTo(t, j, d, e)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	kill(t, j)
	edit(t, draftFile(t, dir), func(b []byte) []byte { copy(b[2*granule:], "and MORE"); return b })
	j = open(t, Options{Dir: dir, bootID: "two"})
	if got := readBack(t, j, 10); got != string(big[:2*granule]) {
		t.Errorf("%d bytes", len(got))
	}
}
