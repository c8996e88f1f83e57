package fs_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/integration"
)

const (
	besideBlock  = 4096
	besideBlocks = 1024
)

// block is a block of the file in one version.
func block(i int, version uint32) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(i)+1), version), besideBlock/8)
}

// TestReadBesideWriteOnly: a reader of a file that is only partly local sees every
// write that has returned, while a writer that cannot read changes it and the
// rest comes from the drive, slowly.
func TestReadBesideWriteOnly(t *testing.T) {
	says(t, "Every read sees the writes that have returned before it, whatever is still on its way from the drive.")
	var base []byte
	for i := range besideBlocks {
		base = append(base, block(i, 0)...)
	}
	w := integration.NewWorld(t, integration.Config{Fill: func(other *drivetest.Client) {
		if _, err := other.PutPath("f", base); err != nil {
			t.Error(err)
		}
	}})
	w.Drive.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "content.download" {
			<-time.After(20 * time.Millisecond)
		}
		return nil
	})
	var finished [besideBlocks]atomic.Uint32 // the last version whose write returned
	over := make(chan struct{})
	var readers sync.WaitGroup
	for r := range 3 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(r)))
			fd, err := unix.Open(w.Path("f"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			buf := make([]byte, 8*besideBlock)
			for {
				select {
				case <-over:
					return
				default:
				}
				first := rng.IntN(besideBlocks - 8)
				n := 1 + rng.IntN(8)
				var least [8]uint32
				for i := range n {
					least[i] = finished[first+i].Load()
				}
				got, err := unix.Pread(fd, buf[:n*besideBlock], int64(first)*besideBlock)
				if err != nil || got != n*besideBlock {
					t.Errorf("read %d, %v", got, err)
					return
				}
				for i := range n {
					b := buf[i*besideBlock : (i+1)*besideBlock]
					version := binary.BigEndian.Uint32(b[4:])
					if !bytes.Equal(b, block(first+i, version)) {
						t.Errorf("block %d is torn", first+i)
						return
					}
					if version < least[i] {
						t.Errorf("block %d reads as version %d when %d was written", first+i, version, least[i])
						return
					}
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(2, 2))
	fd, err := unix.Open(w.Path("f"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	check(w, err)
	for version := uint32(1); version < 1500 && !t.Failed(); version++ {
		i := rng.IntN(besideBlocks)
		if _, err := unix.Pwrite(fd, block(i, version), int64(i)*besideBlock); err != nil {
			t.Fatal(err)
		}
		finished[i].Store(version)
	}
	close(over)
	readers.Wait()
	check(w, unix.Close(fd))
	got, err := os.ReadFile(w.Path("f"))
	check(w, err)
	for i := range besideBlocks {
		if !bytes.Equal(got[i*besideBlock:(i+1)*besideBlock], block(i, finished[i].Load())) {
			t.Fatalf("block %d is not what was written last", i)
		}
	}
}

// TestSizesNeverGoBack: stat by path and fstat of a file that grows, while it is
// opened, written and closed again and again, with its RELEASE still under way and
// its uploads ending.
func TestSizesNeverGoBack(t *testing.T) {
	says(t, "The size of a file never goes back without a truncate")
	w := integration.NewWorld(t, integration.Config{})
	w.Write("f", "x")
	name := w.Path("f")
	var written atomic.Int64 // bytes whose write returned
	written.Store(1)
	over := make(chan struct{})
	var lookers sync.WaitGroup
	look := func(what string, size func() (int64, error)) {
		lookers.Go(func() {
			for last := int64(0); ; {
				select {
				case <-over:
					return
				default:
				}
				least := written.Load()
				got, err := size()
				if err != nil {
					t.Errorf("%s: %v", what, err)
					return
				}
				if got < last || got < least {
					t.Errorf("%s shows %d bytes after %d, with %d written", what, got, last, least)
					return
				}
				last = got
			}
		})
	}
	held, err := os.Open(name)
	check(w, err)
	defer held.Close()
	byPath := func() (int64, error) {
		var st unix.Stat_t
		err := unix.Lstat(name, &st)
		return st.Size, err
	}
	look("stat", byPath)
	look("stat that asks", func() (int64, error) {
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, name, unix.AT_STATX_FORCE_SYNC, unix.STATX_SIZE, &st)
		return int64(st.Size), err
	})
	look("fstat", func() (int64, error) {
		var st unix.Stat_t
		err := unix.Fstat(int(held.Fd()), &st)
		return st.Size, err
	})
	look("statx of the open file", func() (int64, error) {
		var st unix.Statx_t
		err := unix.Statx(int(held.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_SIZE, &st)
		return int64(st.Size), err
	})
	for round := range 400 {
		flags := os.O_WRONLY
		if round%2 == 0 {
			flags = os.O_RDWR
		}
		f, err := os.OpenFile(name, flags|os.O_APPEND, 0)
		check(w, err)
		for range 3 {
			n, err := f.WriteString("grows")
			check(w, err)
			written.Add(int64(n))
		}
		check(w, f.Close())
		if round%40 == 39 {
			w.Flush()
			w.Poll()
		}
		if t.Failed() {
			break
		}
	}
	close(over)
	lookers.Wait()
	if got, err := byPath(); err != nil || got != written.Load() {
		t.Errorf("%d bytes in the end, want %d, %v", got, written.Load(), err)
	}
}

// TestNewFileGrows is TestSizesNeverGoBack for the descriptor that made a file.
func TestNewFileGrows(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{})
	for round := range 50 {
		name := w.Path("new" + string(rune('a'+round%26)) + string(rune('a'+round/26)))
		f, err := os.Create(name)
		check(w, err)
		for i := int64(1); i <= 5; i++ {
			_, err := f.Write(make([]byte, 1000))
			check(w, err)
			for what, stat := range map[string]func() (os.FileInfo, error){"fstat": f.Stat, "stat": func() (os.FileInfo, error) { return os.Lstat(name) }} {
				if fi, err := stat(); err != nil || fi.Size() != i*1000 {
					t.Fatalf("%s of a new file shows %d, want %d, %v", what, fi.Size(), i*1000, err)
				}
			}
		}
		check(w, f.Close())
		if fi, err := os.Lstat(name); err != nil || fi.Size() != 5000 {
			t.Fatalf("after close it has %d bytes, %v", fi.Size(), err)
		}
	}
}
