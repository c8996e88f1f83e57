package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/integration"
)

// TestKilledWriterKeepsItsFile: the FLUSH of a killed process arrives with its
// context cancelled, and must commit all the same.
func TestKilledWriterKeepsItsFile(t *testing.T) {
	says(t, "This holds for a process that is killed while it has the file open, too: what it had written is kept.")
	w := integration.NewWorld(t, integration.Config{})
	p := act(t, "write-and-wait", w.Path("f"))
	p.expect("ready")
	check(w, p.cmd.Process.Kill())
	p.cmd.Wait()
	w.Want("f", "written before the kill")
	w.Remount()
	w.Want("f", "written before the kill")
	w.Flush()
	w.WantRemote("f", "written before the kill")
}

// TestMappingOutlivesDescriptor: WRITE and then RELEASE come without a FLUSH.
func TestMappingOutlivesDescriptor(t *testing.T) {
	says(t,
		"A mapping that outlives its file descriptor is committed when the last of it is unmapped.",
		"Shared and private mappings work, also for writing. All mappings, reads and writes on this machine see the same bytes.")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", "0123456789")
	w.Flush()
	m := mapped(t, "map-rw", w.Path("f"))
	m.do("close")
	m.do("store 0 abc")
	w.Want("f", "abc3456789")
	m.do("unmap")
	w.Until("the drive has it", func() bool {
		w.Flush()
		b, err := w.Else.ReadFile("f")
		return err == nil && string(b) == "abc3456789"
	})
}

func TestMsyncAndTruncate(t *testing.T) {
	says(t, "truncate works with and without an open file; what was cut off reads as zeros when the file grows again.")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", "0123456789")
	f, err := os.OpenFile(w.Path("f"), os.O_RDWR, 0)
	check(w, err)
	defer f.Close()
	m := mapped(t, "map-rw", w.Path("f"))
	m.do("store 2 XYZ")
	m.do("msync")
	w.Want("f", "01XYZ56789")
	check(w, os.Truncate(w.Path("f"), 4))
	w.Want("f", "01XY")
	check(w, f.Truncate(8))
	w.Want("f", "01XY\x00\x00\x00\x00")
	w.Flush()
}

func TestAppendersDoNotOverwrite(t *testing.T) {
	says(t, "Concurrent O_APPEND writers on this machine do not overwrite each other.")
	w := integration.NewWorld(t, integration.Config{})
	const writers, lines = 4, 200
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			flags := os.O_CREATE | os.O_APPEND | os.O_WRONLY
			if i%2 == 1 {
				flags = os.O_CREATE | os.O_APPEND | os.O_RDWR
			}
			f, err := os.OpenFile(w.Path("log"), flags, 0o644)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for range lines {
				if _, err := f.Write(bytes.Repeat([]byte{byte('a' + i)}, 20)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got := readFile(t, w.Path("log"))
	if len(got) != writers*lines*20 {
		t.Errorf("%d bytes, want %d", len(got), writers*lines*20)
	}
	for i := range writers {
		if n := bytes.Count(got, bytes.Repeat([]byte{byte('a' + i)}, 20)); n != lines {
			t.Errorf("writer %d: %d whole lines, want %d", i, n, lines)
		}
	}
	w.Flush()
	w.WantRemote("log", string(got))
}

// TestWriteOnlyIsCoherent: handles opened for writing alone bypass the page
// cache, and readers and mappings still see what they write.
func TestWriteOnlyIsCoherent(t *testing.T) {
	says(t, "A write is seen by every reader on this machine at once, before anything is uploaded.")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", string(bytes.Repeat([]byte("."), 10_000)))
	r, err := os.Open(w.Path("f"))
	check(w, err)
	defer r.Close()
	m := mapped(t, "map-ro", w.Path("f"))
	f, err := os.OpenFile(w.Path("f"), os.O_WRONLY, 0)
	check(w, err)
	defer f.Close()
	for i := range 50 {
		want := fmt.Sprintf("write-%04d", i)
		at := int64(i * 190)
		if _, err := f.WriteAt([]byte(want), at); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := r.ReadAt(got, at); err != nil || string(got) != want {
			t.Fatalf("a reader sees %q, %v; want %q", got, err, want)
		}
		if got := m.do("load %d %d", at, len(want)); got != want {
			t.Fatalf("a mapping sees %q, want %q", got, want)
		}
	}
}

// TestCloseNeedsNoNetwork: with the drive gone, closing takes no longer.
func TestCloseNeedsNoNetwork(t *testing.T) {
	says(t, "Closing does not wait for the network.", "fsync of a directory works")
	w := integration.NewWorld(t, integration.Config{Store: func(o *cache.Options) { o.UploadDelay = time.Minute }})
	w.Drive.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{{Fault: drivetest.Fault{Do: drivetest.DoStatus, Status: 503}}}})
	f, err := os.Create(w.Path("f"))
	check(w, err)
	_, err = f.WriteString("offline")
	check(w, err)
	check(w, f.Sync())
	start := time.Now()
	check(w, f.Close())
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("close took %v", took)
	}
	d, err := os.Open(w.Mnt)
	check(w, err)
	check(w, d.Sync())
	d.Close()
	w.Want("f", "offline")
	w.Drive.SetFaults(drivetest.Faults{})
	w.Flush()
	w.WantRemote("f", "offline")
}

