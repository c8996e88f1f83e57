package fs_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/fs"
	"github.com/drivefs/drivefs/integration"
)

func again(w *integration.World, at string) error {
	s, err := fs.Mount(w.Context(), fs.MountOptions{Store: w.Store, Mountpoint: at})
	if err == nil {
		s.Unmount()
	}
	return err
}

func TestMountRefuses(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{})
	check(w, os.Mkdir(w.Path("below"), 0o755))
	wantErr(t, "on top of itself", again(w, w.Mnt), fs.ErrMounted)
	wantErr(t, "below itself", again(w, w.Path("below")), fs.ErrBelow)
	w.Write("below/f", "the mount still works")
}

func TestUnmountBusy(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", "x")
	f, err := os.Open(w.Path("f"))
	check(w, err)
	wantErr(t, "unmount", w.Server.Unmount(), fs.ErrBusy)
	w.Want("f", "x")

	// Lazily the path is free at once, and what is open goes on.
	check(w, w.Server.Lazy())
	if ns := names(t, w.Mnt); len(ns) != 0 {
		t.Errorf("the path still shows %q", ns)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "x" {
		t.Errorf("the open file reads %q, %v", b, err)
	}
	select {
	case <-w.Server.Done():
		t.Error("ended although a file is open")
	default:
	}
	check(w, f.Close())
	w.Server.Wait()
	if err := w.Server.Unmount(); err != nil {
		t.Errorf("unmounting what is gone: %v", err)
	}
}

// TestReleaseMayBeLost: when the mount goes with the last close, the kernel
// drops the RELEASE. What a mapping wrote after its descriptor was closed must
// reach the journal all the same.
func TestReleaseMayBeLost(t *testing.T) {
	for range 5 {
		w := integration.NewWorld(t, integration.Config{})
		w.Write("f", "0123456789")
		m := mapped(t, "map-rw", w.Path("f"))
		m.do("close")
		m.do("store 0 mapped")
		check(w, w.Server.Lazy())
		check(w, m.cmd.Process.Kill())
		m.cmd.Wait()
		w.Server.Wait()
		w.Remount()
		w.Want("f", "mapped6789")
	}
}

// TestMountSettings: what was asked of the kernel was granted.
func TestMountSettings(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{Mount: func(o *fs.MountOptions) { o.FsName = "my drive" }})
	b, err := os.ReadFile("/proc/self/mountinfo")
	check(w, err)
	var line string
	for l := range strings.Lines(string(b)) {
		if strings.Contains(l, " "+w.Mnt+" ") {
			line = l
		}
	}
	for _, want := range []string{" fuse.drivefs my\\040drive ", "nosuid", "nodev", "default_permissions", "max_read=1048576"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
	if os.Getuid() == 0 {
		dev := strings.Fields(line)[2]
		kb, err := os.ReadFile("/sys/class/bdi/" + dev + "/read_ahead_kb")
		if err == nil && strings.TrimSpace(string(kb)) != "1024" {
			t.Errorf("read-ahead is %s KiB", kb)
		}
	}
}

// TestDeadMountIsCleared: a server that was killed leaves a mount that answers
// nobody. The next one takes its place.
func TestDeadMountIsCleared(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can leave such a mount without a server")
	}
	w := integration.NewWorld(t, integration.Config{})
	at := filepath.Join(t.TempDir(), "dead")
	check(w, os.Mkdir(at, 0o755))
	dead(t, at, "fuse.drivefs")
	_, err := os.Stat(at)
	wantErr(t, "the dead mount", err, syscall.ENOTCONN)
	if err := again(w, at); err != nil {
		t.Error(err)
	}

	// Somebody else's is none of our business.
	dead(t, at, "fuse.other")
	wantErr(t, "somebody else's dead mount", again(w, at), fs.ErrMounted)
	check(w, unix.Unmount(at, unix.MNT_DETACH))
}

// dead mounts a FUSE filesystem that nobody serves.
func dead(t *testing.T, at, fstype string) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Mount("dead", at, fstype, unix.MS_NOSUID|unix.MS_NODEV, "rootmode=40000,user_id=0,group_id=0,fd="+itoa(fd))
	unix.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func TestReadOnly(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{Store: func(o *cache.Options) { o.ReadOnly = true }})
	w.Put("f", "x")
	w.Poll()
	w.Want("f", "x")
	wantErr(t, "create", os.WriteFile(w.Path("g"), nil, 0o644), syscall.EROFS)
	wantErr(t, "write", os.WriteFile(w.Path("f"), nil, 0o644), syscall.EROFS)
	wantErr(t, "remove", os.Remove(w.Path("f")), syscall.EROFS)
	wantErr(t, "chmod", os.Chmod(w.Path("f"), 0o600), syscall.EROFS)
	wantErr(t, "setxattr", unix.Setxattr(w.Path("f"), "user.x", nil, 0), syscall.EROFS)
}

