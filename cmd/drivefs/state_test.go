package main

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// says is the value of a user.drivefs attribute, "" when there is none.
func (w *world) says(name, attr string) string {
	w.t.Helper()
	buf := make([]byte, 256)
	n, err := unix.Getxattr(w.file(name), "user.drivefs."+attr, buf)
	if errors.Is(err, unix.ENODATA) {
		return ""
	}
	if err != nil {
		w.t.Fatalf("user.drivefs.%s of %s: %v", attr, name, err)
	}
	return string(buf[:n])
}

// A file says how far it is from the drive.
func TestStateOfFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	w.mount()
	expect := func(name, want string) {
		t.Helper()
		w.eventually(name+" is "+want, func() bool { return w.says(name, "state") == want })
	}
	w.write("a.txt", "one")
	w.must("flush")
	expect("a.txt", "synced")
	if id, md5, cached := w.says("a.txt", "id"), w.says("a.txt", "md5"), w.says("a.txt", "cached"); id == "" || md5 != "f97c5d29941bfb1b2fdab0874906ab82" || cached == "" {
		t.Errorf("id %q, md5 %q, cached %q", id, md5, cached)
	}

	w.must("limit", "--pause")
	w.write("a.txt", "mine")
	expect("a.txt", "pending")
	if _, err := w.drive.Else().PutPath("a.txt", []byte("theirs")); err != nil {
		t.Fatal(err)
	}
	w.must("limit", "--resume")
	w.must("flush")
	w.must("refresh")
	list := names(t, w.mountpoint)
	i := slices.IndexFunc(list, func(name string) bool { return strings.Contains(name, "(conflict ") })
	if i < 0 {
		t.Fatalf("no conflict copy: %v", list)
	}
	expect(list[i], "conflict")
	expect("a.txt", "synced")
	if err := os.Rename(w.file(list[i]), w.file("mine.txt")); err != nil {
		t.Fatal(err)
	}
	w.must("flush")
	expect("mine.txt", "synced")

	w.must("limit", "--upload-limit=200KiB")
	w.write("large", strings.Repeat("x", 600<<10))
	expect("large", "uploading")
	w.eventually("it gets on", func() bool {
		percent, err := strconv.Atoi(w.says("large", "progress"))
		return err == nil && percent > 0 && percent <= 100
	})
	w.must("limit", "--upload-limit=none")
	w.must("flush")
	expect("large", "synced")
	if p := w.says("large", "progress"); p != "" {
		t.Errorf("after its upload the progress is %q", p)
	}

	w.drive.SetFaults(drivetest.Faults{OverQuota: true})
	w.write("too much", "x")
	expect("too much", "error")
	if _, _, code := w.run("unmount", "--no-wait", w.mountpoint); code != 6 {
		t.Errorf("exit code %d", code)
	}
}