func TestRename(t *testing.T) {
	says(t,
		"RENAME_NOREPLACE works. RENAME_EXCHANGE and RENAME_WHITEOUT fail with EINVAL.",
		"A folder can replace only an empty folder. A folder cannot be moved into itself (EINVAL).",
		"rename replaces an existing file in one step")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("a", "A")
	w.Write("b", "B")
	ren := func(flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, w.Path("a"), unix.AT_FDCWD, w.Path("b"), flags)
	}
	wantErr(t, "NOREPLACE", ren(unix.RENAME_NOREPLACE), syscall.EEXIST)
	wantErr(t, "EXCHANGE", ren(unix.RENAME_EXCHANGE), syscall.EINVAL)
	wantErr(t, "WHITEOUT", ren(unix.RENAME_WHITEOUT), syscall.EINVAL)
	// The refusals above must not have turned NOREPLACE off.
	wantErr(t, "NOREPLACE again", ren(unix.RENAME_NOREPLACE), syscall.EEXIST)
	w.Want("b", "B")
	check(w, ren(0))
	w.Want("b", "A")
	check(w, unix.Renameat2(unix.AT_FDCWD, w.Path("b"), unix.AT_FDCWD, w.Path("c"), unix.RENAME_NOREPLACE))
	wantNames(t, w.Mnt, "c")

	check(w, os.MkdirAll(w.Path("d/e"), 0o755))
	check(w, os.Mkdir(w.Path("full"), 0o755))
	w.Write("full/x", "x")
	wantErr(t, "onto a full folder", unix.Rename(w.Path("d"), w.Path("full")), syscall.ENOTEMPTY)
	wantErr(t, "into itself", unix.Rename(w.Path("d"), w.Path("d/e/d")), syscall.EINVAL)
	wantErr(t, "a file onto a folder", unix.Rename(w.Path("c"), w.Path("d")), syscall.EISDIR)
	wantErr(t, "a folder onto a file", unix.Rename(w.Path("d"), w.Path("c")), syscall.ENOTDIR)
	check(w, os.Mkdir(w.Path("empty"), 0o755))
	check(w, unix.Rename(w.Path("full"), w.Path("empty")))
	w.Want("empty/x", "x")
	w.Flush()
	w.Poll()
	w.WantRemote("empty/x", "x")
}

func TestRemoving(t *testing.T) {
	says(t,
		"unlink takes a file out of one folder; the last one moves it to the drive's trash.",
		"rmdir fails with ENOTEMPTY unless the folder is empty, also of what only the drive knows yet.")
	w := integration.NewWorld(t, integration.Config{})
	w.Put("d/f", "x")
	w.Poll()
	wantErr(t, "rmdir", unix.Rmdir(w.Path("d")), syscall.ENOTEMPTY)
	wantErr(t, "rmdir of a file", unix.Rmdir(w.Path("d/f")), syscall.ENOTDIR)
	wantErr(t, "unlink of a folder", unix.Unlink(w.Path("d")), syscall.EISDIR)
	id := w.Node("d/f").ID
	check(w, os.Remove(w.Path("d/f")))
	check(w, os.Remove(w.Path("d")))
	w.Flush()
	n, err := w.Else.Get(id)
	check(w, err)
	if n.Status != drivetest.StatusTrash {
		t.Errorf("the file is %s, want it in the trash", n.Status)
	}
}

