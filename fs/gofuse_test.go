package fs

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// What this package takes for granted of go-fuse without its saying so. These
// tests fail the day it is not so any more.

// bare mounts root without anything of ours.
func bare(t *testing.T, root fusefs.InodeEmbedder) (at string) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse here")
	}
	at = filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := fusefs.Mount(at, root, &fusefs.Options{MountOptions: fuse.MountOptions{
		DirectMount: true, MaxWrite: 1 << 20, DisableSplice: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
		s.Wait()
	})
	return at
}

// seenDir keeps the contexts of the READDIRs in it.
type seenDir struct {
	fusefs.Inode
	mu  sync.Mutex
	all []context.Context // of each call of Readdirent
}

func (d *seenDir) OpendirHandle(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	return &seenHandle{d: d}, 0, 0
}

type seenHandle struct {
	d  *seenDir
	at uint64
}

func (h *seenHandle) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	h.d.all = append(h.d.all, ctx)
	if h.at == 3 {
		return nil, 0
	}
	h.at++
	return &fuse.DirEntry{Name: string(rune('a' + h.at)), Mode: fuse.S_IFREG, Ino: 10 + h.at, Off: h.at}, 0
}

// TestContextsAreOfOneRequest: dirHandle takes another context for another
// request, and keeps what it read for as long as the context is the same.
func TestContextsAreOfOneRequest(t *testing.T) {
	d := &seenDir{}
	at := bare(t, d)
	const rounds = 200
	for range rounds {
		if _, err := os.ReadDir(at); err != nil {
			t.Fatal(err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// Within a request the calls come one after the other; a context that comes
	// again after another one was used for two requests.
	last := map[context.Context]int{}
	for i, ctx := range d.all {
		if before, was := last[ctx]; was && before != i-1 {
			t.Fatal("go-fuse uses a context for more than one request: dirHandle.req is no mark of a request any more")
		}
		last[ctx] = i
	}
	if len(last) < 2*rounds { // the entries, and the end
		t.Errorf("%d contexts for %d requests at least", len(last), 2*rounds)
	}
}

// pooled is a file whose reads look at the buffer that go-fuse gives them.
type pooled struct {
	fusefs.Inode
	mu             sync.Mutex
	marked, others int
	dirty          bool
}

var zeros = make([]byte, 1<<20)

func (*pooled) Open(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (p *pooled) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Size = 1 << 40
	return 0
}

func (p *pooled) Setattr(context.Context, fusefs.FileHandle, *fuse.SetAttrIn, *fuse.AttrOut) syscall.Errno {
	return 0
}

func (p *pooled) Write(_ context.Context, _ fusefs.FileHandle, b []byte, _ int64) (uint32, syscall.Errno) {
	return uint32(len(b)), 0
}

func (p *pooled) Read(_ context.Context, _ fusefs.FileHandle, buf []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	p.mu.Lock()
	if len(buf) >= scratchMin && binary.NativeEndian.Uint64(buf) == scratchMark {
		p.marked++
		skip := pageSize - int(uintptr(unsafe.Pointer(&buf[0]))%uintptr(pageSize)) + pageSize
		rest := buf[skip : len(buf)-pageSize]
		p.dirty = p.dirty || !bytes.Equal(rest, zeros[:len(rest)])
	} else {
		p.others++
	}
	p.mu.Unlock()
	giveBack(buf)
	return &foreignResult{zeros[:len(buf)]}, 0
}

// foreignResult is an answer from other memory than the buffer.
type foreignResult struct{ b []byte }

func (s *foreignResult) Slices() ([][]byte, fuse.Status) { return [][]byte{s.b}, fuse.OK }
func (s *foreignResult) Bytes(buf []byte) ([]byte, fuse.Status) {
	return append(buf[:0], s.b...), fuse.OK
}
func (s *foreignResult) Size() int { return len(s.b) }
func (s *foreignResult) Done()     {}

// TestReadBuffersStayUnused: a buffer that giveBack marked is in go-fuse's pool
// of buffers for reads, and nothing is written to it: else the mark says that
// memory was given back which was not.
func TestReadBuffersStayUnused(t *testing.T) {
	root, f := &fusefs.Inode{}, &pooled{}
	at := bare(t, root)
	n := root.NewPersistentInode(t.Context(), f, fusefs.StableAttr{Mode: fuse.S_IFREG, Ino: 9})
	root.AddChild("f", n, true)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			fd, err := unix.Open(at+"/f", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			b := bytes.Repeat([]byte{7}, 1<<20)
			for j := range 100 {
				if (i+j)%2 == 0 {
					_, err = unix.Pread(fd, b, 0)
				} else {
					for k := range b {
						b[k] = 7
					}
					_, err = unix.Pwrite(fd, b, 0)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if f.dirty {
		t.Error("go-fuse writes to the buffers of reads: the mark of scratch.go means nothing any more")
	}
	if f.marked == 0 {
		t.Errorf("of %d buffers none came a second time: go-fuse does not pool them, and scratch.go is for nothing", f.others)
	}
}
