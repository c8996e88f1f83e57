package cache

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// A pending chmod must not hide what somebody else wrote.
func TestForeignContentUnderMode(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.put("/f", "one")
	w.poll()
	e, _ := w.s.Resolve(t.Context(), "/f")
	mode := uint32(0o600)
	if _, err := w.s.Setattr(t.Context(), e.Ino, e.Gen, nil, SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	w.put("/f", "theirs")
	w.poll()
	w.want(w.read("/f"), "theirs")
}

// The same with a chmod that the drive refuses for good.
func TestForeignContentUnderRefusedMode(t *testing.T) {
	w := newWorld(t)
	w.write("/seed", "s")
	w.flush()
	w.put("/f", "one")
	w.poll()
	w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "properties.set" || op.Name == "nodes.properties" || op.Name == "nodes.property" {
			return &drivetest.Fault{Do: drivetest.DoStatus, Status: 403, Code: "NO_PERMISSION"}
		}
		return nil
	})
	e, _ := w.s.Resolve(t.Context(), "/f")
	mode := uint32(0o600)
	if _, err := w.s.Setattr(t.Context(), e.Ino, e.Gen, nil, SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	failed, err := w.s.Flush(t.Context())
	t.Log(failed, err)
	w.put("/f", "theirs")
	w.poll()
	w.want(w.read("/f"), "theirs")
}

// A chmod must not take back somebody else's rename.
func TestModeTakesRenameBack(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.write("/f", "one")
	w.flush()
	id := w.id("/f")
	e, _ := w.s.Resolve(t.Context(), "/f")
	mode := uint32(0o600)
	if _, err := w.s.Setattr(t.Context(), e.Ino, e.Gen, nil, SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	w.flush()
	mode = 0o640
	if _, err := w.s.Setattr(t.Context(), e.Ino, e.Gen, nil, SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.other.Rename(id, "g"); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.flush()
	n, _ := w.other.Get(id)
	w.want(n.Name, "g")
}

// Nor must a save.
func TestWriteTakesRenameBack(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.put("/f", "one")
	w.poll()
	id := w.id("/f")
	w.write("/f", "two")
	w.flush()
	w.write("/f", "three")
	if _, err := w.other.Rename(id, "g"); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.flush()
	n, _ := w.other.Get(id)
	w.want(n.Name, "g")
}

// Nor a move.
func TestWriteTakesMoveBack(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	n := w.put("/f", "one")
	d, _ := w.other.MkdirAll("/d")
	w.poll()
	w.write("/f", "two")
	w.flush()
	w.write("/f", "three")
	if _, err := w.other.Move(n.ID, w.other.Root(), d.ID); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.flush()
	w.want(w.drive("/d/f"), "three")
}

// The state directory's disk is full while an editor saves.
func TestSaveOnFullDisk(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.put("/doc", "one")
	w.poll()
	h := w.openAt("/doc", unix.O_RDWR)
	defer h.Release()
	w.write("/.doc.AbCdEf", "two")
	signal.Ignore(syscall.SIGXFSZ)
	// Appending to the journal fails as on a full disk, writing inside of mirror.db works.
	size := int64(0)
	for _, n := range []string{"journal.tail", "journal.tail2"} {
		if fi, err := os.Stat(filepath.Join(w.o.StateDir, n)); err == nil {
			t.Log(n, fi.Size())
			size = max(size, fi.Size())
		}
	}
	w.want(w.read("/doc"), "one")
	fill(w)
	err := w.tryRename("/.doc.AbCdEf", "/doc")
	unfill()
	if err == nil {
		t.Skip("the disk was not full")
	}
	t.Log(err)
	w.want(w.ls("/"), "doc .doc.AbCdEf")
	if _, err := h.Write(t.Context(), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	w.flush()
	w.want(w.drive("/doc"), "1ne")
	for _, err := range w.s.CheckLocal() {
		t.Error(err)
	}
}

var limit unix.Rlimit

func fill(w *world) {
	_ = unix.Getrlimit(unix.RLIMIT_FSIZE, &limit)
	var lo uint64
	for _, n := range []string{"journal.tail", "journal.tail2"} {
		if fi, err := os.Stat(filepath.Join(w.o.StateDir, n)); err == nil && uint64(fi.Size()) > lo {
			lo = uint64(fi.Size())
		}
	}
	_ = lo
	r := limit
	r.Cur = 16 // below where a frame would go
	_ = unix.Setrlimit(unix.RLIMIT_FSIZE, &r)
}

func unfill() { _ = unix.Setrlimit(unix.RLIMIT_FSIZE, &limit) }
