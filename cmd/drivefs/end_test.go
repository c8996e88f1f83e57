package main

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// unreachable makes every upload fail for now.
func (w *world) unreachable() {
	w.drive.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{{Op: "content.*", Fault: drivetest.Fault{Status: 503}}}})
}

func TestPendingUploads(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--no-wait", "--timeout=300ms"} {
		t.Run(flag, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{})
			p := w.mount()
			w.unreachable()
			w.write("kept", "safe")
			_, stderr, code := w.run("unmount", flag, w.mountpoint)
			if code != 6 || !strings.Contains(stderr, "1 change pending") {
				t.Errorf("exit code %d: %s", code, stderr)
			}
			if w.mounted() {
				t.Error("still mounted")
			}
			if code := p.end(); code != 6 {
				t.Errorf("mount ended with %d: %s", code, p.stderr())
			}
			w.drive.SetFaults(drivetest.Faults{})
			w.mount()
			w.must("flush")
			if got := w.onDrive("kept"); got != "safe" {
				t.Errorf("the next mount left the drive with %q", got)
			}
			w.must("unmount", w.mountpoint)
		})
	}
}

// A verb that is interrupted while it waits leaves everything as it was.
func TestUnmountInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	w.mount()
	w.unreachable()
	w.write("kept", "safe")
	u := w.start("unmount", w.mountpoint)
	w.eventually("it waits", func() bool { return w.status().State == "draining" })
	u.signal(syscall.SIGINT)
	u.end()
	w.eventually("it is ready again", func() bool { return w.status().State != "draining" })
	if !w.mounted() {
		t.Fatal("not mounted any more")
	}
	if _, _, code := w.run("unmount", "--no-wait", w.mountpoint); code != 6 {
		t.Errorf("exit code %d", code)
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	t.Run("one drains", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{})
		p := w.mount("--upload-delay=1h")
		w.write("a", "b")
		p.signal(syscall.SIGTERM)
		if code := p.end(); code != 0 {
			t.Errorf("exit code %d: %s", code, p.stderr())
		}
		if got := w.onDrive("a"); got != "b" || w.mounted() {
			t.Errorf("the drive has %q, mounted: %v", got, w.mounted())
		}
	})
	t.Run("two leave the rest", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{})
		p := w.mount()
		w.unreachable()
		w.write("a", "b")
		p.signal(syscall.SIGINT)
		w.eventually("it says that it waits", func() bool { return strings.Contains(p.stderr(), "a second signal") })
		p.signal(syscall.SIGINT)
		if code := p.end(); code != 6 {
			t.Errorf("exit code %d: %s", code, p.stderr())
		}
		if w.mounted() {
			t.Error("still mounted")
		}
	})
	t.Run("while a verb waits", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{})
		p := w.mount()
		w.unreachable()
		w.write("a", "b")
		u := w.start("unmount", w.mountpoint)
		w.eventually("it waits", func() bool { return w.status().State == "draining" })
		p.signal(syscall.SIGTERM)
		if code := u.end(); code != 1 {
			t.Errorf("unmount: exit code %d: %s", code, u.stderr())
		}
		p.signal(syscall.SIGTERM)
		if code := p.end(); code != 6 || w.mounted() {
			t.Errorf("exit code %d, mounted %v: %s", code, w.mounted(), p.stderr())
		}
	})
	t.Run("busy", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{})
		p := w.mount()
		hold := exec.Command("cat")
		hold.Dir = w.mountpoint
		in, err := hold.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := hold.Start(); err != nil {
			t.Fatal(err)
		}
		p.signal(syscall.SIGTERM)
		if code := p.end(); code != 0 || w.mounted() {
			t.Errorf("exit code %d, mounted %v: %s", code, w.mounted(), p.stderr())
		}
		in.Close()
		if err := hold.Wait(); err != nil {
			t.Error(err)
		}
	})
}
