package journal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMakeRoomIsAskedFirst: who has room to give is asked before a write of a
// draft or of the log fails, and the log has the ballast after that.
func TestMakeRoomIsAskedFirst(t *testing.T) {
	dir := t.TempDir()
	fs := newRecFS(dir)
	asked := 0
	gives := true
	j := open(t, Options{Dir: dir, fs: fs, small: -1, GroupCommit: time.Hour, MakeRoom: func(n int64) bool {
		asked++
		if gives {
			fs.setRoom(1 << 20)
		}
		return gives
	}})
	d := must(j.OpenDraft(10, nil))
	defer d.Close()
	fs.setRoom(3)
	if n, err := d.WriteAt([]byte("abcdef"), 0); n != 6 || err != nil || asked != 1 {
		t.Errorf("draft: %d, %v, asked %d times", n, err, asked)
	}
	fs.setRoom(3)
	put(t, j, file1(11, "a"))
	if asked != 2 {
		t.Errorf("log: asked %d times", asked)
	}
	gives = false
	fs.setRoom(0)
	if _, err := d.WriteAt([]byte("x"), 6); !errors.Is(err, unix.ENOSPC) || asked != 3 {
		t.Errorf("draft: %v, asked %d times", err, asked)
	}
	if _, err := os.Stat(filepath.Join(dir, ballastName)); err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
}

// TestBallast: with not a byte left, what closes and deletes still works, the
// room of what was deleted comes back at once, and the ballast is made again.
func TestBallast(t *testing.T) {
	dir := t.TempDir()
	fs := newRecFS(dir)
	j := open(t, Options{Dir: dir, fs: fs, small: -1, GroupCommit: time.Millisecond})
	path := filepath.Join(dir, ballastName)
	if _, err := os.Stat(path); err != nil {
		t.Skip("no room for a ballast here:", err)
	}
	e := file1(10, "large")
	content(t, j, e, "bytes that nobody needs any more")
	fs.roomAfterRemove = true
	fs.setRoom(0)
	if ok, err := j.Done(10, e.Rev); !ok || err != nil {
		t.Fatalf("Done on a full disk: %t, %v", ok, err)
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := draftFiles(t, j); len(got) != 0 {
		t.Errorf("files %v", got)
	}
	for range 2000 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		put(t, j, file1(11, "more"))
		time.Sleep(time.Millisecond)
	}
	t.Error("the ballast is not made again")
}

// TestUncommitted: content whose close failed is kept, shown, and recorded by
// whoever tries again.
func TestUncommitted(t *testing.T) {
	for _, small := range []int64{-1, 0} {
		broken := true
		fs := &logFS{fail: func(string, []byte) (int, error) {
			if broken {
				return 0, unix.ENOSPC
			}
			return 0, nil
		}}
		dir := t.TempDir()
		j := open(t, Options{Dir: dir, fs: fs, small: small, GroupCommit: time.Hour})
		d := must(j.OpenDraft(10, nil))
		must(d.WriteAt([]byte("closed in vain"), 0))
		st := d.Commit()
		e := file1(10, "f")
		e.Draft = &st
		if err := j.Written(appendOne(t, j, func(error) { d.Abort(st) }, e)); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if got := j.Uncommitted(); len(got) != 1 || got[0] != 10 {
			t.Errorf("uncommitted %v", got)
		}
		broken = false
		d = must(j.OpenDraft(10, nil))
		commitTo(t, j, d, file1(10, "f"))
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if got := j.Uncommitted(); len(got) != 0 {
			t.Errorf("uncommitted %v", got)
		}
		if got := readBack(t, j, 10); got != "closed in vain" {
			t.Errorf("%q", got)
		}
	}
}
