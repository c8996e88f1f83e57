package memfs

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/drivefs/drivefs/integration"
)

func TestMain(m *testing.M) {
	if code, again := integration.Isolate(); again {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func TestPieces(t *testing.T) {
	content := []byte("0123456789")
	for _, tt := range []struct {
		off, n int64
		want   string
	}{{0, 0, ""}, {0, 4, "0123"}, {8, 4, "8901"}, {25, 17, "56789012345678901"}, {10, 10, "0123456789"}} {
		if got := string(bytes.Join(pieces(content, tt.off, tt.n), nil)); got != tt.want {
			t.Errorf("pieces(%d, %d) = %q, want %q", tt.off, tt.n, got, tt.want)
		}
	}
}

func TestMount(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse here")
	}
	for _, xattrs := range []bool{true, false} {
		mnt, disk := t.TempDir(), t.TempDir()
		s, err := Mount(Options{Mountpoint: mnt, Xattrs: xattrs, Nodes: 22, PerDir: 10, Files: map[string]int64{"big": 3 << 20}, Disk: disk})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Unmount(); err != nil {
				t.Error(err)
			}
		})
		var files, dirs int
		if err := filepath.WalkDir(mnt, func(_ string, d os.DirEntry, err error) error {
			if d.IsDir() {
				dirs++
			} else {
				files++
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if files != 21 || dirs != 3 { // 22 nodes in two folders, and the big one; the root
			t.Errorf("%d files in %d folders", files, dirs)
		}
		if b, err := os.ReadFile(filepath.Join(mnt, "big")); err != nil || len(b) != 3<<20 || b[1<<20+5] != 35 {
			t.Errorf("big: %d bytes, %v", len(b), err)
		}
		f, err := os.Create(filepath.Join(mnt, "new"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(f, bytes.NewReader(make([]byte, 5<<20))); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		on, _ := filepath.Glob(filepath.Join(disk, "*"))
		if len(on) != 1 {
			t.Fatalf("on disk: %v", on)
		}
		if fi, err := os.Stat(on[0]); err != nil || fi.Size() != 5<<20 {
			t.Errorf("on disk: %v %v", fi, err)
		}
		if _, err := os.Stat(filepath.Join(mnt, "absent")); !os.IsNotExist(err) {
			t.Errorf("absent: %v", err)
		}
	}
}
