package writeback

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestRemoveFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a", "x")
		w.flush()
		w.srv.ResetRequests()
		w.remove("a")
		w.flush()
		w.wantTree(map[string]string{})
		w.wantTrash("a")
		w.wantCalls(map[string]int{"nodes.get": 1, "trash.put": 1})
	})
}

func TestRemoveGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a", "x")
		w.flush()
		n, _ := w.other.Lookup("a")
		if _, err := w.other.Trash(n.ID); err != nil {
			t.Fatal(err)
		}
		w.srv.ResetRequests()
		w.remove("a")
		w.flush()
		w.wantTrash("a")
		w.wantCalls(map[string]int{"nodes.get": 1})
	})
}

func TestRemoveChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a", "x")
		w.flush()
		n, _ := w.other.Lookup("a")
		if _, err := w.other.Overwrite(n.ID, bytesOf("theirs")); err != nil {
			t.Fatal(err)
		}
		ino, rev := must[uint64, uint64](t)(w.tryRemove("a"))
		if err := w.s.Wait(w.ctx(), ino, rev); !errors.Is(err, drive.ErrChanged) {
			t.Fatalf("got %v", err)
		}
		w.wantTree(map[string]string{"a": "theirs"})
		w.wantTrash()
	})
}

// tree makes folders with files in each.
func (w *world) makeTree(top string, folders, files int) {
	w.mkdir(top)
	for d := range folders {
		dir := fmt.Sprintf("%s/d%d", top, d)
		w.mkdir(dir)
		for f := range files {
			w.write(fmt.Sprintf("%s/f%d", dir, f), "x")
		}
	}
	w.flush()
	w.srv.ResetRequests()
}

func (w *world) removeTree(top string, folders, files int) {
	for d := range folders {
		dir := fmt.Sprintf("%s/d%d", top, d)
		for f := range files {
			w.remove(fmt.Sprintf("%s/f%d", dir, f))
		}
		w.remove(dir)
	}
	w.remove(top)
}

func TestRemoveTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fast
		o.UploadDelay = 100 * time.Millisecond
		w := newWorld(t, drivetest.Options{}, o).run()
		w.makeTree("top", 5, 20)
		n, _ := w.other.Lookup("top")
		ino, rev := w.ino("top"), uint64(1)
		w.removeTree("top", 5, 20)
		if err := w.s.Wait(w.ctx(), ino, rev); err != nil {
			t.Fatal(err)
		}
		w.flush()
		w.wantTree(map[string]string{})
		w.wantTrash("top")
		w.wantCalls(map[string]int{"nodes.get": 1, "nodes.children": 6, "trash.put": 1})
		if _, err := w.other.Restore(n.ID); err != nil {
			t.Fatal(err)
		}
		if got := len(w.tree()); got != 1+5+100 {
			t.Errorf("restore brought back %d nodes, want %d", got, 1+5+100)
		}
	})
}

func TestRemoveTreeUnseenInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.makeTree("top", 3, 2)
		if _, err := w.other.PutPath("top/d1/unseen", []byte("theirs")); err != nil {
			t.Fatal(err)
		}
		w.s.Pause(true)
		w.removeTree("top", 3, 2)
		w.unpause()
		w.flush()
		w.wantTree(map[string]string{"top": "/", "top/d1": "/", "top/d1/unseen": "theirs"})
		w.wantTrash("d0", "d2", "f0", "f1") // f0 and f1 of d1, one by one
		if len(w.notes("undo")) != 2 {
			t.Errorf("reported: %q", w.notes(""))
		}
	})
}

func TestRemoveTreeChangedInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.makeTree("top", 2, 2)
		n, _ := w.other.Lookup("top/d1/f1")
		if _, err := w.other.Overwrite(n.ID, bytesOf("theirs")); err != nil {
			t.Fatal(err)
		}
		w.s.Pause(true)
		w.removeTree("top", 2, 2)
		w.unpause()
		w.flush()
		w.wantTree(map[string]string{"top": "/", "top/d1": "/", "top/d1/f1": "theirs"})
		w.wantTrash("d0", "f0")
	})
}

// What was moved out of a removed folder leaves it first.
func TestRemoveTreeMovedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.makeTree("top", 2, 2)
		w.s.Pause(true)
		w.rename("top/d0/f0", "kept")
		w.rename("top/d1", "d1")
		w.remove("top/d0/f1")
		w.remove("top/d0")
		w.remove("top")
		w.unpause()
		w.flush()
		w.wantTree(map[string]string{"kept": "x", "d1": "/", "d1/f0": "x", "d1/f1": "x"})
		w.wantTrash("top")
		w.wantCalls(map[string]int{"nodes.get": 1, "nodes.children": 2, "trash.put": 1, "nodes.update": 1, "nodes.move": 2})
	})
}

