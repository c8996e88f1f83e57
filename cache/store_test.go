package cache

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWriteAndReadBack(t *testing.T) {
	w := newWorld(t)
	w.mkdir("/a")
	w.write("/a/hello.txt", "hello")
	w.want(w.read("/a/HELLO.TXT"), "hello")
	w.flush()
	w.want(w.drive("/a/hello.txt"), "hello")
	w.poll()
	w.want(w.ls("/a"), "hello.txt")
	w.want(w.read("/a/hello.txt"), "hello")
	before, err := w.s.Resolve(t.Context(), "/a/hello.txt")
	if err != nil {
		t.Fatal(err)
	}
	w.reopen()
	after, err := w.s.Resolve(t.Context(), "/a/hello.txt")
	if err != nil {
		t.Fatal(err)
	}
	if before.Ino != after.Ino || !before.Mtime.Equal(after.Mtime) || before.Mode != after.Mode {
		t.Errorf("before the remount %+v, after it %+v", before, after)
	}
	w.want(w.read("/a/hello.txt"), "hello")
}

func TestEmptyFile(t *testing.T) {
	w := newWorld(t)
	h := w.create("/empty", unix.O_WRONLY|unix.O_CREAT)
	w.shut(h)
	w.flush()
	w.want(w.drive("/empty"), "")
	w.want(w.read("/empty"), "")
}

func TestOverwriteKeepsNode(t *testing.T) {
	w := newWorld(t)
	n := w.put("/doc", "one")
	w.poll()
	w.want(w.read("/doc"), "one")
	w.write("/doc", "two!")
	w.want(w.read("/doc"), "two!")
	w.flush()
	w.want(w.drive("/doc"), "two!")
	w.want(w.id("/doc"), n.ID)
}

func TestAppendToRemoteFile(t *testing.T) {
	w := newWorld(t)
	w.put("/log", "0123456789")
	w.poll()
	w.writeAt("/log", "ab", 10, unix.O_WRONLY)
	w.writeAt("/log", "X", 3, unix.O_WRONLY)
	w.want(w.read("/log"), "012X456789ab")
	w.flush()
	w.want(w.drive("/log"), "012X456789ab")
}

func TestTruncate(t *testing.T) {
	w := newWorld(t)
	w.put("/f", "0123456789")
	w.poll()
	e, err := w.s.Resolve(t.Context(), "/f")
	if err != nil {
		t.Fatal(err)
	}
	size := int64(4)
	a, err := w.s.Setattr(t.Context(), e.Ino, e.Gen, nil, SetAttr{Size: &size})
	if err != nil || a.Size != 4 {
		t.Fatal(a, err)
	}
	size = 6
	w.setattr("/f", SetAttr{Size: &size})
	w.want(w.read("/f"), "0123\x00\x00")
	w.flush()
	w.want(w.drive("/f"), "0123\x00\x00")
}

func TestRenameOverKeepsNode(t *testing.T) {
	w := newWorld(t)
	n := w.put("/doc", "one")
	w.poll()
	w.write("/.doc.AbCdEf", "two")
	w.rename("/.doc.AbCdEf", "/doc")
	w.want(w.ls("/"), "doc")
	w.want(w.read("/doc"), "two")
	w.flush()
	w.want(w.drive("/doc"), "two")
	w.want(w.id("/doc"), n.ID)
	if tr := w.other.TrashList(); len(tr) != 0 {
		t.Error("trash:", tr)
	}
	w.poll()
	w.want(w.ls("/"), "doc")
}

func TestBackupSaveKeepsNode(t *testing.T) {
	w := newWorld(t)
	n := w.put("/doc", "one")
	w.poll()
	w.rename("/doc", "/doc~")
	w.write("/doc", "two")
	w.unlink("/doc~")
	w.want(w.ls("/"), "doc")
	w.flush()
	w.want(w.drive("/doc"), "two")
	w.want(w.id("/doc"), n.ID)
	if tr := w.other.TrashList(); len(tr) != 0 {
		t.Error("trash:", tr)
	}
}

func TestRenameOverUploaded(t *testing.T) {
	w := newWorld(t)
	w.put("/a", "A")
	w.put("/b", "B")
	w.poll()
	w.rename("/a", "/b")
	w.want(w.ls("/"), "b")
	w.flush()
	w.want(w.drive("/b"), "A")
	if tr := w.other.TrashList(); len(tr) != 1 {
		t.Error("trash:", tr)
	}
}

