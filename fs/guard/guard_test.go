package guard

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
)

// serveVar makes this binary a filesystem on the directory it names: each mkdir
// hangs, and the kernel is told of a name in the folder meanwhile.
const serveVar = "GUARD_TEST_SERVE"

func TestMain(m *testing.M) {
	if Main() {
		return
	}
	if at := os.Getenv(serveVar); at != "" {
		if err := serve(at, os.Getenv("GUARD_TEST_UNGUARDED") == ""); err != nil {
			fmt.Println(err)
		}
		return
	}
	os.Exit(m.Run())
}

type hanging struct{ fusefs.Inode }

func (h *hanging) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	go func() {
		fmt.Println("telling")
		h.NotifyEntry("x") // waits for the lock of the folder
	}()
	select {}
}

func serve(at string, guarded bool) error {
	s, err := fusefs.Mount(at, &hanging{}, &fusefs.Options{MountOptions: fuse.MountOptions{
		FsName: "guarded", Name: "drivefs", DirectMount: true}})
	if err != nil {
		return err
	}
	if guarded {
		g, err := Start(minorOf(at))
		if err != nil {
			return err
		}
		defer g.End()
	}
	fmt.Println("ready")
	s.Wait()
	return nil
}

// minorOf is the minor number of the device mounted at.
func minorOf(at string) (minor uint32) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == at {
			fmt.Sscanf(f[2], "0:%d", &minor)
		}
	}
	return minor
}

// served is a mount by a process of its own, whose output is read line by line.
func served(t *testing.T, env ...string) (at string, cmd *exec.Cmd, line func() string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, or fusectl")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse here")
	}
	at = filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, serveVar+"="+at)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	in := bufio.NewScanner(out)
	line = func() string {
		in.Scan()
		return in.Text()
	}
	if got := line(); got != "ready" {
		t.Fatal(got)
	}
	return at, cmd, line
}

// children are the processes that pid started.
func children(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for f := range strings.FieldsSeq(string(b)) {
			var pid int
			fmt.Sscan(f, &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// killWhileTelling kills the server while a mkdir is unanswered and the kernel
// is told of a name in the same folder.
func killWhileTelling(t *testing.T, at string, cmd *exec.Cmd, line func() string) (caller, process chan error) {
	caller, process = make(chan error, 1), make(chan error, 1)
	go func() { caller <- unix.Mkdir(at+"/d", 0o755) }()
	if got := line(); got != "telling" {
		t.Fatal(got)
	}
	// From the line to the kernel's lock it is some microseconds.
	<-time.After(100 * time.Millisecond)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	go func() { process <- cmd.Wait() }()
	return caller, process
}

// TestKilledWhileTelling: no caller, and no process, hangs after a kill -9.
func TestKilledWhileTelling(t *testing.T) {
	at, cmd, line := served(t)
	watching := children(cmd.Process.Pid)
	if len(watching) != 1 {
		t.Fatalf("%d guards", len(watching))
	}
	caller, process := killWhileTelling(t, at, cmd, line)
	for _, w := range []struct {
		what string
		done chan error
	}{{"the caller", caller}, {"the process", process}} {
		select {
		case err := <-w.done:
			if err == nil {
				t.Errorf("%s ended well", w.what)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s hangs", w.what)
			_ = Abort(minorOf(at)) // or the test would not end
		}
	}
	gone(t, watching[0])
}

// TestGuardDiedToo: whoever comes next sees that the process cannot go, and can
// end the connection.
func TestGuardDiedToo(t *testing.T) {
	at, cmd, line := served(t, "GUARD_TEST_UNGUARDED=1")
	minor := minorOf(at)
	if Dying(cmd.Process.Pid) {
		t.Error("a process that lives is taken for dying")
	}
	caller, process := killWhileTelling(t, at, cmd, line)
	select {
	case <-process:
		t.Skip("this kernel has no such hang")
	case <-time.After(300 * time.Millisecond):
	}
	if !Dying(cmd.Process.Pid) {
		t.Error("a killed process that cannot go is not taken for dying")
	}
	if err := Abort(minor); err != nil {
		t.Fatal(err)
	}
	if err := <-caller; !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("the caller was told %v", err)
	}
	<-process
	if !Dying(cmd.Process.Pid) {
		t.Error("a process that is gone")
	}
}

// TestGuardEnds: with the mount, and not by what ends a terminal's programs.
func TestGuardEnds(t *testing.T) {
	at, cmd, _ := served(t)
	watching := children(cmd.Process.Pid)
	if len(watching) != 1 {
		t.Fatalf("%d guards", len(watching))
	}
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, died} {
		if err := syscall.Kill(watching[0], s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(at); err != nil {
		t.Errorf("a signal to the guard: %v", err)
	}
	for fd, want := range map[string]string{"0": "/dev/null", "1": "/dev/null", "2": "/dev/null"} {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", watching[0], fd)); err != nil || to != want {
			t.Errorf("the guard holds %s as %s, %v", to, fd, err)
		}
	}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", watching[0]))
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "/dev/fuse") {
			t.Errorf("the guard holds the connection: %s", to)
		}
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	gone(t, watching[0])
}

func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !Dying(pid); {
		if time.Now().After(end) {
			t.Error("the guard lives on")
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestDying(t *testing.T) {
	for _, c := range []struct {
		name, status string
		want         bool
	}{
		{"sleeping", "Name:\tx\nState:\tS (sleeping)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n", false},
		{"stopped", "State:\tT (stopped)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n", false},
		{"asked to end", "State:\tS (sleeping)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n", false},
		{"first thread gone", "State:\tZ (zombie)\nSigPnd:\t0000000000000000\n", true},
		{"first thread stuck", "State:\tD (disk sleep)\nSigPnd:\t0000000000000100\nShdPnd:\t0\n", true},
		{"killed as a whole", "State:\tD (disk sleep)\nSigPnd:\t0\nShdPnd:\t0000000000000100\n", true},
	} {
		if got := dying([]byte(c.status)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if Dying(os.Getpid()) {
		t.Error("this process")
	}
}
