package fs_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/integration"
)

func exact(o *cache.Options) { o.NamesExact = true }

// wantErr fails unless err is want.
func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ns, err := f.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ns)
	return ns
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("%s lists %q, want %q", dir, got, want)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	return stat(t, path).Ino
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st
}

func TestAnySpelling(t *testing.T) {
	says(t,
		"Names keep the case they were given, and any spelling finds them: `README` opens `readme`.",
		"`mkdir HELLO` beside `hello` fails with EEXIST, and so does creating it with O_EXCL.",
		"`echo x > HELLO` writes into `hello`, which keeps its spelling. All spellings are one file with one inode number.",
		"rename(2) to another spelling of the same name does nothing and reports success")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("hello", "one")
	w.Want("HELLO", "one")
	if inode(t, w.Path("hello")) != inode(t, w.Path("HeLLo")) {
		t.Error("two spellings are two files")
	}
	wantErr(t, "mkdir HELLO", os.Mkdir(w.Path("HELLO"), 0o755), syscall.EEXIST)
	_, err := os.OpenFile(w.Path("Hello"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	wantErr(t, "O_EXCL Hello", err, syscall.EEXIST)

	w.Write("HELLO", "two")
	w.Want("hello", "two")
	wantNames(t, w.Mnt, "hello")

	if err := os.Rename(w.Path("hello"), w.Path("Hello")); err != nil {
		t.Errorf("rename to another spelling: %v", err)
	}
	wantNames(t, w.Mnt, "hello")

	// One page cache: a writer by one spelling and a mapping by another.
	mapped(t, "map-rw", w.Path("hElLo")).do("store 0 T")
	w.Want("hello", "Two")
}

// TestOtherSpellingLeaves: the kernel keeps the shown name for an hour; what
// is removed or moved through another spelling must not stay visible by it.
func TestOtherSpellingLeaves(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{})
	gone := func(name string) {
		t.Helper()
		w.Until(name+" is gone", func() bool {
			_, err := os.Lstat(w.Path(name))
			return errors.Is(err, os.ErrNotExist)
		})
	}
	w.Write("Foo", "x")
	stat(t, w.Path("Foo"))
	if err := os.Remove(w.Path("foo")); err != nil {
		t.Fatal(err)
	}
	gone("Foo")

	w.Write("Bar", "x")
	stat(t, w.Path("Bar"))
	if err := os.Rename(w.Path("bar"), w.Path("other")); err != nil {
		t.Fatal(err)
	}
	gone("Bar")
	w.Want("other", "x")

	if err := os.Mkdir(w.Path("Dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	stat(t, w.Path("Dir"))
	stat(t, w.Path("dIR"))
	if err := os.Remove(w.Path("DIR")); err != nil {
		t.Fatal(err)
	}
	gone("Dir")

	// Replaced through another spelling: the name that is shown is the one to
	// be told about later.
	w.Write("Target", "old")
	w.Write("src", "new")
	stat(t, w.Path("Target"))
	if err := os.Rename(w.Path("src"), w.Path("target")); err != nil {
		t.Fatal(err)
	}
	w.Want("Target", "new")
	w.Want("target", "new")
	w.Flush()
	w.Poll()
	n := w.Node("target")
	if _, err := w.Else.Trash(n.ID); err != nil {
		t.Fatal(err)
	}
	w.Poll()
	gone("Target")
	gone("target")
}

func TestExactNames(t *testing.T) {
	says(t, "With `--names exact`, names are found only as they are spelled, and creating a second spelling fails with EEXIST. There `mv a A` renames.")
	w := integration.NewWorld(t, integration.Config{Store: exact})
	w.Write("hello", "one")
	_, err := os.Lstat(w.Path("HELLO"))
	wantErr(t, "stat HELLO", err, syscall.ENOENT)
	wantErr(t, "> HELLO", os.WriteFile(w.Path("HELLO"), nil, 0o644), syscall.EEXIST)
	wantErr(t, "mkdir HELLO", os.Mkdir(w.Path("HELLO"), 0o755), syscall.EEXIST)
	wantErr(t, "rm HELLO", os.Remove(w.Path("HELLO")), syscall.ENOENT)
	w.Want("hello", "one")

	if err := os.Rename(w.Path("hello"), w.Path("HELLO")); err != nil {
		t.Fatal(err)
	}
	wantNames(t, w.Mnt, "HELLO")
	w.Want("HELLO", "one")
	_, err = os.Lstat(w.Path("hello"))
	wantErr(t, "the old spelling", err, syscall.ENOENT)

	if err := os.Mkdir(w.Path("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.Write("dir/f", "in it")
	if err := os.Rename(w.Path("dir"), w.Path("DIR")); err != nil {
		t.Fatal(err)
	}
	w.Want("DIR/f", "in it")

	w.Write("third", "x")
	w.Flush()
	if n := w.Node("HELLO"); n.Name != "HELLO" {
		t.Errorf("on the drive it is called %q", n.Name)
	}
}

// TestAbsentNamesAppear: exact names let the kernel remember what is not
// there; it has to be told when it comes.
func TestAbsentNamesAppear(t *testing.T) {
	for _, names := range []bool{false, true} {
		w := integration.NewWorld(t, integration.Config{Store: func(o *cache.Options) { o.NamesExact = names }})
		for range 3 {
			_, err := os.Lstat(w.Path("later"))
			wantErr(t, "before", err, syscall.ENOENT)
		}
		w.Put("later", "here")
		w.Poll()
		w.Want("later", "here")
	}
}

func TestLongNames(t *testing.T) {
	says(t, "A name is at most 255 bytes long; a longer one is ENAMETOOLONG in every call.")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", "x")
	long := w.Path(strings.Repeat("x", 256))
	_, err := os.Lstat(long)
	wantErr(t, "stat", err, syscall.ENAMETOOLONG)
	wantErr(t, "create", os.WriteFile(long, nil, 0o644), syscall.ENAMETOOLONG)
	wantErr(t, "mkdir", os.Mkdir(long, 0o755), syscall.ENAMETOOLONG)
	wantErr(t, "mknod", unix.Mknod(long, unix.S_IFREG|0o644, 0), syscall.ENAMETOOLONG)
	wantErr(t, "unlink", unix.Unlink(long), syscall.ENAMETOOLONG)
	wantErr(t, "rmdir", unix.Rmdir(long), syscall.ENAMETOOLONG)
	wantErr(t, "rename to", os.Rename(w.Path("f"), long), syscall.ENAMETOOLONG)
	wantErr(t, "rename from", os.Rename(long, w.Path("f")), syscall.ENAMETOOLONG)
	wantErr(t, "link", os.Link(w.Path("f"), long), syscall.ENAMETOOLONG)
	fits := strings.Repeat("é", 127) + "x"
	w.Write(fits, "fits")
	w.Want(fits, "fits")
}

func TestTrashFolders(t *testing.T) {
	says(t, "The folders `.Trash` and `.Trash-*` cannot be made at the top of the mount (EPERM)")
	w := integration.NewWorld(t, integration.Config{})
	wantErr(t, ".Trash", os.Mkdir(w.Path(".Trash"), 0o755), syscall.EPERM)
	wantErr(t, ".Trash-1000", os.Mkdir(w.Path(".Trash-1000"), 0o755), syscall.EPERM)
	if err := os.MkdirAll(w.Path("sub/.Trash-1000"), 0o755); err != nil {
		t.Errorf("below the top: %v", err)
	}
}

func TestShownNames(t *testing.T) {
	says(t, "What Linux cannot show is shown in look-alikes: `/` as `／`, a NUL as `␀`, and `.` and `..` as full-width dots.")
	w := integration.NewWorld(t, integration.Config{})
	if _, err := w.Else.Put("", "a/b", strings.NewReader("slash")); err != nil {
		t.Fatal(err)
	}
	w.Poll()
	w.Want("a／b", "slash")
	wantNames(t, w.Mnt, "a／b")
}
