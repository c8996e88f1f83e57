package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/trash"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestMountAndUnmount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	if _, err := w.drive.Else().PutPath("Documents/letter.txt", []byte("dear reader")); err != nil {
		t.Fatal(err)
	}
	p := w.mount()
	if b, err := os.ReadFile(w.file("Documents/letter.txt")); err != nil || string(b) != "dear reader" {
		t.Errorf("%q, %v", b, err)
	}
	w.write("new.txt", "from here")
	s := w.status()
	if s.Mountpoint != w.mountpoint || s.PID != p.cmd.Process.Pid || s.Profile != "default" || s.Remote.State != "online" || s.Remote.Error != "" {
		t.Errorf("status %+v", s)
	}
	if got := w.status(w.mountpoint); got.PID != s.PID {
		t.Errorf("by mountpoint: %+v", got)
	}
	if human := w.must("status"); !strings.Contains(human, w.mountpoint+": ready") || !strings.Contains(human, "online") {
		t.Errorf("for people: %s", human)
	}
	w.must("flush", w.mountpoint)
	if got := w.onDrive("new.txt"); got != "from here" {
		t.Errorf("after flush the drive has %q", got)
	}
	if s := w.status(); s.Uploads.Pending != 0 || s.Mirror.CheckpointAge < 0 {
		t.Errorf("after flush: %+v", s)
	}
	if _, err := w.drive.Else().PutPath("elsewhere.txt", []byte("new")); err != nil {
		t.Fatal(err)
	}
	w.must("refresh")
	if b, err := os.ReadFile(w.file("elsewhere.txt")); err != nil || string(b) != "new" {
		t.Errorf("after refresh: %q, %v", b, err)
	}
	w.write("last.txt", "on the way out")
	w.must("unmount", w.mountpoint)
	if w.mounted() {
		t.Error("still mounted")
	}
	if got := w.onDrive("last.txt"); got != "on the way out" {
		t.Errorf("after unmount the drive has %q", got)
	}
	if code := p.end(); code != 0 {
		t.Errorf("mount ended with %d: %s", code, p.stderr())
	}
	if _, _, code := w.run("status", w.mountpoint); code != 4 {
		t.Errorf("status after unmount: exit code %d", code)
	}
}

func TestControlSocket(t *testing.T) {
	t.Parallel()
	for _, xattrs := range []string{"on", "off"} {
		w := newWorld(t, drivetest.Options{})
		w.mount("--xattrs=" + xattrs)
		path, err := control.SocketOf(t.Context(), w.mountpoint)
		if err != nil {
			t.Fatal(err)
		}
		for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
			st, err := os.Stat(p)
			if err != nil {
				t.Fatal(err)
			}
			if st.Mode().Perm() != want {
				t.Errorf("%s: mode %o, want %o", p, st.Mode().Perm(), want)
			}
		}
		w.must("unmount", w.mountpoint)
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("the socket outlives the mount: %v", err)
		}
	}
}

func TestRuntimeDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	own := filepath.Join(w.home, "run")
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(w.home, ".local/state/drivefs/default/run")
	for dir, want := range map[string]string{own: own + "/drivefs", "/run/user/none": state, "/proc": state} {
		if dir == "/proc" && os.Getuid() == 0 {
			dir = "" // root owns it
		}
		w.env = append(w.env, "XDG_RUNTIME_DIR="+dir)
		w.mount()
		path, err := control.SocketOf(t.Context(), w.mountpoint)
		if err != nil || filepath.Dir(path) != want {
			t.Errorf("XDG_RUNTIME_DIR=%s: %s, %v; want it in %s", dir, path, err, want)
		}
		w.must("unmount", w.mountpoint)
	}
}

