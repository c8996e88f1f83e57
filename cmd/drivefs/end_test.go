package main

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
		w.eventually("it says that it waits", func() bool { return strings.Contains(p.stderr(), "a second signal") })
		p.signal(syscall.SIGTERM)
		if code := u.end(); code != 6 {
			t.Errorf("unmount: exit code %d: %s", code, u.stderr())
		}
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

// A later unmount that waits less overrides one that waits; both hear the same.
func TestLaterUnmountWins(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--no-wait", "--timeout=300ms", "--lazy --no-wait"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, drivetest.Options{})
			p := w.mount()
			w.unreachable()
			w.write("kept", "safe")
			u := w.start("unmount", w.mountpoint)
			w.eventually("it waits", func() bool { return w.status().State == "draining" })
			_, stderr, code := w.run(append(append([]string{"unmount"}, strings.Fields(flag)...), w.mountpoint)...)
			if code != 6 || !strings.Contains(stderr, "1 change pending") {
				t.Errorf("the second: exit code %d: %s", code, stderr)
			}
			if code := u.end(); code != 6 {
				t.Errorf("the first: exit code %d: %s", code, u.stderr())
			}
			if code := p.end(); code != 6 || w.mounted() {
				t.Errorf("mount: exit code %d, mounted %v", code, w.mounted())
			}
		})
	}
}

// umount(8) leaves the process to its uploads: verbs find it, and another mount
// takes its place at once.
func TestMountAgainWhileUploading(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"", "--background"} {
		t.Run("mount "+flag, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, drivetest.Options{})
			p := w.mount()
			w.unreachable()
			w.write("kept", "safe")
			if err := unix.Unmount(w.mountpoint, 0); err != nil {
				t.Fatal(err)
			}
			w.eventually("it drains", func() bool { return w.status().State == "draining" })
			for _, args := range [][]string{{"status"}, {"status", "--profile=default"}, {"status", w.mountpoint}} {
				if out := w.must(args...); !strings.Contains(out, w.mountpoint) || !strings.Contains(out, "draining") {
					t.Errorf("%q: %s", args, out)
				}
			}
			if flag == "" {
				w.mount()
			} else {
				w.must("mount", flag, w.mountpoint)
			}
			if code := p.end(); code != 6 {
				t.Errorf("the first mount: exit code %d: %s", code, p.stderr())
			}
			w.drive.SetFaults(drivetest.Faults{})
			w.must("flush")
			if got := w.onDrive("kept"); got != "safe" {
				t.Errorf("the drive has %q", got)
			}
			w.must("unmount", w.mountpoint)
		})
	}
	t.Run("unmount --no-wait", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, drivetest.Options{})
		p := w.mount()
		w.unreachable()
		w.write("kept", "safe")
		if err := unix.Unmount(w.mountpoint, 0); err != nil {
			t.Fatal(err)
		}
		w.eventually("it drains", func() bool { return w.status().State == "draining" })
		if _, stderr, code := w.run("unmount", "--no-wait", w.mountpoint); code != 6 {
			t.Errorf("exit code %d: %s", code, stderr)
		}
		if code := p.end(); code != 6 {
			t.Errorf("mount: exit code %d", code)
		}
	})
	t.Run("a file is still open", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, drivetest.Options{})
		p := w.mount()
		w.write("open", "x")
		w.must("flush")
		f, err := os.Open(w.file("open"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.Unmount(w.mountpoint, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := w.run("mount", w.mountpoint)
		if code != 2 {
			t.Errorf("exit code %d", code)
		}
		oneLine(t, stderr, strconv.Itoa(os.Getpid()), "has open")
		// The kernel tells of a close when it has returned: the first mount has
		// heard of it once it is gone.
		f.Close()
		if code := p.end(); code != 0 {
			t.Errorf("the first mount: exit code %d: %s", code, p.stderr())
		}
		w.mount()
		w.must("unmount", w.mountpoint)
	})
}

// A drive that does not answer is not waited for: what is pending is kept.
func TestUnmountOffline(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"unmount", "SIGTERM", "flush"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			w, link, _, _ := newAccounts(t)
			p := w.mount("--poll-interval=1s")
			w.must("refresh")
			link.off.Store(true)
			w.eventually("it is offline", func() bool { return w.status().Remote.State == "offline" })
			w.write("kept", "safe")
			begin := time.Now()
			if way != "SIGTERM" {
				_, stderr, code := w.run(way, w.mountpoint)
				if code != 6 || !strings.Contains(stderr, "does not answer") || !strings.Contains(stderr, "kept here") {
					t.Errorf("exit code %d: %s", code, stderr)
				}
			}
			if way != "unmount" {
				p.signal(syscall.SIGTERM)
			}
			if code := p.end(); code != 6 || w.mounted() {
				t.Errorf("mount: exit code %d, mounted %v: %s", code, w.mounted(), p.stderr())
			}
			t.Logf("ended after %v", time.Since(begin))
		})
	}
}
