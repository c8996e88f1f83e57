package cache

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// TestDamagedTier: whatever happened to the files of the disk tier, what they
// had is fetched again, for readers and for edits that need their base.
func TestDamagedTier(t *testing.T) {
	content := func(i, size int) string {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(j>>8 + j + i)
		}
		return string(b)
	}
	for name, damage := range map[string]func(path string) error{
		"cut by half": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.Truncate(path, info.Size()/2)
		},
		"a bit in each": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 4
			return os.WriteFile(path, b, 0o600)
		},
	} {
		for _, running := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/running=%v", name, running), func(t *testing.T) {
				w := newWorld(t)
				sizes := []int{300, 60_000, 3_000_000, 9_000_000}
				for i, n := range sizes {
					w.put(fmt.Sprint("f", i), content(i, n))
					w.put(fmt.Sprint("g", i), content(i, n))
				}
				w.poll()
				for i := range sizes {
					w.read(fmt.Sprint("/f", i))
					w.read(fmt.Sprint("/g", i))
				}
				w.close() // all is written
				if running {
					w.open()
					for i := range sizes {
						w.read(fmt.Sprint("/f", i))
					}
				}
				n := 0
				err := filepath.WalkDir(w.o.CacheDir, func(p string, d fs.DirEntry, err error) error {
					if err == nil && d.Type().IsRegular() {
						n++
						return damage(p)
					}
					return err
				})
				if err != nil || n < 6 {
					t.Fatal(n, err)
				}
				if !running {
					w.open()
				}
				for i, n := range sizes {
					want := content(i, n)
					if got := w.read(fmt.Sprint("/f", i)); got != want {
						t.Errorf("f%d: %d bytes that are not it", i, len(got))
					}
					w.writeAt(fmt.Sprint("/g", i), "edited", int64(n/3), unix.O_WRONLY)
				}
				w.flush()
				for i, n := range sizes {
					want := content(i, n)
					want = want[:n/3] + "edited" + want[n/3+6:]
					if got := w.drive(fmt.Sprint("g", i)); got != want {
						t.Errorf("g%d was sent with %d bytes that are not it", i, len(got))
					}
				}
			})
		}
	}
}

// TestWrittenStays: what was written here is not downloaded again when it is on
// the drive, however many there are, and costs the disk tier little more than
// its bytes.
func TestWrittenStays(t *testing.T) {
	w := newWorld(t)
	const files, size = 300, 3000
	content := func(i int) string { return strings.Repeat(fmt.Sprintf("file %05d\n", i), size/11) }
	w.mkdir("/d")
	for i := range files {
		w.write(fmt.Sprint("/d/f", i), content(i))
	}
	large := strings.Repeat("0123456789abcdef", 10<<16)
	w.write("/d/large", large)
	w.flush()
	w.reopen() // the files are no drafts any more, and memory is empty
	var downloads atomic.Int64
	w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "content.download" {
			downloads.Add(1)
		}
		return nil
	})
	for i := range files {
		w.want(w.read(fmt.Sprint("/d/f", i)), content(i))
	}
	w.want(w.read("/d/large"), large)
	if n := downloads.Load(); n > 0 {
		t.Errorf("%d of %d files were downloaded again", n, files+1)
	}
	if got := w.s.chunks.Stats().DiskBytes; got > int64(len(large))+files*9<<10+64<<10 {
		t.Errorf("%d KiB for %d", got>>10, (len(large)+files*size)>>10)
	}
}