func TestLinks(t *testing.T) {
	says(t,
		"ln works where the drive can do it: a second folder for a file, under the same name. Anything else fails with EPERM.",
		"There are no symbolic links, device nodes, pipes or sockets (EOPNOTSUPP).",
		"A folder has a link count of 1. A file's link count is the number of folders it is in.")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", "linked")
	check(w, os.Mkdir(w.Path("d"), 0o755))
	w.Flush()
	check(w, os.Link(w.Path("f"), w.Path("d/f")))
	w.Want("d/f", "linked")
	if a, b := stat(t, w.Path("f")), stat(t, w.Path("d/f")); a.Ino != b.Ino || a.Nlink != 2 || b.Nlink != 2 {
		t.Errorf("inodes %d and %d, links %d and %d", a.Ino, b.Ino, a.Nlink, b.Nlink)
	}
	if st := stat(t, w.Path("d")); st.Nlink != 1 {
		t.Errorf("the folder has %d links", st.Nlink)
	}
	wantErr(t, "another name", os.Link(w.Path("f"), w.Path("g")), syscall.EPERM)
	wantErr(t, "symlink", os.Symlink("f", w.Path("s")), syscall.EOPNOTSUPP)
	wantErr(t, "fifo", unix.Mkfifo(w.Path("p"), 0o644), syscall.EOPNOTSUPP)
	check(w, unix.Mknod(w.Path("plain"), unix.S_IFREG|0o644, 0))
	w.Want("plain", "")
	check(w, os.Remove(w.Path("f")))
	w.Want("d/f", "linked")
	if st := stat(t, w.Path("d/f")); st.Nlink != 1 {
		t.Errorf("after unlink the other one has %d links", st.Nlink)
	}
	w.Flush()
	w.WantRemote("d/f", "linked")
}

func TestAttributes(t *testing.T) {
	says(t,
		"chmod and the modification time are kept, over remounts and on other machines.",
		"The mode is the one given at creation or by chmod, else what `--umask` leaves of 0777 and 0666.",
		"Inode numbers are kept over remounts",
		"The access time is always the modification time. The time of creation is shown by statx.")
	w := integration.NewWorld(t, integration.Config{Fill: func(other *drivetest.Client) {
		if _, err := other.PutPath("theirs/f", []byte("x")); err != nil {
			t.Error(err)
		}
	}})
	if st := stat(t, w.Path("theirs")); st.Mode&0o7777 != 0o700 {
		t.Errorf("a folder without a mode shows %o", st.Mode&0o7777)
	}
	if st := stat(t, w.Path("theirs/f")); st.Mode&0o7777 != 0o600 {
		t.Errorf("a file without a mode shows %o", st.Mode&0o7777)
	}
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	check(w, os.WriteFile(w.Path("f"), []byte("x"), 0o754))
	if st := stat(t, w.Path("f")); st.Mode&0o7777 != 0o754 {
		t.Errorf("created with 0754, shows %o", st.Mode&0o7777)
	}
	check(w, os.Chmod(w.Path("f"), 0o4640))
	when := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	check(w, os.Chtimes(w.Path("f"), time.Now(), when))
	check(w, os.Chmod(w.Path("theirs"), 0o500))
	seen := func() {
		t.Helper()
		st := stat(t, w.Path("f"))
		if st.Mode&0o7777 != 0o640 {
			t.Errorf("mode %o, want 640", st.Mode&0o7777)
		}
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(when) {
			t.Errorf("modified %v, want %v", got, when)
		}
		if st.Atim != st.Mtim {
			t.Errorf("accessed %v, modified %v", st.Atim, st.Mtim)
		}
		if st := stat(t, w.Path("theirs")); st.Mode&0o7777 != 0o500 {
			t.Errorf("folder's mode %o, want 500", st.Mode&0o7777)
		}
	}
	seen()
	ino := inode(t, w.Path("f"))
	w.Flush()
	seen()
	w.Remount()
	seen()
	if inode(t, w.Path("f")) != ino {
		t.Error("another inode number after remounting")
	}
	var sx unix.Statx_t
	check(w, unix.Statx(unix.AT_FDCWD, w.Path("f"), 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &sx))
	if sx.Mask&unix.STATX_BTIME == 0 || time.Since(time.Unix(sx.Btime.Sec, 0)).Abs() > time.Hour {
		t.Errorf("created %+v (mask %x)", sx.Btime, sx.Mask)
	}
	if sx.Ino != ino || sx.Size != 1 || sx.Mode&0o777 != 0o640 {
		t.Errorf("statx shows %+v", sx)
	}
}

