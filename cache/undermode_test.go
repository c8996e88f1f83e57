package cache

import (
	"os"
	"os/exec"
	"os/signal"
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
	mode := uint32(0o600)
	w.setattr("/f", SetAttr{Mode: &mode})
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
	mode := uint32(0o600)
	w.setattr("/f", SetAttr{Mode: &mode})
	failed, err := w.s.Queue().Flush(t.Context())
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
	mode := uint32(0o600)
	w.setattr("/f", SetAttr{Mode: &mode})
	w.flush()
	mode = 0o640
	w.setattr("/f", SetAttr{Mode: &mode})
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

// The state directory's disk is full while an editor saves. The limit that
// stands for it holds for the whole process, what go test logs of it included:
// so it is one of its own.
func TestSaveOnFullDisk(t *testing.T) {
	const alone = "DRIVEFS_TEST_FULL_DISK"
	if os.Getenv(alone) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSaveOnFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), alone+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.put("/doc", "one")
	w.poll()
	h := w.openAt("/doc", unix.O_RDWR)
	defer h.Release()
	w.write("/.doc.AbCdEf", "two")
	signal.Ignore(syscall.SIGXFSZ)
	w.want(w.read("/doc"), "one")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	full := limit
	full.Cur = 16 // below where a frame of the journal would go
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	err := w.tryRename("/.doc.AbCdEf", "/doc")
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err == nil {
		t.Skip("the disk was not full")
	}
	t.Log(err)
	w.want(w.ls("/"), "doc .doc.AbCdEf")
	w.writeTo(h, "1", 0)
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	w.flush()
	w.want(w.drive("/doc"), "1ne")
	for _, err := range w.s.CheckLocal() {
		t.Error(err)
	}
}
