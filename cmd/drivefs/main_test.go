package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mountd"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/fs/guard"
	"github.com/drivefs/drivefs/integration"
)

// asProgram makes the test binary the program: the one under test is the one
// that was built with -race, when the tests were.
const asProgram = "_TEST_AS_DRIVEFS"

func TestMain(m *testing.M) {
	if guard.Main() {
		return
	}
	if at := os.Getenv(asHanging); at != "" {
		os.Exit(hang(at, os.Getenv("HOME")))
	}
	if os.Getenv(asProgram) != "" {
		mountd.FirstMount = 3 * time.Second
		if d, err := time.ParseDuration(os.Getenv(commitAfter)); err == nil {
			mountd.CommitAfter = d
		}
		if path := os.Getenv(asleepFile); path != "" {
			mountd.Asleep = asleepByFile(path)
		}
		main()
	}
	if code, again := integration.Isolate(); again {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// limit is how long anything may take before a test gives up on it.
const limit = 4 * time.Minute

// world is a home directory, a drive, and a place to mount it.
type world struct {
	t          *testing.T
	home       string
	drive      *drivetest.Server
	mountpoint string
	env        []string // added to the environment
}

func newWorld(t *testing.T, o drivetest.Options) *world {
	t.Helper()
	home, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, home: home, mountpoint: filepath.Join(home, "Drive")}
	if err := os.Mkdir(w.mountpoint, 0o700); err != nil {
		t.Fatal(err)
	}
	w.configure()
	w.drive, err = drivetest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.drive.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := w.drive.WriteToken(w.token()); err != nil {
		t.Fatal(err)
	}
	w.env = []string{"DRIVEFS_ENDPOINT=" + w.drive.Endpoint(), "DRIVEFS_TOKEN_FILE=" + w.token(), "DRIVEFS_CACHE_MEMORY=64MiB", "DRIVEFS_UPLOAD_DELAY=50ms"}
	// What a failed test leaves mounted must not stay.
	t.Cleanup(func() {
		all, err := mounts.Ours()
		if err != nil {
			t.Error(err)
		}
		for _, m := range all {
			if mounts.Below(m.Mountpoint, home) {
				t.Errorf("%s is still mounted", m.Mountpoint)
				_ = mounts.Detach(m.Mountpoint)
			}
		}
		states, err := filepath.Glob(filepath.Join(home, ".local/state/drivefs/*"))
		if err != nil {
			t.Error(err)
		}
		for _, dir := range states {
			if h, held := lock.Find(dir); held && h.PID > 1 {
				t.Errorf("process %d still has %s", h.PID, dir)
				_ = syscall.Kill(h.PID, syscall.SIGKILL)
			}
		}
	})
	return w
}

// configure writes a configuration as somebody has it who has used drivefs with
// Amazon for a while: every key is there, and those of the account are not this
// drive's.
func (w *world) configure() {
	w.t.Helper()
	var b strings.Builder
	for _, table := range []string{"default", "work"} {
		fmt.Fprintf(&b, "[%s]\nclient-id = \"amzn1.application-oa2-client.of-amazon\"\nclient-secret = \"amazon-only-secret\"\n", table)
		for _, s := range config.Settings {
			if s.Name == "profile" || s.Group&config.Serve != 0 || s.Default == "" {
				continue
			}
			fmt.Fprintf(&b, "%s = %q\n", s.Name, s.Default)
		}
	}
	put(w.t, filepath.Join(w.home, ".config/drivefs/config.toml"), b.String())
}

func (w *world) token() string { return filepath.Join(w.home, "token.json") }

func (w *world) file(name string) string { return filepath.Join(w.mountpoint, name) }

func (w *world) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	w.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Args = append([]string{"drivefs"}, args...)
	cmd.Env = append([]string{asProgram + "=1", "HOME=" + w.home, "PATH=" + os.Getenv("PATH")}, w.env...)
	cmd.Dir = w.home
	return cmd
}

// run runs the program to its end.
func (w *world) run(args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	return w.finish(w.command(args...))
}

func (w *world) finish(cmd *exec.Cmd) (stdout, stderr string, code int) {
	w.t.Helper()
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	switch err := cmd.Run(); {
	case err == nil:
	case errors.As(err, new(*exec.ExitError)):
		code = cmd.ProcessState.ExitCode()
	default:
		w.t.Fatal(err)
	}
	return out.String(), err.String(), code
}

