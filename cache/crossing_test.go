package cache

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func (w *world) openAt(p string, flags uint32) *Handle {
	w.Helper()
	e, err := w.s.Resolve(w.Context(), p)
	if err != nil {
		w.Fatal("resolve", p, err)
	}
	h, err := w.s.Open(w.Context(), e.Ino, e.Gen, flags)
	if err != nil {
		w.Fatal("open", p, err)
	}
	return h
}

// A file comes back from the trash while a program still has it open from before.
func TestRestoredWhileOpen(t *testing.T) {
	w := newWorld(t)
	n := w.put("/f", "one")
	w.poll()
	h := w.openAt("/f", unix.O_RDWR)
	defer h.Release()
	w.unlink("/f")
	w.flush()
	if _, err := w.other.Restore(n.ID); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.want(w.read("/f"), "one")
	w.write("/f", "two!!")
	w.flush()
	w.want(w.drive("/f"), "two!!")
}

// Rename over one of two names of a file that somebody is writing.
func TestRenameOverOneName(t *testing.T) {
	w := newWorld(t)
	n := w.put("/a/f", "one")
	w.addParent(n.ID, "/b")
	w.put("/x", "X")
	w.poll()
	h := w.openAt("/b/f", unix.O_RDWR)
	w.rename("/x", "/a/f")
	w.writeTo(h, "two", 0)
	w.shut(h)
	w.flush()
	w.want(w.drive("/a/f"), "X")
	w.want(w.drive("/b/f"), "two")
}

// An editor's save over one of two names.
func TestSaveOverOneName(t *testing.T) {
	w := newWorld(t)
	n := w.put("/a/doc", "one")
	w.addParent(n.ID, "/b")
	w.poll()
	w.want(w.ls("/b"), "doc")
	w.write("/a/.doc.AbCdEf", "two")
	w.rename("/a/.doc.AbCdEf", "/a/doc")
	w.want(w.ls("/b"), "doc")
	w.flush()
	w.want(w.drive("/a/doc"), "two")
	if _, err := w.other.Lookup("/b/doc"); err != nil {
		t.Error("/b/doc is gone from the drive:", err, w.paths(), w.other.TrashList())
	}
}

// A reader that opened while a draft was there hides later versions from new opens.
func TestReaderHidesForeign(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.write("/f", "mine")
	h := w.openAt("/f", unix.O_RDONLY)
	defer h.Release()
	w.flush()
	w.poll()
	w.put("/f", "theirs now")
	w.poll()
	s, err := w.readHandle(h)
	if err != nil {
		t.Fatal(err)
	}
	w.want(s, "mine")
	w.want(w.read("/f"), "theirs now")
}

// A folder made again for a pending file must be told to the kernel.
func TestRemadeFolderIsTold(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.put("/d/old", "x")
	w.poll()
	w.write("/d/new", "mine")
	if _, err := w.other.Trash(w.id("/d")); err != nil {
		t.Fatal(err)
	}
	w.takeEffects()
	w.poll()
	w.want(w.ls("/"), "d")
	w.flush()
	w.want(w.drive("/d/new"), "mine")
	told := false
	for _, e := range w.takeEffects() {
		if len(e.Old) == 0 {
			for _, d := range e.New {
				told = told || d == Dentry{Dir: 1, Name: "d"}
			}
		}
	}
	if !told {
		t.Error("nobody told the kernel that /d is there again")
	}
}

// A folder above the one that a pending file belongs in is trashed.
func TestTrashedAncestor(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.Backoff = 10 * time.Millisecond })
	w.put("/a/b/old", "x")
	w.poll()
	w.write("/a/b/new", "mine")
	if _, err := w.other.Trash(w.id("/a")); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.flush()
	w.want(w.drive("/a/b/new"), "mine")
}

// An edit of an existing file in it.
func TestTrashedAncestorEdit(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.Backoff = 10 * time.Millisecond })
	w.put("/a/b/old", "x")
	w.poll()
	w.write("/a/b/old", "mine")
	if _, err := w.other.Trash(w.id("/a")); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.flush()
	w.want(w.drive("/a/b/old"), "mine")
}

