package fs_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/integration"
)

func crowded(b *testing.B, n int) *integration.World {
	b.Helper()
	w := integration.NewWorld(b, integration.Config{})
	if err := w.Drive.Bulk(n, n); err != nil {
		b.Fatal(err)
	}
	w.Poll()
	return w
}

// theFolder is the only folder of a crowded world.
func theFolder(b *testing.B, w *integration.World) string {
	b.Helper()
	es, err := os.ReadDir(w.Mnt)
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range es {
		if e.IsDir() {
			return w.Path(e.Name())
		}
	}
	b.Fatal("no folder")
	return ""
}

// BenchmarkList lists 10,000 files with attributes: first with cold caches,
// then out of the kernel's.
func BenchmarkList(b *testing.B) {
	run := func(b *testing.B, dir string, args ...string) {
		b.Helper()
		if out, err := exec.Command("ls", append(args, dir)...).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	drop := func(b *testing.B) {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); errors.Is(err, os.ErrPermission) {
			b.Skip("only root can make the kernel forget")
		}
	}
	w := crowded(b, 10_000)
	dir := theFolder(b, w)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			drop(b)
			b.StartTimer()
			run(b, dir, "-l")
		}
	})
	b.Run("cached", func(b *testing.B) {
		for b.Loop() {
			run(b, dir, "-l")
		}
	})
	b.Run("names", func(b *testing.B) {
		for b.Loop() {
			run(b, dir, "-U")
		}
	})
}

func BenchmarkStat(b *testing.B) {
	w := integration.NewWorld(b, integration.Config{})
	w.Write("f", "x")
	b.Run("cached", func(b *testing.B) {
		var st unix.Stat_t
		for b.Loop() {
			if err := unix.Lstat(w.Path("f"), &st); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("absent", func(b *testing.B) {
		var st unix.Stat_t
		for b.Loop() {
			if err := unix.Lstat(w.Path("g"), &st); err != unix.ENOENT {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			fd, err := unix.Open(w.Path("f"), unix.O_RDONLY, 0)
			if err != nil {
				b.Fatal(err)
			}
			unix.Close(fd)
		}
	})
}

// BenchmarkRead reads a file that is in memory through requests of 1 MiB.
func BenchmarkRead(b *testing.B) {
	const size = 32 << 20
	w := integration.NewWorld(b, integration.Config{})
	w.Put("f", string(bytes.Repeat([]byte("x"), size)))
	w.Poll()
	buf := make([]byte, 1<<20)
	read := func(b *testing.B, flags int) {
		b.SetBytes(size)
		for b.Loop() {
			f, err := os.OpenFile(w.Path("f"), flags, 0)
			if err != nil {
				b.Fatal(err)
			}
			var n int
			for {
				m, err := f.Read(buf)
				n += m
				if err == io.EOF {
					break
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			f.Close()
			if n != size {
				b.Fatalf("read %d bytes", n)
			}
		}
	}
	b.Run("direct", func(b *testing.B) { read(b, os.O_RDONLY|unix.O_DIRECT) })
	b.Run("cached", func(b *testing.B) { read(b, os.O_RDONLY) })
}

// BenchmarkWrite writes and closes.
func BenchmarkWrite(b *testing.B) {
	w := integration.NewWorld(b, integration.Config{})
	data := bytes.Repeat([]byte("x"), 8<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := os.WriteFile(w.Path("f"), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}
