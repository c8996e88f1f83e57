package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// front is a way to the drive that can be closed: connections are refused.
type front struct {
	testing.TB
	addr    string
	handler http.Handler
	srv     *http.Server
}

func newFront(t testing.TB) (*front, *drivetest.Server) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{TB: t, addr: ln.Addr().String()}
	srv := drivetest.New(t, drivetest.Options{BaseURL: "http://" + f.addr})
	f.handler = srv.Handler()
	f.serve(ln)
	t.Cleanup(f.down)
	return f, srv
}

func (f *front) serve(ln net.Listener) {
	srv := &http.Server{Handler: f.handler}
	f.srv = srv
	go func() { _ = srv.Serve(ln) }()
}

func (f *front) down() { _ = f.srv.Close() }

func (f *front) up() {
	f.Helper()
	ln, err := net.Listen("tcp", f.addr)
	if err != nil {
		f.Fatal(err)
	}
	f.serve(ln)
}

// within fails when fn takes longer than limit.
func within(t testing.TB, what string, limit time.Duration, fn func() error) {
	t.Helper()
	begin := time.Now()
	err := fn()
	if d := time.Since(begin); d > atMost(limit) {
		t.Errorf("%s took %v", what, d)
	}
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// atMost is a bound with room for a busy machine: a test says that something
// does not wait for ever, and a soak, which has the machine to itself, how long.
func atMost(bound time.Duration) time.Duration {
	if soak() {
		return bound
	}
	return 5 * bound
}

const (
	callBound = 2500 * time.Millisecond // about a second for names
	readBound = 20 * time.Second        // 15 s without a byte, and what comes around it
)

// TestTroubles takes the drive away in all the ways it goes. Meanwhile names
// are answered, what was read is read again, what is written queues, nothing
// waits for ever; afterwards it heals by itself.
func TestTroubles(t *testing.T) {
	all := func(f drivetest.Fault) drivetest.Faults {
		return drivetest.Faults{Rules: []drivetest.Rule{{Fault: f}}}
	}
	for _, tt := range []struct {
		name   string
		faults drivetest.Faults
		begin  func(p *proc, f *front)
		end    func(p *proc, f *front)
		reads  bool // what was never read can be read
		often  bool // runs without DRIVEFS_SOAK, too
	}{
		{name: "refused", often: true, begin: func(_ *proc, f *front) { f.down() }, end: func(_ *proc, f *front) { f.up() }},
		{name: "503", faults: all(drivetest.Fault{Status: 503})},
		{name: "html", faults: all(drivetest.Fault{Status: 502, Body: "html"})},
		{name: "stalled", faults: all(drivetest.Fault{Delay: 25 * time.Second})},
		{name: "stalled contents", faults: drivetest.Faults{Rules: []drivetest.Rule{
			{Op: "content.*", Fault: drivetest.Fault{Do: drivetest.DoStall, Stall: 20 * time.Second}}}}},
		{name: "throttled", faults: all(drivetest.Fault{Status: 429, RetryAfter: 60})},
		{name: "token expired", often: true, begin: func(p *proc, _ *front) { p.srv.ExpireTokens() }, reads: true},
		{name: "token revoked",
			begin: func(p *proc, _ *front) { p.srv.RevokeRefresh(); p.srv.ExpireTokens() },
			end: func(p *proc, _ *front) {
				if err := p.srv.WriteToken(p.token); err != nil {
					p.Fatal(err)
				}
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !tt.often && !soak() || testing.Short() {
				t.Skip("takes long: see DRIVEFS_SOAK")
			}
			t.Parallel()
			f, srv := newFront(t)
			big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
			for name, content := range map[string][]byte{"d/read": []byte("was read"), "d/unread": big, "d/unread2": big, "d/e/f": []byte("f")} {
				if _, err := srv.Else().PutPath(name, content); err != nil {
					t.Fatal(err)
				}
			}
			p := newProc(t, srv, "--endpoint", "http://"+f.addr+"/drive/v1/", "--upload-delay", "50ms")
			p.refresh()
			p.sh("cat d/read >/dev/null")
			if tt.begin != nil {
				tt.begin(p, f)
			}
			p.srv.SetFaults(tt.faults)

			var reading sync.WaitGroup
			reading.Go(func() {
				begin := time.Now()
				got, err := os.ReadFile(p.path("d/unread"))
				if d := time.Since(begin); d > atMost(readBound) {
					t.Errorf("reading took %v", d)
				}
				if (err == nil) != tt.reads || err == nil && !bytes.Equal(got, big) {
					t.Errorf("reading what was never read: %v, %d bytes", err, len(got))
				}
			})
			within(t, "stat", callBound, func() error { _, err := os.Stat(p.path("d/e/f")); return err })
			within(t, "list", callBound, func() error { _, err := os.ReadDir(p.path("d/e")); return err })
			within(t, "mkdir", callBound, func() error { return os.Mkdir(p.path("made"), 0o755) })
			within(t, "rename", callBound, func() error { return os.Rename(p.path("d/e/f"), p.path("d/e/g")) })
			within(t, "write", callBound, func() error { return os.WriteFile(p.path("written"), []byte("written meanwhile"), 0o644) })
			within(t, "chmod", callBound, func() error { return os.Chmod(p.path("d/read"), 0o600) })
			within(t, "statfs", callBound, func() error { return unix.Statfs(p.dir, &unix.Statfs_t{}) })
			within(t, "reading what was read", callBound, func() error {
				got, err := os.ReadFile(p.path("d/read"))
				if err == nil && string(got) != "was read" {
					err = fmt.Errorf("got %q", got)
				}
				return err
			})
			within(t, "unlink", callBound, func() error { return os.Remove(p.path("d/read")) })
			if !tt.reads {
				interrupted(t, p.path("d/unread2"))
			}
			within(t, "status", 10*time.Second, func() error {
				if out, code := p.verb("status", p.dir); code != 0 && code != 4 || out == "" {
					return fmt.Errorf("exit %d: %s", code, out)
				}
				return nil
			})
			reading.Wait()

			p.srv.SetFaults(drivetest.Faults{})
			if tt.end != nil {
				tt.end(p, f)
			}
			within(t, "healing", time.Minute, func() error {
				for end := time.Now().Add(atMost(time.Minute)); ; {
					out, code := p.verb("flush", p.dir)
					if code == 0 || time.Now().After(end) {
						return errIf(code != 0, out)
					}
					<-time.After(time.Second)
				}
			})
			p.refresh()
			same(t, "drive", holds(p.other), map[string]thing{
				"d": {folder: true}, "d/e": {folder: true}, "made": {folder: true}, "d/e/g": fileOf([]byte("f")),
				"d/unread": fileOf(big), "d/unread2": fileOf(big), "written": fileOf([]byte("written meanwhile")),
			})
			if got, err := os.ReadFile(p.path("d/unread2")); err != nil || !bytes.Equal(got, big) {
				t.Errorf("reading afterwards: %v, %d bytes", err, len(got))
			}
		})
	}
}

func errIf(bad bool, what string) error {
	if bad {
		return errors.New(what)
	}
	return nil
}

// interrupted fails unless Ctrl-C ends a cat that waits for the drive at once.
func interrupted(t testing.TB, file string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.(*testing.T).Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "cat", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-time.After(300 * time.Millisecond)
	begin := time.Now()
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait()
	if d := time.Since(begin); d > atMost(time.Second) {
		t.Errorf("Ctrl-C took %v to end cat", d)
	}
}

// TestThrottledSometimes works through a storm of 429s and 5xx.
func TestThrottledSometimes(t *testing.T) {
	srv := drivetest.New(t)
	p := newProc(t, srv, "--upload-delay", "10ms")
	srv.SetFaults(drivetest.Faults{Seed: seed(t), Rules: []drivetest.Rule{
		{Probability: .2, Fault: drivetest.Fault{Status: 429}},
		{Op: "nodes.*", Probability: .1, Fault: drivetest.Fault{Status: 503}},
	}})
	p.sh("for i in 1 2 3 4 5; do mkdir -p $i; for j in 1 2 3 4; do echo $i$j > $i/$j; done; done; mv 1 one; rm -r 2; mv 3/1 3/x; echo more >> 4/4")
	srv.SetFaults(drivetest.Faults{})
	p.flush()
	p.driveMatches(p.dir, "")
}

// TestDiskFull fills the disk that the journal is on.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make a small disk")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
		t.Skip("mounting a tmpfs: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	p := newProc(t, nil, "--state-dir", filepath.Join(disk, "state"))
	rng := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	if err := os.WriteFile(p.path("before"), noise, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(p.path("much"))
	if err != nil {
		t.Fatal(err)
	}
	written := 0
	for range 64 {
		var n int
		n, err = f.Write(noise)
		written += n
		if err != nil {
			break
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("writing %d bytes to a disk of 24 MiB: %v, want ENOSPC", written, err)
	}
	// What was there goes on.
	got := make([]byte, len(noise))
	if _, err := f.ReadAt(got, int64(written/len(noise)-1)<<20); err != nil || !bytes.Equal(got, noise) {
		t.Errorf("the last whole MiB is not there: %v", err)
	}
	if b, err := os.ReadFile(p.path("before")); err != nil || !bytes.Equal(b, noise) {
		t.Errorf("a file from before: %v", err)
	}
	within(t, "mkdir on a full disk", callBound, func() error { return os.Mkdir(p.path("dir"), 0o755) })
	// There is room again.
	if err := f.Truncate(3 << 20); err != nil {
		t.Error("truncate: ", err)
	}
	if err := f.Close(); err != nil {
		t.Error("close: ", err)
	}
	if err := os.WriteFile(p.path("after"), noise, 0o644); err != nil {
		t.Error("writing when there is room again: ", err)
	}
	p.flush()
	same(t, "drive", holds(p.other), map[string]thing{
		"before": fileOf(noise), "much": fileOf(bytes.Repeat(noise, 3)), "after": fileOf(noise), "dir": {folder: true},
	})
	p.kill()
	p.start()
	if b, err := os.ReadFile(p.path("after")); err != nil || !bytes.Equal(b, noise) {
		t.Errorf("after a kill: %v", err)
	}
}

// TestQuota: over quota the draft stays, status says why, and it goes up when
// there is room.
func TestQuota(t *testing.T) {
	p := newProc(t, nil, "--upload-delay", "10ms")
	p.srv.SetFaults(drivetest.Faults{OverQuota: true})
	p.sh("echo kept > file")
	said := ""
	for end := time.Now().Add(patience); !strings.Contains(said, "full") && time.Now().Before(end); {
		said, _ = p.verb("status", p.dir)
		<-time.After(50 * time.Millisecond)
	}
	if !strings.Contains(said, "file") || !strings.Contains(said, "full") {
		t.Errorf("status says\n%s", said)
	}
	if out, code := p.verb("flush", p.dir); code == 0 {
		t.Errorf("flush succeeds over quota: %s", out)
	}
	p.kill()
	p.start()
	if got := p.sh("cat file"); got != "kept\n" {
		t.Errorf("the file holds %q", got)
	}
	p.srv.SetFaults(drivetest.Faults{})
	p.flush()
	p.driveMatches(p.dir, "")
}

// TestFileSize: a file cannot become larger than the drive takes.
func TestFileSize(t *testing.T) {
	p := newProc(t, nil, "--max-file-size", "1MiB", "--upload-delay", "10ms")
	mib := bytes.Repeat([]byte("x"), 1<<20)
	if err := os.WriteFile(p.path("fits"), mib, 0o644); err != nil {
		t.Error(err)
	}
	f, err := os.OpenFile(p.path("fits"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("y")); !errors.Is(err, unix.EFBIG) {
		t.Errorf("a byte too many: %v, want EFBIG", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(p.path("fits"), 1<<20+1); !errors.Is(err, unix.EFBIG) {
		t.Errorf("truncate beyond: %v, want EFBIG", err)
	}
	p.flush()
	same(t, "drive", holds(p.other), map[string]thing{"fits": fileOf(mib)})
}

// TestReadOnly: nothing can be changed, everything can be read.
func TestReadOnly(t *testing.T) {
	srv := drivetest.New(t)
	if _, err := srv.Else().PutPath("d/file", []byte("content")); err != nil {
		t.Fatal(err)
	}
	p := newProc(t, srv, "--read-only")
	if got := p.sh("cat d/file"); got != "content" {
		t.Errorf("got %q", got)
	}
	for _, call := range []string{"touch new", "echo x > d/file", "rm d/file", "mkdir e", "rmdir d", "mv d e", "chmod 600 d/file", "truncate -s 1 d/file"} {
		if out, err := p.trySh(call); err == nil || !strings.Contains(out, "Read-only file system") {
			t.Errorf("%s: %v %s", call, err, out)
		}
	}
}
