package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/fs/guard"
)

// asHanging makes the test binary a mount without a guard on the directory it
// names, which holds the state directory of the default profile: a mkdir in it
// hangs, and the kernel is told of a name in the same folder meanwhile.
const asHanging = "_TEST_AS_HANGING"

type hangingFolder struct{ fusefs.Inode }

func (h *hangingFolder) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	go func() {
		fmt.Println("telling")
		h.NotifyEntry("x")
	}()
	select {}
}

func hang(at, home string) int {
	held, err := lock.Take(filepath.Join(home, ".local/state/drivefs/default"), lock.Holder{PID: os.Getpid(), Mountpoint: at})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer held.Release()
	s, err := fusefs.Mount(at, &hangingFolder{}, &fusefs.Options{MountOptions: fuse.MountOptions{
		FsName: "default", Name: "drivefs", DirectMount: true}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	s.Wait()
	return 0
}

// killed leaves a mount whose process was killed and cannot go; caller is told
// when the call that hangs in it ends.
func (w *world) killed() (caller chan error) {
	w.t.Helper()
	if os.Getuid() != 0 {
		w.t.Skip("needs root, or fusectl")
	}
	needFuse(w.t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{asHanging + "=" + w.mountpoint, "HOME=" + w.home}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	wait := func(want string) {
		if lines.Scan(); lines.Text() != want {
			w.t.Fatalf("%q instead of %q", lines.Text(), want)
		}
	}
	wait("ready")
	caller = make(chan error, 1)
	go func() { caller <- unix.Mkdir(w.file("d"), 0o755) }()
	wait("telling")
	<-time.After(100 * time.Millisecond) // until the kernel has it
	if err := cmd.Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
		w.t.Skip("this kernel has no such hang")
	case <-time.After(200 * time.Millisecond):
	}
	w.t.Cleanup(func() { <-ended })
	return caller
}

// TestKilledAndStuck: a mount that was killed, cannot go, and has no guard any
// more is ended by the next mount, unmount, unmount --force and doctor.
func TestKilledAndStuck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(w *world)
	}{
		{"mount", func(w *world) {
			p := w.mount()
			w.write("f", "as ever")
			w.must("unmount", w.mountpoint)
			p.end()
		}},
		{"unmount", func(w *world) { w.must("unmount", w.mountpoint) }},
		{"unmount --force", func(w *world) { w.must("unmount", "--force", w.mountpoint) }},
		{"doctor", func(w *world) {
			if out, _, _ := w.run("doctor"); !strings.Contains(out, "was killed and hung") {
				t.Errorf("doctor says: %s", out)
			}
			w.must("unmount", w.mountpoint)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{})
			caller := w.killed()
			c.do(w)
			select {
			case err := <-caller:
				if !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.ENOTCONN) {
					t.Errorf("the caller was told %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("the caller hangs")
			}
			if w.mounted() {
				t.Error("still mounted")
			}
		})
	}
}

// TestMountHasGuard: one, which ends with the mount, however that ends.
func TestMountHasGuard(t *testing.T) {
	t.Parallel()
	if guard.Available() != nil {
		t.Skip("no fusectl here")
	}
	w := newWorld(t, drivetest.Options{})
	for _, end := range []func(p *process){
		func(*process) { w.must("unmount", w.mountpoint) },
		func(p *process) { p.signal(syscall.SIGTERM) },
		func(*process) { w.must("unmount", "--force", w.mountpoint) },
		func(p *process) {
			p.signal(syscall.SIGKILL)
			p.end()
			w.must("unmount", w.mountpoint)
		},
	} {
		p := w.mount()
		pids := guards(p.cmd.Process.Pid)
		if len(pids) != 1 {
			t.Fatalf("%d guards", len(pids))
		}
		end(p)
		p.end()
		w.eventually("the guard ends with the mount", func() bool { return guard.Dying(pids[0]) })
	}
}

// guards are the children of pid that are guards.
func guards(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for f := range strings.FieldsSeq(string(b)) {
			args, _ := os.ReadFile("/proc/" + f + "/cmdline")
			if pid := 0; strings.HasPrefix(string(args), "drivefs-guard") {
				fmt.Sscan(f, &pid)
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// TestEndWhileOpen: asked to end while a program has files open for writing, the
// mount ends; what was written is there under its name when it is mounted again.
func TestEndWhileOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount()
	f, err := os.Create(w.file("new"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("written, and not closed"); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.end()
	if w.mounted() {
		w.must("unmount", "--force", w.mountpoint)
	}
	p = w.mount()
	if got, err := os.ReadFile(w.file("new")); err != nil || string(got) != "written, and not closed" {
		t.Errorf("after the next mount: %q, %v", got, err)
	}
	w.must("unmount", w.mountpoint)
	p.end()
}
