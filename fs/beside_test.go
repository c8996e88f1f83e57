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
	ls := lookAtSize(t, w.Path("f"), false)
	for round := range 160 {
		flags := os.O_WRONLY
		if round%2 == 0 {
			flags = os.O_RDWR
		}
		f, err := os.OpenFile(w.Path("f"), flags|os.O_APPEND, 0)
		check(w, err)
		for range 3 {
			ls.grow(f)
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
	ls.end()
}

// TestSizesOfWhatIsWritten is TestSizesNeverGoBack for a file that stays open. A
// look that was answered late can show a write that has not returned; the next
// one shows it too.
func TestSizesOfWhatIsWritten(t *testing.T) {
	for name, flags := range map[string]int{"write only": os.O_WRONLY, "read and write": os.O_RDWR} {
		t.Run(name, func(t *testing.T) {
			w := integration.NewWorld(t, integration.Config{})
			w.Write("f", "x")
			f, err := os.OpenFile(w.Path("f"), flags|os.O_APPEND, 0)
			check(w, err)
			_, err = f.WriteString("grows")
			check(w, err)
			ls := lookAtSize(t, w.Path("f"), true)
			for range 300 {
				ls.grow(f)
			}
			check(w, f.Close())
			ls.end()
		})
	}
}

// lookers look at the size of a file from all sides while it grows.
type lookers struct {
	t       *testing.T
	name    string
	written atomic.Int64 // bytes whose write returned
	over    chan struct{}
	sync.WaitGroup
}

// lookAtSize starts them. strict: what one of them has
// seen of a write that has not returned yet, it sees again.
func lookAtSize(t *testing.T, name string, strict bool) *lookers {
	ls := &lookers{t: t, name: name, over: make(chan struct{})}
	held, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := held.Stat()
	if err != nil {
		t.Fatal(err)
	}
	ls.written.Store(fi.Size())
	t.Cleanup(func() { held.Close() })
	asked := func(fd int, name string, flags int) func() (int64, error) {
		return func() (int64, error) {
			var st unix.Statx_t
			err := unix.Statx(fd, name, flags|unix.AT_STATX_FORCE_SYNC, unix.STATX_SIZE, &st)
			return int64(st.Size), err
		}
	}
	for what, size := range map[string]func() (int64, error){
		"stat":                 ls.byPath,
		"stat that asks":       asked(unix.AT_FDCWD, name, 0),
		"statx of an open one": asked(int(held.Fd()), "", unix.AT_EMPTY_PATH),
		"fstat": func() (int64, error) {
			var st unix.Stat_t
			err := unix.Fstat(int(held.Fd()), &st)
			return st.Size, err
		},
	} {
		ls.Go(func() { ls.look(what, size, strict) })
	}
	return ls
}

func (ls *lookers) byPath() (int64, error) {
	var st unix.Stat_t
	err := unix.Lstat(ls.name, &st)
	return st.Size, err
}

func (ls *lookers) look(what string, size func() (int64, error), strict bool) {
	for last := int64(0); ; {
		select {
		case <-ls.over:
			return
		default:
		}
		least := ls.written.Load()
		got, err := size()
		if err != nil {
			ls.t.Errorf("%s: %v", what, err)
			return
		}
		if got < least || strict && got < last {
			ls.t.Errorf("%s shows %d bytes after %d, with %d written", what, got, last, least)
			return
		}
		last = got
	}
}

func (ls *lookers) grow(f *os.File) {
	ls.t.Helper()
	n, err := f.WriteString("grows")
	if err != nil {
		ls.t.Fatal(err)
	}
	ls.written.Add(int64(n))
}

// end stops them and compares what is there in the end.
func (ls *lookers) end() {
	ls.t.Helper()
	close(ls.over)
	ls.Wait()
	if got, err := ls.byPath(); err != nil || got != ls.written.Load() {
		ls.t.Errorf("%d bytes in the end, want %d, %v", got, ls.written.Load(), err)
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
