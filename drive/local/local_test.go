package local

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	file, link, loose := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "loose")
	for _, l := range [][2]string{{"file", link}, {"nowhere/x", loose}} {
		if err := os.Symlink(l[0], l[1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct{ path, data string }{{file, "one"}, {file, "two"}, {link, "three"}} {
		if err := ReplaceFile(step.path, []byte(step.data)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != step.data {
			t.Errorf("%q, want %q (%v)", got, step.data, err)
		}
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Error("the link became a file")
	}
	if err := ReplaceFile(filepath.Join(dir, "none", "x"), nil); err == nil {
		t.Error("a directory that is not there was written to")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("something is left behind: %v, %v", entries, err)
	}
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LocalHost:80": true, "127.0.0.1": true, "127.9.8.7:1": true, "::1": true, "[::1]": true, "[::1]:443": true,
		"": false, ":80": false, "0.0.0.0": false, "10.0.0.1:80": false, "localhost.example": false, "127.0.0.1.example:80": false, "example": false,
	} {
		if got := Loopback(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}