func TestXattrsOff(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{Mount: func(o *fs.MountOptions) { o.Xattrs = false }})
	w.Write("f", "x")
	buf := make([]byte, 4096)
	_, err := unix.Getxattr(w.Path("f"), "user.drivefs.id", buf)
	wantErr(t, "get", err, syscall.EOPNOTSUPP)
	wantErr(t, "set", unix.Setxattr(w.Path("f"), "user.x", nil, 0), syscall.EOPNOTSUPP)
	_, err = unix.Listxattr(w.Path("f"), buf)
	wantErr(t, "list", err, syscall.EOPNOTSUPP)
	n, err := unix.Getxattr(w.Mnt, "user.drivefs.control", buf)
	if err != nil || !strings.HasSuffix(string(buf[:n]), "control") {
		t.Errorf("the control attribute: %q, %v", buf[:max(n, 0)], err)
	}
}

// TestWhoMayEnter: the kernel checks modes, and allow_root lets nobody else in.
func TestWhoMayEnter(t *testing.T) {
	says(t, "Without `--allow-other` nobody but the user who mounted can enter, not even root; with `--allow-root` root can.")
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	enter := func(path string) error {
		cmd := exec.Command("cat", path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return cmd.Run()
	}
	for _, c := range []struct {
		name string
		set  func(*fs.MountOptions)
		open bool // the public file can be read by somebody else
	}{
		{"alone", func(*fs.MountOptions) {}, false},
		{"with root", func(o *fs.MountOptions) { o.AllowRoot, o.Umask = true, 0o022 }, false},
		{"with others", func(o *fs.MountOptions) { o.AllowOther, o.Umask = true, 0o022 }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := integration.NewWorld(t, integration.Config{Mount: c.set})
			for at := w.Mnt; at != "/"; {
				at = filepath.Dir(at)
				if fi, err := os.Stat(at); err == nil && fi.Mode()&0o001 == 0 {
					check(w, os.Chmod(at, fi.Mode()|0o055))
				}
			}
			check(w, os.WriteFile(w.Path("public"), []byte("x"), 0o644))
			check(w, os.WriteFile(w.Path("private"), []byte("x"), 0o600))
			if err := enter(w.Path("public")); (err == nil) != c.open {
				t.Errorf("somebody else reads the public file: %v", err)
			}
			if enter(w.Path("private")) == nil {
				t.Error("somebody else reads a file of mode 0600")
			}
		})
	}
}

// TestMountAsUser is part of what runs as an ordinary user.
func TestMountAsUser(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("runs as a user: see TestPosixAsUser")
	}
	w := integration.NewWorld(t, integration.Config{})
	st := stat(t, w.Mnt)
	if int(st.Uid) != os.Getuid() || st.Mode&0o777 != 0o700 {
		t.Errorf("the root belongs to %d, mode %o", st.Uid, st.Mode&0o777)
	}
	wantErr(t, "twice", again(w, w.Mnt), fs.ErrMounted)
	f, err := os.Open(w.Mnt)
	check(w, err)
	wantErr(t, "busy", w.Server.Unmount(), fs.ErrBusy)
	check(w, f.Close())
	err = mountAt(w, func(o *fs.MountOptions) { o.AllowOther = true })
	if conf, _ := os.ReadFile("/etc/fuse.conf"); !strings.Contains("\n"+string(conf), "\nuser_allow_other") {
		wantErr(t, "allow_other", err, fs.ErrAllowOther)
	}
	closed := filepath.Join(t.TempDir(), "closed")
	check(w, os.Mkdir(closed, 0o500))
	if err := again(w, closed); !errors.Is(err, fs.ErrNotWritable) {
		t.Errorf("a directory that is not ours to write: %v", err)
	}
}

func mountAt(w *integration.World, set func(*fs.MountOptions)) error {
	at := filepath.Join(w.TempDir(), "second")
	check(w, os.Mkdir(at, 0o755))
	o := fs.MountOptions{Store: w.Store, Mountpoint: at}
	set(&o)
	s, err := fs.Mount(w.Context(), o)
	if err == nil {
		s.Unmount()
	}
	return err
}
