package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Drafts that were spare files are files like any other, and what is spare
// leaves nothing behind.
func TestSpares(t *testing.T) {
	dir := t.TempDir()
	s := newSpares(dir)
	defer s.close()
	for range 4 {
		if !s.add() {
			t.Skip("no files without a name here")
		}
	}
	fs := osFS{s}
	for i := range 3 {
		name := filepath.Join(dir, fmt.Sprint(i))
		f, err := fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(name), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); !os.IsExist(err) {
			t.Errorf("made twice: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(name)
		if fi, serr := os.Stat(name); err != nil || serr != nil || string(b) != name || fi.Mode() != 0o600 {
			t.Errorf("%q: %v, %v", b, err, fi)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 3 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// Where nothing can be made, drafts are made as they are needed.
func TestSparesElsewhere(t *testing.T) {
	dir := t.TempDir()
	s := newSpares(filepath.Join(dir, "none"))
	defer s.close()
	fs := osFS{s}
	for i := range 3 {
		f, err := fs.OpenFile(filepath.Join(dir, fmt.Sprint(i)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}
