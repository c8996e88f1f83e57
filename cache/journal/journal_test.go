package journal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/drivefs/drivefs/drive"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDirEnv); dir != "" {
		killChild(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// soak makes the random tests run so many times longer.
var soak = flag.Int("soak", 1, "repeat random tests so many times")

// rounds is how often a random test is to be repeated.
func rounds(n int) int {
	if testing.Short() {
		return max(1, n/5)
	}
	return n * *soak
}

// open opens the journal in dir and closes it, after a Check, with the test.
// Unless a test brings a filesystem, nothing is synced: no test can tell.
func open(t testing.TB, o Options) *Journal {
	t.Helper()
	if o.fs == nil {
		o.fs = lazyFS{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))
	}
	j, err := Open(o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { shut(t, j) })
	return j
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) { w.t.Log(string(p)); return len(p), nil }

// shut checks and closes; closing twice is fine.
func shut(t testing.TB, j *Journal) {
	t.Helper()
	j.mu.RLock()
	closed := j.closed
	j.mu.RUnlock()
	if closed {
		return
	}
	for _, err := range j.Check() {
		t.Errorf("Check: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// kill leaves the journal as kill -9 would: nothing is folded, nothing tidied.
func kill(t testing.TB, j *Journal) {
	t.Helper()
	j.mu.Lock()
	j.closed = true
	drafts := j.drafts
	j.mu.Unlock()
	close(j.stop)
	j.goroutines.Wait()
	j.closing.Wait()
	for _, d := range drafts {
		d.f.Close()
	}
	if err := j.closeFiles(); err != nil {
		t.Fatalf("kill: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func file1(ino uint64, name string) *Entry {
	return &Entry{Ino: ino, Intent: Intent{Place: Place{Parents: []uint64{1}, Name: name, Shown: name}, Since: time.Unix(1e9, 5)}}
}

func put(t testing.TB, j *Journal, es ...*Entry) {
	t.Helper()
	if err := j.Put(es...); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

// full is an entry with every field set.
func full(ino uint64) *Entry {
	at := func(s int64) time.Time { return time.Unix(s, 123456789).UTC() }
	return &Entry{
		Ino: ino, Order: 17,
		Intent: Intent{
			Place:   Place{Parents: []uint64{1, 9}, Name: "a/b", Shown: fmt.Sprint("a／b", ino)},
			Vacated: Vacated{12, "name"},
			Draft: &DraftState{Gen: 5, File: 4, Size: 1 << 33, Local: []Extent{{0, 10}, {20, 1 << 32}}, Limit: 1 << 33,
				BaseID: "node", BaseGen: 3, BaseLen: 1 << 40, BaseMD5: "0123"},
			Props: map[string]string{"a": "b", "gone": ""},
			Mode:  0o754, Mtime: time.Unix(-5e10, 1).UTC(), Created: at(5), Since: at(3), Due: at(4),
		},
		Progress: Progress{
			NodeID:  fmt.Sprint("node", ino),
			Base:    &Base{Parents: []string{"p1", "p2"}, Name: "Ä", Version: 7, ETag: "tag", Content: 3, Size: 1 << 40, MD5: "0123"},
			Folders: []FolderID{{9, "Nine"}, {11, "Eleven"}},
			LocalID: "local", Trashed: true,
			Sent: &Sent{Gen: 5, File: 4, Size: 6, MD5: "ff", Whole: true, At: at(1), Deadline: at(2), ParentID: "p", Name: "n",
				Tries: 2, Earlier: []Sum{{Gen: 3, Size: 4, MD5: "ee"}, {Gen: 4, MD5: "dd"}}, Began: at(3)},
			Failed: "quota", FailedAt: at(6), Attempts: 3, RetryAt: at(7),
		},
	}
}

var ignoreBlobs = cmpopts.IgnoreUnexported(DraftState{})

func TestRecordRoundTrip(t *testing.T) {
	removed := full(8)
	removed.Removed, removed.Open, removed.Folder = true, true, true
	for _, e := range []*Entry{full(7), removed, {Ino: 1}} {
		if e.Draft != nil {
			e.Draft.c = &blob{}
		}
		for _, synced := range []*DraftState{nil, e.Draft, {Gen: 4, File: 3, Size: 3, Local: []Extent{{1, 2}}, Limit: 2, c: &blob{synced: true}}} {
			b := appendRecord(nil, e, synced)
			got, s, err := decodeRecord(b)
			if err != nil || !cmp.Equal(s, synced, ignoreBlobs) || (s != nil && !s.c.synced) || s.same(got.Draft) != synced.same(e.Draft) {
				t.Fatalf("decode: %v, synced %v", err, s)
			}
			if d := cmp.Diff(e, got, ignoreBlobs); d != "" {
				t.Errorf("record changed on the way (-want +got):\n%s", d)
			}
			for i := range b {
				c := bytes.Clone(b)
				c[i] ^= 0x40
				if _, _, err := decodeRecord(c); !errors.Is(err, errRecord) {
					t.Fatalf("byte %d of %d flipped: %v", i, len(b), err)
				}
				if _, _, err := decodeRecord(b[:i]); !errors.Is(err, errRecord) {
					t.Fatalf("cut at %d: %v", i, err)
				}
			}
		}
	}
}

func FuzzDecodeFields(f *testing.F) {
	f.Add(appendEntry(nil, full(7)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, _, ok := decodeEntry(b); ok {
			if e2, _, ok := decodeEntry(appendEntry(nil, e)); !ok || !cmp.Equal(e, e2, ignoreBlobs) {
				t.Errorf("%v became %v", e, e2)
			}
		}
	})
}

func TestPutGetDone(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	a, b := file1(10, "Über"), file1(11, "b")
	put(t, j, a, b)
	if a.Rev != 1 || b.Rev != 1 {
		t.Fatalf("Rev %d, %d after the first Put", a.Rev, b.Rev)
	}
	select {
	case <-j.Changed():
	default:
		t.Error("Put did not wake Changed")
	}
	a.Place.Shown = "changed by the caller"
	if e, ok := j.Child(1, drive.Fold("ÜBER")); !ok || e.Ino != 10 || e.Place.Shown != "Über" {
		t.Errorf("Child: %v %v", e, ok)
	}
	a.Place.Shown = "c"
	put(t, j, a)
	if _, ok := j.Child(1, "über"); ok {
		t.Error("the old name is still there")
	}
	if err := j.Update(10, func(e *Entry) bool { e.NodeID, e.Base, e.Rev, e.Ino = "n", &Base{}, 99, 99; return true }); err != nil {
		t.Fatal(err)
	}
	if e, ok := j.ByNode("n"); !ok || e.Rev != 2 || e.Ino != 10 {
		t.Errorf("ByNode after Update: %+v", e)
	}
	if err := j.Update(999, func(*Entry) bool { t.Error("called"); return true }); err != nil {
		t.Fatal(err)
	}
	if ok, err := j.Done(10, 1); ok || err != nil {
		t.Errorf("Done of an old Rev: %t %v", ok, err)
	}
	if ok, err := j.Done(10, 2); !ok || err != nil {
		t.Errorf("Done: %t %v", ok, err)
	}
	if _, ok := j.Get(10); ok || j.Len() != 1 {
		t.Error("still there after Done")
	}
	// A new life of the inode is not taken for the old one.
	a = file1(10, "again")
	put(t, j, a)
	if a.Rev <= 2 {
		t.Errorf("Rev starts again at %d", a.Rev)
	}
	if err := j.Put(file1(0, "x")); !errors.Is(err, ErrInvalid) {
		t.Errorf("Put of inode 0: %v", err)
	}
	if err := j.Put(file1(12, "x"), &Entry{Ino: 13, Intent: Intent{Draft: &DraftState{}}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("Put of generation 0: %v", err)
	}
	if _, ok := j.Get(12); ok {
		t.Error("half of a Put was recorded")
	}
}

func TestTakeChanged(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	put(t, j, file1(5, "a"), file1(6, "b"))
	if d := cmp.Diff([]uint64{5, 6}, j.TakeChanged()); d != "" {
		t.Error(d)
	}
	put(t, j, file1(6, "c"))
	if d := cmp.Diff([]uint64{6}, j.TakeChanged()); d != "" {
		t.Error(d)
	}
	if got := j.TakeChanged(); len(got) != 0 {
		t.Errorf("again: %v", got)
	}
}

func TestChildrenInOrder(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	for _, ino := range []uint64{30, 10, 20, 40} {
		put(t, j, file1(ino, fmt.Sprint(ino)))
	}
	gone := file1(20, "20")
	gone.Removed = true
	put(t, j, gone)
	list := func(after uint64) (got []uint64) {
		j.ChildrenAfter(1, after, func(e *Entry) bool { got = append(got, e.Ino); return true })
		return got
	}
	if d := cmp.Diff([]uint64{10, 30, 40}, list(0)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]uint64{40}, list(30)); d != "" {
		t.Error(d)
	}
	if !j.HasChildren(1) || j.HasChildren(2) {
		t.Error("HasChildren")
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, Options{Dir: dir})
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open: %v", err)
	}
}

// content writes and records content for an inode and returns the state.
func content(t testing.TB, j *Journal, e *Entry, data string) DraftState {
	t.Helper()
	d := must(j.OpenDraft(e.Ino, nil))
	defer d.Close()
	if err := d.Truncate(0); err != nil {
		t.Fatal(err)
	}
	must(d.WriteAt([]byte(data), 0))
	st := d.Commit()
	e.Draft = &st
	put(t, j, e)
	return st
}

// readBack reads the recorded content of an inode.
func readBack(t testing.TB, j *Journal, ino uint64) string {
	t.Helper()
	d, err := j.OpenDraft(ino, nil)
	if err != nil {
		t.Fatalf("OpenDraft: %v", err)
	}
	defer d.Close()
	s, err := d.Snapshot(d.Gen())
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	defer s.Close()
	return string(must(io.ReadAll(s)))
}

func draftFiles(t testing.TB, j *Journal) []string {
	t.Helper()
	var names []string
	for _, f := range must(os.ReadDir(filepath.Join(j.dir, draftsDir))) {
		names = append(names, f.Name())
	}
	return names
}

func TestKillKeepsWhatReturned(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, GroupCommit: time.Hour, fs: osFS{}})
	e := file1(10, "a")
	content(t, j, e, "first")
	put(t, j, file1(12, "gone"))
	if ok, err := j.Done(12, 1); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := j.ReserveIno(500); err != nil {
		t.Fatal(err)
	}
	kill(t, j)
	for range 3 { // replaying again changes nothing
		j = open(t, Options{Dir: dir, GroupCommit: time.Hour})
		if got := readBack(t, j, 10); got != "first" {
			t.Fatalf("content %q", got)
		}
		if j.Len() != 1 || j.MaxIno() != 500 {
			t.Fatalf("%d entries, MaxIno %d", j.Len(), j.MaxIno())
		}
		kill(t, j)
	}
}
