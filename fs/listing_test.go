package fs_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/integration"
)

type dirent struct {
	name string
	ino  uint64
	off  int64
}

// getdents reads the next entries of an open folder, as few at once as the
// size of the buffer allows; nil at the end.
func getdents(t *testing.T, fd int, size int) []dirent {
	t.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	var out []dirent
	for b := buf[:n]; len(b) > 0; {
		reclen := binary.NativeEndian.Uint16(b[16:])
		name := b[19:reclen]
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		out = append(out, dirent{
			name: string(name),
			ino:  binary.NativeEndian.Uint64(b),
			off:  int64(binary.NativeEndian.Uint64(b[8:])),
		})
		b = b[reclen:]
	}
	return out
}

func crowd(t *testing.T, n int) func(*drivetest.Client) {
	return func(other *drivetest.Client) {
		for i := range n {
			if _, err := other.PutPath(fmt.Sprintf("d/file%05d", i), nil); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestListingWhileItChanges: a folder is read little by little while files
// come, go and are renamed, here and elsewhere.
func TestListingWhileItChanges(t *testing.T) {
	says(t, "A listing shows every entry that was there all the time exactly once, whatever is created, removed or renamed meanwhile.")
	const files = 600
	w := integration.NewWorld(t, integration.Config{Fill: crowd(t, files)})
	fd, err := unix.Open(w.Path("d"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	seen := map[string]int{}
	touched := map[string]bool{}
	for round := 0; ; round++ {
		es := getdents(t, fd, 1024)
		if len(es) == 0 {
			break
		}
		for _, e := range es {
			seen[e.name]++
		}
		a, b, c, d := fmt.Sprintf("file%05d", (round*7)%files), fmt.Sprintf("file%05d", (round*13+1)%files),
			fmt.Sprintf("file%05d", (round*29+2)%files), fmt.Sprintf("file%05d", (round*31+3)%files)
		switch round % 4 {
		case 0:
			if os.Remove(w.Path("d", a)) == nil {
				touched[a] = true
			}
		case 1:
			if os.Rename(w.Path("d", b), w.Path("d", "moved-"+b)) == nil {
				touched[b] = true
			}
		case 2:
			if n, err := w.Else.Lookup("d/" + c); err == nil && !touched[c] {
				if _, err := w.Else.Trash(n.ID); err != nil {
					t.Fatal(err)
				}
				touched[c] = true
				w.Poll()
			}
		case 3:
			if n, err := w.Else.Lookup("d/" + d); err == nil && !touched[d] {
				if _, err := w.Else.Rename(n.ID, "there-"+d); err != nil {
					t.Fatal(err)
				}
				touched[d] = true
				w.Poll()
			}
		}
	}
	for i := range files {
		n := fmt.Sprintf("file%05d", i)
		switch {
		case seen[n] > 1:
			t.Errorf("%s shown %d times", n, seen[n])
		case seen[n] == 0 && !touched[n]:
			t.Errorf("%s was there all the time and not shown", n)
		}
	}
	if len(touched) < 20 {
		t.Errorf("only %d files changed meanwhile", len(touched))
	}
}

// TestSeekdir: positions are those of entries, and survive that the entry goes.
func TestSeekdir(t *testing.T) {
	says(t, "telldir and seekdir positions stay valid for as long as the entry they follow is in the folder, and after that mean the place where it was.")
	w := integration.NewWorld(t, integration.Config{Fill: crowd(t, 150)})
	fd, err := unix.Open(w.Path("d"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var all []dirent
	for {
		es := getdents(t, fd, 2048)
		if len(es) == 0 {
			break
		}
		all = append(all, es...)
	}
	if len(all) != 152 {
		t.Fatalf("%d entries, want 152", len(all))
	}
	for i := 1; i < len(all); i++ {
		if all[i].off <= all[i-1].off {
			t.Fatalf("positions do not count up: %d after %d", all[i].off, all[i-1].off)
		}
	}
	follow := func(i int) string {
		t.Helper()
		if _, err := unix.Seek(fd, all[i].off, unix.SEEK_SET); err != nil {
			t.Fatal(err)
		}
		es := getdents(t, fd, 512)
		if len(es) == 0 {
			return ""
		}
		return es[0].name
	}
	for _, i := range []int{100, 2, 149, 50, 51} {
		if got := follow(i); got != all[i+1].name {
			t.Errorf("after position %d comes %q, want %q", i, got, all[i+1].name)
		}
	}
	if got := follow(151); got != "" {
		t.Errorf("after the last comes %q", got)
	}
	// With the entry itself and the one behind it gone.
	for _, i := range []int{60, 61} {
		if err := os.Remove(w.Path("d", all[i].name)); err != nil {
			t.Fatal(err)
		}
	}
	// This descriptor was opened before, so it may still show them; nothing
	// else may be shown twice or left out.
	if got := follow(60); got != all[61].name && got != all[62].name {
		t.Errorf("after the place of the removed comes %q, want %q", got, all[62].name)
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		es := getdents(t, fd, 4096)
		if len(es) == 0 {
			break
		}
		n += len(es)
	}
	if n != 150 {
		t.Errorf("after rewinding %d entries, want 150", n)
	}
}

// TestListingIsNotOlderThanTheKernelThinks: entries are read by the request
// that answers them. A change between two requests of one listing must not be
// covered up for an hour by what was read before it.
func TestListingIsNotStale(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{Fill: crowd(t, 300)})
	fd, err := unix.Open(w.Path("d"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	shown := getdents(t, fd, 400)
	if len(shown) == 0 {
		t.Fatal("nothing listed")
	}
	for i := range 300 {
		if i%10 == 5 {
			w.Put(fmt.Sprintf("d/file%05d", i), "grown meanwhile")
		}
	}
	w.Poll()
	for len(getdents(t, fd, 4096)) > 0 {
	}
	for i := range 300 {
		want := int64(0)
		if i%10 == 5 {
			want = 15
		}
		if st := stat(t, w.Path(fmt.Sprintf("d/file%05d", i))); st.Size != want {
			t.Errorf("file%05d shows %d bytes, want %d", i, st.Size, want)
		}
	}
}
