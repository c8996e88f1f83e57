package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// A mount that says that it is mounted shows what was made elsewhere since the
// last one, and finds a --root that is as new.
func TestMadeElsewhereMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	w.mount()
	w.must("unmount", w.mountpoint)
	if _, err := w.drive.Else().PutPath("New folder/inside.txt", []byte("made elsewhere")); err != nil {
		t.Fatal(err)
	}
	w.must("mount", "--background", "--root=/New folder", w.mountpoint)
	if got := read(t, w.file("inside.txt")); got != "made elsewhere" {
		t.Errorf("below --root: %q", got)
	}
	w.must("unmount", w.mountpoint)
	if _, err := w.drive.Else().PutPath("another.txt", []byte("x")); err != nil {
		t.Fatal(err)
	}
	w.must("mount", "--background", w.mountpoint)
	if _, err := os.Stat(w.file("another.txt")); err != nil {
		t.Errorf("right after mount: %v", err)
	}
	// Its log is found, whatever names it.
	w.write("a", "b")
	if out := w.must("log", w.mountpoint); !strings.Contains(out, "msg=mounted") {
		t.Errorf("log: %s", out)
	}
	if out := w.must("bugreport"); !strings.Contains(out, "msg=mounted") || !strings.Contains(out, w.mountpoint+": ") || strings.Contains(out, "amazon-only-secret") {
		t.Errorf("bugreport: %s", out)
	}
	w.must("unmount", w.mountpoint)
	if out := w.must("log", "-n", "1"); strings.Count(out, "\n") != 1 {
		t.Errorf("the last line: %q", out)
	}
	if _, err := os.Stat(filepath.Join(w.home, ".local/state/drivefs/default/drivefs.log")); err != nil {
		t.Error(err)
	}
}