// A folder that is removed while something new is on its way into it.
func TestRemoveFolderWithPendingChildren(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fast
		o.UploadDelay = time.Hour
		w := newWorld(t, drivetest.Options{}, o).run()
		ino, rev := must[uint64, uint64](t)(w.tryMkdir("d"))
		if err := w.s.Wait(w.ctx(), ino, rev); err != nil {
			t.Fatal(err)
		}
		w.write("d/f", "x")
		w.remove("d/f")
		w.remove("d")
		w.flush()
		w.wantTree(map[string]string{})
		w.wantTrash("d")
		w.wantCalls(map[string]int{"nodes.create": 1, "nodes.get": 1, "nodes.children": 1, "trash.put": 1})
	})
}

// A folder that was trashed elsewhere under something made in it is made again.
func TestParentGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("d")
		w.flush()
		n, _ := w.other.Lookup("d")
		if _, err := w.other.Trash(n.ID); err != nil {
			t.Fatal(err)
		}
		w.write("d/f", "x")
		w.flush()
		w.wantTree(map[string]string{"d": "/", "d/f": "x"})
		w.wantTrash("d")
	})
}

func TestRenameOfGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a", "x")
		w.flush()
		n, _ := w.other.Lookup("a")
		if _, err := w.other.Trash(n.ID); err != nil {
			t.Fatal(err)
		}
		ino, rev := must[uint64, uint64](t)(w.tryRename("a", "b"))
		err := w.s.Wait(w.ctx(), ino, rev)
		w.flush()
		// The service renames what is in the trash (API §6.7); what it answers tells.
		if err != nil && !errors.Is(err, drive.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		w.wantTree(map[string]string{})
	})
}

// A folder was moved into one that is removed, something was made in it, and
// all of it was removed, faster than the service answers: what the calls under
// way have made is not somebody else's, and nothing comes back for it.
func TestListingMeetsCallsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("top")
		w.mkdir("top/in")
		w.mkdir("moved")
		w.flush()
		w.stop()
		w.stop = nil
		top, err := w.other.Lookup("top")
		if err != nil {
			t.Fatal(err)
		}
		in, err := w.other.Lookup("top/in")
		if err != nil {
			t.Fatal(err)
		}
		moved, err := w.other.Lookup("moved")
		if err != nil {
			t.Fatal(err)
		}
		// On the drive already; their answers are on the way.
		if _, err := w.other.Move(moved.ID, w.other.Root(), top.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := w.other.Mkdir(in.ID, "made"); err != nil {
			t.Fatal(err)
		}
		e := func(ino uint64, n drivetest.Node, change func(e *journal.Entry)) *journal.Entry {
			e := &journal.Entry{
				Ino: ino, Folder: true,
				Intent:   journal.Intent{Removed: true, Since: time.Now(), Place: journal.Place{Name: n.Name, Shown: n.Name}},
				Progress: journal.Progress{NodeID: n.ID, Base: &journal.Base{Name: n.Name, Parents: n.Parents, Version: n.Version, ETag: n.ETag}},
			}
			if change != nil {
				change(e)
			}
			must[uint64, uint64](t)(w.change(func(tx *tree.Tx) (*journal.Entry, error) { tx.Put(e); return e, nil }))
			return e
		}
		inoOf := func(n drivetest.Node) uint64 {
			ino, err := w.t.InoOf(n.ID)
			if err != nil {
				t.Fatal(err)
			}
			return ino
		}
		e(inoOf(in), in, nil)
		doubted := e(inoOf(moved), moved, func(e *journal.Entry) { e.Base.Doubt() })
		made := e(w.newIno(), drivetest.Node{Name: "made"}, func(e *journal.Entry) {
			e.Base, e.LocalID = nil, "local"
			e.Sent = &journal.Sent{ParentID: in.ID, Name: "MADE", At: time.Now(), Deadline: time.Now().Add(time.Minute)}
		})
		of := e(inoOf(top), top, nil)
		task := &task{s: w.s, ino: of.Ino, ctx: w.ctx()}
		w.s.active[doubted.Ino] = task // somebody's; the write-back is not running
		for _, arrived := range []bool{false, true} {
			found := &walk{seen: map[uint64]found{}, strange: map[uint64]bool{}}
			if err := task.list(of, found); err != nil {
				t.Fatal(err)
			}
			if len(found.strange) > 0 || found.on != doubted.Ino && found.on != made.Ino {
				t.Errorf("strange in %v (%+v), wait for %d", found.strange, found.unseen, found.on)
			}
			if _, ok := found.seen[doubted.Ino]; ok != arrived {
				t.Errorf("what is on its way counts as inside: %v", ok)
			}
			if ino := task.placesSent(in.ID)["made"]; ino != made.Ino {
				t.Errorf("made by %d, want %d", ino, made.Ino)
			}
			// The move has ended. Had its answer been lost, the listing says where
			// the folder is, and it must not be waited for: it waits for this one.
			delete(w.s.active, doubted.Ino)
		}
	})
}
