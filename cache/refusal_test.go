package cache

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// flushEnds is that flush ends, whatever fails.
func (w *world) flushEnds() {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	if failed, err := w.s.Queue().Flush(ctx); err != nil {
		w.Error("flush did not end:", failed, err)
	}
}

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
	w.flushEnds()
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
	w.flushEnds()
}

// The journal cannot take the rename.
func TestSaveNotRecorded(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.put("/doc", "one")
	w.poll()
	w.write("/.doc.AbCdEf", "two")
	odir, oname := w.dir("/.doc.AbCdEf")
	w.s.journal.Close() // any error of the log will do
	if err := w.s.Rename(t.Context(), odir, oname, odir, "doc", false); err == nil {
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
	mode := uint32(0o600)
	w.setattr("/f", SetAttr{Mode: &mode})
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
			told = told || d == Dentry{Dir: dir, Name: "y"}
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

// The feed may tell of our own rename or move before its answer does. When
// the user wishes for the former place again by then, that is no rename by
// somebody else that the wish would follow.
func TestEchoUnderDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		there, back func(w *world) // what the user does
		call        func(w *world, id string) (drivetest.Node, error)
		want        string
	}{
		"rename": {
			there: func(w *world) { w.rename("/d/f", "/d/g") },
			back:  func(w *world) { w.rename("/d/g", "/e/f") },
			call:  func(w *world, id string) (drivetest.Node, error) { return w.other.Rename(id, "g") },
			want:  "/e/f",
		},
		"link": {
			there: func(w *world) {
				f, _ := w.s.Resolve(t.Context(), "/d/f")
				e, _ := w.s.Resolve(t.Context(), "/e")
				if _, err := w.s.Link(t.Context(), f.Ino, e.Ino, "f"); err != nil {
					t.Fatal(err)
				}
			},
			back: func(w *world) { w.unlink("/e/f") },
			call: func(w *world, id string) (drivetest.Node, error) {
				e, err := w.other.Lookup("/e")
				if err != nil {
					t.Fatal(err)
				}
				return w.other.AddParent(id, e.ID)
			},
			want: "/d/f",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.CallTimeout = 10 * time.Millisecond })
			w.write("/seed", "s")
			w.flush()
			w.mkdir("/d")
			w.mkdir("/e")
			w.flush()
			n := w.put("/d/f", "one")
			w.poll()
			f, err := w.s.Resolve(t.Context(), "/d/f")
			if err != nil {
				t.Fatal(err)
			}
			held := make(chan struct{})
			release := sync.OnceFunc(func() { close(held) })
			defer release()
			w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
				if op.NodeID == n.ID || strings.HasPrefix(op.Name, "nodes.move") || op.Name == "nodes.addparent" {
					<-held
				}
				return nil
			})
			c.there(w)
			w.until("the call", func() bool {
				doubted := false
				if e, ok := w.s.journal.Get(f.Ino); ok {
					doubted = e.Base.Doubted()
				}
				return doubted
			})
			c.back(w)
			// The call takes effect, and the feed tells before its answer does.
			if _, err := c.call(w, n.ID); err != nil {
				t.Fatal(err)
			}
			w.poll()
			if e, err := w.s.Resolve(t.Context(), c.want); err != nil || e.Ino != f.Ino || e.Nlink != 1 {
				t.Errorf("%s is inode %d with %d links (%v), want %d", c.want, e.Ino, e.Nlink, err, f.Ino)
			}
			release()
			w.flush()
			if e, err := w.s.Resolve(t.Context(), c.want); err != nil || e.Ino != f.Ino {
				t.Errorf("in the end %s is inode %d (%v), want %d", c.want, e.Ino, err, f.Ino)
			}
			w.want(w.drive(c.want), "one")
		})
	}
}

// The drive refuses a removal, because somebody changed the file, after its
// name was given to another: each keeps a name of its own, and what is removed
// next is what was meant.
func TestUndoneRemovalOfATakenName(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.CallTimeout = time.Millisecond })
	w.put("/a", "a")
	w.put("/b", "b")
	w.poll()
	w.write("/a", "edited")
	a, err := w.s.Resolve(t.Context(), "/a")
	if err != nil {
		t.Fatal(err)
	}
	w.s.writeBack.Pause(true)
	w.rename("/b", "/a")
	e, ok := w.s.journal.Clone(a.Ino)
	if !ok || !e.Removed {
		t.Fatalf("what was replaced: %+v", e)
	}
	if undone, err := w.s.tree.Undo(a.Ino, e.Rev); !undone || err != nil {
		t.Fatal(undone, err)
	}
	b, err := w.s.Resolve(t.Context(), "/a")
	if err != nil || b.Ino == a.Ino {
		t.Errorf("/a is inode %d (%v), and was given to another than %d", b.Ino, err, a.Ino)
	}
	if p := w.s.PathOf(a.Ino); !strings.HasPrefix(p, "/a (conflict ") || w.read(p) != "edited" {
		t.Errorf("the file that came back is at %q", p)
	}
	w.s.writeBack.Pause(false)
	w.flush()
	if got := w.drive("/a"); got != "b" {
		t.Errorf("the drive's /a holds %q", got)
	}
}

// A removal is undone while the node has the temporary name of a rename that a
// crash cut short: it does not keep that.
func TestUndoneRemovalUnderTemporaryName(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.CallTimeout = time.Millisecond })
	n := w.put("/f", "f")
	w.poll()
	f, err := w.s.Resolve(t.Context(), "/f")
	if err != nil {
		t.Fatal(err)
	}
	w.s.writeBack.Pause(true)
	w.unlink("/f")
	if _, err := w.other.Rename(n.ID, tree.TempPrefix+n.ID); err != nil {
		t.Fatal(err)
	}
	w.poll()
	e, ok := w.s.journal.Clone(f.Ino)
	if !ok || !e.Removed {
		t.Fatalf("the removal: %+v", e)
	}
	if undone, err := w.s.tree.Undo(f.Ino, e.Rev); !undone || err != nil {
		t.Fatal(undone, err)
	}
	w.want(w.ls("/"), "f")
	w.s.writeBack.Pause(false)
	w.flush()
	w.want(w.drive("/f"), "f")
}
