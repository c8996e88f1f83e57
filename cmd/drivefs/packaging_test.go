package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/manual"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// repository is where the Makefile is.
const repository = "../.."

// makeTarget runs a target of the Makefile with the program under test as the
// one that was built.
func (w *world) makeTarget(args ...string) string {
	w.t.Helper()
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(w.t.Context(), "make", append([]string{"-s", "-C", repository, "BINARY=" + self}, args...)...)
	cmd.Env = []string{asProgram + "=1", "HOME=" + w.home, "PATH=" + os.Getenv("PATH"), "GOPATH=" + goEnv("GOPATH"), "GOCACHE=" + goEnv("GOCACHE")} // without an outer make's variables
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("make %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func goEnv(name string) string {
	out, _ := exec.Command("go", "env", name).Output()
	return strings.TrimSpace(string(out))
}

// files lists what is below dir, but directories.
func files(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
}

// What make install puts in place, make uninstall takes out.
func TestInstall(t *testing.T) {
	t.Parallel()
	needTools(t, "make", "install", "sed")
	w := newWorld(t, drivetest.Options{})
	dest, docs := filepath.Join(w.home, "dest"), w.docs()
	w.makeTarget("install", docs, "DESTDIR="+dest, "PREFIX=/opt/drivefs")
	found := files(t, dest)
	for _, want := range []string{
		"/opt/drivefs/bin/drivefs", "/opt/drivefs/sbin/mount.drivefs",
		"/opt/drivefs/lib/systemd/user/drivefs@.service", "/opt/drivefs/lib/systemd/system/drivefs@.service",
		"/opt/drivefs/share/man/man1/drivefs.1", "/opt/drivefs/share/man/man1/drivefs-mount.1", "/opt/drivefs/share/man/man8/mount.drivefs.8", "/opt/drivefs/share/man/man5/drivefs.toml.5",
		"/opt/drivefs/share/bash-completion/completions/drivefs", "/opt/drivefs/share/zsh/site-functions/_drivefs",
		"/opt/drivefs/share/fish/vendor_completions.d/drivefs.fish",
		"/opt/drivefs/share/doc/drivefs/grafana.json", "/opt/drivefs/share/doc/drivefs/alerts.yml",
	} {
		if !slices.Contains(found, want) {
			t.Errorf("no %s", want)
		}
	}
	unit := read(t, filepath.Join(dest, "opt/drivefs/lib/systemd/user/drivefs@.service"))
	for _, line := range []string{"\nExecStart=/opt/drivefs/bin/drivefs mount ", "\nExecStopPost=-/opt/drivefs/bin/drivefs unmount "} {
		if !strings.Contains(unit, line) {
			t.Errorf("the unit has no %q", line)
		}
	}
	page := read(t, filepath.Join(dest, "opt/drivefs/share/man/man1/drivefs-mount.1"))
	for _, part := range []string{".TH \"DRIVEFS-MOUNT\"", `\-\-cache\-disk\fR \fISIZE`, "10GiB", `text|json`, ".SH EXAMPLES", ".SH EXIT STATUS", ".SH FILES", ".SH ENVIRONMENT", "owner shown (default yours)"} {
		if !strings.Contains(page, part) {
			t.Errorf("the page of mount has no %q", part)
		}
	}
	for _, verb := range []string{"limit", "unmount", "status", "login", "trash-restore"} {
		if !slices.Contains(found, "/opt/drivefs/share/man/man1/drivefs-"+verb+".1") {
			t.Errorf("no page for %s", verb)
		}
	}
	if helper := read(t, filepath.Join(dest, "opt/drivefs/share/man/man8/mount.drivefs.8")); !strings.Contains(helper, "x\\-systemd.automount") {
		t.Error("the helper's page has no line of fstab")
	}
	w.makeTarget("uninstall", "DESTDIR="+dest, "PREFIX=/opt/drivefs")
	if left := files(t, dest); len(left) > 0 {
		t.Errorf("uninstall leaves %v", left)
	}
}

// docs makes the manual, and gives the variable that names it.
func (w *world) docs() string {
	w.t.Helper()
	dir := filepath.Join(w.home, "docs")
	p := &program{stdout: io.Discard, stderr: io.Discard, env: os.LookupEnv}
	if err := manual.Write(newRoot(p), dir); err != nil {
		w.t.Fatal(err)
	}
	return "DOCS=" + dir
}

// Two builds, one after the other, make packages that ascend.
func TestVersionsAscend(t *testing.T) {
	t.Parallel()
	needTools(t, "git", "dpkg")
	dir := t.TempDir()
	script := filepath.Join(dir, "packaging/version")
	put(t, script, read(t, filepath.Join("packaging", "version")))
	git := func(env []string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"}, args...)...)
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	git(nil, "init", "-q")
	git(nil, "add", ".")
	last := ""
	for i, tag := range []string{"", "", "", "v0.9.0", "", "v1.0.0", "", ""} {
		date := fmt.Sprintf("2026-11-%02dT12:00:00Z", i+1)
		git([]string{"GIT_COMMITTER_DATE=" + date}, "commit", "-q", "--allow-empty", "-m", fmt.Sprint(i))
		if tag != "" {
			git(nil, "tag", tag)
		}
		out, err := exec.CommandContext(t.Context(), "sh", script).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		v := strings.TrimSpace(string(out))
		if last != "" && exec.Command("dpkg", "--compare-versions", last, "lt", v).Run() != nil {
			t.Errorf("%s is not below %s", last, v)
		}
		last = v
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// nfpm gives the variable that names the packager, which is built once.
func nfpm(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(cache, "drivefs-test", "nfpm-v2.47.0")
	path := filepath.Join(dir, "nfpm")
	if !exists(path) {
		cmd := exec.CommandContext(t.Context(), "go", "install", "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.47.0")
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("nfpm cannot be had: %v: %s", err, out)
		}
	}
	return "NFPM=" + path
}

// The package is installed below a root of its own, used and removed.
func TestPackage(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root installs packages")
	}
	needTools(t, "make", "dpkg", "dpkg-deb", "gzip")
	needFuse(t)
	w := newWorld(t, drivetest.Options{})
	deb := w.makeTarget("package", nfpm(t), "FORMAT=deb", w.docs(), "OUT="+w.home, "PACKAGE_VERSION=1.2.3", "ARCH="+runtime.GOARCH)
	if !strings.HasPrefix(filepath.Base(deb), "drivefs_1.2.3_") {
		t.Errorf("the package is called %s", deb)
	}
	w.env = append(w.env, "DRIVEFS_STATE_DIR="+filepath.Join(w.home, "state"), "DRIVEFS_CACHE_DIR="+filepath.Join(w.home, "cache"))
	root := filepath.Join(w.home, "root")
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(root, "var/lib/dpkg/status"), "")
	dpkg := func(args ...string) {
		t.Helper()
		// What it depends on is outside of this root.
		cmd := exec.CommandContext(t.Context(), "dpkg", append([]string{"--root=" + root, "--force-depends", "--force-script-chrootless"}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("dpkg %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	dpkg("--install", deb)
	for _, path := range []string{"lib/systemd/system/drivefs@.service", "lib/systemd/user/drivefs@.service", "share/man/man1/drivefs-mount.1.gz", "share/doc/drivefs/copyright", "share/zsh/vendor-completions/_drivefs"} {
		st, err := os.Stat(filepath.Join(root, "usr", path))
		if err != nil || st.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}

	installed := func(program string, args ...string) string {
		t.Helper()
		cmd := w.command(args...)
		cmd.Path = filepath.Join(root, "usr", program)
		cmd.Args[0] = cmd.Path
		out, stderr, code := w.finish(cmd)
		if code != 0 {
			t.Fatalf("%s %s: exit code %d: %s", program, strings.Join(args, " "), code, stderr)
		}
		return out
	}
	if out := installed("bin/drivefs", "version"); !strings.HasPrefix(out, "drivefs ") {
		t.Errorf("version: %s", out)
	}
	installed("sbin/mount.drivefs", "default", w.mountpoint, "-o", "rw,_netdev")
	w.write("by package", "works")
	installed("bin/drivefs", "unmount", w.mountpoint)
	if got := w.onDrive("by package"); got != "works" {
		t.Errorf("the drive has %q", got)
	}

	dpkg("--purge", "drivefs")
	if _, err := os.Stat(filepath.Join(root, "usr")); !os.IsNotExist(err) {
		t.Errorf("removing it leaves %v, %v", files(t, filepath.Join(root, "usr")), err)
	}
	if !strings.Contains(read(t, w.token()), "access_token") {
		t.Error("removing it took the user's token")
	}
}
