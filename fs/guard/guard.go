package guard

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// variable tells a process that it is a guard: descriptor 3 is the abort file,
// 4 the socket whose other end the guarded process holds.
const variable = "_DRIVEFS_GUARD"

// What is said over the socket.
const (
	watching = 'w' // by the guard: it is ready
	ended    = 'e' // to the guard: it is needed no more
)

const (
	startTime = 5 * time.Second // to start this program again
	lookAgain = 50 * time.Millisecond
	lookFor   = 5 * time.Second // after the signal, until the death can be seen
)

// died is the kernel's signal for the end of the thread that started a guard.
// One that is ignored by default: it may come before the guard listens.
const died = unix.SIGWINCH

// Guard is a process that watches this one. Its method is safe for concurrent
// use.
type Guard struct {
	end  chan struct{}
	gone chan struct{} // closed when the guard's process was reaped
}

// Start runs this program again as the guard of the FUSE connection minor: the
// minor number of the mount's device. The program must call Main first thing.
// ErrNoControl when the connection's abort file cannot be reached.
func Start(minor uint32) (*Guard, error) {
	abort, err := openAbort(minor)
	if err != nil {
		return nil, err
	}
	defer abort.Close()
	life, hold, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer life.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"drivefs-guard"}
	cmd.Env = []string{variable + "=1", "GOMAXPROCS=1"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{abort, life}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: died}
	g := &Guard{end: make(chan struct{}), gone: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(g.gone)
		// The signal is for the end of this thread, not of the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer hold.Close()
		err := cmd.Start()
		if err == nil {
			_ = life.Close() // so that the guard's end is the end of the socket
			_ = hold.SetReadDeadline(time.Now().Add(startTime))
			_, err = io.ReadFull(hold, make([]byte, 1))
		}
		started <- err
		if err == nil {
			<-g.end
			_, _ = hold.Write([]byte{ended}) // it may be dead: then there is none to tell
		} else if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting the guard: %w", err)
	}
	return g, nil
}

// End ends the guard and waits until its process is gone. It must be called
// once, when the connection is.
func (g *Guard) End() {
	close(g.end)
	<-g.gone
}

// Main is the first thing main calls. In a process that is a guard it watches,
// and returns true when there is nothing left to watch; main returns then.
func Main() bool {
	if os.Getenv(variable) == "" {
		return false
	}
	// Asked to end by a terminal or a service manager, the guard stays: what it
	// watches decides when it is over.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, died)
	dropFuse()
	life := os.NewFile(4, "life")
	if _, err := life.Write([]byte{watching}); err == nil {
		watch(os.NewFile(3, "abort"), life, deaths)
	}
	return true
}

// dropFuse closes the connection itself, which go-fuse may leave open for
// children: here it would outlive the process that serves it.
func dropFuse() {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, e := range fds {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && to == "/dev/fuse" {
			_ = unix.Close(fd)
		}
	}
}

// socketpair gives two connected sockets that children do not inherit.
func socketpair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "guard"), os.NewFile(uintptr(fds[1]), "guard"), nil
}

// watch aborts when the parent is dead or dying, and returns when it is so or
// needs no guard any more.
func watch(abort io.Writer, life io.Reader, deaths <-chan os.Signal) {
	over := make(chan bool, 1)
	go func() {
		b := make([]byte, 1)
		_, err := io.ReadFull(life, b)
		over <- err == nil && b[0] == ended
	}()
	parent := os.Getppid()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	// Until then it is looked again; from the start, since the signal may have
	// come before anyone listened. A dying process cannot be told from a living
	// one for a moment.
	until := time.Now().Add(lookFor)
	for !Dying(parent) {
		if time.Now().After(until) {
			look.Stop()
		}
		select {
		case well := <-over:
			if well {
				return
			}
		case <-deaths:
			until = time.Now().Add(lookFor)
			look.Reset(lookAgain)
			continue
		case <-look.C:
			continue
		}
		break // the parent is gone whole
	}
	_, _ = abort.Write([]byte("1"))
}

// ErrNoControl: the abort files of FUSE connections (fusectl, as a rule at
// /sys/fs/fuse/connections) are not to be had.
var ErrNoControl = errors.New("the control files of FUSE are not mounted: mount -t fusectl none /sys/fs/fuse/connections")

// Available returns nil when a guard can do its work, else ErrNoControl.
func Available() error {
	if mountedControl() {
		return nil
	}
	fd, err := control()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// Abort ends the FUSE connection minor (the minor number of its device), which
// must be mounted as long as the call lasts: every call that waits in it ends
// with an error, and its process can end. Only its owner and root may.
func Abort(minor uint32) error {
	f, err := openAbort(minor)
	if err != nil {
		return err
	}
	_, err = f.WriteString("1")
	return errors.Join(err, f.Close())
}

const (
	connections  = "/sys/fs/fuse/connections"
	controlMagic = 0x65735543 // statfs(2) of fusectl
)

// mountedControl tells whether fusectl is where it belongs.
func mountedControl() bool {
	var st unix.Statfs_t
	return unix.Statfs(connections, &st) == nil && st.Type == controlMagic
}

func openAbort(minor uint32) (*os.File, error) {
	name := fmt.Sprintf("%d/abort", minor)
	if mountedControl() {
		return os.OpenFile(connections+"/"+name, os.O_WRONLY, 0)
	}
	root, err := control()
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat(root, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "fusectl " + name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// control is fusectl without a place in the tree of paths, as root may have it.
func control() (fd int, err error) {
	fs, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err == nil {
		defer unix.Close(fs)
		if err = unix.FsconfigCreate(fs); err == nil {
			fd, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("%w (%w)", ErrNoControl, err)
	}
	return fd, nil
}
