package cache

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A folder that is in two places must not be moved into itself.
func TestCycle(t *testing.T) {
	w := newWorld(t)
	w.put("/A/F/x", "x")
	b, _ := w.other.MkdirAll("/B")
	if _, err := w.other.AddParent(w.id("/A/F"), b.ID); err != nil {
		t.Fatal(err)
	}
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
	failed, err := w.s.Flush(t.Context())
	t.Log(failed, err, w.paths(), w.ls("/"))
	if len(failed) > 0 {
		t.Error("it stays for ever")
	}
}

// Rename chains over open files, many names.
func TestHardlinkEdges(t *testing.T) {
	w := newWorld(t)
	n := w.put("/a/f", "one")
	b, _ := w.other.MkdirAll("/b")
	if _, err := w.other.AddParent(n.ID, b.ID); err != nil {
		t.Fatal(err)
	}
	w.poll()
	// an edit through one name while the other is unlinked
	h := w.openAt("/b/f", unix.O_RDWR)
	w.unlink("/a/f")
	if _, err := h.Write(t.Context(), []byte("two"), 0); err != nil {
		t.Fatal(err)
	}
	h.Release()
	w.flush()
	w.want(w.drive("/b/f"), "two")
	w.want(fmt.Sprint(w.ls("/a")), "")
}

// Saved by backup while the document has a second folder.
func TestBackupSaveOfLinked(t *testing.T) {
	w := newWorld(t)
	n := w.put("/a/doc", "one")
	b, _ := w.other.MkdirAll("/b")
	if _, err := w.other.AddParent(n.ID, b.ID); err != nil {
		t.Fatal(err)
	}
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
	if _, err := h.Write(t.Context(), []byte("X"), 0); err != nil {
		t.Fatal(err)
	}
	w.unlink("/f")
	w.write("/f", "new")
	if _, err := h.Write(t.Context(), []byte("Y"), 1); err != nil {
		t.Fatal(err)
	}
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	h.Release()
	w.flush()
	w.want(w.drive("/f"), "new")
	if len(w.paths()) != 2 {
		t.Error(w.paths())
	}
}
