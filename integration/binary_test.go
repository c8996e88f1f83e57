package integration

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// The tests in this file's company run the built program as its users do, and
// ask the drive itself what came of it.

var binary struct {
	once sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	code, again := Isolate()
	if !again {
		code = m.Run()
	}
	if binary.path != "" {
		_ = os.RemoveAll(filepath.Dir(binary.path))
	}
	os.Exit(code)
}

// program builds the program once for all tests.
func program(t testing.TB) string {
	t.Helper()
	binary.once.Do(func() {
		dir, err := os.MkdirTemp("", "drivefs-bin")
		if err != nil {
			binary.err = err
			return
		}
		binary.path = filepath.Join(dir, "drivefs")
		out, err := exec.Command("go", "build", "-o", binary.path, "github.com/drivefs/drivefs/cmd/drivefs").CombinedOutput()
		if err != nil {
			binary.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if binary.err != nil {
		t.Fatal("building the program: ", binary.err)
	}
	return binary.path
}

// need skips a test whose program is not there, and says which one.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// proc is one mount of drivetest in a process of its own.
type proc struct {
	process
	srv   *drivetest.Server
	other *drivetest.Client
	state string
	cache string
	token string
	flags []string
}

// newProc mounts a fresh drive; at the end of the test everything is flushed,
// unmounted, and the drive's own invariants are checked.
func newProc(t testing.TB, srv *drivetest.Server, flags ...string) *proc {
	t.Helper()
	if os.Getuid() != 0 {
		need(t, "fusermount3")
	}
	if srv == nil {
		srv = drivetest.New(t)
	}
	base := t.TempDir()
	p := &proc{
		process: process{TB: t, dir: filepath.Join(base, "mnt"), runtime: filepath.Join(base, "state")},
		srv:     srv, other: srv.Else(), state: filepath.Join(base, "state"),
		cache: filepath.Join(base, "cache"), token: filepath.Join(base, "token.json"),
		flags: flags,
	}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := srv.WriteToken(p.token); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.running() {
			p.unmount()
		}
		_ = unix.Unmount(p.dir, unix.MNT_DETACH)
		if err := srv.Check(); err != nil {
			t.Error("the drive: ", err)
		}
		if t.Failed() {
			t.Logf("the mount said:\n%s", tail(p.log.String(), 8000))
		}
	})
	p.start()
	return p
}

func (p *proc) mountArgs() []string {
	args := []string{
		"mount", "--endpoint", p.srv.Endpoint(), "--token-file", p.token,
		"--client-id", p.srv.ClientID(), "--client-secret", p.srv.ClientSecret(), "--token-url", p.srv.TokenURL(),
		"--state-dir", p.state, "--cache-dir", p.cache, "--poll-interval", "0",
	}
	return append(append(args, p.flags...), p.dir)
}

// start mounts and waits for the line that says so.
func (p *proc) start() {
	p.Helper()
	p.launch(p.mountArgs()...)
}

func (p *proc) flush()   { p.Helper(); p.must("flush", p.dir) }
func (p *proc) refresh() { p.Helper(); p.must("refresh", p.dir) }

// sh runs a shell command in the mount.
func (p *proc) sh(script string) string {
	p.Helper()
	out, err := p.trySh(script)
	if err != nil {
		p.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func (p *proc) trySh(script string) (string, error) {
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "MNT="+p.dir, "HOME="+p.TB.(interface{ TempDir() string }).TempDir(),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// path is a path in the mount.
func (p *proc) path(elem ...string) string { return filepath.Join(append([]string{p.dir}, elem...)...) }

// driveMatches fails unless the drive holds, below under, exactly the files
// and folders of the local directory dir, byte for byte.
func (p *proc) driveMatches(dir, under string) {
	p.Helper()
	tree := p.other.Tree()
	have := map[string]drivetest.Node{}
	for path, n := range tree {
		if rest, ok := strings.CutPrefix("/"+path, under+"/"); ok && rest != "" {
			have[rest] = n
		}
	}
	bad := 0
	complain := func(format string, args ...any) {
		if bad++; bad <= 10 {
			p.Errorf(format, args...)
		}
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		n, ok := have[rel]
		delete(have, rel)
		switch {
		case !ok:
			complain("%s is not on the drive", rel)
		case d.IsDir() != (n.Kind == "FOLDER"):
			complain("%s is a %s on the drive", rel, n.Kind)
		case !d.IsDir():
			sum, size, err := md5File(path)
			if err != nil {
				return err
			}
			if n.Content == nil || n.Content.MD5 != sum || n.Content.Size != size {
				complain("%s: the drive has %+v, wanted %d bytes with md5 %s", rel, n.Content, size, sum)
			}
		}
		return nil
	})
	if err != nil {
		p.Fatal(err)
	}
	for rel := range have {
		complain("%s is on the drive and should not be", rel)
	}
	if bad > 10 {
		p.Errorf("and %d more", bad-10)
	}
}

func md5File(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := md5.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}
