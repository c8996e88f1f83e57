package journal

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

// asideFiles is what was set aside, without the time in front.
func asideFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(dir, asideDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name()[len("2006-01-02 15.04.05 "):])
	}
	slices.Sort(names)
	return names
}

// written makes a journal with three contents, as kill -9 or Close leaves it;
// only a closed one has been rewritten.
func written(t *testing.T, killed bool, small int64) (dir string) {
	t.Helper()
	dir = t.TempDir()
	j := open(t, Options{Dir: dir, GroupCommit: time.Hour, small: small})
	for i, name := range []string{"a", "b", "c"} {
		content(t, j, file1(10+uint64(i), name), "content of "+name)
	}
	if killed {
		kill(t, j)
		return dir
	}
	if err := j.rewrite(); err != nil {
		t.Fatal(err)
	}
	shut(t, j)
	return dir
}

// logFile is the newest file of the log with that suffix.
func logFile(t *testing.T, dir, suffix string) string {
	t.Helper()
	var found string
	for _, f := range must(os.ReadDir(filepath.Join(dir, logDir))) {
		if filepath.Ext(f.Name()) == suffix {
			found = f.Name()
		}
	}
	if found == "" {
		t.Fatalf("no %q in the log", suffix)
	}
	return filepath.Join(dir, logDir, found)
}