func TestChown(t *testing.T) {
	says(t, "chown succeeds for root and changes nothing.")
	if os.Getuid() != 0 {
		t.Skip("only root may chown")
	}
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", "x")
	check(w, os.Chown(w.Path("f"), 1234, 1234))
	if st := stat(t, w.Path("f")); st.Uid != 0 || st.Gid != 0 {
		t.Errorf("belongs to %d:%d", st.Uid, st.Gid)
	}
}

func TestXattrs(t *testing.T) {
	says(t,
		"Attributes named `user.*` work, within what the drive has room for (ENOSPC beyond). Others fail with EOPNOTSUPP.",
		"With `--xattrs off` there are none but `user.drivefs.control` on the mount point")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", "x")
	p := w.Path("f")
	check(w, unix.Setxattr(p, "user.note", []byte("remember"), 0))
	buf := make([]byte, 100)
	n, err := unix.Getxattr(p, "user.note", buf)
	if err != nil || string(buf[:n]) != "remember" {
		t.Errorf("user.note: %q, %v", buf[:max(n, 0)], err)
	}
	_, err = unix.Getxattr(p, "user.note", buf[:3])
	wantErr(t, "a short buffer", err, syscall.ERANGE)
	wantErr(t, "XATTR_CREATE", unix.Setxattr(p, "user.note", nil, unix.XATTR_CREATE), syscall.EEXIST)
	wantErr(t, "XATTR_REPLACE", unix.Setxattr(p, "user.none", nil, unix.XATTR_REPLACE), syscall.ENODATA)
	wantErr(t, "foreign set", unix.Setxattr(p, "trusted.x", []byte("y"), 0), syscall.EOPNOTSUPP)
	_, err = unix.Getxattr(p, "security.selinux", buf)
	wantErr(t, "foreign get", err, syscall.EOPNOTSUPP)
	_, err = unix.Getxattr(p, "user.absent", buf)
	wantErr(t, "absent", err, syscall.ENODATA)
	wantErr(t, "beyond the drive's room", unix.Setxattr(p, "user.big", make([]byte, 4096), 0), syscall.ENOSPC)
	wantErr(t, "ours", unix.Setxattr(p, "user.drivefs.md5", []byte("y"), 0), syscall.EPERM)
	n, err = unix.Getxattr(w.Mnt, "user.drivefs.control", buf[:0])
	if err != nil || n == 0 {
		t.Errorf("the size of the control attribute: %d, %v", n, err)
	}
	check(w, unix.Setxattr(w.Mnt, "user.on-the-root", []byte("1"), 0))
	check(w, unix.Removexattr(w.Mnt, "user.on-the-root"))
	w.Flush()
	w.Remount()
	n, err = unix.Getxattr(p, "user.note", buf)
	if err != nil || string(buf[:n]) != "remember" {
		t.Errorf("user.note after remounting: %q, %v", buf[:max(n, 0)], err)
	}
}