func TestRenameCase(t *testing.T) {
	w := newWorld(t)
	n := w.put("/readme", "x")
	w.poll()
	dir, _ := w.dir("/readme")
	if err := w.s.RenameExact(t.Context(), dir, "readme", "README"); err != nil {
		t.Fatal(err)
	}
	w.want(w.ls("/"), "README")
	w.flush()
	got, err := w.other.Get(n.ID)
	if err != nil {
		t.Fatal(err)
	}
	w.want(got.Name, "README")
}

func TestRemoveTree(t *testing.T) {
	// The removals gather until the flush, as they do within the delay.
	w := newWorld(t, func(o *Options) { o.UploadDelay = 1 << 40 })
	w.put("/top/a/1", "1")
	w.put("/top/a/2", "2")
	w.put("/top/b/3", "3")
	w.poll()
	top := w.id("/top")
	w.unlink("/top/a/1")
	w.unlink("/top/a/2")
	if err := w.rmdir("/top"); !errors.Is(err, ErrNotEmpty) {
		t.Fatal("rmdir of a full folder:", err)
	}
	if err := w.rmdir("/top/a"); err != nil {
		t.Fatal(err)
	}
	w.unlink("/top/b/3")
	if err := w.rmdir("/top/b"); err != nil {
		t.Fatal(err)
	}
	if err := w.rmdir("/top"); err != nil {
		t.Fatal(err)
	}
	w.want(w.ls("/"), "")
	w.flush()
	if _, err := w.other.Lookup("/top"); err == nil {
		t.Error("still on the drive")
	}
	if _, err := w.other.Restore(top); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.want(w.read("/top/a/2"), "2")
	w.want(w.read("/top/b/3"), "3")
}

func TestForeignChangeWhileOpen(t *testing.T) {
	w := newWorld(t)
	n := w.put("/f", "old old old")
	w.poll()
	e, err := w.s.Resolve(t.Context(), "/f")
	if err != nil {
		t.Fatal(err)
	}
	h, err := w.s.Open(t.Context(), e.Ino, e.Gen, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	got, err := w.readHandle(h)
	if err != nil {
		t.Fatal(err)
	}
	w.want(got, "old old old")
	w.other.Overwrite(n.ID, reader("new"))
	w.takeEffects()
	w.poll()
	var told bool
	for _, x := range w.takeEffects() {
		told = told || x.Ino == e.Ino && x.Content
	}
	if !told {
		t.Error("the kernel is not told of new content")
	}
	w.want(w.read("/f"), "new")
	got, err = w.readHandle(h)
	if err != nil {
		t.Fatal(err)
	}
	w.want(got, "old old old")
	a, err := w.s.Attr(t.Context(), e.Ino, e.Gen)
	if err != nil || a.Size != 11 {
		t.Error("the old version shows", a, err)
	}
}

func TestConflictKeepsBoth(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = 1 << 40 })
	n := w.put("/f.txt", "base")
	w.poll()
	w.write("/f.txt", "mine")
	w.other.Overwrite(n.ID, reader("theirs"))
	w.flush()
	w.want(w.drive("/f.txt"), "theirs")
	tree := w.other.Tree()
	if len(tree) < 2 {
		t.Fatal(w.paths())
	}
	found := false
	for p := range tree {
		if p != "/f.txt" && len(p) > 10 {
			b, err := w.other.ReadFile(p)
			if err == nil && string(b) == "mine" {
				found = true
			}
		}
	}
	if !found {
		t.Error("the local version is nowhere:", w.paths())
	}
	w.poll()
	w.want(w.read("/f.txt"), "theirs")
}

func TestTrashedUnderEdit(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = 1 << 40 })
	n := w.put("/d/f.txt", "base")
	w.poll()
	w.write("/d/f.txt", "mine")
	if _, err := w.other.Trash(n.ID); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.want(w.read("/d/f.txt"), "mine")
	w.flush()
	w.want(w.drive("/d/f.txt"), "mine")
}

func TestParentTrashedUnderEdit(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = 1 << 40 })
	w.put("/d/e/f.txt", "base")
	w.poll()
	w.write("/d/e/f.txt", "mine")
	w.write("/d/e/g.txt", "new")
	if _, err := w.other.Trash(w.id("/d")); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.flush()
	w.want(w.drive("/d/e/f.txt"), "mine")
	w.want(w.drive("/d/e/g.txt"), "new")
}

