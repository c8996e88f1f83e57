package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// TestDamagedMirror: a mirror that cannot be trusted is set aside and made
// anew; nothing of what the drive lacks is lost with it, and no inode number
// comes to mean another object.
func TestDamagedMirror(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"gone":  os.Remove,
		"empty": func(path string) error { return os.Truncate(path, 0) },
		"cut":   func(path string) error { return os.Truncate(path, 3*4096) },
		"garbage": func(path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte("garbage "), 8192), 0o600)
		},
		"a page": func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				return err
			}
			for off := int64(2 * 4096); off < st.Size(); off += 4096 {
				if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 100), off); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
			for i := range 50 {
				w.put("theirs/"+strings.Repeat("x", i+1), "foreign")
			}
			w.poll()
			w.mkdir("/mine")
			w.write("/mine/new", "not on the drive yet")
			w.writeAt("/theirs/x", "X", 0, unix.O_WRONLY)
			ours, err := w.s.Resolve(t.Context(), "/mine/new")
			if err != nil {
				t.Fatal(err)
			}
			var most uint64
			for _, p := range []string{"/mine", "/mine/new", "/theirs", "/theirs/xx", "/theirs/" + strings.Repeat("x", 50)} {
				e, err := w.s.Resolve(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				most = max(most, e.Ino)
			}
			theirs, err := w.s.Resolve(t.Context(), "/theirs/xx")
			if err != nil {
				t.Fatal(err)
			}
			w.close()
			path := filepath.Join(w.o.StateDir, "mirror.db")
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			w.open()
			aside, err := filepath.Glob(path + ".damaged-*")
			if err != nil {
				t.Fatal(err)
			}
			if fresh := name == "gone" || name == "empty"; fresh == (len(aside) > 0) {
				t.Errorf("set aside: %q", aside)
			}
			if told := len(w.s.Status().Events) > 0; told != (len(aside) > 0) {
				t.Error("the status tells of it: ", told)
			}
			w.want(w.read("/mine/new"), "not on the drive yet")
			w.want(w.read("/theirs/x"), "Xoreign")
			w.want(w.read("/theirs/xx"), "foreign")
			if e, err := w.s.Resolve(t.Context(), "/mine/new"); err != nil || e.Ino != ours.Ino {
				t.Errorf("what is pending was inode %d and is %d: %v", ours.Ino, e.Ino, err)
			}
			if e, err := w.s.Resolve(t.Context(), "/theirs/xx"); err != nil || e.Ino <= most && e.Ino != theirs.Ino {
				t.Errorf("inode %d, and numbers up to %d were used: %v", e.Ino, most, err)
			}
			w.flush()
			w.want(w.drive("mine/new"), "not on the drive yet")
			w.want(w.drive("theirs/x"), "Xoreign")
		})
	}
}

// TestDamagedInUse: damage that is met while mounted is healed at once: numbers
// and what is pending stay, and all is there again after the next poll.
func TestDamagedInUse(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	for i := range 300 {
		w.put(fmt.Sprint("theirs/f", i), "foreign")
	}
	w.poll()
	w.mkdir("/mine")
	w.write("/mine/new", "not on the drive yet")
	w.writeAt("/theirs/f7", "X", 0, unix.O_WRONLY)
	numbers := map[string]uint64{}
	for _, p := range []string{"/mine", "/mine/new", "/theirs", "/theirs/f7", "/theirs/f8"} {
		e, err := w.s.Resolve(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		numbers[p] = e.Ino
	}
	var poked atomic.Int32
	w.s.Feed().OnActivity(func() { poked.Add(1) })
	// The pages of all records, in the file under the map.
	path := filepath.Join(w.o.StateDir, "mirror.db")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := 2 * 4096; at < len(b); at += 4096 {
		if bytes.Count(b[at:min(len(b), at+4096)], []byte("f1")) > 5 {
			if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 4096), int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	met := 0
	for i := range 300 {
		if _, err := w.s.Resolve(t.Context(), fmt.Sprint("/theirs/f", i)); errors.Is(err, mirror.ErrDamaged) {
			met++
		}
	}
	t.Log(met, "reads met the damage")
	for late := time.Now().Add(30 * time.Second); poked.Load() == 0; runtime.Gosched() {
		if time.Now().After(late) {
			t.Fatal("not healed, or not said")
		}
	}
	w.want(w.read("/mine/new"), "not on the drive yet")
	w.poll()
	for p, ino := range numbers {
		if e, err := w.s.Resolve(t.Context(), p); err != nil || e.Ino != ino {
			t.Errorf("%s was inode %d and is %d: %v", p, ino, e.Ino, err)
		}
	}
	w.want(w.read("/theirs/f7"), "Xoreign")
	w.want(w.read("/theirs/f8"), "foreign")
	if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) != 1 || len(w.s.Status().Events) == 0 {
		t.Errorf("set aside %q, said %v", aside, w.s.Status().Events)
	}
	w.flush()
	w.want(w.drive("theirs/f7"), "Xoreign")
}

// TestFolderMadeLater: a wish knows the node of its folder also when the folder
// had none yet at the time.
func TestFolderMadeLater(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.CallTimeout = time.Millisecond })
	hold := make(chan struct{})
	w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "nodes.create" {
			<-hold
		}
		return nil
	})
	w.mkdir("/dir")
	for i := range 100 + 10 {
		w.write(fmt.Sprint("/dir/f", i), "text")
	}
	dir, err := w.s.Resolve(t.Context(), "/dir")
	if err != nil {
		t.Fatal(err)
	}
	close(hold)
	known := func() bool {
		all := true
		w.s.journal.Children(dir.Ino, func(e *journal.Entry) bool {
			all = all && len(e.Folders) == 1 && e.Folders[0].Ino == dir.Ino
			return all
		})
		return all
	}
	for late := time.Now().Add(30 * time.Second); !known(); runtime.Gosched() {
		if time.Now().After(late) {
			t.Fatal("the wishes do not know the node of their folder")
		}
	}
	w.close()
	if err := os.Remove(filepath.Join(w.o.StateDir, "mirror.db")); err != nil {
		t.Fatal(err)
	}
	w.open()
	if e, err := w.s.Resolve(t.Context(), "/dir"); err != nil || e.Ino != dir.Ino {
		t.Errorf("the folder was inode %d and is %d: %v", dir.Ino, e.Ino, err)
	}
	w.want(w.read("/dir/f7"), "text")
	w.flush()
	w.want(w.drive("dir/f109"), "text")
}
