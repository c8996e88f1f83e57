package cache

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// Flush while a file that is still being written was saved over another
// and moved out of a folder that was then removed.
func TestFlushBehindOpen(t *testing.T) {
	w := newWorld(t)
	w.put("/d/doc", "one")
	w.poll()
	h := w.create("/d/.doc.AbCdEf", unix.O_WRONLY|unix.O_CREAT)
	defer h.Release()
	w.rename("/d/.doc.AbCdEf", "/d/doc")
	w.rename("/d/doc", "/doc")
	if err := w.rmdir("/d"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	failed, err := w.s.Flush(ctx)
	if err != nil {
		t.Error("flush did not end:", failed, err)
	}
}

// A name held by an open one.
func TestFlushBehindOpenName(t *testing.T) {
	w := newWorld(t)
	w.put("/doc", "one")
	w.poll()
	h := w.create("/.doc.AbCdEf", unix.O_WRONLY|unix.O_CREAT)
	defer h.Release()
	w.rename("/.doc.AbCdEf", "/doc")
	w.rename("/doc", "/other")
	w.write("/doc", "new")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	failed, err := w.s.Flush(ctx)
	if err != nil {
		t.Error("flush did not end:", failed, err)
	}
}

// The journal cannot take the rename after the mirror did.
func TestSaveNotRecorded(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.put("/doc", "one")
	w.poll()
	w.write("/.doc.AbCdEf", "two")
	odir, oname := w.dir("/.doc.AbCdEf")
	if !w.s.saveByRename(odir, oname, odir, "doc") {
		t.Fatal("not clean")
	}
	w.s.journal.Close() // any error of Put will do
	if _, _, _, err := w.s.rename(odir, oname, odir, "doc", "doc", false, true); err == nil {
		t.Fatal("recorded")
	}
	if _, _, err := w.s.Lookup(t.Context(), odir, "doc"); err != nil {
		t.Error("the rename failed and /doc is gone:", err)
	}
	if got := w.ls("/"); got != "doc .doc.AbCdEf" {
		t.Errorf("ls: %q", got)
	}
}

// Somebody else renames a file whose chmod is not through.
func TestForeignRenameUnderMode(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.write("/seed", "s")
	w.flush()
	n := w.put("/f", "one")
	w.poll()
	e, _ := w.s.Resolve(t.Context(), "/f")
	mode := uint32(0o600)
	if _, err := w.s.Setattr(t.Context(), e.Ino, e.Gen, nil, SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.other.Rename(n.ID, "g"); err != nil {
		t.Fatal(err)
	}
	w.put("/f", "a new one")
	w.poll()
	w.want(w.ls("/"), "seed g f")
	w.want(w.read("/f"), "a new one")
}

// A folder made here that somebody else made too, and filled.
func TestAdoptedFolder(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Backoff = 5 * time.Millisecond; o.CallTimeout = 50 * time.Millisecond })
	w.write("/seed", "s")
	w.flush()
	w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "nodes.create" {
			return &drivetest.Fault{Do: drivetest.DoStatus, Status: 503}
		}
		return nil
	})
	w.mkdir("/d")
	w.write("/d/x", "x")
	w.put("/d/y", "y")
	w.poll()
	w.want(w.ls("/d"), "x")
	dir, _ := w.dir("/d/x")
	w.takeEffects()
	w.srv.Hook(nil)
	w.flush()
	w.poll()
	w.want(w.drive("/d/x"), "x")
	w.want(w.read("/d/y"), "y")
	told := false
	for _, e := range w.takeEffects() {
		for _, d := range e.New {
			told = told || d == Dentry{dir, "y"}
		}
	}
	if !told {
		t.Error("y was not told")
	}
}

// An unlink that the drive's newer version wins against: who opens the file
// Then, while the old handle is still there, must not lose what he writes.
func TestWriteAfterUndoneUnlink(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.put("/f", "one")
	w.poll()
	h := w.openAt("/f", unix.O_RDWR)
	defer h.Release()
	w.unlink("/f")
	w.put("/f", "theirs")
	w.flush()
	w.poll()
	w.want(w.ls("/"), "f")
	w.write("/f", "mine")
	w.flush()
	w.want(w.drive("/f"), "mine")
}

// The owner name must not be learned from somebody else's folder.
func TestOwnerFromStranger(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Backoff = 5 * time.Millisecond; o.CallTimeout = 50 * time.Millisecond })
	w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "nodes.create" {
			return &drivetest.Fault{Do: drivetest.DoStatus, Status: 503}
		}
		return nil
	})
	w.mkdir("/d")
	if _, err := w.other.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	w.srv.Hook(nil)
	w.flush()
	w.write("/x", "x")
	w.flush()
	w.want(w.drive("/x"), "x")
}
