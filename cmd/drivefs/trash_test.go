package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/spf13/pflag"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/trash"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// trash puts files into the drive's trash, one after the other.
func (w *world) trash(paths ...string) {
	w.t.Helper()
	for _, p := range paths {
		n, err := w.drive.Else().PutPath(p, []byte(p))
		if err == nil {
			_, err = w.drive.Else().Trash(n.ID)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) inTrash() (paths []string) {
	w.t.Helper()
	var list []trash.Item
	if err := json.Unmarshal([]byte(w.must("trash", "list", "--json")), &list); err != nil {
		w.t.Fatal(err)
	}
	for _, t := range list {
		paths = append(paths, t.Path)
	}
	slices.Sort(paths)
	return paths
}

// With a mount and without one.
func TestTrashPatterns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	for _, mounted := range []bool{false, true} {
		w.trash("d/one.txt", "d/two.txt", "e/Three.TXT", "e/four.jpg", "[odd].txt")
		if mounted {
			w.mount()
		}
		if out := w.must("trash", "list", "*.txt"); strings.Count(out, "\n") != 4 || strings.Contains(out, "four") {
			t.Errorf("list *.txt: %s", out)
		}
		if out := w.must("trash", "list", "--json", "/none/*"); out != "[]\n" {
			t.Errorf("list /none/*: %s", out)
		}
		for _, step := range []struct {
			what, says string
			left       []string
		}{
			{"/d/*", "restored /d/one.txt\nrestored /d/two.txt\n", []string{"/[odd].txt", "/e/Three.TXT", "/e/four.jpg"}},
			{"[odd].txt", "restored /[odd].txt\n", []string{"/e/Three.TXT", "/e/four.jpg"}},
			{"*.[tj][xp][tg]", "restored /e/four.jpg\nrestored /e/Three.TXT\n", nil},
		} {
			out := w.must("trash", "restore", step.what)
			got, want := strings.Split(out, "\n"), strings.Split(step.says, "\n")
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("restore %s says %q", step.what, out)
			}
			if left := w.inTrash(); !slices.Equal(left, step.left) {
				t.Errorf("after restore %s the trash holds %v", step.what, left)
			}
		}
		for what, want := range map[string]string{"*.pdf": "nothing in the trash matches", "d/none": "no such thing"} {
			_, stderr, code := w.run("trash", "restore", what)
			if code != 1 {
				t.Errorf("%s: exit code %d", what, code)
			}
			oneLine(t, stderr, what, want, "trash list")
		}
		if _, stderr, code := w.run("trash", "restore", "[a"); code != 2 {
			t.Errorf("a bad pattern: exit code %d: %s", code, stderr)
		}
		if mounted {
			if b := read(t, w.file("e/Three.TXT")); b != "e/Three.TXT" {
				t.Errorf("read %q", b)
			}
			w.must("unmount", w.mountpoint)
		}
		for _, p := range []string{"d", "e", "[odd].txt"} {
			n, err := w.drive.Else().Lookup(p)
			if err == nil {
				_, err = w.drive.Else().Trash(n.ID)
			}
			if err == nil {
				err = w.drive.Else().Purge(n.ID)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What stands in the way is named, and stays.
func TestTrashConflicts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	w.trash("d/a.txt", "d/b.txt", "a.txt")
	if _, err := w.drive.Else().PutPath("d/A.txt", []byte("new")); err != nil {
		t.Fatal(err)
	}
	w.mount()
	_, stderr, code := w.run("trash", "restore", "d/a.txt")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	oneLine(t, stderr, "/d/a.txt", "taken", "stays in the trash", "--as NAME")
	_, stderr, code = w.run("trash", "restore", "b.txt")
	if code != 1 {
		t.Errorf("without its folder: exit code %d", code)
	}
	oneLine(t, stderr, "b.txt: no such thing in the trash, but /d/b.txt")
	out, stderr, code := w.run("trash", "restore", "/d/*")
	if code != 1 || out != "restored /d/b.txt\n" {
		t.Errorf("exit code %d: %s", code, out)
	}
	oneLine(t, stderr, "1 of 2 things stay", "/d/a.txt")
	if out := w.must("trash", "restore", "--as=b.txt", "a.txt"); out != "restored /b.txt\n" {
		t.Errorf("it says %q", out)
	}
	if _, _, code := w.run("trash", "restore", "--as=b.txt", "d/a.txt"); code != 1 {
		t.Errorf("under a name that is taken: exit code %d", code)
	}
	if out := w.must("trash", "restore", "--as=a (old).txt", "d/a.txt"); out != "restored /d/a (old).txt\n" {
		t.Errorf("it says %q", out)
	}
	for name, want := range map[string]string{"d/a (old).txt": "d/a.txt", "d/A.txt": "new", "d/b.txt": "d/b.txt", "b.txt": "a.txt"} {
		if got := read(t, w.file(name)); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if left := w.inTrash(); len(left) != 0 {
		t.Errorf("left in the trash: %v", left)
	}
	if _, _, code := w.run("trash", "restore", "--as=x/y", "a"); code != 2 {
		t.Errorf("a path as name: exit code %d", code)
	}
	w.must("unmount", w.mountpoint)

	w.trash("d/c.txt")
	w.env = append(w.env, "DRIVEFS_READ_ONLY=true")
	if _, stderr, code := w.run("trash", "restore", "d/c.txt"); code != 1 || !strings.Contains(stderr, "read-only") {
		t.Errorf("read-only: exit code %d: %s", code, stderr)
	}
	w.mount()
	if _, stderr, code := w.run("trash", "restore", "d/c.txt"); code != 1 || !strings.Contains(stderr, "read-only") {
		t.Errorf("read-only mount: exit code %d: %s", code, stderr)
	}
	w.must("unmount", w.mountpoint)
}

// What was removed a moment ago is in the trash when it is asked for.
func TestTrashRightAfterRemoving(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	if _, err := w.drive.Else().PutPath("d/a.txt", []byte("x")); err != nil {
		t.Fatal(err)
	}
	w.mount("--upload-delay=1h")
	w.must("refresh")
	if err := os.RemoveAll(w.file("d")); err != nil {
		t.Fatal(err)
	}
	if out := w.must("trash", "restore", "d"); out != "restored /d\n" {
		t.Errorf("it says %q", out)
	}
	if got := read(t, w.file("d/a.txt")); got != "x" {
		t.Errorf("read %q", got)
	}
	w.must("unmount", w.mountpoint)
}

// Lists lag behind; a person who has just deleted something does not.
func TestTrashOfALaggingDrive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{ListingLag: 3 * time.Second})
	w.trash("d/a.txt", "d/b.txt")
	if out := w.must("trash", "restore", "d/a.txt"); out != "restored /d/a.txt\n" {
		t.Errorf("it says %q", out)
	}
	n, err := w.drive.Else().PutPath("c.txt", nil)
	if err == nil {
		_, err = w.drive.Else().Trash(n.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := w.must("trash", "restore", n.ID); out != "restored /c.txt\n" {
		t.Errorf("by its id it says %q", out)
	}
	_, stderr, code := w.run("trash", "restore", "0123456789-_abcdefABCD")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	oneLine(t, stderr, "0123456789-_abcdefABCD", "no such thing", "trash list")
	_, stderr, code = w.run("trash", "restore", n.ID)
	if code != 1 {
		t.Errorf("twice: exit code %d", code)
	}
	oneLine(t, stderr, "not in the trash any more")
}

// Of several things of one path a person chooses; without one, the error says
// by which ids they can be told apart.
func TestTrashChoice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	w.trash("d/a.txt", "d/a.txt", "d/A.txt")
	var list []trash.Item
	if err := json.Unmarshal([]byte(w.must("trash", "list", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := w.run("trash", "restore", "/D/*")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	oneLine(t, stderr, list[0].ID, list[1].ID, list[2].ID, "name one by its id")
	if w.must("trash", "restore", list[1].ID); len(w.inTrash()) != 2 {
		t.Errorf("the trash holds %v", w.inTrash())
	}

	// At a terminal: not a number, the second, and another name for it.
	cmd := w.command("trash", "restore", "d/a*")
	master, err := pty.Start(cmd)
	if err != nil {
		t.Skipf("no pseudo-terminal: %v", err)
	}
	defer master.Close()
	r, screen := bufio.NewReader(master), strings.Builder{}
	until := func(text string) {
		t.Helper()
		for screen.Reset(); !strings.HasSuffix(screen.String(), text); {
			b, err := r.ReadByte()
			if err != nil {
				t.Fatalf("it ended before %q: %v: %s", text, err, screen.String())
			}
			screen.WriteByte(b)
		}
	}
	until("empty = none): ")
	for _, choice := range []string{"1  20", "2  20"} {
		if !strings.Contains(screen.String(), choice) {
			t.Errorf("no choice %s in %s", choice, screen.String())
		}
	}
	for _, step := range []struct{ answer, then string }{
		{"7", "empty = none): "}, {"2", "Another name for it (empty = leave it in the trash): "}, {path.Base(list[1].Path), "Another name for it (empty = leave it in the trash): "},
	} {
		if _, err := io.WriteString(master, step.answer+"\n"); err != nil {
			t.Fatal(err)
		}
		until(step.then)
	}
	if _, err := io.WriteString(master, "b.txt\n"); err != nil {
		t.Fatal(err)
	}
	until("restored /d/b.txt\r\n")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got := w.onDrive("d/b.txt"); !strings.EqualFold(got, "d/a.txt") {
		t.Errorf("restored %q", got)
	}
	if _, err := os.Stat(w.token()); err != nil || len(w.inTrash()) != 1 {
		t.Errorf("the trash holds %v", w.inTrash())
	}
}

func TestIDsThatLookLikeFlags(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"trash restore -Wd4Uk-bSy5U75e2NUAWNZ --as x", "trash restore --as x -- -Wd4Uk-bSy5U75e2NUAWNZ"},
		{"trash restore --d4Uk-bSy5U75e2NUAWNZ", "trash restore -- --d4Uk-bSy5U75e2NUAWNZ"},
		{"trash restore -- -Wd4Uk-bSy5U75e2NUAWNZ", "trash restore -- -Wd4Uk-bSy5U75e2NUAWNZ"},
		{"trash restore --token-file=/a -h", "trash restore --token-file=/a -h"},
	} {
		if got := strings.Join(idsLast(strings.Fields(test.args)), " "); got != test.want {
			t.Errorf("%s became %s", test.args, got)
		}
	}
	p := &program{stdout: io.Discard, stderr: io.Discard, env: func(string) (string, bool) { return "", false }}
	for _, c := range newRoot(p).Commands() {
		for _, c := range append(c.Commands(), c) {
			c.Flags().VisitAll(func(f *pflag.Flag) {
				if dashedID.MatchString("--" + f.Name) {
					t.Errorf("%s --%s looks like an id", c.CommandPath(), f.Name)
				}
			})
		}
	}
}
