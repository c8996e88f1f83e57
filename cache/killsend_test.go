package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// Killed while content is on its way, which the drive takes; the file gets its
// next content before that is settled, in each of the ways that programs have.
// With one writer there is one file, and it has the newest content.
func TestKilledWhileSending(t *testing.T) {
	changes := map[string]func(w *world, was string) string{
		"overwrite": func(w *world, was string) string { w.write("/f", "newest"); return "newest" },
		"append": func(w *world, was string) string {
			w.writeAt("/f", "+", int64(len(was)), unix.O_WRONLY)
			return was + "+"
		},
		"in place": func(w *world, was string) string {
			w.writeAt("/f", "X", 1, unix.O_WRONLY)
			return was[:1] + "X" + was[2:]
		},
		"rename over": func(w *world, was string) string {
			w.write("/.f.AbCdEf", "newest")
			w.rename("/.f.AbCdEf", "/f")
			return "newest"
		},
		"backup": func(w *world, was string) string {
			w.rename("/f", "/f~")
			w.write("/f", "newest")
			w.unlink("/f~")
			return "newest"
		},
		"unlink": func(w *world, was string) string { w.unlink("/f"); w.write("/f", "newest"); return "newest" },
	}
	for name, change := range changes {
		for _, overwritten := range []bool{false, true} {
			for _, told := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s,overwritten=%v,told=%v", name, overwritten, told), func(t *testing.T) {
					w := newWorld(t, func(o *Options) {
						o.UploadDelay, o.Backoff, o.UploadWait = time.Millisecond, 10*time.Millisecond, 500*time.Millisecond
					})
					op, was := "content.upload", "what was sent when it died"
					if overwritten {
						w.write("/f", "old")
						w.flush()
						op = "content.overwrite"
					}
					copied, dead := filepath.Join(t.TempDir(), "state"), make(chan struct{})
					var mu sync.Mutex
					died := false
					w.srv.Hook(func(o drivetest.Op) *drivetest.Fault {
						mu.Lock()
						defer mu.Unlock()
						switch {
						case died:
							return &drivetest.Fault{Do: drivetest.DoReset}
						case o.Name != op:
							return nil
						}
						died = true
						defer close(dead)
						if err := os.CopyFS(copied, os.DirFS(w.o.StateDir)); err != nil {
							t.Error(err)
						}
						return &drivetest.Fault{Do: drivetest.DoReset, Effect: drivetest.EffectDone}
					})
					w.write("/f", was)
					<-dead
					w.stop()
					w.srv.Hook(nil)
					w.o.StateDir, w.deaf = copied, !told
					w.open()
					want := change(w, was)
					w.flush()
					w.poll()
					w.flush()
					for _, p := range w.paths() {
						if p != "" && p != "/" && strings.Trim(p, "/") != "f" {
							t.Errorf("on the drive: %s", p)
						}
					}
					w.want(w.drive("/f"), want)
					w.want(w.read("/f"), want)
					for _, e := range w.s.Status().Events {
						if e.Kind == "conflict" {
							t.Errorf("said: %+v", e)
						}
					}
				})
			}
		}
	}
}

// A call that waits for the drive's answer hears a refusal that came before it
// began to wait, and the folder there is not taken for the one made here.
func TestRefusedBeforeItWaits(t *testing.T) {
	w := newWorld(t)
	if _, err := w.other.Mkdir("", "LOCK"); err != nil {
		t.Fatal(err)
	}
	ino, err := w.s.mirror.NewIno()
	if err != nil {
		t.Fatal(err)
	}
	wait := w.s.expect(ino)
	defer wait.leave()
	var e *journal.Entry
	err = w.s.change(func(tx *tree.Tx) (err error) {
		e, err = tx.Mkdir(ino, w.s.Root(), "LOCK", "LOCK", 0o755)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.flush()
	if err := wait.await(t.Context(), e); !errors.Is(err, ErrExist) {
		t.Error(err)
	}
	w.poll()
	w.want(w.ls("/"), "LOCK")
}

// Of two machines that make a folder at once, the one that comes second is told,
// in time for who takes the folder for a lock.
func TestMkdirOnTwoMachines(t *testing.T) {
	w := newWorld(t)
	if _, err := w.other.Mkdir("", "LOCK"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err := w.s.Mkdir(t.Context(), w.s.Root(), "LOCK", 0o755)
	if took := time.Since(began); !errors.Is(err, ErrExist) || took > 2*time.Second {
		t.Errorf("%v after %v", err, took)
	}
	w.flush()
	w.poll()
	w.want(w.ls("/"), "LOCK")
}