func edit(t *testing.T, path string, fn func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fn(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, j *Journal) map[uint64]string {
	t.Helper()
	got := map[uint64]string{}
	for _, ino := range j.Inos() {
		got[ino] = readBack(t, j, ino)
	}
	return got
}

// expectDamage opens dir twice: the first time with problems that speak of
// every word of want, the second time without.
func expectDamage(t *testing.T, dir string, want []string, left map[uint64]string, aside []string) {
	t.Helper()
	for round := range 2 {
		j := open(t, Options{Dir: dir})
		if d := cmp.Diff(left, contents(t, j)); d != "" {
			t.Errorf("round %d: what is left (-want +got):\n%s", round, d)
		}
		all := strings.Join(j.Problems(), "\n")
		for _, w := range want {
			if strings.Contains(all, w) != (round == 0) {
				t.Errorf("round %d: problems about %q: %s", round, w, all)
			}
		}
		if len(want) == 0 && all != "" {
			t.Errorf("problems %s", all)
		}
		if d := cmp.Diff(aside, asideFiles(t, dir)); d != "" {
			t.Errorf("round %d: aside (-want +got):\n%s", round, d)
		}
		shut(t, j)
	}
}

func TestTornLog(t *testing.T) {
	full := map[uint64]string{10: "content of a", 11: "content of b", 12: "content of c"}
	for _, small := range []int64{0, -1} {
		whole := must(os.ReadFile(logFile(t, written(t, true, small), "")))
		third := bytes.LastIndex(whole, walMagic[:])
		for cut := third; cut < len(whole); cut += 5 {
			dir := written(t, true, small)
			edit(t, logFile(t, dir, ""), func(b []byte) []byte { return b[:min(cut, len(b)-1)] })
			// The third Put never returned; its content is nobody's.
			left := map[uint64]string{10: full[10], 11: full[11]}
			expectDamage(t, dir, nil, left, nil)
		}
	}
}

func TestDamagedMiddleOfTheLog(t *testing.T) {
	for _, small := range []int64{0, -1} {
		dir := written(t, true, small)
		edit(t, logFile(t, dir, ""), func(b []byte) []byte {
			second := bytes.Index(b[1:], walMagic[:]) + 1
			b[second+frameHeader+5] ^= 1
			return b
		})
		shown := "11-3" // a draft's file, on which names are written when it is long
		if small == 0 {
			shown = "11-4 b"
		}
		expectDamage(t, dir, []string{"the log is damaged", "its entry is lost"},
			map[uint64]string{10: "content of a", 12: "content of c"},
			[]string{shown, "journal.log 00000001", "journal.log 00000001.base"})
	}
}

// damages are ways in which a file may be damaged; another's content may stand
// in it.
func damages(dir string, files []string) (kinds map[string]func([]byte) []byte) {
	rng := rand.New(rand.NewPCG(1, 2))
	kinds = map[string]func(b []byte) []byte{
		"zeros":   func(b []byte) []byte { return make([]byte, len(b)) },
		"another": func([]byte) []byte { return must(os.ReadFile(filepath.Join(dir, files[rng.IntN(len(files))]))) },
		"bits": func(b []byte) []byte {
			for range 20 {
				b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
			}
			return b
		},
	}
	for _, n := range []int{0, 1, 4095, 4096, 8191} {
		kinds[fmt.Sprint("cut at ", n)] = func(b []byte) []byte { return b[:min(n, len(b))] }
	}
	return kinds
}

// TestDamagedEarlierVersion: a state of an earlier version, damaged in any way,
// is taken over as far as it can be read.
func TestDamagedEarlierVersion(t *testing.T) {
	template := untar(t, "testdata/format1.tar.gz")
	files := []string{"journal.db", "journal.tail", "journal.tail2"}
	for _, f := range files {
		for kind, damage := range damages(template, files) {
			t.Run(f+" "+kind, func(t *testing.T) {
				dir := untar(t, "testdata/format1.tar.gz")
				edit(t, filepath.Join(dir, f), damage)
				for round := range 2 {
					j := open(t, Options{Dir: dir, bootID: "fixture"})
					if round == 0 && f == "journal.db" && kind != "another" && !j.Has(19) {
						t.Error("what only the tail has is lost")
					}
					if round > 0 && len(j.Problems()) > 0 {
						t.Errorf("again: %q", j.Problems())
					}
					put(t, j, file1(100, "goes on"))
					shut(t, j)
				}
			})
		}
	}
}

// TestDamageNeverStopsOpen: each file of the state cut, emptied, filled with
// zeros, turned over, replaced by another's: the journal opens, says what is
// wrong, and keeps what it can read; a second time there is nothing to say.
func TestDamageNeverStopsOpen(t *testing.T) {
	template := t.TempDir()
	j := open(t, Options{Dir: template, GroupCommit: time.Hour})
	text := func(ino uint64) string {
		return strings.Repeat(fmt.Sprintf("<%d>", ino), 1+int(ino%3)*8000) // some are files
	}
	for ino := uint64(10); ino < 40; ino++ {
		content(t, j, file1(ino, fmt.Sprint("f", ino)), text(ino))
	}
	if err := j.rewrite(); err != nil {
		t.Fatal(err)
	}
	for ino := uint64(40); ino < 50; ino++ {
		content(t, j, file1(ino, fmt.Sprint("f", ino)), text(ino))
	}
	kill(t, j)
	files := []string{guardName, logFile(t, template, ""), logFile(t, template, baseSuffix), logFile(t, template, smallSuffix)}
	drafts := must(os.ReadDir(filepath.Join(template, draftsDir)))
	files = append(files, filepath.Join(draftsDir, drafts[0].Name()))
	for i, f := range files {
		files[i], _ = strings.CutPrefix(f, template+"/")
	}
	kinds := damages(template, files)
	for _, f := range files {
		for kind, damage := range kinds {
			t.Run(f+" "+kind, func(t *testing.T) {
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
					t.Fatal(err)
				}
				edit(t, filepath.Join(dir, f), damage)
				for round := range 2 {
					j := open(t, Options{Dir: dir})
					lost := 0
					for ino := uint64(10); ino < 50; ino++ {
						if !j.Has(ino) {
							lost++
							continue
						}
						d, err := j.OpenDraft(ino, nil)
						if err != nil {
							if !errors.Is(err, ErrDamaged) {
								t.Errorf("inode %d: %v", ino, err)
							}
							continue
						}
						d.Close()
					}
					if lost > 0 && round == 0 && len(j.Problems()) == 0 && !strings.HasPrefix(kind, "cut") {
						t.Errorf("%d entries are lost without a word", lost)
					}
					if round > 0 && len(j.Problems()) > 0 && kind != "another" {
						t.Errorf("again: %q", j.Problems())
					}
					put(t, j, file1(100, "goes on"))
					shut(t, j)
				}
			})
		}
	}
}

// TestMissingLog: without a log, what is there is set aside under its name.
func TestMissingLog(t *testing.T) {
	for _, small := range []int64{0, -1} {
		dir := written(t, false, small)
		for _, f := range must(os.ReadDir(filepath.Join(dir, logDir))) {
			if filepath.Ext(f.Name()) != smallSuffix {
				if err := os.Remove(filepath.Join(dir, logDir, f.Name())); err != nil {
					t.Fatal(err)
				}
			}
		}
		aside := []string{"10-1", "11-3", "12-5"}
		if small == 0 {
			aside = []string{"10-2 a", "11-4 b", "12-6 c"}
		}
		expectDamage(t, dir, []string{"its entry is lost"}, map[uint64]string{}, aside)
	}
}

