package main

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// commitAfter is how long the program under test lets a file stay open before
// what is written to it is safe.
const commitAfter = "_TEST_COMMIT_AFTER"

// TestKilledWhileOpen: what a program wrote to a file that it has open, a moment
// before drivefs is killed, is the file's content at the next mount. It is not
// sent before somebody closes it or asks for it, and status names it.
//
// It is not parallel, and asks by itself: a process that this one starts closes
// what it inherits, and what any process closed is sent.
func TestKilledWhileOpen(t *testing.T) {
	for _, c := range []struct {
		name string
		old  string // "" = a new file
		do   func(t *testing.T, f *os.File)
		want string
	}{
		{"new", "", func(t *testing.T, f *os.File) { writeTo(t, f, "a new one", 0) }, "a new one"},
		{"append", "a log\n", func(t *testing.T, f *os.File) { writeTo(t, f, "a line\n", 6) }, "a log\na line\n"},
		{"ftruncate", "a log\n", func(t *testing.T, f *os.File) {
			if err := f.Truncate(1); err != nil {
				t.Fatal(err)
			}
		}, "a"},
		{"mapping", "a log\n", func(t *testing.T, f *os.File) {
			m, err := unix.Mmap(int(f.Fd()), 0, 6, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Munmap(m)
			copy(m, "THE")
			// The kernel would write the page back by itself, later.
			if err := unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER); err != nil {
				t.Fatal(err)
			}
		}, "THEog\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{})
			w.env = append(w.env, commitAfter+"=100ms")
			if c.old != "" {
				if _, err := w.drive.Else().PutPath("/f", []byte(c.old)); err != nil {
					t.Fatal(err)
				}
			}
			p := w.mount()
			f, err := os.OpenFile(w.file("f"), os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			c.do(t, f)
			socket, err := control.SocketOf(t.Context(), w.mountpoint)
			if err != nil {
				t.Fatal(err)
			}
			w.eventually("the journal has it", func() bool {
				var s control.Status
				if err := control.NewClient(socket).Call(t.Context(), control.VerbStatus, none{}, &s, nil); err != nil {
					t.Fatal(err)
				}
				return s.Uploads.PendingBytes == int64(len(c.want)) && len(s.Uploads.Unclosed) == 0
			})
			dir, err := os.Open(w.mountpoint)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(dir.Sync(), dir.Close()); err != nil { // status may be ahead of the log
				t.Fatal(err)
			}
			p.signal(syscall.SIGKILL)
			p.end()
			_ = f.Close() // of a mount that is gone
			if w.mounted() {
				w.must("unmount", w.mountpoint)
			}

			p = w.mount()
			if got, err := os.ReadFile(w.file("f")); err != nil || string(got) != c.want {
				t.Errorf("after the next mount: %q, %v", got, err)
			}
			if out := w.must("status", w.mountpoint); !strings.Contains(out, "/f waits for its next writer, or drivefs flush") {
				t.Errorf("status says\n%s", out)
			}
			if o := w.status().Uploads; len(o.Unclosed) != 1 || o.Unclosed[0].Path != "/f" {
				t.Errorf("status: %+v", o)
			}
			_, stderr, code := w.run("unmount", w.mountpoint)
			if code != exitPending || !strings.Contains(stderr, "drivefs flush") {
				t.Errorf("unmount: exit code %d: %s", code, stderr)
			}
			p.end()
			if got := w.onDrive("/f"); got != c.old {
				t.Errorf("the drive has %q before anybody asked", got)
			}
			p = w.mount()
			w.must("flush", w.mountpoint)
			if got := w.onDrive("/f"); got != c.want {
				t.Errorf("the drive has %q after flush", got)
			}
			w.must("unmount", w.mountpoint)
			p.end()
		})
	}
}

func writeTo(t *testing.T, f *os.File, text string, off int64) {
	t.Helper()
	if _, err := f.WriteAt([]byte(text), off); err != nil {
		t.Fatal(err)
	}
}