func TestCreateRemovedCostsNothing(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = 1 << 40 })
	w.srv.ResetRequests()
	w.write("/tmp", "x")
	w.rename("/tmp", "/tmp2")
	w.unlink("/tmp2")
	w.flush()
	for op, n := range w.srv.Requests() {
		if n != 0 && op != "auth.token" {
			t.Error(op, n)
		}
	}
}

func TestUnlinkedButOpen(t *testing.T) {
	w := newWorld(t)
	w.put("/f", "still here")
	w.poll()
	e, err := w.s.Resolve(t.Context(), "/f")
	if err != nil {
		t.Fatal(err)
	}
	h, err := w.s.Open(t.Context(), e.Ino, e.Gen, unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	w.unlink("/f")
	w.writeTo(h, "STILL", 0)
	got, err := w.readHandle(h)
	if err != nil {
		t.Fatal(err)
	}
	w.want(got, "STILL here")
	a, err := h.Attr(t.Context())
	if err != nil || a.Nlink != 0 {
		t.Error(a, err)
	}
	h.Release()
	w.flush()
	if len(w.other.Tree()) > 1 {
		t.Error(w.paths())
	}
}

func TestNotClosedIsNotSent(t *testing.T) {
	w := newWorld(t)
	h := w.create("/part", unix.O_WRONLY|unix.O_CREAT)
	w.writeTo(h, "half", 0)
	w.want(w.ls("/"), "part")
	w.flush()
	if _, err := w.other.Lookup("/part"); err == nil {
		t.Error("sent before it was closed")
	}
	w.shut(h)
	w.flush()
	w.want(w.drive("/part"), "half")
}

func TestNamesExact(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.NamesExact = true })
	w.put("/hello", "x")
	w.poll()
	if _, _, err := w.s.Lookup(t.Context(), w.s.Root(), "HELLO"); !errors.Is(err, ErrNotExist) {
		t.Error(err)
	}
	if _, err := w.s.Mkdir(t.Context(), w.s.Root(), "HELLO", 0); !errors.Is(err, ErrExist) {
		t.Error(err)
	}
	if _, _, err := w.s.Create(t.Context(), w.s.Root(), "HELLO", unix.O_RDWR, 0); !errors.Is(err, ErrExist) {
		t.Error(err)
	}
	w.rename("/hello", "/HELLO")
	w.want(w.ls("/"), "HELLO")
}

func TestMkdirTaken(t *testing.T) {
	w := newWorld(t)
	w.put("/Docs", "a file somebody made after the last poll")
	if _, err := w.s.Mkdir(t.Context(), w.s.Root(), "docs", 0); !errors.Is(err, ErrExist) {
		t.Error("mkdir over a file of somebody else:", err)
	}
	w.flush()
	w.poll()
	w.want(w.ls("/"), "Docs")
}

