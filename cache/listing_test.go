package cache

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

const (
	wide   = 1000 // five pages
	wideAt = "bulk-0000000"
)

func fillWide(srv *drivetest.Server) {
	if err := srv.Bulk(wide+1, wide); err != nil {
		panic(err)
	}
}

// slowPages makes each page of a listing of the folder take so long.
func (w *world) slowPages(path string, d time.Duration, byName bool) {
	id := w.id(path)
	w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
		switch {
		case op.Name == "nodes.children" && op.NodeID == id:
			return &drivetest.Fault{Do: drivetest.DoDelay, Delay: d}
		case op.Name == "nodes.list" && !byName:
			return &drivetest.Fault{Status: 400} // a service that finds nothing by name
		}
		return nil
	})
}

// TestLargeFolderOnDemand: a folder that takes a minute to list is listed once,
// names are found as soon as they are told, and nobody waits longer than he may.
func TestLargeFolderOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBubbleWorld(t, fillWide, true)
		dir, err := w.s.Resolve(t.Context(), "/"+wideAt)
		if err != nil {
			t.Fatal(err)
		}
		all := w.other.Children(w.id(wideAt))
		const page = 12 * time.Second
		w.slowPages(wideAt, page, false)
		start := time.Now()
		lookup := func(i int) error {
			_, _, err := w.s.Lookup(t.Context(), dir.Ino, all[i].Name)
			return err
		}
		if err := lookup(0); err != nil || time.Since(start) != page {
			t.Errorf("a name on the first page: %v after %v", err, time.Since(start))
		}
		if err := lookup(wide - 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != page+listBound {
			t.Errorf("a name on the last page: %v after %v", err, time.Since(start))
		}
		if err := lookup(wide / 2); err != nil || time.Since(start) != 3*page {
			t.Errorf("a name on the third page: %v after %v", err, time.Since(start))
		}
		time.Sleep(time.Until(start.Add(5*page - time.Second)))
		d, err := w.s.OpenDir(t.Context(), dir.Ino)
		if err != nil {
			t.Fatal(err)
		}
		es, err := d.Read(t.Context(), 0, 2*wide)
		if err != nil || len(es) != wide || time.Since(start) != 5*page {
			t.Errorf("%d entries after %v: %v", len(es), time.Since(start), err)
		}
		if _, _, err := w.s.Lookup(t.Context(), dir.Ino, "absent"); !errors.Is(err, ErrNotExist) || time.Since(start) != 5*page {
			t.Errorf("an absent name: %v after %v", err, time.Since(start))
		}
		if n := w.srv.Requests()["nodes.children"]; n != 1+5 {
			t.Errorf("%d calls, want one for the root and five pages", n)
		}
		w.poll()
	})
}

// TestListingGivesUp: a listing in which nothing moves ends, and the next call
// begins another.
func TestListingGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBubbleWorld(t, fillWide, true)
		dir, err := w.s.Resolve(t.Context(), "/"+wideAt)
		if err != nil {
			t.Fatal(err)
		}
		w.slowPages(wideAt, time.Hour, false)
		start := time.Now()
		if _, err := w.s.OpenDir(t.Context(), dir.Ino); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > listBound {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		synctest.Wait() // until the listing itself has ended
		w.srv.Hook(nil)
		if _, err := w.s.OpenDir(t.Context(), dir.Ino); err != nil {
			t.Error("after it healed: ", err)
		}
		w.poll()
	})
}

// TestFeedEndsWaiting: who waits for a listing goes on when the feed has told
// everything.
func TestFeedEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBubbleWorld(t, fillWide, true)
		dir, err := w.s.Resolve(t.Context(), "/"+wideAt)
		if err != nil {
			t.Fatal(err)
		}
		w.slowPages(wideAt, 10*time.Second, false)
		start := time.Now()
		time.AfterFunc(time.Second, w.poll)
		_, _, err = w.s.Lookup(t.Context(), dir.Ino, "absent")
		if !errors.Is(err, ErrNotExist) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestPathByName: while the first sync lasts, a path costs a call for each of its
// names, however large the folders are; who asks for many names has it listed.
func TestPathByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBubbleWorld(t, fillWide, true)
		w.slowPages(wideAt, 12*time.Second, true)
		start := time.Now()
		e, err := w.s.Resolve(t.Context(), "/"+wideAt+"/file-000999.txt")
		if took := time.Since(start); err != nil || e.Folder || took > 2*time.Second {
			t.Fatalf("%+v, %v after %v", e, err, took)
		}
		if _, err := w.s.Resolve(t.Context(), "/"+wideAt+"/FILE-000998.TXT"); err != nil {
			t.Errorf("in another spelling: %v", err)
		}
		w.srv.Hook(nil)
		if _, err := w.s.Resolve(t.Context(), "/"+wideAt+"/absent"); !errors.Is(err, ErrNotExist) {
			t.Errorf("an absent name: %v", err)
		}
		w.srv.ResetRequests()
		for _, n := range w.other.Children(w.id(wideAt)) {
			if _, err := w.s.Resolve(t.Context(), "/"+wideAt+"/"+n.Name); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.srv.Requests(); n["nodes.list"]+n["nodes.children"] > 0 {
			t.Errorf("all names: %v", n)
		}
		w.poll()
		if again, err := w.s.Resolve(t.Context(), "/"+wideAt+"/file-000999.txt"); err != nil || again.Ino != e.Ino {
			t.Errorf("inode %d, was %d: %v", again.Ino, e.Ino, err)
		}
	})
}
