package fs_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/integration"
)

// TestCasesLeave: a name that the kernel was asked for in several cases is in
// none of its caches once it is renamed or removed elsewhere, or made again.
func TestCasesLeave(t *testing.T) {
	bothNames(t, func(t *testing.T, exactly bool, w *integration.World) {
		look := func() {
			t.Helper()
			for _, name := range []string{"name", "NAME", "Name", "other", "OTHER"} {
				_, _ = os.Lstat(w.Path("dir", name))
			}
			names(t, w.Path("dir"))
		}
		// shows: the folder holds this name alone; any spelling finds it if any may.
		shows := func(name, content string) {
			t.Helper()
			for _, s := range []string{"name", "NAME", "Name", "other", "OTHER"} {
				found := s == name || !exactly && strings.EqualFold(s, name)
				got, err := os.ReadFile(w.Path("dir", s))
				switch {
				case found && (err != nil || string(got) != content):
					t.Errorf("%s: %q, %v, want %q", s, got, err, content)
				case !found && !errors.Is(err, syscall.ENOENT):
					t.Errorf("%s: %q, %v, want none", s, got, err)
				}
			}
			if name == "" {
				wantNames(t, w.Path("dir"))
			} else {
				wantNames(t, w.Path("dir"), name)
			}
		}
		first := w.Put("dir/name", "first")
		w.Poll()
		look()
		shows("name", "first")
		ino := inode(t, w.Path("dir/name"))

		_, err := w.Else.Rename(first.ID, "Name")
		check(w, err)
		w.Poll()
		shows("Name", "first")
		_, err = w.Else.Rename(first.ID, "OTHER")
		check(w, err)
		w.Poll()
		shows("OTHER", "first")
		look()

		// Somebody has it open all the time from now on.
		held, err := os.Open(w.Path("dir/OTHER"))
		check(w, err)
		defer held.Close()

		// Removed, and made again in another case between two polls.
		_, err = w.Else.Trash(first.ID)
		check(w, err)
		second := w.Put("dir/other", "second")
		w.Poll()
		shows("other", "second")
		if inode(t, w.Path("dir/other")) == ino {
			t.Error("another file has the inode number of the first")
		}
		look()
		_, err = w.Else.Trash(second.ID)
		check(w, err)
		w.Poll()
		shows("", "")
		look()

		// And the first comes back from the trash, for which the name is free.
		_, err = w.Else.Restore(first.ID)
		check(w, err)
		w.Poll()
		shows("OTHER", "first")
		if inode(t, w.Path("dir/OTHER")) != ino {
			t.Error("what came back has another inode number")
		}
	})
}

// TestManyEffects: thousands of changes in one batch (ten thousand with
// DRIVEFS_SOAK) go to the kernel while it is asked for other things, and
// nothing of what it had cached is left.
func TestManyEffects(t *testing.T) {
	folders, files := 5, 300
	if os.Getenv("DRIVEFS_SOAK") != "" {
		folders, files = 10, 1000
	}
	w := integration.NewWorld(t, integration.Config{})
	check(w, w.Drive.Bulk(folders*(files+1), files))
	w.Put("calm/f", "text")
	w.Poll()
	dirs := make([]string, folders)
	for d := range dirs {
		dirs[d] = fmt.Sprintf("bulk-%07d", d)
		names(t, w.Path(dirs[d])) // and their attributes
	}
	for _, dir := range dirs {
		for _, n := range w.Else.Children(w.Node(dir).ID) {
			_, err := w.Else.Rename(n.ID, "new-"+n.Name)
			check(w, err)
		}
	}
	stop := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if got, err := os.ReadFile(w.Path("calm/f")); err != nil || string(got) != "text" {
				t.Errorf("%q, %v", got, err)
			}
			if _, err := os.ReadDir(w.Path(dirs[i%folders])); err != nil {
				t.Error(err)
			}
		}
	})
	w.Poll()
	close(stop)
	asking.Wait()
	for _, dir := range dirs {
		ns := names(t, w.Path(dir))
		if len(ns) != files {
			t.Errorf("%s lists %d names", dir, len(ns))
		}
		for i, n := range ns {
			old, ok := strings.CutPrefix(n, "new-")
			if !ok {
				t.Fatalf("%s still lists %s", dir, n)
			}
			if i%20 > 0 {
				continue
			}
			var st unix.Stat_t
			if err := unix.Lstat(w.Path(dir, n), &st); err != nil {
				t.Fatalf("%s: %v", n, err)
			}
			if err := unix.Lstat(w.Path(dir, old), &st); err != unix.ENOENT {
				t.Fatalf("the old name %s: %v", old, err)
			}
		}
	}
}