// Whom root's mount is made for may ask how it is, and no more.
func TestGuest(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can be two users")
	}
	w := newWorld(t, drivetest.Options{})
	run := filepath.Join(w.home, "run")
	for dir, mode := range map[string]os.FileMode{run: 0o755, filepath.Dir(w.home): 0o755, w.home: 0o755, w.mountpoint: 0o755} {
		if err := errors.Join(os.MkdirAll(dir, mode), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
	}
	// The program itself lies where that user cannot reach it.
	program := filepath.Join(w.home, "drivefs")
	if out, err := exec.Command("cp", os.Args[0], program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.env = append(w.env, "XDG_RUNTIME_DIR="+run)
	w.mount("--allow-other", "--uid=65534", "--gid=65534")
	for verb, want := range map[string]int{"status": 0, "refresh": 0, "flush": 0, "limit": 1, "unmount": 1} {
		cmd := w.command(verb, w.mountpoint)
		cmd.Path, cmd.Dir = program, "/"
		cmd.Env = append(cmd.Env, "HOME=/nonexistent")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, stderr, code := w.finish(cmd); code != want {
			t.Errorf("%s: exit code %d, want %d: %s%s", verb, code, want, out, stderr)
		}
	}
	w.must("unmount", w.mountpoint)
}

// A mountpoint that was made by drivefs takes nothing while nothing is mounted
// there; other directories are left as they are.
func TestMadeMountpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	mode := func() os.FileMode {
		t.Helper()
		st, err := os.Stat(w.mountpoint)
		if err != nil {
			t.Fatal(err)
		}
		return st.Mode().Perm()
	}
	if err := os.Chmod(w.mountpoint, 0o755); err != nil {
		t.Fatal(err)
	}
	w.mount("--mkdir")
	w.must("unmount", w.mountpoint)
	if got := mode(); got != 0o755 {
		t.Errorf("somebody's directory has mode %o", got)
	}
	if err := os.Remove(w.mountpoint); err != nil {
		t.Fatal(err)
	}
	w.mountpoint = filepath.Join(w.mountpoint, "below", "here")
	for range 2 { // made, and found
		w.mount("--mkdir")
		w.write("a", "b")
		w.must("unmount", w.mountpoint)
		if got := mode(); got != 0o500 {
			t.Errorf("after the mount the directory has mode %o", got)
		}
	}
	p := w.mount("--mkdir")
	p.signal(syscall.SIGKILL)
	p.end()
	w.mount("--mkdir")
	w.must("unmount", w.mountpoint)
	if got := mode(); got != 0o500 {
		t.Errorf("after a killed mount the directory has mode %o", got)
	}
}

// What lies in a mountpoint is named, and can be mounted over.
func TestNonEmptyMountpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	put(t, w.file("stray"), "x")
	for _, service := range []bool{false, true} {
		want := 2
		if service { // it tries again
			w.env, want = append(w.env, "NOTIFY_SOCKET="+filepath.Join(w.home, "notify")), 1
		}
		_, stderr, code := w.run("mount", w.mountpoint)
		if code != want {
			t.Errorf("exit code %d, want %d", code, want)
		}
		oneLine(t, stderr, "not empty", `"stray"`, "--allow-non-empty")
	}
	w.mount("--allow-non-empty")
	if list := names(t, w.mountpoint); len(list) > 0 {
		t.Errorf("it shows %q", list)
	}
	w.must("unmount", w.mountpoint)
	if got := read(t, w.file("stray")); got != "x" {
		t.Errorf("what lay there is %q", got)
	}
}

// Who reads the mount's words may go away.
func TestClosedPipe(t *testing.T) {
	t.Parallel()
	needFuse(t)
	w := newWorld(t, drivetest.Options{})
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := w.command("mount", "--log-level=debug", w.mountpoint)
	cmd.Stdout, cmd.Stderr = wr, wr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wr.Close()
	w.eventually("it is mounted", w.mounted)
	r.Close()
	w.write("kept", "safe")
	w.must("refresh")
	w.must("flush")
	w.unreachable()
	w.write("waits", "x")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil { // it says that it waits
		t.Fatal(err)
	}
	w.eventually("it drains", func() bool { return w.status().State == "draining" })
	w.drive.SetFaults(drivetest.Faults{})
	if err := cmd.Wait(); err != nil || w.mounted() {
		t.Errorf("%v, mounted %v", err, w.mounted())
	}
	if got := w.onDrive("waits"); got != "x" {
		t.Errorf("the drive has %q", got)
	}
}

