package fs_test

import (
	"bytes"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/drivefs/drivefs/integration"
)

// notPosix are the tests of posixtest that a drive cannot meet.
var notPosix = map[string]string{
	"FcntlFlockLocksFile": "it wants the locks of one process to refuse each other, which POSIX locks do nowhere; go-fuse leaves it out on local disks too",
	"SymlinkReadlink":     "the service has no symbolic links",
	"SetattrSymlink":      "the service has no symbolic links",
	"OpenSymlinkRace":     "the service has no symbolic links",
	"Link":                "a link has another name in the same folder; the service has second folders only",
	"LinkUnlinkRename":    "a link has another name in the same folder; the service has second folders only",
}

// maySkip are tests that skip themselves, with what that means.
var maySkip = map[string]string{
	"Tmpfile":    "O_TMPFILE is not supported: programs fall back to a name",
	"XAttrLarge": "the service keeps 500 characters an attribute",
}

func TestPosix(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{})
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		t.Run(name, func(t *testing.T) {
			if why := notPosix[name]; why != "" {
				t.Skip(why)
			}
			dir := w.Path(name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			posixtest.All[name](t, dir)
			if t.Skipped() && maySkip[name] == "" {
				t.Error("skipped itself")
			}
		})
	}
}

// TestPosixAsUser mounts as an ordinary user, through fusermount3.
func TestPosixAsUser(t *testing.T) {
	asUser(t, "^TestPosix$", "^TestMountAsUser$", "^TestReadOnly$", "^TestUnmountBusy$", "^TestRemoteChanges$", "^TestReleaseMayBeLost$")
}

// asUser runs tests of this binary as an ordinary user.
func asUser(t *testing.T, tests ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else; everything here ran as a user already")
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skip("fusermount3 is not installed")
	}
	const uid = 65534
	home, err := os.MkdirTemp("", "drivefs-user")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	self := filepath.Join(home, "fs.test")
	copyFile(t, "/proc/self/exe", self)
	if err := os.WriteFile(filepath.Join(home, "SEMANTICS.md"), readFile(t, "SEMANTICS.md"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{home, self} {
		if err := os.Chown(p, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(self, "-test.run", strings.Join(tests, "|"), "-test.v", "-test.timeout", "120s")
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "TMPDIR="+home, "HOME="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uid, Gid: uid},
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("nothing ran:\n%s", out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