func TestXattrs(t *testing.T) {
	w := newWorld(t)
	w.write("/f", "x")
	e, err := w.s.Resolve(t.Context(), "/f")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.s.Setxattr(t.Context(), e.Ino, e.Gen, "user.mime_type", []byte("text/plain"), 0); err != nil {
		t.Fatal(err)
	}
	w.flush()
	w.reopen()
	v, err := w.s.Getxattr(t.Context(), e.Ino, e.Gen, "user.mime_type")
	if err != nil || string(v) != "text/plain" {
		t.Error(string(v), err)
	}
	if err := w.s.Removexattr(t.Context(), e.Ino, e.Gen, "user.mime_type"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.Getxattr(t.Context(), e.Ino, e.Gen, "user.mime_type"); !errors.Is(err, ErrNoAttr) {
		t.Error(err)
	}
	if _, err := w.s.Getxattr(t.Context(), e.Ino, e.Gen, "security.selinux"); !errors.Is(err, ErrNotSupported) {
		t.Error(err)
	}
}

func TestManyParents(t *testing.T) {
	w := newWorld(t)
	n := w.put("/a/f", "x")
	b, err := w.other.MkdirAll("/b")
	if err != nil {
		t.Fatal(err)
	}
	w.poll()
	fa, err := w.s.Resolve(t.Context(), "/a/f")
	if err != nil {
		t.Fatal(err)
	}
	bdir, _ := w.dir("/b/f")
	if _, err := w.s.Link(t.Context(), fa.Ino, bdir, "g"); !errors.Is(err, ErrNotPermitted) {
		t.Error("a link under another name:", err)
	}
	e, err := w.s.Link(t.Context(), fa.Ino, bdir, "f")
	if err != nil || e.Nlink != 2 || e.Ino != fa.Ino {
		t.Fatal(e, err)
	}
	w.flush()
	w.poll()
	w.want(w.ls("/b"), "f")
	w.unlink("/a/f")
	w.want(w.ls("/a"), "")
	w.want(w.read("/b/f"), "x")
	w.flush()
	got, err := w.other.Get(n.ID)
	if err != nil || len(got.Parents) != 1 || got.Parents[0] != b.ID {
		t.Error(got, err)
	}
}

func TestCookiesLeaveRoomForDots(t *testing.T) {
	w := newWorld(t)
	w.write("/first", "x")
	e, err := w.s.Resolve(t.Context(), "/first")
	if err != nil || e.Ino < 3 {
		t.Error("the first inode number is the cookie of a dot entry:", e.Ino, err)
	}
}

func TestSecondMachineSeesTimes(t *testing.T) {
	w := newWorld(t)
	w.mkdir("/d")
	w.write("/d/f", "x")
	e, err := w.s.Resolve(t.Context(), "/d/f")
	if err != nil {
		t.Fatal(err)
	}
	mtime := time.Unix(981173106, 789000000)
	mode := uint32(0o640)
	w.setattr("/d/f", SetAttr{Mtime: &mtime, Mode: &mode})
	w.flush()
	w.stop()
	w.o.StateDir = t.TempDir()
	w.open()
	w.write("/d/other", "which tells the owner name")
	w.flush()
	e, err = w.s.Resolve(t.Context(), "/d/f")
	if err != nil {
		t.Fatal(err)
	}
	if !e.Mtime.Equal(mtime) || e.Mode != ModeSet|mode {
		t.Errorf("the second machine shows %v %o", e.Mtime, e.Mode)
	}
	w.srv.ResetRequests()
	w.ls("/d")
	w.poll()
	w.ls("/d")
	if n := w.srv.Requests()["nodes.children"]; n != 0 {
		t.Errorf("%d more listings for nothing", n)
	}
}

func TestMoveKeepsUnshowableName(t *testing.T) {
	w := newWorld(t)
	n, err := w.other.Put(w.other.Root(), "AC/DC", reader("x"))
	if err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.mkdir("/d")
	w.rename("/AC／DC", "/d/AC／DC")
	w.flush()
	got, err := w.other.Get(n.ID)
	if err != nil {
		t.Fatal(err)
	}
	w.want(got.Name, "AC/DC")
	w.want(w.ls("/d"), "AC／DC")
}

func TestBaseLostUnderPartialEdit(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = 1 << 40 })
	cut := w.put("/cut", "0123456789")
	part := w.put("/part", "0123456789")
	w.poll()
	size := int64(4)
	w.setattr("/cut", SetAttr{Size: &size})
	w.writeAt("/part", "ABC", 4, unix.O_WRONLY)
	for _, n := range []string{cut.ID, part.ID} {
		if _, err := w.other.Overwrite(n, reader("replaced")); err != nil {
			t.Fatal(err)
		}
	}
	w.poll()
	w.flush()
	w.want(w.drive("/cut"), "replaced")
	w.want(w.drive("/part"), "replaced")
	w.want(w.read("/cut"), "replaced")
	w.want(w.read("/part"), "replaced")
	kept := ""
	for p := range w.other.Tree() {
		if p != "" && p != "cut" && p != "part" {
			kept += w.drive("/" + p)
		}
	}
	w.want(kept, "")
	w.wantAside("ABC")
}

func TestFlushDoesNotWaitForWriters(t *testing.T) {
	w := newWorld(t)
	w.put("/remote", "x")
	w.poll()
	w.write("/pending", "one")
	var hs []*Handle
	for _, p := range []string{"/pending", "/remote", "/new"} {
		h := w.create(p, unix.O_WRONLY|unix.O_CREAT)
		w.writeTo(h, "two", 0)
		hs = append(hs, h)
	}
	w.flush()
	for _, h := range hs {
		w.shut(h)
	}
	w.flush()
	for _, p := range []string{"/pending", "/remote", "/new"} {
		w.want(w.drive(p), "two")
	}
}
