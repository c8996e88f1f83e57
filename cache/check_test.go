package cache

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// What a lagging listing still shows is no difference, what really differs is.
func TestCheckBearsLaggingListings(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	w := newWorld(t)
	w.stop()
	w.srv = drivetest.New(t, drivetest.Options{ListingLag: 5 * time.Second, Clock: func() time.Time { return time.Unix(0, now.Load()) }})
	w.other = w.srv.Else()
	w.o.StateDir, w.o.CacheDir = t.TempDir(), t.TempDir()
	must := func(n drivetest.Node, err error) drivetest.Node {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a, b := must(w.other.MkdirAll("a")), must(w.other.MkdirAll("b"))
	gone, moved := must(w.other.PutPath("a/gone", []byte("1"))), must(w.other.PutPath("a/moved", []byte("2")))
	written := must(w.other.PutPath("a/written", []byte("3")))
	now.Add(int64(time.Minute))
	w.open()
	must(w.other.Trash(gone.ID))
	must(w.other.Move(moved.ID, a.ID, b.ID))
	must(w.other.Overwrite(written.ID, strings.NewReader("33")))
	must(w.other.PutPath("a/fresh", []byte("4")))
	w.poll()
	check := func() (said []string) {
		t.Helper()
		n, err := w.s.Check(t.Context(), false, func(s string) { said = append(said, s) })
		if err != nil || n != len(said) {
			t.Fatal(n, err)
		}
		return said
	}
	if said := check(); len(said) > 0 {
		t.Errorf("with the listings behind: %q", said)
	}
	now.Add(int64(time.Minute))
	must(w.other.Rename(written.ID, "renamed"))
	now.Add(int64(time.Minute))
	if said := check(); len(said) != 1 || !strings.Contains(said[0], "/a/renamed") {
		t.Errorf("a rename the mirror has not heard of: %q", said)
	}
}

// What a lagging listing does not tell is asked for by id.
func TestTimesAfterALaggingListing(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	w := newWorld(t)
	w.stop()
	w.srv = drivetest.New(t, drivetest.Options{ListingLag: 5 * time.Second, Clock: func() time.Time { return time.Unix(0, now.Load()) }})
	w.other = w.srv.Else()
	w.o.StateDir, w.o.CacheDir = t.TempDir(), t.TempDir()
	w.open()
	w.mkdir("/d")
	w.write("/d/f", "x")
	e, err := w.s.Resolve(t.Context(), "/d/f")
	if err != nil {
		t.Fatal(err)
	}
	mtime := time.Unix(981173106, 0)
	if _, err := w.s.Setattr(t.Context(), e.Ino, e.Gen, nil, SetAttr{Mtime: &mtime}); err != nil {
		t.Fatal(err)
	}
	w.flush()
	w.stop()
	w.o.StateDir = t.TempDir()
	w.open()
	w.write("/owner", "which tells the owner name")
	w.flush()
	w.ls("/d")
	if e, err = w.s.Resolve(t.Context(), "/d/f"); err != nil || !e.Mtime.Equal(mtime) {
		t.Error(e.Mtime, err)
	}
}