// Bytes of a later generation must not get under the key of the version that was uploaded.
func TestAdoptedBytes(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.write("/f", "AAAA")
	w.flush()
	n, err := w.o.Remote.Get(t.Context(), w.id("/f"))
	if err != nil {
		t.Fatal(err)
	}
	e, _ := w.s.Resolve(t.Context(), "/f")
	w.write("/f", "BBBB")
	d, err := w.s.journal.OpenDraft(e.Ino, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.s.chunks.Drop(n.ID)
	// As settle does when the answer to the first comes now.
	adopt(w.s.chunks, w.o.Disk, w.s.journal, e.Ino, n, d)
	d.Close()
	v := chunk.Version{ID: n.ID, Content: n.Content.Version, Size: 4, MD5: n.Content.MD5, Name: "f"}
	p := make([]byte, 4)
	if _, err := w.s.chunks.ReadInto(t.Context(), v, p, 0); err != nil {
		t.Fatal(err)
	}
	w.want(string(p), "AAAA")
}

// A refused rename must not cost its target.
func TestRefusedReplace(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.CallTimeout = 5 * time.Second })
	w.put("/a", "A")
	w.put("/b", "B")
	w.poll()
	w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "nodes.update" {
			return &drivetest.Fault{Do: drivetest.DoStatus, Status: 403, Code: "NO_PERMISSION"}
		}
		return nil
	})
	err := w.tryRename("/a", "/b")
	t.Log("rename:", err)
	w.srv.Hook(nil)
	w.flush()
	if err != nil {
		w.want(w.drive("/a"), "A")
		w.want(w.drive("/b"), "B")
	}
}

// A refused rename takes an unrelated wish with it.
func TestUndoKeepsMode(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.CallTimeout = 5 * time.Second })
	w.write("/seed", "s") // the owner is known
	w.flush()
	w.put("/a", "A")
	w.poll()
	e, _ := w.s.Resolve(t.Context(), "/a")
	mode := uint32(0o600)
	w.setattr("/a", SetAttr{Mode: &mode})
	w.put("/c", "C") // not heard of
	err := w.tryRename("/a", "/c")
	if !errors.Is(err, ErrExist) {
		t.Fatal("rename:", err)
	}
	e, err = w.s.Resolve(t.Context(), "/a")
	if err != nil || e.Mode&0o777 != 0o600 {
		t.Errorf("mode %o %v", e.Mode&0o777, err)
	}
}

// The document is open in the program that saves by rename; somebody
// else's version came meanwhile and is hidden by the open one.
func TestSaveOverHiddenVersion(t *testing.T) {
	w := newWorld(t)
	w.put("/doc", "one")
	w.poll()
	h := w.openAt("/doc", unix.O_RDWR) // LibreOffice holds its document so
	w.put("/doc", "theirs")
	w.poll()
	w.write("/.doc.AbCdEf", "mine")
	w.rename("/.doc.AbCdEf", "/doc")
	h.Release()
	w.flush()
	w.poll()
	theirs, mine := false, false
	for p := range w.other.Tree() {
		if !strings.HasPrefix(p, "doc") {
			continue
		}
		switch w.drive("/" + p) {
		case "theirs":
			theirs = true
		case "mine":
			mine = true
		}
	}
	if !theirs || !mine {
		t.Errorf("theirs %v mine %v: %v; trash %v", theirs, mine, w.paths(), w.other.TrashList())
	}
}

// The same with unlink.
func TestUnlinkHiddenVersion(t *testing.T) {
	w := newWorld(t)
	w.put("/doc", "one")
	w.poll()
	h := w.openAt("/doc", unix.O_RDWR)
	w.put("/doc", "theirs")
	w.poll()
	w.unlink("/doc")
	h.Release()
	w.flush()
	if _, err := w.other.Lookup("/doc"); err != nil {
		t.Error("a version nobody here has seen went to the trash")
	}
}

// Save one closed and not yet uploaded, save two renamed over it before
// it was closed; then kill -9.
func TestRenameOpenOverClosed(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.put("/doc", "one")
	w.poll()
	w.write("/doc", "closed")
	h := w.create("/.doc.AbCdEf", unix.O_WRONLY|unix.O_CREAT)
	w.writeTo(h, "written", 0)
	w.rename("/.doc.AbCdEf", "/doc")
	w.want(w.read("/doc"), "written")
	w.reopen() // nothing was flushed or released
	if got := w.read("/doc"); got == "one" {
		t.Errorf("/doc is %q: what was closed is lost", got)
	}
	_ = h
}

// Giving an open new file another spelling replaces nothing, so what was
// written since its last close is not put into the journal for it.
func TestRenameOpenToAnotherCase(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.write("/c", "closed")
	e, err := w.s.Resolve(t.Context(), "/c")
	if err != nil {
		t.Fatal(err)
	}
	h := w.create("/c", unix.O_RDWR)
	w.writeTo(h, "open", 0)
	closed, _ := w.s.journal.Get(e.Ino)
	w.rename("/c", "/C")
	now, ok := w.s.journal.Get(e.Ino)
	if !ok || now.Draft == nil || now.Draft.Gen != closed.Draft.Gen || now.Place.Name != "C" {
		t.Errorf("in the journal: %+v, before %+v", now.Draft, closed.Draft)
	}
	if err := h.Flush(); err != nil {
		t.Error(err)
	}
	h.Release()
}

