package fs_test

import (
	"maps"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/fs"
	"github.com/drivefs/drivefs/integration"
)

// TestObserve: every request of the kernel is told of, by its name, with how it
// was answered.
func TestObserve(t *testing.T) {
	var mu sync.Mutex
	got := map[string]int{}
	w := integration.NewWorld(t, integration.Config{Mount: func(o *fs.MountOptions) {
		o.Observe = func(op fs.Operation) {
			mu.Lock()
			defer mu.Unlock()
			if op.Took < 0 {
				t.Errorf("%s took %v", op.Kind, op.Took)
			}
			got[op.Kind+" "+op.Errno]++
		}
	}})
	check(w, os.Mkdir(w.Path("d"), 0o755))
	check(w, os.Mkdir(w.Path("d/sub"), 0o755))
	f, err := os.OpenFile(w.Path("d/f"), os.O_RDWR|os.O_CREATE, 0o644)
	check(w, err)
	_, err = f.WriteString("content")
	check(w, err)
	check(w, unix.Fallocate(int(f.Fd()), 0, 0, 10))
	check(w, f.Sync())
	_, err = f.ReadAt(make([]byte, 3), 0)
	check(w, err)
	check(w, f.Close())
	r, err := os.Open(w.Path("d/f"))
	check(w, err)
	check(w, r.Close())
	d, err := os.Open(w.Path("d"))
	check(w, err)
	_, err = d.Readdirnames(-1)
	check(w, err)
	check(w, d.Sync())
	check(w, d.Close())
	for _, path := range []string{"d", "d/f"} {
		check(w, os.Chmod(w.Path(path), 0o700))
		check(w, unix.Setxattr(w.Path(path), "user.x", []byte("y"), 0))
		_, err = unix.Getxattr(w.Path(path), "user.x", make([]byte, 10))
		check(w, err)
		_, err = unix.Listxattr(w.Path(path), make([]byte, 100))
		check(w, err)
		check(w, unix.Removexattr(w.Path(path), "user.x"))
	}
	_, err = unix.Getxattr(w.Path("d/f"), "user.none", make([]byte, 10))
	wantErr(t, "getxattr", err, unix.ENODATA)
	wantErr(t, "rmdir", os.Remove(w.Path("d")), unix.ENOTEMPTY)
	wantErr(t, "mkdir", os.Mkdir(w.Path(".Trash"), 0o755), unix.EPERM)
	wantErr(t, "link", os.Link(w.Path("d/f"), w.Path("d/g")), unix.EPERM)
	wantErr(t, "symlink", os.Symlink("x", w.Path("d/l")), unix.EOPNOTSUPP)
	check(w, unix.Mknod(w.Path("d/node"), unix.S_IFREG|0o644, 0))
	check(w, os.Rename(w.Path("d/f"), w.Path("d/g")))
	check(w, os.Remove(w.Path("d/g")))
	check(w, os.Remove(w.Path("d/sub")))
	_, err = os.Lstat(w.Path("none"))
	wantErr(t, "stat", err, unix.ENOENT)
	var st unix.Statfs_t
	check(w, unix.Statfs(w.Mnt, &st))
	for _, want := range []string{
		"lookup ", "lookup ENOENT", "getattr ", "setattr ", "create ", "mknod ", "mkdir ", "mkdir EPERM", "unlink ",
		"rmdir ", "rmdir ENOTEMPTY", "rename ", "link EPERM", "open ", "read ", "write ", "fallocate ", "flush ",
		"fsync ", "release ", "opendir ", "readdir ", "fsyncdir ", "releasedir ", "statfs ", "getxattr ", "getxattr ENODATA",
		"setxattr ", "listxattr ", "removexattr ",
	} {
		w.Until(want, func() bool { // RELEASE comes after close
			mu.Lock()
			defer mu.Unlock()
			return got[want] > 0
		})
	}
	mu.Lock()
	defer mu.Unlock()
	t.Log(slices.Sorted(maps.Keys(got)))
}