// A verb finds a mount whatever profile and state directory it has.
func TestFinding(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount("--profile=work", "--state-dir="+filepath.Join(w.home, "elsewhere"))
	pid := p.cmd.Process.Pid
	for _, args := range [][]string{{w.mountpoint}, {"--profile=work"}, {"--profile=work", "--state-dir=" + filepath.Join(w.home, "elsewhere")}} {
		if s := w.status(args...); s.PID != pid || s.Profile != "work" {
			t.Errorf("%v: %+v", args, s)
		}
	}
	if s := w.status(w.file("anything/below")); s.PID != pid {
		t.Errorf("by a path in it: %+v", s)
	}
	var all control.Statuses
	if err := json.Unmarshal([]byte(w.must("status", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all.Mounts, func(s control.Status) bool { return s.PID == pid && s.Mountpoint == w.mountpoint }) {
		t.Errorf("not among all mounts: %+v", all)
	}
	if _, _, code := w.run("status", "--profile=default"); code != 4 {
		t.Errorf("another profile's status: exit code %d", code)
	}
	if err := os.Symlink(w.mountpoint, filepath.Join(w.home, "link")); err != nil {
		t.Fatal(err)
	}
	w.must("unmount", filepath.Join(w.home, "link"))
	p.end()
}

func TestOneMountPerStateDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount()
	other := filepath.Join(w.home, "Other")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := w.run("mount", other)
	if code != 2 {
		t.Errorf("exit code %d", code)
	}
	oneLine(t, stderr, w.mountpoint, fmt.Sprint(p.cmd.Process.Pid), "in use")
	_, stderr, code = w.run("mount", "--profile=second", w.mountpoint)
	if code != 2 {
		t.Errorf("same mountpoint: exit code %d", code)
	}
	oneLine(t, stderr, w.mountpoint, "mounted there already")
	if err := os.Mkdir(w.file("inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, stderr, code = w.run("mount", "--profile=second", w.file("inside"))
	if code != 2 {
		t.Errorf("below itself: exit code %d", code)
	}
	oneLine(t, stderr, "inside a drivefs mount")
	w.must("unmount", w.mountpoint)
	p.end()
	w.mount() // what was refused left nothing behind
	w.must("unmount", w.mountpoint)
}

func TestBackground(t *testing.T) {
	t.Parallel()
	needFuse(t)
	w := newWorld(t, drivetest.Options{})
	if out := w.must("mount", "--background", "Drive"); out != "" {
		t.Errorf("it says %q", out)
	}
	if !w.mounted() {
		t.Fatal("returned before the mount answers")
	}
	w.write("a", "b")
	s := w.status()
	w.must("unmount", "Drive")
	w.eventually("the process ends", func() bool { return syscall.Kill(s.PID, 0) != nil })
	if got := w.onDrive("a"); got != "b" {
		t.Errorf("the drive has %q", got)
	}
	log, err := os.ReadFile(filepath.Join(w.home, ".local/state/drivefs/default/drivefs.log"))
	if err != nil || !strings.Contains(string(log), "mounted") {
		t.Errorf("log: %q, %v", log, err)
	}
}

func TestMountHelperProgram(t *testing.T) {
	t.Parallel()
	needFuse(t)
	w := newWorld(t, drivetest.Options{})
	w.env = append(w.env, "DRIVEFS_STATE_DIR="+filepath.Join(w.home, "state"), "DRIVEFS_CACHE_DIR="+filepath.Join(w.home, "cache"))
	cmd := w.command()
	cmd.Args = []string{"/sbin/mount.drivefs", "work", w.mountpoint, "-o", "ro,noexec,_netdev,names=exact"}
	if _, stderr, code := w.finish(cmd); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	s := w.status(w.mountpoint)
	if s.Profile != "work" || !s.ReadOnly {
		t.Errorf("%+v", s)
	}
	if os.Getuid() == 0 && s.Config != "/etc/drivefs/config.toml" { // whoever's HOME that is
		t.Errorf("root's mount goes by %s", s.Config)
	}
	if err := os.WriteFile(w.file("x"), nil, 0o600); err == nil {
		t.Error("a read-only mount was written to")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(w.mountpoint, &st); err != nil || os.Getuid() == 0 && st.Flags&unix.ST_NOEXEC == 0 {
		t.Errorf("noexec is not in force: flags %x, %v", st.Flags, err)
	}
	w.must("unmount", w.mountpoint)
}

func TestBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount()
	w.write("held", "x")
	f, err := os.Open(w.file("held"))
	if err != nil {
		t.Fatal(err)
	}
	_, stderr, code := w.run("unmount", w.mountpoint)
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	oneLine(t, stderr, "in use", fmt.Sprintf("(%d)", os.Getpid()), w.file("held"), "--lazy")
	if s := w.status(); s.State == "draining" {
		t.Errorf("after the refusal: %+v", s)
	}
	w.must("unmount", "--lazy", w.mountpoint)
	if w.mounted() {
		t.Error("still mounted")
	}
	if b, err := io.ReadAll(f); err != nil || string(b) != "x" {
		t.Errorf("what is open does not go on: %q, %v", b, err)
	}
	f.Close()
	if code := p.end(); code != 0 {
		t.Errorf("mount ended with %d: %s", code, p.stderr())
	}
}

// The command itself is nobody who uses the mount.
func TestUnmountFromInside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount()
	cmd := w.command("unmount", ".")
	cmd.Dir = w.mountpoint
	if _, stderr, code := w.finish(cmd); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if code := p.end(); code != 0 {
		t.Errorf("mount ended with %d: %s", code, p.stderr())
	}
}

func TestUnmountedBySomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount("--upload-delay=1h")
	w.write("a", "b")
	if out, err := exec.Command("fusermount3", "-u", w.mountpoint).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr())
	}
	if got := w.onDrive("a"); got != "b" {
		t.Errorf("the drive has %q", got)
	}
}

func TestKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount("--upload-delay=1h")
	w.write("a", "b")
	p.signal(syscall.SIGKILL)
	p.end()
	_, stderr, code := w.run("status", w.mountpoint)
	if code != 4 {
		t.Errorf("exit code %d", code)
	}
	oneLine(t, stderr, "is gone", "drivefs unmount")
	w.must("unmount", w.mountpoint)
	if w.mounted() {
		t.Error("the dead mount is still there")
	}
	p = w.mount()
	w.must("flush")
	if got := w.onDrive("a"); got != "b" {
		t.Errorf("the drive has %q", got)
	}
	p.signal(syscall.SIGKILL)
	p.end()
	w.mount() // over the dead one
	w.must("unmount", w.mountpoint)
}

func TestOfflineStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	if _, err := w.drive.Else().PutPath("known", []byte("x")); err != nil {
		t.Fatal(err)
	}
	w.mount()
	w.must("refresh")
	w.must("unmount", w.mountpoint)
	w.drive.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{{Fault: drivetest.Fault{Status: 503}}}})
	w.mount()
	if _, err := os.Stat(w.file("known")); err != nil {
		t.Error(err)
	}
	w.eventually("it knows", func() bool { return w.status().Remote.State == "offline" })
	w.drive.SetFaults(drivetest.Faults{})
	w.must("unmount", w.mountpoint)
}

func TestNewerState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	state := filepath.Join(w.home, ".local/state/drivefs/default")
	w.mount()
	w.must("unmount", w.mountpoint)
	makeNewer(t, filepath.Join(state, "journal.db"))
	_, stderr, code := w.run("mount", w.mountpoint)
	if code != 2 {
		t.Errorf("exit code %d", code)
	}
	oneLine(t, stderr, state, "newer")
}