// must runs the program and expects it to succeed.
func (w *world) must(args ...string) string {
	w.t.Helper()
	out, err, code := w.run(args...)
	if code != 0 {
		w.t.Fatalf("drivefs %s: exit code %d: %s", strings.Join(args, " "), code, err)
	}
	return out
}

// process is a drivefs that runs until it is told to end.
type process struct {
	w      *world
	cmd    *exec.Cmd
	lines  chan string // of stdout
	mu     sync.Mutex
	errs   bytes.Buffer // guarded by mu
	exited chan struct{}
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errs.Write(b)
}

func (p *process) stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errs.String()
}

func (w *world) start(args ...string) *process {
	w.t.Helper()
	return w.startWith(nil, args...)
}

func (w *world) startWith(stdin io.Reader, args ...string) *process {
	w.t.Helper()
	p := &process{w: w, cmd: w.command(args...), lines: make(chan string, 100), exited: make(chan struct{})}
	p.cmd.Stdin = stdin
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			select {
			case p.lines <- lines.Text():
			default: // a test that does not read has seen enough
			}
		}
		_ = p.cmd.Wait() // the exit code is asked for by end
	}()
	w.t.Cleanup(func() {
		select {
		case <-p.exited:
		default:
			_ = p.cmd.Process.Kill()
			<-p.exited
			_ = mounts.Detach(w.mountpoint)
		}
	})
	return p
}

// line is the next line of stdout.
func (p *process) line() string {
	p.w.t.Helper()
	select {
	case l := <-p.lines:
		return l
	case <-p.exited:
		select {
		case l := <-p.lines:
			return l
		default:
		}
		p.w.t.Fatalf("it ended: %s", p.stderr())
	case <-time.After(limit):
		p.w.t.Fatalf("no line on stdout: %s", p.stderr())
	}
	return ""
}

func (p *process) signal(s syscall.Signal) {
	p.w.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.w.t.Fatal(err)
	}
}

// end waits for the exit code.
func (p *process) end() int {
	p.w.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(limit):
		p.w.t.Fatalf("it does not end: %s", p.stderr())
	}
	return p.cmd.ProcessState.ExitCode()
}

// mount mounts in the foreground and waits until the mount answers.
func (w *world) mount(args ...string) *process {
	w.t.Helper()
	needFuse(w.t)
	p := w.start(append(append([]string{"mount"}, args...), w.mountpoint)...)
	if got, want := p.line(), " on "+w.mountpoint; !strings.HasPrefix(got, "mounted ") || !strings.HasSuffix(got, want) {
		w.t.Fatalf("first line %q, want mounted …%s", got, want)
	}
	return p
}

func (w *world) status(args ...string) control.Status {
	w.t.Helper()
	if len(args) == 0 {
		args = []string{w.mountpoint}
	}
	var s control.Status
	if err := json.Unmarshal([]byte(w.must(append([]string{"status", "--json"}, args...)...)), &s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// eventually waits for a condition that the program brings about by itself.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); !ok(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func (w *world) mounted() bool {
	w.t.Helper()
	_, ok, err := mounts.At(w.mountpoint)
	if err != nil {
		w.t.Fatal(err)
	}
	return ok
}

func needFuse(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this machine cannot mount: %v", err)
	}
	f.Close()
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.file(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// onDrive is a file's content as the service has it, "" when it has none.
func (w *world) onDrive(path string) string {
	b, err := w.drive.Else().ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// oneLine expects an error to be one line that holds all parts, and no secret.
func oneLine(t *testing.T, stderr string, parts ...string) {
	t.Helper()
	if !strings.HasPrefix(stderr, "drivefs: ") || strings.Count(stderr, "\n") != 1 || !strings.HasSuffix(stderr, "\n") {
		t.Errorf("not one line: %q", stderr)
	}
	for _, p := range parts {
		if !strings.Contains(stderr, p) {
			t.Errorf("%q does not say %q", stderr, p)
		}
	}
	for _, secret := range []string{"Atza|", "Atzr|", "goroutine "} {
		if strings.Contains(stderr, secret) {
			t.Errorf("%q tells %q", stderr, secret)
		}
	}
}

var _ io.Writer = (*process)(nil)