func TestSpace(t *testing.T) {
	says(t, "df shows the quota of the account.")
	w := integration.NewWorld(t, integration.Config{Drive: drivetest.Options{Quota: 1 << 40}})
	w.Until("the quota shows", func() bool {
		var st unix.Statfs_t
		check(w, unix.Statfs(w.Mnt, &st))
		if st.Namelen != 255 || st.Bsize != 4096 || st.Bavail == 0 {
			t.Fatalf("statfs: %+v", st)
		}
		return st.Blocks*4096 == 1<<40
	})
}

func TestLocks(t *testing.T) {
	says(t, "flock, fcntl and OFD locks work between processes of this machine.")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", "x")
	a, err := os.OpenFile(w.Path("f"), os.O_RDWR, 0)
	check(w, err)
	defer a.Close()
	b, err := os.OpenFile(w.Path("F"), os.O_RDWR, 0)
	check(w, err)
	defer b.Close()
	check(w, unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	wantErr(t, "a second flock", unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB), syscall.EWOULDBLOCK)
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Len: 1}
	check(w, unix.FcntlFlock(a.Fd(), unix.F_OFD_SETLK, &lk))
	wantErr(t, "a second OFD lock", unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLK, &lk), syscall.EAGAIN)
}

func TestFallocate(t *testing.T) {
	says(t, "fallocate grows a file with zeros; with FALLOC_FL_KEEP_SIZE it succeeds and reserves nothing. Holes cannot be punched (EOPNOTSUPP).")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", "x")
	f, err := os.OpenFile(w.Path("f"), os.O_RDWR, 0)
	check(w, err)
	defer f.Close()
	check(w, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 100))
	if st := stat(t, w.Path("f")); st.Size != 1 {
		t.Errorf("KEEP_SIZE made it %d bytes", st.Size)
	}
	check(w, unix.Fallocate(int(f.Fd()), 0, 2, 6))
	w.Want("f", "x\x00\x00\x00\x00\x00\x00\x00")
	wantErr(t, "a hole", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4), syscall.EOPNOTSUPP)
	wantErr(t, "too large", unix.Fallocate(int(f.Fd()), 0, 0, 1<<46), syscall.EFBIG)
}

// TestSignals: a read of the drive that takes its time, and what may end it.
func TestSignals(t *testing.T) {
	says(t, "HUP, INT, QUIT, TERM and KILL end a waiting call at once with EINTR. Timers, SIGCHLD and other signals do not disturb it.")
	slow := func(w *integration.World, release chan struct{}) {
		w.Put("f", string(bytes.Repeat([]byte("x"), 8192)))
		w.Poll()
		w.Drive.Hook(func(op drivetest.Op) *drivetest.Fault {
			if op.Name == "content.download" {
				<-release
			}
			return nil
		})
	}
	t.Run("timers", func(t *testing.T) {
		w := integration.NewWorld(t, integration.Config{})
		release := make(chan struct{})
		slow(w, release)
		p := act(t, "read-with-alarms", w.Path("f"))
		p.thread()
		// Long enough for many alarms.
		<-time.After(700 * time.Millisecond)
		close(release)
		p.expect("read 4096")
		if _, err := p.wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("term with a handler", func(t *testing.T) {
		w := integration.NewWorld(t, integration.Config{})
		release := make(chan struct{})
		defer close(release)
		slow(w, release)
		p := act(t, "read-with-term", w.Path("f"))
		tid := p.thread()
		waitsFor(w, "content.download")
		check(w, unix.Tgkill(p.cmd.Process.Pid, tid, syscall.SIGTERM))
		p.expect("interrupted")
		if took, err := p.wait(); err != nil || took > 30*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
	t.Run("kill", func(t *testing.T) {
		w := integration.NewWorld(t, integration.Config{})
		release := make(chan struct{})
		defer close(release)
		slow(w, release)
		p := act(t, "read", w.Path("f"))
		p.thread()
		waitsFor(w, "content.download")
		start := time.Now()
		check(w, p.cmd.Process.Kill())
		err := p.cmd.Wait()
		var exit interface{ Error() string }
		if !errors.As(err, &exit) || time.Since(start) > 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// waitsFor returns when the drive has got the request.
func waitsFor(w *integration.World, op string) {
	w.Until("a request "+op, func() bool { return w.Drive.Requests()[op] > 0 })
}
