package integration

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// verbBound is how long a verb that waits for the mount may take on the busiest machine.
const verbBound = 2 * time.Minute

// process is the program with a mount, as a user runs it.
type process struct {
	testing.TB
	dir     string // mountpoint
	runtime string // XDG_RUNTIME_DIR
	log     lockedBuffer

	cmd  *exec.Cmd // nil while it does not run
	done chan error
}

func (p *process) running() bool { return p.cmd != nil }

func (p *process) env() []string {
	return append(os.Environ(), "XDG_RUNTIME_DIR="+p.runtime, "NO_COLOR=1")
}

// launch runs a verb that mounts, and waits for the line that says so.
func (p *process) launch(args ...string) {
	p.Helper()
	cmd := exec.Command(program(p), args...)
	cmd.Env = p.env()
	cmd.Stderr = &p.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	p.cmd, p.done = cmd, make(chan error, 1)
	said := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		said <- line
		_, _ = io.Copy(&p.log, r)
	}()
	go func() {
		<-read
		p.done <- cmd.Wait()
	}()
	select {
	case line := <-said:
		if !strings.HasPrefix(line, "mounted ") {
			p.Fatalf("mount said %q\n%s", line, p.log.String())
		}
	case <-time.After(verbBound):
		_ = cmd.Process.Kill()
		p.Fatal("mount did not answer for ", verbBound, "\n", p.log.String())
	}
}

// verb runs another verb of the program and returns what it printed.
func (p *process) verb(args ...string) (string, int) {
	p.Helper()
	cmd := exec.Command(program(p), args...)
	cmd.Env = p.env()
	out, err := cmd.CombinedOutput()
	code := 0
	if err != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return string(out), code
}

func (p *process) must(args ...string) string {
	p.Helper()
	out, code := p.verb(args...)
	if code != 0 {
		p.Fatalf("%v: exit %d: %s\n%s", args, code, out, tail(p.log.String(), 4000))
	}
	return out
}

// unmount ends the mount the ordinary way.
func (p *process) unmount() {
	p.Helper()
	p.must("unmount", p.dir)
	select {
	case err := <-p.done:
		if err != nil {
			p.Errorf("mount ended with %v\n%s", err, tail(p.log.String(), 4000))
		}
	case <-time.After(verbBound):
		_ = p.cmd.Process.Kill()
		p.Error("mount did not end within ", verbBound, " of unmount")
		<-p.done
	}
	p.cmd = nil
}

// kill ends the mount as a crash would.
func (p *process) kill() {
	p.Helper()
	_ = p.cmd.Process.Kill()
	<-p.done
	p.cmd = nil
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}
