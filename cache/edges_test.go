package cache

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// A folder that is in two places must not be moved into itself.
func TestCycle(t *testing.T) {
	w := newWorld(t)
	w.put("/A/F/x", "x")
	w.addParent(w.id("/A/F"), "/B")
	w.poll()
	err := w.tryRename("/B", "/A/F/B")
	if !errors.Is(err, ErrInvalid) {
		t.Error("rename of /B into /B/F:", err, w.paths())
	}
}

// Very many small writes into a large remote file can still be closed.
func TestManyPieces(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	size := 900_000 * 16
	w.put("/big", string(make([]byte, size)))
	w.poll()
	h := w.openAt("/big", unix.O_RDWR)
	for off := 0; off < size; off += 16 {
		if _, err := h.Write(t.Context(), []byte{1}, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Flush(); err != nil {
		t.Error("close:", err)
	}
	h.Release()
}

// What was written while the drive's file was trashed and its base is lost.
func TestPartOfPurged(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.Backoff = 5 * time.Millisecond })
	n := w.put("/f", "0123456789")
	w.poll()
	w.writeAt("/f", "ab", 10, unix.O_WRONLY)
	if err := w.other.Purge(n.ID); err != nil {
		if _, err := w.other.Trash(n.ID); err != nil {
			t.Fatal(err)
		}
		if err := w.other.Purge(n.ID); err != nil {
			t.Fatal(err)
		}
	}
	w.poll()
	failed, err := w.s.Queue().Flush(t.Context())
	t.Log(failed, err, w.paths(), w.ls("/"))
	if len(failed) > 0 {
		t.Error("it stays for ever")
	}
}

// Rename chains over open files, many names.
func TestHardlinkEdges(t *testing.T) {
	w := newWorld(t)
	n := w.put("/a/f", "one")
	w.addParent(n.ID, "/b")
	w.poll()
	// an edit through one name while the other is unlinked
	h := w.openAt("/b/f", unix.O_RDWR)
	w.unlink("/a/f")
	w.writeTo(h, "two", 0)
	h.Release()
	w.flush()
	w.want(w.drive("/b/f"), "two")
	w.want(fmt.Sprint(w.ls("/a")), "")
}

// Saved by backup while the document has a second folder.
func TestBackupSaveOfLinked(t *testing.T) {
	w := newWorld(t)
	n := w.put("/a/doc", "one")
	w.addParent(n.ID, "/b")
	w.poll()
	w.rename("/a/doc", "/a/doc~")
	w.write("/a/doc", "two")
	w.unlink("/a/doc~")
	w.flush()
	w.poll()
	w.want(w.drive("/a/doc"), "two")
	t.Log(w.paths(), w.ls("/a"), "|", w.ls("/b"))
}

// Unlink while a second handle of the same file writes, then create anew.
func TestReplaceWhileWriting(t *testing.T) {
	w := newWorld(t)
	w.put("/f", "one")
	w.poll()
	h := w.openAt("/f", unix.O_RDWR)
	w.writeTo(h, "X", 0)
	w.unlink("/f")
	w.write("/f", "new")
	w.writeTo(h, "Y", 1)
	w.shut(h)
	w.flush()
	w.want(w.drive("/f"), "new")
	if len(w.paths()) != 2 {
		t.Error(w.paths())
	}
}

// TestSizeAfterRelease: a call that found the open file a moment before its last
// handle was released shows the size it has, not the one it was opened with.
func TestSizeAfterRelease(t *testing.T) {
	w := newWorld(t)
	e, h, err := w.s.Create(t.Context(), w.s.Root(), "f", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.writeTo(h, "seven b", 0)
	f := w.s.tree.File(e.Ino, e.Gen)
	if f == nil {
		t.Fatal("it is not open")
	}
	h.Release()
	if got := f.Size(); got != 7 {
		t.Errorf("%d bytes, want 7", got)
	}
}

// TestReadLaysLocalOverBase: what was written while a read waited for the rest
// of it from the drive is in its answer: the kernel keeps that for an hour.
func TestReadLaysLocalOverBase(t *testing.T) {
	w := newWorld(t)
	w.put("/f", strings.Repeat("b", 64<<10))
	w.poll()
	e, _, err := w.s.Lookup(t.Context(), w.s.Root(), "f")
	if err != nil {
		t.Fatal(err)
	}
	open := func(flags uint32) *Handle {
		h, err := w.s.Open(t.Context(), e.Ino, e.Gen, flags)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Release)
		return h
	}
	reader, writer := open(unix.O_RDONLY), open(unix.O_WRONLY)
	if _, err := writer.Write(t.Context(), []byte("FIRST"), 0); err != nil {
		t.Fatal(err)
	}
	asked, release := make(chan struct{}, 10), make(chan struct{})
	w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "content.download" {
			asked <- struct{}{}
			<-release
		}
		return nil
	})
	got := make(chan string, 1)
	go func() {
		v, err := reader.Read(t.Context(), 0, 32<<10)
		if err != nil {
			t.Error(err)
			got <- ""
			return
		}
		defer v.Release()
		got <- string(bytes.Join(v.Slices(), nil))
	}()
	<-asked
	if _, err := writer.Write(t.Context(), []byte("SECOND"), 100); err != nil {
		t.Fatal(err)
	}
	close(release)
	want := []byte(strings.Repeat("b", 32<<10))
	copy(want, "FIRST")
	copy(want[100:], "SECOND")
	if s := <-got; s != string(want) {
		t.Errorf("the read answers %q… and %q at 100", s[:min(len(s), 8)], s[min(len(s), 100):min(len(s), 108)])
	}
}
