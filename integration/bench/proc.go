package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a process may take to start, or to end when asked.
const patience = 60 * time.Second

// procs are the processes of a run. Methods may be called from any goroutine.
type procs struct {
	mu  sync.Mutex
	all []*proc // guarded by mu
}

// proc is one process, and what it prints.
type proc struct {
	cmd  *exec.Cmd
	mnt  string // its mountpoint, "" = none
	done chan struct{}
	err  error // of Wait; may be read when done is closed

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu; the beginning of all but the first line
}

const mostLog = 1 << 20

// Write keeps what the process prints.
func (p *proc) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log.Len() < mostLog {
		p.log.Write(b)
	}
	return len(b), nil
}

// said is what the process printed, for messages.
func (p *proc) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := strings.TrimSpace(p.log.String())
	if len(s) > 2000 {
		s = "…" + s[len(s)-2000:]
	}
	return s
}

// spawn starts a process that dies with this one. Its output goes to said,
// and to first, the first line of stdout.
func (b *bench) spawn(env []string, args ...string) (p *proc, first <-chan string, err error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p = &proc{cmd: cmd, done: make(chan struct{})}
	cmd.Stderr = p
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	b.procs.mu.Lock()
	b.procs.all = append(b.procs.all, p)
	b.procs.mu.Unlock()
	line := make(chan string, 1)
	go func() {
		defer close(p.done)
		r := bufio.NewReader(out)
		s, _ := r.ReadString('\n')
		line <- s
		_, _ = io.Copy(p, r)
		p.err = cmd.Wait()
	}()
	return p, line, nil
}

// start starts a process and waits for the first line it prints.
func (b *bench) start(env []string, args ...string) (*proc, string, error) {
	p, first, err := b.spawn(env, args...)
	if err != nil {
		return nil, "", err
	}
	select {
	case line := <-first:
		if line == "" {
			<-p.done
			return nil, "", fmt.Errorf("%s ended: %v: %s", args[0], p.err, p.said())
		}
		return p, line, nil
	case <-time.After(patience):
		p.kill()
		return nil, "", fmt.Errorf("%s said nothing for %v: %s", args[0], patience, p.said())
	}
}

func (p *proc) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends the process at once, and its mount.
func (p *proc) kill() {
	if p.alive() {
		_ = p.cmd.Process.Kill()
	}
	p.detach()
}

func (p *proc) detach() {
	if p.mnt == "" || !mountedAt(p.mnt) {
		return
	}
	if err := unix.Unmount(p.mnt, unix.MNT_DETACH); err != nil {
		_ = exec.Command("fusermount3", "-uz", p.mnt).Run()
	}
}

// end asks the process to end, and makes it.
func (p *proc) end() {
	if p.alive() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(3 * time.Second):
		}
	}
	p.kill()
	<-p.done
}

// killAll ends all at once. Who waits for one of them goes on with an error.
func (ps *procs) killAll() {
	for _, p := range ps.copy() {
		p.kill()
	}
}

// endAll ends all, the last one first: mounts before their drive.
func (ps *procs) endAll() {
	all := ps.copy()
	slices.Reverse(all)
	for _, p := range all {
		if p.mnt != "" {
			p.kill() // what is pending is of no use to anybody
		}
		p.end()
	}
	ps.mu.Lock()
	ps.all = nil
	ps.mu.Unlock()
}

func (ps *procs) copy() []*proc {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return slices.Clone(ps.all)
}

// mountedAt tells whether something is mounted on path, without asking it.
func mountedAt(path string) bool {
	for line := range strings.Lines(slurp("/proc/self/mountinfo")) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == path {
			return true
		}
	}
	return false
}

// field is a number of a /proc file of "Name: number unit" lines.
func field(text, name string) (int64, bool) {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && k == name {
			f := strings.Fields(v)
			if len(f) == 0 {
				return 0, false
			}
			n, err := strconv.ParseInt(f[0], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// anonymous is RssAnon + RssShmem of the process in bytes.
func (p *proc) anonymous() int64 {
	text := slurp(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	anon, _ := field(text, "RssAnon")
	shm, _ := field(text, "RssShmem")
	return (anon + shm) << 10
}

// cpu is the processor time the process has used.
func (p *proc) cpu() time.Duration {
	d, _ := cpuOf(slurp(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid)))
	return d
}

var errStat = errors.New("not the line of /proc/PID/stat")

// cpuOf reads utime and stime, which proc(5) counts in hundredths of a second
// on every architecture Go has.
func cpuOf(stat string) (time.Duration, error) {
	i := strings.LastIndexByte(stat, ')') // the name may hold anything
	f := strings.Fields(stat[i+1:])
	if i < 0 || len(f) < 13 {
		return 0, errStat
	}
	u, err1 := strconv.ParseInt(f[11], 10, 64)
	s, err2 := strconv.ParseInt(f[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, errStat
	}
	return time.Duration(u+s) * 10 * time.Millisecond, nil
}

// peak watches the anonymous memory of p until stop is called, which returns
// the highest seen.
func (p *proc) peak() (stop func() int64) {
	end, done := make(chan struct{}), make(chan struct{})
	most := p.anonymous()
	go func() {
		defer close(done)
		look := time.NewTicker(20 * time.Millisecond)
		defer look.Stop()
		for {
			select {
			case <-end:
				return
			case <-look.C:
				most = max(most, p.anonymous())
			}
		}
	}()
	return func() int64 {
		close(end)
		<-done
		return max(most, p.anonymous())
	}
}
