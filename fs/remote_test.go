package fs_test

import (
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/integration"
)

// warm makes the kernel cache names, attributes, listing and pages of all
// that is in dir.
func warm(t *testing.T, dir string) {
	t.Helper()
	for range 2 {
		for _, n := range names(t, dir) {
			st := stat(t, dir+"/"+n)
			if st.Mode&unix.S_IFMT == unix.S_IFREG {
				readFile(t, dir+"/"+n)
			}
		}
	}
}

// TestRemoteChanges is the table of SEMANTICS.md: each change comes into a
// folder that the kernel has cached whole, and a descriptor of which is held.
func TestRemoteChanges(t *testing.T) {
	says(t,
		"What changed elsewhere shows without remounting, within one poll of the drive: names, sizes, contents and deletions.",
		"| created | it is in the listing, and can be opened |",
		"| content replaced | a new open reads the new content; what is open reads the old one |",
		"| renamed or moved | the new path works, the old one does not; what is open or a working directory stays so |",
		"| moved to the trash | the name is gone; what is open can be read on |",
		"| restored | it is back, with its inode number |")
	fill := func(other *drivetest.Client) {
		for _, p := range []string{"dir/keep", "dir/f", "dir/sub/deep", "other/x"} {
			if _, err := other.PutPath(p, []byte("old "+p)); err != nil {
				t.Error(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(w *integration.World)
		check  func(t *testing.T, w *integration.World)
	}{
		{"created", func(w *integration.World) {
			w.Put("dir/new", "fresh")
		}, func(t *testing.T, w *integration.World) {
			w.Want("dir/new", "fresh")
			wantNames(t, w.Path("dir"), "f", "keep", "new", "sub")
		}},
		{"folder created with something in it", func(w *integration.World) {
			w.Put("dir/made/inner", "fresh")
		}, func(t *testing.T, w *integration.World) {
			w.Want("dir/made/inner", "fresh")
			wantNames(t, w.Path("dir"), "f", "keep", "made", "sub")
		}},
		{"content", func(w *integration.World) {
			w.Put("dir/f", "quite new and longer")
		}, func(t *testing.T, w *integration.World) {
			w.Want("dir/f", "quite new and longer")
			if st := stat(t, w.Path("dir/f")); st.Size != 20 {
				t.Errorf("size %d, want 20", st.Size)
			}
		}},
		{"trashed", func(w *integration.World) {
			_, err := w.Else.Trash(w.Node("dir/f").ID)
			check(w, err)
		}, func(t *testing.T, w *integration.World) {
			_, err := os.Lstat(w.Path("dir/f"))
			wantErr(t, "stat", err, syscall.ENOENT)
			_, err = os.Open(w.Path("dir/f"))
			wantErr(t, "open", err, syscall.ENOENT)
			wantNames(t, w.Path("dir"), "keep", "sub")
		}},
		{"folder trashed", func(w *integration.World) {
			_, err := w.Else.Trash(w.Node("dir/sub").ID)
			check(w, err)
		}, func(t *testing.T, w *integration.World) {
			_, err := os.Lstat(w.Path("dir/sub/deep"))
			wantErr(t, "stat below", err, syscall.ENOENT)
			wantNames(t, w.Path("dir"), "f", "keep")
		}},
		{"renamed", func(w *integration.World) {
			_, err := w.Else.Rename(w.Node("dir/f").ID, "g")
			check(w, err)
		}, func(t *testing.T, w *integration.World) {
			_, err := os.Lstat(w.Path("dir/f"))
			wantErr(t, "the old name", err, syscall.ENOENT)
			w.Want("dir/g", "old dir/f")
			wantNames(t, w.Path("dir"), "g", "keep", "sub")
		}},
		{"renamed to another case", func(w *integration.World) {
			_, err := w.Else.Rename(w.Node("dir/f").ID, "F")
			check(w, err)
		}, func(t *testing.T, w *integration.World) {
			w.Want("dir/F", "old dir/f")
			wantNames(t, w.Path("dir"), "F", "keep", "sub")
		}},
		{"renamed twice between polls", func(w *integration.World) {
			id := w.Node("dir/f").ID
			_, err := w.Else.Rename(id, "g")
			check(w, err)
			_, err = w.Else.Rename(id, "h")
			check(w, err)
		}, func(t *testing.T, w *integration.World) {
			_, err := os.Lstat(w.Path("dir/f"))
			wantErr(t, "the old name", err, syscall.ENOENT)
			wantNames(t, w.Path("dir"), "h", "keep", "sub")
		}},
		{"two swapped", func(w *integration.World) {
			a, b := w.Node("dir/f").ID, w.Node("dir/keep").ID
			for _, step := range []struct{ id, name string }{{a, "tmp"}, {b, "f"}, {a, "keep"}} {
				_, err := w.Else.Rename(step.id, step.name)
				check(w, err)
			}
		}, func(t *testing.T, w *integration.World) {
			w.Want("dir/f", "old dir/keep")
			w.Want("dir/keep", "old dir/f")
		}},
		{"moved", func(w *integration.World) {
			_, err := w.Else.Move(w.Node("dir/f").ID, w.Node("dir").ID, w.Node("other").ID)
			check(w, err)
		}, func(t *testing.T, w *integration.World) {
			_, err := os.Lstat(w.Path("dir/f"))
			wantErr(t, "the old place", err, syscall.ENOENT)
			w.Want("other/f", "old dir/f")
			wantNames(t, w.Path("dir"), "keep", "sub")
			wantNames(t, w.Path("other"), "f", "x")
		}},
		{"folder moved", func(w *integration.World) {
			_, err := w.Else.Move(w.Node("dir/sub").ID, w.Node("dir").ID, w.Node("other").ID)
			check(w, err)
		}, func(t *testing.T, w *integration.World) {
			w.Want("other/sub/deep", "old dir/sub/deep")
			_, err := os.Lstat(w.Path("dir/sub/deep"))
			wantErr(t, "below the old place", err, syscall.ENOENT)
		}},
		{"replaced by a folder of the same name", func(w *integration.World) {
			_, err := w.Else.Trash(w.Node("dir/f").ID)
			check(w, err)
			w.Put("dir/f/inner", "a folder now")
		}, func(t *testing.T, w *integration.World) {
			w.Want("dir/f/inner", "a folder now")
			wantNames(t, w.Path("dir"), "f", "keep", "sub")
		}},
		{"trashed and restored", func(w *integration.World) {
			id := w.Node("dir/f").ID
			_, err := w.Else.Trash(id)
			check(w, err)
			w.Poll()
			_, err = w.Else.Restore(id)
			check(w, err)
		}, func(t *testing.T, w *integration.World) {
			w.Want("dir/f", "old dir/f")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := integration.NewWorld(t, integration.Config{Fill: fill})
			for _, d := range []string{"dir", "dir/sub", "other", ""} {
				warm(t, w.Path(d))
			}
			held, err := os.Open(w.Path("dir"))
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			open, err := os.Open(w.Path("dir/f"))
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			ino := inode(t, w.Path("dir/f"))

			c.change(w)
			w.Poll()
			c.check(t, w)

			// What is open reads what it opened.
			if got, err := io.ReadAll(open); err != nil || string(got) != "old dir/f" {
				t.Errorf("the open file reads %q, %v", got, err)
			}
			// A held descriptor of the folder sees the change as well.
			ns, err := held.Readdirnames(-1)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := len(ns), len(names(t, w.Path("dir"))); got != want {
				t.Errorf("a held descriptor lists %d names, a new one %d", got, want)
			}
			if c.name == "trashed and restored" && inode(t, w.Path("dir/f")) != ino {
				t.Error("it came back with another inode number")
			}
		})
	}
}

func check(w *integration.World, err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// TestOpenKeepsItsVersion holds three versions open at once, as file and as
// mapping, with cached and uncached parts.
func TestOpenKeepsItsVersion(t *testing.T) {
	says(t,
		"An open file keeps the version it opened, to the end, also when the drive has a newer one; a new open sees the new one.",
		"A mapping keeps the version that was opened, like any open file.",
		"one read never mixes two versions")
	const size = 300_000
	w := integration.NewWorld(t, integration.Config{})
	type version struct {
		content []byte
		f       *os.File
		m       *actor
	}
	var vs []version
	for i := range 3 {
		v := version{content: bytes.Repeat([]byte{byte('a' + i)}, size-i*1000)}
		w.Put("film", string(v.content))
		w.Poll()
		f, err := os.Open(w.Path("film"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		v.f = f
		v.m = mapped(t, "map-ro", w.Path("film"))
		if i == 0 {
			// Everything of the first is cached; of the second only some.
			if _, err := io.ReadAll(io.NewSectionReader(f, 0, size)); err != nil {
				t.Fatal(err)
			}
		} else if _, err := f.ReadAt(make([]byte, 5000), 100_000); err != nil {
			t.Fatal(err)
		}
		vs = append(vs, v)
	}
	ino := inode(t, w.Path("film"))
	for i, v := range vs {
		fi, err := v.f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() != int64(len(v.content)) {
			t.Errorf("version %d shows %d bytes, want %d", i, fi.Size(), len(v.content))
		}
		if got := fi.Sys().(*syscall.Stat_t).Ino; got != ino {
			t.Errorf("version %d has inode %d, want %d", i, got, ino)
		}
		got, err := io.ReadAll(io.NewSectionReader(v.f, 0, size))
		switch {
		case errors.Is(err, syscall.ESTALE):
			// Allowed for what was neither cached nor can be had any more.
			if i == 0 || i == len(vs)-1 {
				t.Errorf("version %d: %v", i, err)
			}
		case err != nil:
			t.Errorf("version %d: %v", i, err)
		case !bytes.Equal(got, v.content):
			t.Errorf("version %d reads other bytes", i)
		}
	}
	for _, i := range []int{0, len(vs) - 1} {
		if got := vs[i].m.do("sum"); got != fmt.Sprintf("%x", md5.Sum(vs[i].content)) {
			t.Errorf("the mapping of version %d shows other bytes", i)
		}
	}
}

// TestRemoteUnlinkKeepsOpen: what is open stays readable, shows no name any
// more, and a file of the same name is another one.
func TestUnlinkedStaysOpen(t *testing.T) {
	says(t, "A file that was deleted, here or elsewhere, is gone from its folder at once, and can still be read by those who have it open.")
	for _, where := range []string{"here", "elsewhere"} {
		t.Run(where, func(t *testing.T) {
			w := integration.NewWorld(t, integration.Config{})
			w.Put("f", "still readable")
			w.Poll()
			f, err := os.Open(w.Path("f"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if where == "here" {
				check(w, os.Remove(w.Path("f")))
			} else {
				_, err := w.Else.Trash(w.Node("f").ID)
				check(w, err)
				w.Poll()
			}
			_, err = os.Lstat(w.Path("f"))
			wantErr(t, "stat", err, syscall.ENOENT)
			w.Write("f", "another one")
			if got, err := io.ReadAll(f); err != nil || string(got) != "still readable" {
				t.Errorf("the open file reads %q, %v", got, err)
			}
			var st unix.Stat_t
			check(w, unix.Fstat(int(f.Fd()), &st))
			if st.Nlink != 0 {
				t.Errorf("the deleted file shows %d links", st.Nlink)
			}
			w.Want("f", "another one")
		})
	}
}

// TestReadGivesUp: a read that gets no byte ends, and says why.
func TestReadGivesUp(t *testing.T) {
	says(t, "A read waits at most 15 seconds without a byte arriving; then it fails with ETIMEDOUT.")
	w := integration.NewWorld(t, integration.Config{Store: func(o *cache.Options) { o.ReadTimeout = 300 * time.Millisecond }})
	w.Put("f", "out of reach")
	w.Poll()
	w.Drive.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{{
		Op: "content.download", Fault: drivetest.Fault{Do: drivetest.DoStall},
	}}})
	start := time.Now()
	_, err := os.ReadFile(w.Path("f"))
	wantErr(t, "a read without an answer", err, syscall.ETIMEDOUT)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("gave up after %v", took)
	}
	says(t, "Once the drive has answered nothing for 15 seconds, reading what is not cached fails within a second, until it answers.")
	start = time.Now()
	for range 5 {
		_, err = os.ReadFile(w.Path("f"))
		wantErr(t, "a read while nobody answers", err, syscall.ETIMEDOUT)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("five reads gave up after %v", took)
	}
	w.Drive.SetFaults(drivetest.Faults{})
	w.Want("f", "out of reach")
}

// TestGoneVersionIsStale: what neither the cache nor the drive has is an
// error, and never made up from the newer version.
func TestGoneVersionIsStale(t *testing.T) {
	says(t, "When the drive cannot give the old version any more and it is not cached, reading it fails with ESTALE. It is never filled up with bytes of the new version.")
	w := integration.NewWorld(t, integration.Config{})
	w.Put("f", strings.Repeat("old", 100_000))
	w.Poll()
	f, err := os.Open(w.Path("f"))
	check(w, err)
	defer f.Close()
	w.Put("f", strings.Repeat("new", 100_000))
	w.Poll()
	got := make([]byte, 900)
	switch _, err := f.ReadAt(got, 0); {
	case err == nil && string(got) == strings.Repeat("old", 300):
		t.Error("it was cached, though nobody had read it")
	case err == nil:
		t.Errorf("the old version reads %q", got[:12])
	default:
		wantErr(t, "reading the version that is gone", err, syscall.ESTALE)
	}
	w.Want("f", strings.Repeat("new", 100_000))
}

// TestCwdMoves: a process works on in a folder that is renamed under it.
func TestCwdMoves(t *testing.T) {
	says(t, "A process whose working directory is renamed, here or elsewhere, stays in it.")
	for _, where := range []string{"here", "elsewhere"} {
		t.Run(where, func(t *testing.T) {
			w := integration.NewWorld(t, integration.Config{})
			w.Put("a/inner/f", "inside")
			w.Poll()
			p := act(t, "cwd", w.Path("a/inner"))
			p.expect("ready")
			if where == "here" {
				check(w, os.Rename(w.Path("a"), w.Path("b")))
			} else {
				_, err := w.Else.Rename(w.Node("a").ID, "b")
				check(w, err)
				w.Poll()
			}
			if got := p.ask("read f"); got != "inside" {
				t.Errorf("reads %q", got)
			}
			if got := p.ask("write g"); got != "written" {
				t.Errorf("write: %q", got)
			}
			w.Want("b/inner/g", "from inside")
			if got := p.ask("where"); !strings.HasSuffix(got, "/b/inner") {
				t.Errorf("is in %q", got)
			}
			if _, err := p.wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSeveralParents: a folder in two folders is the same folder.
func TestSeveralParents(t *testing.T) {
	says(t, "A folder that is in several folders of the drive has one inode number for each place.")
	w := integration.NewWorld(t, integration.Config{Fill: func(other *drivetest.Client) {
		for _, p := range []string{"a/shared/sub/f", "b/x"} {
			if _, err := other.PutPath(p, []byte("content")); err != nil {
				t.Error(err)
			}
		}
		s, _ := other.Lookup("a/shared")
		b, _ := other.Lookup("b")
		if _, err := other.AddParent(s.ID, b.ID); err != nil {
			t.Error(err)
		}
	}})
	for _, d := range []string{"a", "b", "a/shared", "b/shared", "a/shared/sub", "b/shared/sub"} {
		warm(t, w.Path(d))
	}
	if inode(t, w.Path("a/shared")) == inode(t, w.Path("b/shared")) {
		t.Error("two places have one inode number")
	}
	if inode(t, w.Path("a/shared/sub/f")) != inode(t, w.Path("b/shared/sub/f")) {
		t.Error("one file has two inode numbers")
	}
	listed := func(dir, name string) func() bool {
		return func() bool {
			for _, n := range names(t, w.Path(dir)) {
				if n == name {
					return true
				}
			}
			return false
		}
	}
	w.Write("a/shared/new", "made at one place")
	w.Until("the file shows at the other place", listed("b/shared", "new"))
	w.Want("b/shared/new", "made at one place")
	check(w, os.Mkdir(w.Path("b/shared/sub/made"), 0o755))
	w.Until("the folder shows at the first place", listed("a/shared/sub", "made"))
	check(w, os.Remove(w.Path("b/shared/sub/f")))
	w.Until("the file is gone at the first place", func() bool { return !listed("a/shared/sub", "f")() })
	_, err := os.Lstat(w.Path("a/shared/sub/f"))
	wantErr(t, "stat at the first place", err, syscall.ENOENT)

	w.Put("a/shared/sub/remote", "from elsewhere")
	w.Poll()
	w.Want("a/shared/sub/remote", "from elsewhere")
	w.Want("b/shared/sub/remote", "from elsewhere")
	wantNames(t, w.Path("b/shared/sub"), "made", "remote")
}

// TestNoNetworkForWhatIsKnown looks around while the drive answers nothing.
func TestNoNetworkForWhatIsKnown(t *testing.T) {
	says(t, "Looking at names and attributes does not wait for the network once the drive told them; only the first look into a folder waits, for a second at most, for the times and modes that this program keeps there.")
	w := integration.NewWorld(t, integration.Config{Fill: small(t)})
	release := make(chan struct{})
	w.Drive.Hook(func(drivetest.Op) *drivetest.Fault {
		<-release
		return nil
	})
	defer close(release)
	for _, first := range []bool{true, false} {
		start := time.Now()
		for _, d := range []string{"", "a", "a/b"} {
			for _, n := range names(t, w.Path(d)) {
				stat(t, w.Path(d, n))
			}
		}
		_, err := os.Lstat(w.Path("a/absent"))
		wantErr(t, "absent", err, syscall.ENOENT)
		limit := 500 * time.Millisecond
		if first {
			limit += 3 * time.Second // a second for each of the folders
		}
		if took := time.Since(start); took > limit {
			t.Errorf("first %v: took %v", first, took)
		}
	}
}
