package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// logBytes is what the files of the log and of small contents take.
func logBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	for _, d := range must(os.ReadDir(filepath.Join(dir, logDir))) {
		if fi, err := d.Info(); err == nil {
			n += fi.Size()
		}
	}
	return n
}

// TestLogStaysSmall: what is over and done with takes no room for long,
// however much was done, while some contents live through it all.
func TestLogStaysSmall(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, GroupCommit: time.Millisecond, segment: 50_000}
	j := open(t, o)
	text := func(ino uint64) string { return strings.Repeat(fmt.Sprint(ino, " "), 200) }
	for ino := uint64(10); ino < 2000; ino++ {
		e := file1(ino, fmt.Sprint(ino))
		content(t, j, e, text(ino))
		if ino%100 == 0 {
			continue
		}
		if ok, err := j.Done(ino, e.Rev); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	for range 2 {
		if err := errors.Join(j.harden(), j.clean(), j.rewriteIfDue()); err != nil {
			t.Fatal(err)
		}
	}
	if n := logBytes(t, dir); n > 300_000 {
		t.Errorf("%d bytes in the log for %d entries", n, j.Len())
	}
	for range 2 {
		for ino := uint64(100); ino < 2000; ino += 100 {
			if got := readBack(t, j, ino); got != text(ino) {
				t.Errorf("inode %d: %.20q", ino, got)
			}
		}
		if j.Len() != 19 || len(j.Problems()) > 0 || len(draftFiles(t, j)) > 0 {
			t.Errorf("%d entries, problems %q", j.Len(), j.Problems())
		}
		kill(t, j)
		j = open(t, o)
	}
}

// TestFlushesOfAnFsync: an fsync of a new file costs at most three flushes, one
// of a small file two, once the directory knows the segment.
func TestFlushesOfAnFsync(t *testing.T) {
	for small, most := range map[int64]int{0: 2, -1: 3} {
		dir := t.TempDir()
		fs := newRecFS(dir)
		j := open(t, Options{Dir: dir, fs: fs, GroupCommit: time.Hour, proveAfter: time.Hour, small: small})
		for ino := uint64(10); ino < 14; ino++ {
			fs.mu.Lock()
			fs.ops = nil
			fs.mu.Unlock()
			d := must(j.OpenDraft(ino, nil))
			must(d.WriteAt([]byte("content"), 0))
			commitTo(t, j, d, file1(ino, fmt.Sprint(ino)))
			if err := errors.Join(d.Sync(), j.Sync(t.Context()), d.Close()); err != nil {
				t.Fatal(err)
			}
			flushes := 0
			fs.mu.Lock()
			for _, op := range fs.ops {
				if op.kind == kSync || op.kind == kSyncDir {
					flushes++
				}
			}
			fs.mu.Unlock()
			if flushes > most && ino > 10 {
				t.Errorf("small %d: %d flushes, want %d", small, flushes, most)
			}
		}
	}
}

// TestFailedSyncOfTheLog: what the sync covered is not durable until it was
// written anew, to other files.
func TestFailedSyncOfTheLog(t *testing.T) {
	for _, suffix := range []string{"", smallSuffix} {
		dir := t.TempDir()
		fs := &logSyncFS{suffix: suffix}
		j := open(t, Options{Dir: dir, fs: fs, GroupCommit: time.Hour})
		content(t, j, file1(10, "f"), "content")
		if err := j.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		content(t, j, file1(11, "g"), "more")
		fs.fails.Store(1)
		bad := map[string]bool{}
		for _, d := range must(os.ReadDir(filepath.Join(dir, logDir))) {
			bad[d.Name()] = filepath.Ext(d.Name()) == suffix
		}
		for range 2 {
			if err := j.Sync(t.Context()); err == nil {
				t.Errorf("%q: durable", suffix)
			}
		}
		if err := errors.Join(j.clean(), j.rewriteIfDue()); err != nil {
			t.Fatal(err)
		}
		if err := j.Sync(t.Context()); err != nil {
			t.Errorf("%q: after it was written anew: %v", suffix, err)
		}
		for _, d := range must(os.ReadDir(filepath.Join(dir, logDir))) {
			if bad[d.Name()] {
				t.Errorf("%q: %s is still in use", suffix, d.Name())
			}
		}
		if got := readBack(t, j, 10) + readBack(t, j, 11); got != "contentmore" {
			t.Errorf("%q", got)
		}
	}
}

// logSyncFS fails syncs of files of the log with that suffix.
type logSyncFS struct {
	syncFS
	suffix string
}

func (s *logSyncFS) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := s.lazyFS.OpenFile(name, flag, perm)
	if err != nil || filepath.Base(filepath.Dir(name)) != logDir || filepath.Ext(name) != s.suffix {
		return f, err
	}
	return &syncFile{f, &s.syncFS}, nil
}