// TestTakeOver reads a directory that the version before the log made, killed
// with all that may be in one.
func TestTakeOver(t *testing.T) {
	for _, boot := range []string{"fixture", "another"} {
		for _, cut := range []bool{false, true} {
			dir := untar(t, "testdata/format1.tar.gz")
			if cut { // a takeover that did not come to its end
				j := open(t, Options{Dir: t.TempDir()})
				put(t, j, file1(99, "of a log on its way"))
				from := filepath.Join(j.dir, logDir)
				kill(t, j)
				if err := os.CopyFS(filepath.Join(dir, logDir), os.DirFS(from)); err != nil {
					t.Fatal(err)
				}
			}
			for round := range 3 {
				j := open(t, Options{Dir: dir, bootID: boot, GroupCommit: time.Hour})
				takenOver(t, j, boot == "fixture", round)
				if round == 1 {
					kill(t, j)
				} else {
					shut(t, j)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "journal.tail*")); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		}
	}
}

func takenOver(t *testing.T, j *Journal, sameBoot bool, round int) {
	t.Helper()
	want := map[uint64]string{13: "synced", 15: "first"}
	if sameBoot {
		want = map[uint64]string{
			10: "content of small", 11: strings.Repeat("large ", 10000), 12: "",
			13: "synced and not", 15: "second", 16: "newer bytes",
		}
	} else {
		want[12] = ""
	}
	for ino, text := range want {
		if got := readBack(t, j, ino); got != text {
			t.Errorf("inode %d: %.40q, want %.40q", ino, got, text)
		}
	}
	for ino := uint64(10); ino < 25; ino++ {
		has := ino != 20 && ino != 21 && ino < 22 && (sameBoot || ino != 10 && ino != 11 && ino != 16)
		if j.Has(ino) != has {
			t.Errorf("inode %d is there: %t", ino, !has)
		}
	}
	if a, err := j.Account(); err != nil || a != (Account{"root-id", "https://drive.example"}) {
		t.Errorf("account %+v, %v", a, err)
	}
	if j.MaxIno() != 5000 {
		t.Errorf("inode numbers up to %d", j.MaxIno())
	}
	if sameBoot {
		s, err := j.OpenSent(16)
		if err != nil || s == nil {
			t.Fatalf("OpenSent: %v, %v", s, err)
		}
		if got := string(must(io.ReadAll(s))); got != "sent bytes" {
			t.Errorf("sent %q", got)
		}
		s.Close()
		d := must(j.OpenDraft(14, nil))
		if got := d.Missing(0, 1000); !cmp.Equal(got, []Extent{{0, 50}, {55, 100}}) {
			t.Errorf("the part misses %v", got)
		}
		d.Close()
	}
	problems := strings.Join(j.Problems(), "\n")
	if told := strings.Contains(problems, "never closed"); told != (round == 0) || (sameBoot && round > 0 && problems != "") {
		t.Errorf("round %d: problems %s", round, problems)
	}
}

