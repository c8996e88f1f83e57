package integration

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/fs/guard"
)

const isolated = "DRIVEFS_TEST_ISOLATED"

// Isolate is for TestMain. As root it runs the test binary again in a mount
// namespace of its own and returns its exit code with again = true: whatever
// happens, even kill -9, no mount is left behind on the machine. In there
// /dev/fuse may be opened by every user, as on most machines, so that tests
// can mount as one. Without root it does nothing.
func Isolate() (code int, again bool) {
	if os.Getuid() != 0 {
		return 0, false
	}
	if os.Getenv(isolated) != "" {
		if err := openFuse(); err != nil {
			fmt.Fprintln(os.Stderr, "making /dev/fuse usable for all:", err)
		}
		return 0, false
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	// go test tells a test that takes too long to dump its stacks.
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, syscall.SIGQUIT, syscall.SIGINT, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "no mount namespace of its own:", err)
		return 0, false
	}
	done := make(chan struct{})
	go func() {
		look := time.NewTicker(time.Second)
		defer look.Stop()
		for {
			select {
			case s := <-sigs:
				_ = cmd.Process.Signal(s)
			case <-look.C:
				release(cmd.Process.Pid)
			case <-done:
				return
			}
		}
	}()
	err = cmd.Wait()
	close(done)
	if err == nil {
		return 0, true
	}
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() > 0 {
		return cmd.ProcessState.ExitCode(), true
	}
	fmt.Fprintln(os.Stderr, err)
	return 1, true
}

// release ends the mounts of a process that has exited but cannot go: a thread
// of it waits for an answer from the filesystem that it served itself.
func release(pid int) {
	if !guard.Dying(pid) {
		return
	}
	infos, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/mountinfo", pid))
	for _, info := range infos {
		b, err := os.ReadFile(info)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); strings.Contains(line, " - fuse.drivefs ") {
				var minor uint32
				if _, err := fmt.Sscanf(f[2], "0:%d", &minor); err == nil {
					_ = guard.Abort(minor)
				}
			}
		}
	}
}

// openFuse puts a device node that all may open over /dev/fuse, in this
// namespace only.
func openFuse() error {
	var st unix.Stat_t
	if err := unix.Stat("/dev/fuse", &st); err != nil || st.Mode&0o666 == 0o666 {
		return err
	}
	dir, err := os.MkdirTemp("", "drivefs-dev")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	node := filepath.Join(dir, "fuse")
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(st.Rdev)); err != nil {
		return err
	}
	if err := os.Chmod(node, 0o666); err != nil {
		return err
	}
	// The bind mount holds the node when its name is removed.
	return unix.Mount(node, "/dev/fuse", "", unix.MS_BIND, "")
}
