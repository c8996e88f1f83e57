package cache

import (
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/tree"
)

// snapshot is every path of the mount and what it shows, folders as "/".
func (w *world) snapshot() map[string]string {
	w.Helper()
	all := map[string]string{}
	var walk func(ino uint64, at string)
	walk = func(ino uint64, at string) {
		d, err := w.s.OpenDir(w.Context(), ino)
		if err != nil {
			w.Fatal(at, err)
		}
		es, err := d.Read(w.Context(), 0, 1000)
		if err != nil {
			w.Fatal(at, err)
		}
		for _, e := range es {
			p := at + "/" + e.Name
			if e.Folder {
				all[p] = "/"
				walk(e.Ino, p)
				continue
			}
			all[p] = fmt.Sprintf("%s %o", w.read(p), e.Mode&0o777)
		}
	}
	walk(w.s.Root(), "")
	return all
}

// TestFailingLog: the n-th write of the journal fails, for every call that
// changes something. The call fails and nothing is changed, or it succeeds and
// all is; the Store agrees with itself, and a new mount shows the same.
func TestFailingLog(t *testing.T) {
	errDisk := fmt.Errorf("write: %w", unix.EIO)
	mode := uint32(0o600)
	for name, do := range map[string]func(w *world) error{
		"mkdir": func(w *world) error {
			_, err := w.s.Mkdir(w.Context(), w.s.Root(), "new", ModeSet|0o755)
			return err
		},
		"create": func(w *world) error {
			_, h, err := w.s.Create(w.Context(), w.s.Root(), "new", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, ModeSet|0o644)
			if err == nil {
				h.Release()
			}
			return err
		},
		"rename":      func(w *world) error { return w.tryRename("/a", "/c") },
		"rename over": func(w *world) error { return w.tryRename("/a", "/b") },
		"save":        func(w *world) error { return w.tryRename("/new", "/a") },
		"move":        func(w *world) error { return w.tryRename("/a", "/d/a") },
		"unlink":      func(w *world) error { return w.s.Unlink(w.Context(), w.s.Root(), "a") },
		"rmdir":       func(w *world) error { return w.rmdir("/e") },
		"chmod": func(w *world) error {
			e, err := w.s.Resolve(w.Context(), "/a")
			if err == nil {
				_, err = w.s.Setattr(w.Context(), e.Ino, e.Gen, nil, SetAttr{Mode: &mode})
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for n := int64(1); n <= 3; n++ {
				if name == "create" && n > 1 {
					break // that is the close, which fails by itself
				}
				var left atomic.Int64
				w := newWorld(t, func(o *Options) {
					o.UploadDelay, o.CallTimeout = time.Hour, time.Millisecond
					o.BeforeWrite = func() error {
						if left.Add(-1) == 0 {
							return errDisk
						}
						return nil
					}
				})
				w.write("/seed", "tells the owner")
				w.flush()
				w.put("/a", "A")
				w.put("/b", "B")
				for _, p := range []string{"/d", "/e"} {
					if _, err := w.other.MkdirAll(p); err != nil {
						t.Fatal(err)
					}
				}
				w.poll()
				if name == "save" {
					w.write("/new", "N")
				}
				w.s.writeBack.Pause(true)
				before := w.snapshot()
				left.Store(n)
				err := do(w)
				left.Store(0)
				after := w.snapshot()
				if err != nil && !errors.Is(err, unix.EIO) {
					t.Errorf("write %d: %v", n, err)
				}
				if n == 1 && err == nil {
					t.Error("the first write failed and the call did not")
				}
				if same := maps.Equal(before, after); same != (err != nil) {
					t.Errorf("write %d: error %v, and it was %v, is %v", n, err, before, after)
				}
				w.reopen()
				if now := w.snapshot(); !maps.Equal(now, after) {
					t.Errorf("write %d: shown %v, after a restart %v", n, after, now)
				}
				w.flush()
				for _, err := range w.s.tree.Leaks() {
					t.Errorf("write %d: %v", n, err)
				}
			}
		})
	}
}

// TestPanicInAChange: a fault under the lock fails its own call and nothing
// else.
func TestPanicInAChange(t *testing.T) {
	w := newWorld(t)
	w.put("/a", "A")
	w.poll()
	before := w.snapshot()
	err := w.s.tree.Change(func(tx *tree.Tx) error {
		if err := tx.Unlink(w.s.Root(), "a"); err != nil {
			return err
		}
		panic("injected")
	})
	if !errors.Is(err, tree.ErrPanic) {
		t.Error(err)
	}
	answered := make(chan map[string]string, 1)
	go func() { answered <- w.snapshot() }()
	select {
	case after := <-answered:
		if !maps.Equal(before, after) {
			t.Errorf("was %v, is %v", before, after)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the tree does not answer any more")
	}
	w.write("/a", "again")
	w.flush()
	w.want(w.drive("/a"), "again")
}
