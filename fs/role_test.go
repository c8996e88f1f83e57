package fs_test

import (
	"bufio"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Some tests need another process at the mount: one that can be killed, that
// has a working directory, or timers. It is this binary again, in a role.

const roleVar = "DRIVEFS_TEST_ROLE"

// play does what the role says. It prints "ready" when it is where the test
// wants it, and its results as lines.
func play(role string) int {
	verb, arg, _ := strings.Cut(role, " ")
	var err error
	switch verb {
	case "write-and-wait":
		err = writeAndWait(arg)
	case "read-with-alarms":
		err = readWithAlarms(arg)
	case "read-with-term":
		err = readWithTerm(arg)
	case "read":
		err = readDirect(arg)
	case "cwd":
		err = inCwd(arg)
	case "stat-with-alarms":
		err = statWithAlarms(arg)
	case "stat-with-int":
		err = statWithInt(arg)
	case "map-ro":
		err = mapping(arg, os.O_RDONLY, unix.PROT_READ)
	case "map-rw":
		err = mapping(arg, os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE)
	default:
		err = fmt.Errorf("no such role: %s", verb)
	}
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

// writeAndWait writes, keeps the file open, and waits to be killed.
func writeAndWait(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := f.WriteString("written before the kill"); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	f.Close()
	return err
}

// alarms has SIGALRM come every 20 ms, and handles it.
func alarms() error {
	caught(syscall.SIGALRM)
	every := unix.Itimerval{
		Interval: unix.Timeval{Usec: 20_000},
		Value:    unix.Timeval{Usec: 20_000},
	}
	_, _, e := syscall.RawSyscall(syscall.SYS_SETITIMER, uintptr(unix.ITIMER_REAL), uintptr(unsafe.Pointer(&every)), 0)
	if e != 0 {
		return e
	}
	return nil
}

// caught makes s harmless.
func caught(s os.Signal) { signal.Notify(make(chan os.Signal, 1), s) }

// statOnce is one lstat(2), without anybody repeating an EINTR.
func statOnce(path string) error {
	runtime.LockOSThread()
	fmt.Println("ready", unix.Gettid())
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	return nil
}

// readOnce reads with O_DIRECT, which a signal can interrupt, and without
// anybody repeating an EINTR.
func readOnce(path string) (n int, err error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_DIRECT|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open: %w", err)
	}
	defer syscall.Close(fd)
	// A signal for the process goes to any thread; the test wants this one.
	runtime.LockOSThread()
	fmt.Println("ready", unix.Gettid())
	n, err = syscall.Read(fd, make([]byte, 4096))
	if err != nil {
		return n, fmt.Errorf("read: %w", err)
	}
	return n, nil
}

func readWithAlarms(path string) error {
	if err := alarms(); err != nil {
		return err
	}
	n, err := readOnce(path)
	fmt.Println("read", n)
	return err
}

func readWithTerm(path string) error {
	caught(syscall.SIGTERM)
	_, err := readOnce(path)
	if !errors.Is(err, syscall.EINTR) {
		return fmt.Errorf("not interrupted: %v", err)
	}
	fmt.Println("interrupted")
	return nil
}

func readDirect(path string) error {
	_, err := readOnce(path)
	return err
}

// inCwd works in a directory that is moved under it.
func inCwd(path string) error {
	if err := os.Chdir(path); err != nil {
		return err
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), " ")
		switch verb {
		case "where":
			// Not os.Getwd, which believes $PWD.
			wd, err := syscall.Getcwd(cwdBuf[:])
			if err != nil {
				return err
			}
			fmt.Println(string(cwdBuf[:wd-1]))
		case "read":
			b, err := os.ReadFile(arg)
			if err != nil {
				return err
			}
			fmt.Println(string(b))
		case "write":
			if err := os.WriteFile(arg, []byte("from inside"), 0o644); err != nil {
				return err
			}
			fmt.Println("written")
		}
	}
	return in.Err()
}

var cwdBuf [4096]byte

// mapping maps a whole file and does what it is told with it. A mapping cannot
// be in the process that serves the mount: munmap holds the lock of the address
// space while the kernel waits for the page to be written, and the server may
// need that lock to answer.
func mapping(path string, flags, prot int) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), prot, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var off, n int
		var text string
		verb, arg, _ := strings.Cut(in.Text(), " ")
		switch verb {
		case "load":
			if _, err := fmt.Sscan(arg, &off, &n); err != nil {
				return err
			}
			text = string(m[off : off+n])
		case "sum":
			text = fmt.Sprintf("%x", md5.Sum(m))
		case "store":
			if _, err := fmt.Sscan(arg, &off, &text); err != nil {
				return err
			}
			copy(m[off:], text)
		case "msync":
			err = unix.Msync(m, unix.MS_SYNC)
		case "close":
			err = f.Close()
		case "unmap":
			err = unix.Munmap(m)
		}
		if err != nil {
			return err
		}
		fmt.Println("done", text)
	}
	return in.Err()
}

// mapped is a file mapped by another process.
func mapped(t *testing.T, how, path string) *actor {
	t.Helper()
	a := act(t, how, path)
	a.expect("ready")
	return a
}

// do tells the process that has the mapping what to do with it.
func (a *actor) do(format string, args ...any) string {
	a.t.Helper()
	line := a.ask(fmt.Sprintf(format, args...))
	got, ok := strings.CutPrefix(line, "done ")
	if !ok {
		a.t.Fatalf("%s: the other process says %q", fmt.Sprintf(format, args...), line)
	}
	return got
}

// actor is a process in a role.
type actor struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func act(t *testing.T, role ...string) *actor {
	t.Helper()
	a := &actor{t: t, cmd: exec.Command("/proc/self/exe")}
	a.cmd.Env = append(os.Environ(), roleVar+"="+strings.Join(role, " "))
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.out = bufio.NewScanner(out)
	a.cmd.Stderr = os.Stderr
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if a.cmd.ProcessState == nil {
			a.cmd.Process.Kill()
			a.cmd.Wait()
		}
	})
	return a
}

// line is the next line it prints.
func (a *actor) line() string {
	a.t.Helper()
	if !a.out.Scan() {
		a.t.Fatalf("the other process ended: %v", a.out.Err())
	}
	return a.out.Text()
}

// ask sends a line and gives the answer.
func (a *actor) ask(line string) string {
	a.t.Helper()
	if _, err := fmt.Fprintln(a.in, line); err != nil {
		a.t.Fatal(err)
	}
	return a.line()
}

func (a *actor) expect(want string) {
	a.t.Helper()
	if got := a.line(); got != want {
		a.t.Fatalf("the other process says %q, want %q", got, want)
	}
}

// thread is the thread that waits, from its line "ready TID".
func (a *actor) thread() int {
	a.t.Helper()
	var tid int
	if line := a.line(); line != "" {
		if _, err := fmt.Sscanf(line, "ready %d", &tid); err != nil {
			a.t.Fatalf("the other process says %q", line)
		}
	}
	return tid
}

// wait returns its end and how long that took.
func (a *actor) wait() (took time.Duration, err error) {
	start := time.Now()
	a.in.Close()
	err = a.cmd.Wait()
	return time.Since(start), err
}
