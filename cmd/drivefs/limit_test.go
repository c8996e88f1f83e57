package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount("--download-limit=3MiB")
	if out := w.must("limit"); out != "uploads running, limit none; downloads limit 3.0 MiB/s\n" {
		t.Errorf("it says %q", out)
	}
	// What is not named stays; the configuration is the next mount's.
	w.env = append(w.env, "DRIVEFS_DOWNLOAD_LIMIT=7MiB")
	if out := w.must("limit", "--upload-limit=1MiB", w.mountpoint); out != "uploads running, limit 1.0 MiB/s; downloads limit 3.0 MiB/s\n" {
		t.Errorf("it says %q", out)
	}
	if out := w.must("status"); !strings.Contains(out, "uploads 1.0 MiB/s, downloads 3.0 MiB/s") {
		t.Errorf("status: %s", out)
	}
	w.must("limit", "--upload-limit=none", "--download-limit=none")
	if l := w.status().Limits; l != (control.Limits{}) {
		t.Errorf("limits %+v", l)
	}

	w.must("limit", "--pause")
	w.write("later", "x")
	_, stderr, code := w.run("flush") // does not wait for what does not move
	if code != 6 {
		t.Errorf("flush: exit code %d", code)
	}
	oneLine(t, stderr, "paused", "1 change", "drivefs limit --resume")
	if err := os.Mkdir(w.file("folder"), 0o700); err != nil { // names go on
		t.Fatal(err)
	}
	w.eventually("the folder is on the drive", func() bool {
		_, err := w.drive.Else().Lookup("folder")
		return err == nil
	})
	if s := w.status(); !s.Limits.Paused || s.Uploads.Pending != 1 || w.onDrive("later") != "" {
		t.Errorf("paused: %+v, %+v", s.Limits, s.Uploads)
	}
	if out := w.must("status"); !strings.Contains(out, "paused") {
		t.Errorf("status: %s", out)
	}
	w.must("limit", "--resume")
	w.must("flush")
	if got := w.onDrive("later"); got != "x" {
		t.Errorf("the drive has %q", got)
	}

	// A pause ends a flush that waits, and an unmount keeps what is pending.
	w.unreachable()
	w.write("kept", "y")
	f := w.start("flush")
	w.eventually("it is tried", func() bool {
		return slices.ContainsFunc(w.status().Uploads.Failed, func(f control.Failure) bool { return f.Path == "/kept" })
	})
	w.must("limit", "--pause")
	if code := f.end(); code != 6 {
		t.Errorf("flush: exit code %d: %s", code, f.stderr())
	}
	if _, stderr, code := w.run("unmount", w.mountpoint); code != 6 || !strings.Contains(stderr, "1 change pending") {
		t.Errorf("unmount: exit code %d: %s", code, stderr)
	}
	if code := p.end(); code != 6 {
		t.Errorf("mount: exit code %d", code)
	}
}
