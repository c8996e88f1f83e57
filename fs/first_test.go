package fs_test

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/integration"
)

func small(t *testing.T) func(*drivetest.Client) {
	return func(other *drivetest.Client) {
		for _, p := range []string{"top", "a/one", "a/two", "a/b/three"} {
			if _, err := other.PutPath(p, []byte("content of "+p)); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestFirstMount: before the feed said anything, folders are listed when they
// are looked into, and the feed changes nothing that was shown.
func TestFirstMount(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{Fill: small(t), Fresh: true})
	w.Want("a/b/three", "content of a/b/three")
	wantNames(t, w.Mnt, "a", "top")
	wantNames(t, w.Path("a"), "b", "one", "two")
	_, err := os.Lstat(w.Path("a/none"))
	wantErr(t, "absent", err, syscall.ENOENT)
	ino := inode(t, w.Path("a/one"))
	w.Poll()
	wantNames(t, w.Path("a"), "b", "one", "two")
	if inode(t, w.Path("a/one")) != ino {
		t.Error("the feed changed an inode number")
	}
}

// TestWaitingLookup: a lookup that needs the drive ends with the signals that
// mean it, and with no other.
func TestWaitingLookup(t *testing.T) {
	hung := func(t *testing.T) (w *integration.World, release chan struct{}) {
		w = integration.NewWorld(t, integration.Config{Fill: small(t), Fresh: true})
		w.Drive.ResetRequests() // the mount asked too
		release = make(chan struct{})
		w.Drive.Hook(func(op drivetest.Op) *drivetest.Fault {
			if op.Name == "nodes.children" || op.Name == "nodes.list" {
				<-release
			}
			return nil
		})
		return w, release
	}
	t.Run("timers", func(t *testing.T) {
		w, release := hung(t)
		p := act(t, "stat-with-alarms", w.Path("a"))
		p.thread()
		waitsFor(w, "nodes.list")
		<-time.After(500 * time.Millisecond)
		close(release)
		p.expect("found")
		if _, err := p.wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("int", func(t *testing.T) {
		w, release := hung(t)
		defer close(release)
		p := act(t, "stat-with-int", w.Path("a"))
		tid := p.thread()
		waitsFor(w, "nodes.list")
		start := time.Now()
		check(w, unix.Tgkill(p.cmd.Process.Pid, tid, syscall.SIGINT))
		p.expect("interrupted")
		if took := time.Since(start); took > time.Second {
			t.Errorf("ended after %v", took)
		}
	})
	t.Run("kill", func(t *testing.T) {
		w, release := hung(t)
		defer close(release)
		p := act(t, "stat-with-alarms", w.Path("a"))
		p.thread()
		waitsFor(w, "nodes.list")
		start := time.Now()
		check(w, p.cmd.Process.Kill())
		if err := p.cmd.Wait(); err == nil || time.Since(start) > time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func statWithAlarms(path string) error {
	if err := alarms(); err != nil {
		return err
	}
	if err := statOnce(path); err != nil {
		return err
	}
	_, err := os.Stdout.WriteString("found\n")
	return err
}

func statWithInt(path string) error {
	caught(syscall.SIGINT)
	if err := statOnce(path); !errors.Is(err, syscall.EINTR) {
		return err
	}
	_, err := os.Stdout.WriteString("interrupted\n")
	return err
}