// TestEarlierVersionsRefuse: what they look at says that it is of a format
// they do not know.
func TestEarlierVersionsRefuse(t *testing.T) {
	for _, dir := range []string{t.TempDir(), untar(t, "testdata/format1.tar.gz")} {
		shut(t, open(t, Options{Dir: dir}))
		err := viewBolt(filepath.Join(dir, guardName), func(tx *bolt.Tx) error {
			if f := boltUint(tx.Bucket(guardMeta), "format"); f <= formatLegacy {
				return fmt.Errorf("format %d", f)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func untar(t *testing.T, path string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	f := must(os.Open(path))
	defer f.Close()
	r := tar.NewReader(must(gzip.NewReader(f)))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(to, 0o700)
		} else {
			err = os.WriteFile(to, must(io.ReadAll(r)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestDamagedDrafts(t *testing.T) {
	left := map[uint64]string{10: "content of a", 12: "content of c"}
	t.Run("short", func(t *testing.T) {
		dir := written(t, false, -1)
		if err := os.Truncate(filepath.Join(dir, draftsDir, "11-3"), 4); err != nil {
			t.Fatal(err)
		}
		expectDamage(t, dir, []string{"4 of its 12 bytes"}, left, []string{"11-3 b"})
	})
	t.Run("missing", func(t *testing.T) {
		dir := written(t, false, -1)
		if err := os.Remove(filepath.Join(dir, draftsDir, "11-3")); err != nil {
			t.Fatal(err)
		}
		expectDamage(t, dir, []string{"its file is missing"}, left, nil)
	})
	t.Run("strange", func(t *testing.T) {
		dir := written(t, false, -1)
		if err := os.WriteFile(filepath.Join(dir, draftsDir, "README"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		left := map[uint64]string{10: "content of a", 11: "content of b", 12: "content of c"}
		expectDamage(t, dir, []string{"not a draft"}, left, []string{"README"})
	})
	t.Run("of a node", func(t *testing.T) { // the other wishes of the entry stay
		dir := t.TempDir()
		j := open(t, Options{Dir: dir, small: -1})
		e := file1(10, "renamed")
		e.NodeID, e.Base = "node", &Base{Name: "name"}
		content(t, j, e, "content")
		shut(t, j)
		if err := os.Truncate(filepath.Join(dir, draftsDir, "10-1"), 0); err != nil {
			t.Fatal(err)
		}
		j = open(t, Options{Dir: dir})
		got, ok := j.Clone(10)
		if !ok || got.Draft != nil || got.Place.Name != "renamed" || got.Rev <= e.Rev {
			t.Errorf("%+v", got)
		}
	})
}

// Of a file that was never closed, what was recorded is its content, and not
// closed still; what was not recorded is set aside.
func TestNeverClosedFiles(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, small: -1})
	for i, name := range []string{"never/closed.txt", "empty", "recorded.jpg"} {
		e := file1(10+uint64(i), name)
		e.Open = true
		put(t, j, e)
		d := must(j.OpenDraft(e.Ino, nil))
		if name != "empty" {
			must(d.WriteAt([]byte("bytes"), 0))
		}
		if name == "recorded.jpg" {
			st := d.Commit()
			e.Draft = &st
			put(t, j, e)
			must(d.WriteAt([]byte(" and more"), 5))
		}
	}
	kill(t, j)
	expectDamage(t, dir, []string{"never/closed.txt", "never closed"}, map[uint64]string{12: "bytes"},
		[]string{"10-1 never_closed.txt"})
	if got := must(os.ReadDir(filepath.Join(dir, draftsDir))); len(got) != 1 {
		t.Errorf("drafts %v", got)
	}
	j = open(t, Options{Dir: dir})
	if e, ok := j.Get(12); !ok || !e.Open {
		t.Errorf("what was recorded counts as closed: %+v", e)
	}
	shut(t, j)
}

// After a power failure, content that was not closed and is not whole is set
// aside, and nothing is open any more.
func TestUnclosedAfterPowerFailure(t *testing.T) {
	for _, synced := range []bool{false, true} {
		dir := t.TempDir()
		j := open(t, Options{Dir: dir, bootID: "one", small: -1, proveAfter: time.Hour})
		e := file1(10, "f")
		e.NodeID, e.Base, e.Open = "node", &Base{Parents: []string{"root"}, Name: "f"}, true
		d := must(j.OpenDraft(10, nil))
		must(d.WriteAt([]byte("bytes"), 0))
		st := d.Commit()
		e.Draft = &st
		put(t, j, e)
		if synced {
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		path := j.draftPath(10, st.File)
		kill(t, j)
		if !synced {
			edit(t, path, func(b []byte) []byte { return make([]byte, len(b)) })
		}
		j = open(t, Options{Dir: dir, bootID: "two"})
		got, ok := j.Get(10)
		switch {
		case !ok:
			t.Error("the entry is gone")
		case synced && (!got.Open || got.Draft == nil || readBack(t, j, 10) != "bytes"):
			t.Errorf("synced: %+v", got)
		case !synced && (got.Open || got.Draft != nil || len(asideFiles(t, dir)) != 1):
			t.Errorf("not synced: %+v, aside %q", got, asideFiles(t, dir))
		}
		shut(t, j)
	}
}

func TestNewerVersionsAreRefused(t *testing.T) {
	t.Run("format", func(t *testing.T) {
		dir := written(t, false, 0)
		db := must(bolt.Open(filepath.Join(dir, guardName), 0o600, nil))
		err := db.Update(func(tx *bolt.Tx) error {
			return tx.Bucket(guardMeta).Put(guardFormat, binary.AppendUvarint(nil, formatOurs+1))
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		refused(t, dir)
	})
	appendFrame := func(t *testing.T, dir string, ops func([]byte) []byte) {
		edit(t, logFile(t, dir, ""), func(b []byte) []byte {
			seq := uint64(0)
			if _, err := readFrames(b, func(s uint64, _ []byte) error { seq = s; return nil }); err != nil {
				t.Fatal(err)
			}
			f := ops(make([]byte, frameHeader))
			sealFrame(f, seq+1)
			return append(b, f...)
		})
	}
	t.Run("record", func(t *testing.T) {
		dir := written(t, true, 0)
		appendFrame(t, dir, func(b []byte) []byte {
			return appendPayload(b, opRecord, func(b []byte) []byte {
				at := len(b)
				b = appendRecord(b, file1(10, "a"), nil)
				v := b[at:]
				v[0]++
				n := len(v) - 4
				binary.LittleEndian.PutUint32(v[n:], crc32.Checksum(v[:n], castagnoli))
				return b
			})
		})
		refused(t, dir)
	})
	t.Run("operation", func(t *testing.T) {
		dir := written(t, true, 0)
		appendFrame(t, dir, func(b []byte) []byte { return appendOp(b, 200, 7) })
		refused(t, dir)
	})
}

// refused expects ErrNewer, and that the refusal changed nothing.
func refused(t *testing.T, dir string) {
	t.Helper()
	before := fmt.Sprint(must(os.ReadDir(filepath.Join(dir, draftsDir))))
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrNewer) {
		t.Fatalf("Open: %v", err)
	}
	if after := fmt.Sprint(must(os.ReadDir(filepath.Join(dir, draftsDir)))); after != before || len(asideFiles(t, dir)) != 0 {
		t.Errorf("drafts %s, were %s", after, before)
	}
}

// TestOlderRecordsAreRead: a field that an older version did not know is
// simply absent, one that a later one of the same format has is passed over.
func TestOlderRecordsAreRead(t *testing.T) {
	e := file1(10, "a")
	b := appendRecord(nil, e, nil)
	b = b[:len(b)-4]
	b = putString(b, 1000, "from the future")
	b = putUint(b, 1001, 5)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	got, _, err := decodeRecord(b)
	if err != nil || !same(e, got) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPowerFailureAfterFsyncAndMore(t *testing.T) {
	// fsync, then more in the same file without: after a power failure that
	// leaves the file as it was, the fsynced content is what counts.
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, bootID: "one", proveAfter: time.Hour, small: -1})
	e := file1(10, "log")
	d := must(j.OpenDraft(10, nil))
	must(d.WriteAt([]byte("synced"), 0))
	commitTo(t, j, d, e)
	if err := errors.Join(d.Sync(), j.Sync(t.Context())); err != nil {
		t.Fatal(err)
	}
	must(d.WriteAt([]byte(" and not"), 6))
	commitTo(t, j, d, e)
	if err := errors.Join(d.Close(), j.Sync(t.Context())); err != nil {
		t.Fatal(err)
	}
	shut(t, j)
	if err := os.Truncate(filepath.Join(dir, draftsDir, "10-1"), 6); err != nil {
		t.Fatal(err)
	}
	j = open(t, Options{Dir: dir, bootID: "two"})
	if got := readBack(t, j, 10); got != "synced" {
		t.Errorf("%q", got)
	}
	if all := strings.Join(j.Problems(), ""); !strings.Contains(all, "last fsync") {
		t.Errorf("problems %q", all)
	}
}

func TestContentThatWaitsIsSyncedByItself(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, bootID: "one", proveAfter: time.Millisecond, GroupCommit: time.Millisecond, small: -1})
	content(t, j, file1(10, "a"), "content")
	proved := func() bool {
		j.mu.RLock()
		defer j.mu.RUnlock()
		return j.index.items[10].Draft.c.synced
	}
	for !proved() {
		if err := j.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, j)
	j = open(t, Options{Dir: dir, bootID: "two"})
	if got := readBack(t, j, 10); got != "content" || len(j.Problems()) > 0 {
		t.Errorf("%q, problems %q", got, j.Problems())
	}
}

// TestOnlyTheNewestDamageIsKept: copies of damaged logs do not pile up;
// contents that were set aside stay.
func TestOnlyTheNewestDamageIsKept(t *testing.T) {
	dir := written(t, false, 0)
	if err := os.MkdirAll(filepath.Join(dir, asideDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"2020-01-01 10.00.00 journal.log 00000001", "2020-01-01 10.00.00 journal.db", "2021-01-01 10.00.00 journal.log 00000007",
		"2021-01-01 10.00.00 journal.log 00000007.base", "2019-01-01 10.00.00 10-3 journal.txt", "2018-01-01 10.00.00 10-3 my journal.log",
	} {
		if err := os.WriteFile(filepath.Join(dir, asideDir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, open(t, Options{Dir: dir}))
	want := []string{"10-3 journal.txt", "10-3 my journal.log", "journal.log 00000007", "journal.log 00000007.base"}
	if d := cmp.Diff(want, asideFiles(t, dir)); d != "" {
		t.Error(d)
	}
}
