package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestPurgeLocal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	state, cache := filepath.Join(w.home, ".local/state/drivefs/default"), filepath.Join(w.home, ".cache/drivefs/default")
	w.mount()
	w.write("a", "b")
	w.must("flush")
	if _, err := os.ReadFile(w.file("a")); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := w.run("logout", "--purge-local", "--force")
	if code != 1 {
		t.Errorf("while mounted: exit code %d", code)
	}
	oneLine(t, stderr, "unmount it first")
	w.must("limit", "--pause")
	w.write("precious", "not there yet")
	w.run("unmount", w.mountpoint)
	w.eventually("its process ends", func() bool { return !w.mounted() })

	_, stderr, code = w.run("logout", "--purge-local")
	if code != 6 {
		t.Errorf("with something pending: exit code %d", code)
	}
	oneLine(t, stderr, "1 change", "--force")
	if _, err := os.Stat(w.token()); err != nil {
		t.Errorf("a refusal took the token: %v", err)
	}
	w.mount()
	w.must("flush")
	if got := w.onDrive("precious"); got != "not there yet" {
		t.Errorf("a refusal cost us %q", got)
	}
	w.must("unmount", w.mountpoint)

	put(t, filepath.Join(cache, "theirs"), "not ours")
	w.must("logout", "--purge-local")
	for path, there := range map[string]bool{w.token(): false, state: false, filepath.Join(cache, "theirs"): true} {
		if _, err := os.Lstat(path); (err == nil) != there {
			t.Errorf("%s: %v", path, err)
		}
	}
	if left := names(t, cache); len(left) != 1 {
		t.Errorf("the cache has %v", left)
	}
	if got := w.onDrive("a"); got != "b" {
		t.Errorf("the drive has %q", got)
	}
	w.must("logout", "--purge-local") // there is nothing to do, which is well
}

func TestPurgeForced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount()
	w.must("limit", "--pause")
	w.write("unwanted", "x")
	w.run("unmount", w.mountpoint)
	p.end()
	w.must("logout", "--purge-local", "--force")
	if _, err := os.Lstat(filepath.Join(w.home, ".local/state/drivefs/default")); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
	_, stderr, code := w.run("logout", "--force")
	if code != 2 {
		t.Errorf("exit code %d", code)
	}
	oneLine(t, stderr, "--purge-local")
}