func TestTrashAndRename(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	for _, path := range []string{"Letters/one.txt", "Letters/two.txt", "readme.TXT"} {
		if _, err := w.drive.Else().PutPath(path, []byte(path)); err != nil {
			t.Fatal(err)
		}
	}
	w.mount("--upload-delay=1h") // what goes at once goes as one, however slow the machine
	if err := os.RemoveAll(w.file("Letters")); err != nil {
		t.Fatal(err)
	}
	w.must("flush")
	var list []trash.Item
	if err := json.Unmarshal([]byte(w.must("trash", "list", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Path != "/Letters" || !list[0].Folder {
		t.Errorf("the trash holds %+v", list)
	}
	if out := w.must("trash", "list"); !strings.Contains(out, "/Letters") {
		t.Errorf("for people: %s", out)
	}
	if out := w.must("trash", "restore", "letters"); out != "restored /Letters\n" {
		t.Errorf("restore says %q", out)
	}
	if b, err := os.ReadFile(w.file("Letters/two.txt")); err != nil || string(b) != "Letters/two.txt" {
		t.Errorf("%q, %v", b, err)
	}
	w.must("rename", w.file("readme.TXT"), "README.txt")
	names := names(t, w.mountpoint)
	if !slices.Contains(names, "README.txt") || slices.Contains(names, "readme.TXT") {
		t.Errorf("after the rename: %v", names)
	}
	_, stderr, code := w.run("rename", w.file("README.txt"), "letters")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	oneLine(t, stderr, "taken")
	w.must("flush")
	if got := w.onDrive("README.txt"); got != "readme.TXT" {
		t.Errorf("the drive has %q", got)
	}
	if out := w.must("check"); !strings.Contains(out, "no differences") {
		t.Errorf("check: %s", out)
	}
	if out := w.must("about"); !strings.Contains(out, "3 files") {
		t.Errorf("about: %s", out)
	}
	w.must("unmount", w.mountpoint)
	if out := w.must("check"); !strings.Contains(out, "no differences") {
		t.Errorf("check of what is not mounted: %s", out)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.Name()
	}
	return out
}

func TestFlushListsFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount()
	w.drive.SetFaults(drivetest.Faults{OverQuota: true})
	w.write("large", "too much")
	_, stderr, code := w.run("flush")
	if code != 6 || !strings.Contains(stderr, "/large: ") || !strings.Contains(stderr, "full") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	s := w.status()
	if len(s.Uploads.Failed) != 1 || s.Uploads.Failed[0].Path != "/large" || s.Uploads.Failed[0].Error == "" || s.Uploads.Failed[0].RetryAt.IsZero() {
		t.Errorf("status: %+v", s.Uploads)
	}
	if _, _, code := w.run("unmount", "--no-wait", w.mountpoint); code != 6 {
		t.Errorf("unmount: exit code %d", code)
	}
	p.end()
}

// An ordinary user mounts through fusermount3.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("every other test is this one when not run as root")
	}
	if f, err := os.Stat("/dev/fuse"); err != nil || f.Mode().Perm()&0o006 != 0o006 {
		t.Skip("/dev/fuse is not open to everybody")
	}
	const nobody = 65534
	// The test's own directories are closed to others.
	home, err := os.MkdirTemp("/var/tmp", "drivefs-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t, drivetest.Options{})
	program := filepath.Join(home, "drivefs")
	if err := exec.Command("cp", os.Args[0], program).Run(); err != nil {
		t.Fatal(err)
	}
	w.home, w.mountpoint = home, filepath.Join(home, "Drive")
	if err := os.Mkdir(w.mountpoint, 0o700); err != nil {
		t.Fatal(err)
	}
	w.env[1] = "DRIVEFS_TOKEN_FILE=" + w.token()
	if err := w.drive.WriteToken(w.token()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{home, program, w.mountpoint, w.token()} {
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	as := func(args ...string) (string, string, int) {
		cmd := w.command(args...)
		cmd.Path = program
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		return w.finish(cmd)
	}
	if _, stderr, code := as("mount", "--background", w.mountpoint); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if out, stderr, code := as("status", "--json", w.mountpoint); code != 0 || !strings.Contains(out, w.mountpoint) {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	_, stderr, code := w.run("status", w.mountpoint) // as root
	if code != 1 {
		t.Errorf("root's exit code %d", code)
	}
	oneLine(t, stderr, "another user")
	if _, stderr, code := as("unmount", w.mountpoint); code != 0 || w.mounted() {
		t.Errorf("exit code %d, mounted %v: %s", code, w.mounted(), stderr)
	}
}

// What root has mounted for everybody is root's alone to command.
func TestControlIsForItsOwner(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can be two users")
	}
	w := newWorld(t, drivetest.Options{})
	w.mount("--allow-other", "--umask=022")
	for _, dir := range []string{filepath.Dir(w.home), w.home} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(w.file("seen"), []byte("by all"), 0o644); err != nil {
		t.Fatal(err)
	}
	path, err := control.SocketOf(t.Context(), w.mountpoint)
	if err != nil {
		t.Fatal(err)
	}
	// The directory of the socket is closed, and so is the socket.
	for _, open := range []bool{false, true} {
		if open {
			for dir := filepath.Dir(path); dir != w.home; dir = filepath.Dir(dir) {
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := asNobody(func() error { _, err := os.ReadFile(w.file("seen")); return err }); err != nil {
			t.Errorf("an ordinary user reads what is for all: %v", err)
		}
		if err := asNobody(func() error { return connect(path) }); !errors.Is(err, unix.EACCES) {
			t.Errorf("an ordinary user at root's control socket: %v, want EACCES", err)
		}
	}
	if err := connect(path); err != nil {
		t.Errorf("root: %v", err)
	}
	w.must("unmount", w.mountpoint)
}

// asNobody runs fn on a thread whose access to files is that of an ordinary
// user, and which ends with it.
func asNobody(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Setfsgid(65534); err != nil {
			done <- err
			return
		}
		if err := unix.Setfsuid(65534); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

func connect(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

func TestServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	tree := filepath.Join(w.home, "tree")
	put(t, filepath.Join(tree, "sub/file"), "imported")
	token := filepath.Join(w.home, "tokens/local.json")
	p := w.start("serve", "--data", filepath.Join(w.home, "data"), "--token-file", token, "--import", tree)
	endpoint := p.line()
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" || u.Hostname() != "127.0.0.1" {
		t.Fatalf("first line %q", endpoint)
	}
	if st, err := os.Stat(token); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("token: %v, %v", st, err)
	}
	w.env = []string{"DRIVEFS_ENDPOINT=" + endpoint, "DRIVEFS_TOKEN_FILE=" + token}
	w.mount()
	if b, err := os.ReadFile(w.file("sub/file")); err != nil || string(b) != "imported" {
		t.Errorf("%q, %v", b, err)
	}
	w.must("unmount", w.mountpoint)
	p.signal(syscall.SIGTERM)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr())
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	needFuse(t)
	w := newWorld(t, drivetest.Options{})
	w.env = []string{"DRIVEFS_ROOT=/none", "DRIVEFS_ENDPOINT=http://127.0.0.1:1/"} // none of its business
	put(t, filepath.Join(w.home, ".config/drivefs/config.toml"), "[default]\nclient-id = \"x\"\nclient-secret = \"amazon-only-secret\"\nroot = \"/Photos\"\nread-only = true\nbackground = true\n")
	if err := os.Remove(w.mountpoint); err != nil { // it is made
		t.Fatal(err)
	}
	demo := func() *process {
		t.Helper()
		p := w.start("demo", w.mountpoint)
		if l := p.line(); l != "mounted demo on "+w.mountpoint {
			t.Fatalf("first line %q", l)
		}
		return p
	}
	p := demo()
	for _, name := range []string{"Read me first.txt", "Videos/Bouncing ball.avi", "Pictures/Mountains/3 Evening.jpg"} {
		if b, err := os.ReadFile(w.file(name)); err != nil || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	w.write("mine.txt", "kept")
	if err := os.Remove(w.file("Read me first.txt")); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := w.run("demo")
	if code != 2 {
		t.Errorf("a second demo: exit code %d", code)
	}
	oneLine(t, stderr, "runs already", w.mountpoint, strconv.Itoa(p.cmd.Process.Pid))
	if out := w.must("trash", "list", "--profile=demo", "--endpoint=http://127.0.0.1:1/"); !strings.Contains(out, "/Read me first.txt") {
		t.Errorf("the demo's trash: %s", out)
	}
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 0 || w.mounted() {
		t.Errorf("exit code %d, mounted %v: %s", code, w.mounted(), p.stderr())
	}
	if exists(w.mountpoint) {
		t.Error("the directory it made is still there")
	}
	_, stderr, code = w.run("status", "--profile=demo")
	if code != 4 {
		t.Errorf("status after the demo: exit code %d", code)
	}
	oneLine(t, stderr, "drivefs demo")
	p = demo()
	if b, err := os.ReadFile(w.file("mine.txt")); err != nil || string(b) != "kept" {
		t.Errorf("the next demo has %q, %v", b, err)
	}
	if _, err := os.Stat(w.file("Read me first.txt")); err == nil {
		t.Error("what was deleted is back")
	}
	if s := w.status("--profile=demo"); s.Profile != "demo" {
		t.Errorf("%+v", s)
	}
	p.signal(syscall.SIGTERM)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr())
	}
}

// makeNewer makes a journal look as if a later version had written it.
func makeNewer(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("format"), binary.AppendUvarint(nil, 1000))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}
