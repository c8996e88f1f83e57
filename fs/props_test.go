package fs_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/integration"
)

// wantMeta fails unless path has the mode and the time of modification.
func wantMeta(t *testing.T, what, path string, mode uint32, mtime time.Time) {
	t.Helper()
	st := stat(t, path)
	if got := time.Unix(st.Mtim.Unix()); st.Mode&0o777 != mode || !mtime.IsZero() && !got.Equal(mtime) {
		t.Errorf("%s: %s has mode %o and time %v, want %o and %v", what, path, st.Mode&0o777, got, mode, mtime)
	}
}

// askedFor is how often the children of some folder were asked for.
func askedFor(w *integration.World) int { return w.Drive.Requests()["nodes.children"] }

// TestPropertiesFromAnotherMachine: modes, times and attributes that one machine
// sets show on the other right at its first look, with one call for a folder. The
// other never made a node, and has mounted the drive for the first time or has all
// of it in its caches.
func TestPropertiesFromAnotherMachine(t *testing.T) {
	says(t, "Modes, times and attributes that were set on another machine show with the first look after a poll.",
		"what it does not tell within a second is shown without and put right when it comes")
	at := time.Date(2020, 3, 4, 5, 6, 7, 0, time.UTC)
	dress := func(a *integration.World, path string, mode os.FileMode, at time.Time, x string) {
		check(a, os.Chmod(a.Path(path), mode))
		check(a, os.Chtimes(a.Path(path), at, at))
		if x != "" {
			check(a, unix.Setxattr(a.Path(path), "user.x", []byte(x), 0))
		}
	}
	fill := func(a *integration.World, dir string) {
		check(a, os.Mkdir(a.Path(dir), 0o755))
		check(a, os.Mkdir(a.Path(dir, "sub"), 0o750))
		for i := range 5 {
			name := fmt.Sprintf("%s/f%d", dir, i)
			a.Write(name, "x")
			dress(a, name, 0o640, at, "first")
		}
	}
	for _, fresh := range []bool{true, false} {
		t.Run(fmt.Sprintf("fresh=%v", fresh), func(t *testing.T) {
			a := integration.NewWorld(t, integration.Config{})
			fill(a, "d")
			a.Flush()
			b := integration.NewWorld(t, integration.Config{On: a, Fresh: fresh})

			// By path, of a file and of a folder.
			wantMeta(t, "first look", b.Path("d/f3"), 0o640, at)
			wantMeta(t, "first look", b.Path("d/sub"), 0o750, time.Time{})
			wantMeta(t, "first look", b.Path("d"), 0o755, time.Time{})
			if fresh {
				b.Poll()
			}
			warm(t, b.Path("d"))

			// The kernel has the inodes.
			later := at.Add(time.Hour)
			for i := range 5 {
				dress(a, fmt.Sprintf("d/f%d", i), 0o604, later, "second")
			}
			check(a, os.Chmod(a.Path("d/sub"), 0o700))
			a.Flush()
			before := askedFor(b)
			b.Poll()
			for i := range 5 {
				wantMeta(t, "after a poll", b.Path("d", fmt.Sprintf("f%d", i)), 0o604, later)
			}
			wantMeta(t, "after a poll", b.Path("d/sub"), 0o700, time.Time{})
			if n := askedFor(b) - before; n != 1 {
				t.Errorf("the folder was asked for %d times, want 1", n)
			}
			buf := make([]byte, 20)
			if n, err := unix.Getxattr(b.Path("d/f1"), "user.x", buf); err != nil || string(buf[:n]) != "second" {
				t.Errorf("the attribute is %q, %v", buf[:max(n, 0)], err)
			}

			// Through a descriptor that is held.
			f, err := os.Open(b.Path("d/f0"))
			check(b, err)
			defer f.Close()
			dress(a, "d/f0", 0o600, at, "")
			a.Flush()
			b.Poll()
			if fi, err := f.Stat(); err != nil || fi.Mode().Perm() != 0o600 || !fi.ModTime().Equal(at) {
				t.Errorf("fstat shows %v %v, %v", fi.Mode(), fi.ModTime(), err)
			}

			// A folder that was made elsewhere, listed.
			fill(a, "new")
			a.Flush()
			before = askedFor(b)
			b.Poll()
			names(t, b.Path("new"))
			for i := range 5 {
				wantMeta(t, "made elsewhere", b.Path("new", fmt.Sprintf("f%d", i)), 0o640, at)
			}
			wantMeta(t, "made elsewhere", b.Path("new/sub"), 0o750, time.Time{})
			if n := askedFor(b) - before; n > 2 { // the new folder, and the one it is in
				t.Errorf("folders were asked for %d times, want 2", n)
			}
		})
	}
}

// TestPropertiesComeLate: what the drive does not tell within a second is shown
// without, and put right, in the kernel's caches too, when it comes.
func TestPropertiesComeLate(t *testing.T) {
	a := integration.NewWorld(t, integration.Config{})
	at := time.Date(2020, 3, 4, 5, 6, 7, 0, time.UTC)
	check(a, os.Mkdir(a.Path("d"), 0o755))
	a.Write("d/f", "x")
	check(a, os.Chmod(a.Path("d/f"), 0o640))
	check(a, os.Chtimes(a.Path("d/f"), at, at))
	a.Flush()
	b := integration.NewWorld(t, integration.Config{On: a})
	release := make(chan struct{})
	a.Drive.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "nodes.children" {
			<-release
		}
		return nil
	})
	began := time.Now()
	st := stat(t, b.Path("d/f"))
	if took := time.Since(began); took > 5*time.Second { // one second for each step of the path
		t.Errorf("stat took %v", took)
	}
	if st.Mode&0o777 == 0o640 {
		t.Error("right before the drive told")
	}
	close(release)
	b.Until("the kernel is told", func() bool {
		st := stat(t, b.Path("d/f"))
		return st.Mode&0o777 == 0o640 && time.Unix(st.Mtim.Unix()).Equal(at)
	})
}
