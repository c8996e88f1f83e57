package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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

// written makes a journal with three contents, as kill -9 or Close leaves it.
func written(t *testing.T, inTail bool) (dir string) {
	t.Helper()
	dir = t.TempDir()
	j := open(t, Options{Dir: dir, GroupCommit: time.Hour})
	for i, name := range []string{"a", "b", "c"} {
		content(t, j, file1(10+uint64(i), name), "content of "+name)
	}
	if inTail {
		kill(t, j)
	} else {
		shut(t, j)
	}
	return dir
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

func TestTornTail(t *testing.T) {
	full := map[uint64]string{10: "content of a", 11: "content of b", 12: "content of c"}
	dir := written(t, true)
	path := filepath.Join(dir, tailNames[0])
	whole := must(os.ReadFile(path))
	third := bytes.LastIndex(whole, tailMagic[:])
	for cut := third; cut < len(whole); cut++ {
		dir := written(t, true)
		edit(t, filepath.Join(dir, tailNames[0]), func(b []byte) []byte { return b[:cut] })
		// The third Put never returned; its draft is nobody's.
		left := map[uint64]string{10: full[10], 11: full[11]}
		expectDamage(t, dir, nil, left, nil)
		if cut > third+3 && testing.Short() {
			return
		}
		cut += 5
	}
}

func TestDamagedMiddleOfTail(t *testing.T) {
	dir := written(t, true)
	edit(t, filepath.Join(dir, tailNames[0]), func(b []byte) []byte {
		second := bytes.Index(b[1:], tailMagic[:]) + 1
		b[second+frameHeader+5] ^= 1
		return b
	})
	expectDamage(t, dir, []string{"the tail is damaged", "its entry is lost"},
		map[uint64]string{10: "content of a", 12: "content of c"},
		[]string{"11-3", tailNames[0]})
}

func TestDamagedRecord(t *testing.T) {
	dir := written(t, false)
	db := must(bolt.Open(filepath.Join(dir, dbName), 0o600, nil))
	err := db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketEntries)
		v := bytes.Clone(b.Get(inoKey(11)))
		v[len(v)/2] ^= 1
		return b.Put(inoKey(11), v)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	expectDamage(t, dir, []string{"record of inode 11", "its entry is lost"},
		map[uint64]string{10: "content of a", 12: "content of c"},
		[]string{"11-3", "record-11"})
}

func TestDamagedDatabase(t *testing.T) {
	nameless, named := []string{"10-1", "11-3", "12-5", dbName}, []string{"10-1 a", "11-3 b", "12-5 c", dbName}
	tests := map[string]struct {
		damage func([]byte) []byte
		aside  []string
	}{
		"zeros in it":  {func(b []byte) []byte { return append(make([]byte, 4096), b[4096:]...)[:8192] }, nameless},
		"meta pages":   {func(b []byte) []byte { return append(bytes.Repeat([]byte{7}, 8192), b[8192:]...) }, named},
		"all pages":    {func(b []byte) []byte { return append(b[:8192:8192], bytes.Repeat([]byte{0xff}, len(b)-8192)...) }, nameless},
		"cut":          {func(b []byte) []byte { return b[:8192] }, nameless},
		"another file": {func([]byte) []byte { return []byte("hello") }, nameless},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := written(t, false)
			// One more entry is in the tail only.
			j := open(t, Options{Dir: dir, GroupCommit: time.Hour})
			content(t, j, file1(13, "d"), "content of d")
			kill(t, j)
			edit(t, filepath.Join(dir, dbName), tt.damage)
			expectDamage(t, dir, []string{"the database was damaged", "its entry is lost"},
				map[uint64]string{13: "content of d"},
				tt.aside)
		})
	}
}

func TestMissingDatabase(t *testing.T) {
	dir := written(t, false)
	j := open(t, Options{Dir: dir, GroupCommit: time.Hour})
	content(t, j, file1(13, "d"), "content of d")
	kill(t, j)
	if err := os.Remove(filepath.Join(dir, dbName)); err != nil {
		t.Fatal(err)
	}
	expectDamage(t, dir, []string{"its entry is lost"}, map[uint64]string{13: "content of d"}, []string{"10-1", "11-3", "12-5"})
}

func TestDamagedDrafts(t *testing.T) {
	left := map[uint64]string{10: "content of a", 12: "content of c"}
	t.Run("short", func(t *testing.T) {
		dir := written(t, false)
		if err := os.Truncate(filepath.Join(dir, draftsDir, "11-3"), 4); err != nil {
			t.Fatal(err)
		}
		expectDamage(t, dir, []string{"4 of its 12 bytes"}, left, []string{"11-3 b"})
	})
	t.Run("missing", func(t *testing.T) {
		dir := written(t, false)
		if err := os.Remove(filepath.Join(dir, draftsDir, "11-3")); err != nil {
			t.Fatal(err)
		}
		expectDamage(t, dir, []string{"its file is missing"}, left, nil)
	})
	t.Run("strange", func(t *testing.T) {
		dir := written(t, false)
		if err := os.WriteFile(filepath.Join(dir, draftsDir, "README"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		left := map[uint64]string{10: "content of a", 11: "content of b", 12: "content of c"}
		expectDamage(t, dir, []string{"not a draft"}, left, []string{"README"})
	})
	t.Run("of a node", func(t *testing.T) { // the other wishes of the entry stay
		dir := t.TempDir()
		j := open(t, Options{Dir: dir})
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

func TestNeverClosedFilesAreSetAside(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	for i, name := range []string{"never/closed.txt", "empty", "fsynced.jpg"} {
		e := file1(10+uint64(i), name)
		e.Open = true
		put(t, j, e)
		d := must(j.OpenDraft(e.Ino, nil))
		if name != "empty" {
			must(d.WriteAt([]byte("bytes"), 0))
		}
		if name == "fsynced.jpg" {
			st := d.Commit()
			e.Draft = &st
			put(t, j, e)
			if err := errors.Join(d.Sync(), j.Sync(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
	}
	kill(t, j)
	expectDamage(t, dir, []string{"never/closed.txt", "fsynced.jpg", "never closed"}, map[uint64]string{},
		[]string{"10-1 never_closed.txt", "12-3 fsynced.jpg"})
	if got := must(os.ReadDir(filepath.Join(dir, draftsDir))); len(got) != 0 {
		t.Errorf("drafts %v", got)
	}
}

func TestNewerVersionsAreRefused(t *testing.T) {
	t.Run("database", func(t *testing.T) {
		dir := written(t, false)
		db := must(bolt.Open(filepath.Join(dir, dbName), 0o600, nil))
		err := db.Update(func(tx *bolt.Tx) error { return putMeta(tx.Bucket(bucketMeta), metaFormat, dbFormat+1) })
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		refused(t, dir)
	})
	t.Run("record", func(t *testing.T) {
		dir := written(t, false)
		db := must(bolt.Open(filepath.Join(dir, dbName), 0o600, nil))
		err := db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketEntries)
			v := bytes.Clone(b.Get(inoKey(10)))
			v[0]++
			n := len(v) - 4
			binary.LittleEndian.PutUint32(v[n:], crc32.Checksum(v[:n], castagnoli))
			return b.Put(inoKey(10), v)
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
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
	j := open(t, Options{Dir: dir, bootID: "one", proveAfter: time.Hour})
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
	j := open(t, Options{Dir: dir, bootID: "one", proveAfter: time.Millisecond, GroupCommit: time.Millisecond})
	content(t, j, file1(10, "a"), "content")
	for j.waitingForProof() > 0 {
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