// A file that took the name of a removed one is found under it all the time,
// also when the drive's answer about it comes before that about the other.
func TestAnsweredBeforeTheOtherIsGone(t *testing.T) {
	w := newWorld(t)
	first := w.put("/B", "first")
	w.poll()
	if _, err := w.other.Trash(first.ID); err != nil {
		t.Fatal(err)
	}
	second := w.put("/B", "second")
	n, err := w.o.Remote.Get(t.Context(), second.ID)
	if err != nil {
		t.Fatal(err)
	}
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	defer release()
	w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "trash.put" || op.NodeID == first.ID {
			<-held
		}
		return nil
	})
	root := w.s.Root()
	unlinked := make(chan error, 1)
	go func() { unlinked <- w.s.Unlink(t.Context(), root, "B") }()
	w.until("the removal", func() bool {
		_, _, err := w.s.Lookup(t.Context(), root, "B")
		return errors.Is(err, ErrNotExist)
	})
	ino, err := w.s.mirror.NewIno()
	if err != nil {
		t.Fatal(err)
	}
	err = w.s.tree.Change(func(tx *tree.Tx) error {
		e := &journal.Entry{Ino: ino}
		e.NodeID, e.Since, e.Due = n.ID, time.Now(), time.Now()
		e.Place = journal.Place{Parents: []uint64{root}, Name: "B", Shown: "B"}
		e.Base = &journal.Base{Name: "B", Parents: n.Parents, Version: n.Version, ETag: n.ETag,
			Content: n.Content.Version, Size: n.Content.Size, MD5: n.Content.MD5}
		tx.Put(e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.answered(ino, n); err != nil {
		t.Fatal(err)
	}
	w.s.writeBack.Kick(ino)
	// It may be looked at as often as it likes while the other is on its way.
	for range 200 {
		if e, _, err := w.s.Lookup(t.Context(), root, "B"); err != nil || e.Ino != ino {
			t.Fatalf("while the removal is on its way: inode %d, %v", e.Ino, err)
		}
		<-time.After(time.Millisecond)
	}
	release()
	if err := <-unlinked; err != nil {
		t.Error(err)
	}
	w.flush()
	if e, _, err := w.s.Lookup(t.Context(), root, "B"); err != nil || e.Ino != ino {
		t.Errorf("after the removal: inode %d, %v", e.Ino, err)
	}
}

// A document that somebody else changed before (so its node has another
// generation than the file that replaces it) is saved by rename, read here, and
// saved in place: the reader sees what is written after that too.
func TestReaderAfterSaveByRename(t *testing.T) {
	w := newWorld(t)
	w.put("/doc", "one")
	w.poll()
	w.want(w.read("/doc"), "one")
	w.put("/doc", "two")
	w.poll()
	w.write("/.doc.AbCdEf", "three")
	w.rename("/.doc.AbCdEf", "/doc")
	h := w.openAt("/doc", unix.O_RDONLY)
	defer h.Release()
	w.writeAt("/doc", "THREE", 0, unix.O_WRONLY)
	w.flush()
	w.want(w.drive("/doc"), "THREE")
	w.poll()
	w.writeAt("/doc", "FOUR", 1, unix.O_WRONLY)
	s, err := w.readHandle(h)
	if err != nil {
		t.Fatal(err)
	}
	w.want(s, "TFOUR")
}

// A backup that is removed while the new file was never closed waits for that:
// closed, it takes over the node; where a crash takes the new file, the backup
// goes to the trash and does not come back.
func TestBackupOfAnOpenFile(t *testing.T) {
	for _, crash := range []bool{false, true} {
		w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
		w.write("/doc", "one")
		w.flush()
		id := w.id("/doc")
		w.rename("/doc", "/doc~")
		h := w.create("/doc", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
		w.writeTo(h, "two", 0)
		w.unlink("/doc~")
		w.flush()
		if tr := w.other.TrashList(); len(tr) != 0 {
			t.Errorf("in the trash: %v", tr)
		}
		if crash {
			w.reopen()
			w.want(w.ls("/"), "")
			w.flush()
			if tr := w.other.TrashList(); len(tr) != 1 || tr[0].ID != id {
				t.Errorf("in the trash: %v", tr)
			}
			continue
		}
		w.shut(h)
		w.flush()
		w.want(w.drive("/doc"), "two")
		if got := w.id("/doc"); got != id {
			t.Error("the document is another node")
		}
		if tr := w.other.TrashList(); len(tr) != 0 {
			t.Errorf("in the trash: %v", tr)
		}
	}
}
