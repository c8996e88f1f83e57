package logs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// A log never has more than its two files, and no line is lost between them.
func TestRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "log")
	r, err := openRotating(path)
	if err != nil {
		t.Fatal(err)
	}
	line := append(bytes.Repeat([]byte("x"), 1<<20-1), '\n')
	for range 20 {
		if n, err := r.Write(line); err != nil || n != len(line) {
			t.Fatal(n, err)
		}
	}
	r.close()
	var sizes []int64
	for _, name := range []string{path + ".1", path} {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, st.Size())
	}
	if sizes[0] != 8<<20 || sizes[1] != 4<<20 {
		t.Errorf("the files have %d bytes", sizes)
	}
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 2 {
		t.Errorf("%d files", len(all))
	}
}
