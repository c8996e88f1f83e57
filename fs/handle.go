package fs

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"syscall"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
)

// handle is one open of a file.
type handle struct {
	t *tree
	h *cache.Handle
}

var _ interface {
	fusefs.FileReader
	fusefs.FileWriter
	fusefs.FileFlusher
	fusefs.FileReleaser
	fusefs.FileAllocater
} = (*handle)(nil)

// newHandle wraps h and chooses how the kernel treats it. The page cache
// belongs to the kernel inode, which is one version, so it may always be kept.
func newHandle(t *tree, h *cache.Handle) (*handle, uint32) {
	open := uint32(fuse.FOPEN_KEEP_CACHE)
	switch {
	case !h.Writable():
		// Nothing to commit at close: saves a request each.
		open |= fuse.FOPEN_NOFLUSH
	case !h.Readable():
		// Large writes go through whole, and are still coherent with readers
		// and mappings of the same inode.
		open |= fuse.FOPEN_DIRECT_IO
	}
	f := &handle{t, h}
	t.open.add(f)
	return f, open
}

// openHandles are the handles that the kernel has not released.
type openHandles struct {
	mu  sync.Mutex
	all map[*handle]struct{} // guarded by mu
}

func (o *openHandles) add(f *handle) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = map[*handle]struct{}{}
	}
	o.all[f] = struct{}{}
}

// remove tells whether f was still there.
func (o *openHandles) remove(f *handle) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, was := o.all[f]
	delete(o.all, f)
	return was
}

// releaseAll releases what is left when no request can come any more. The
// kernel sends RELEASE after close has returned, and drops it when the mount
// goes first, or is aborted; what a mapping wrote would be lost with it.
func (o *openHandles) releaseAll() {
	o.mu.Lock()
	left := slices.Collect(maps.Keys(o.all))
	o.mu.Unlock()
	for _, f := range left {
		f.Release(context.Background())
	}
}

// commitAll commits what was written through the handles that are open.
func (o *openHandles) commitAll() {
	o.mu.Lock()
	all := slices.Collect(maps.Keys(o.all))
	o.mu.Unlock()
	for _, f := range all {
		if f.h.Writable() {
			f.Flush(context.Background())
		}
	}
}

// Read answers up to len(dest) bytes. The answer refers to the cache's own
// buffers, which are given back once the kernel has them.
func (f *handle) Read(ctx context.Context, dest []byte, off int64) (_ fuse.ReadResult, errno syscall.Errno) {
	c := f.t.enter(ctx, "read")
	defer c.end(&errno)
	giveBack(dest)
	v, err := f.h.Read(c, off, len(dest))
	if err != nil {
		return nil, c.errno(err)
	}
	return &viewResult{v}, 0
}

// Write puts p at off. The offset is the kernel's, also for O_APPEND: page
// writes of a mapping carry such a handle too.
func (f *handle) Write(ctx context.Context, p []byte, off int64) (_ uint32, errno syscall.Errno) {
	c := f.t.enter(ctx, "write")
	defer c.end(&errno)
	n, err := f.h.Write(c, p, off)
	if err != nil && n == 0 {
		return 0, c.errno(err)
	}
	// What was written stays written; the next write tells the error.
	return uint32(n), 0
}

// Flush is close(2): the journal has the file when it returns. It does not
// look at ctx: the kernel cancels it when the process is killed, and closing must
// not lose the file for that.
func (f *handle) Flush(ctx context.Context) (errno syscall.Errno) {
	c := f.t.enter(ctx, "flush")
	defer c.end(&errno)
	if err := f.h.Flush(); err != nil {
		return c.errno(err)
	}
	return 0
}

// Release is the last close. A mapping may have written after the last Flush;
// the Store commits that now. The kernel ignores the answer.
func (f *handle) Release(ctx context.Context) (errno syscall.Errno) {
	c := f.t.enter(ctx, "release")
	defer c.end(&errno)
	if f.t.open.remove(f) {
		f.h.Release()
	}
	return 0
}

func (f *handle) fsync(ctx context.Context) (errno syscall.Errno) {
	c := f.t.enter(ctx, "fsync")
	defer c.end(&errno)
	if err := f.h.Fsync(c); err != nil {
		return c.errno(err)
	}
	return 0
}

// Allocate grows the file, or with FALLOC_FL_KEEP_SIZE promises nothing and
// succeeds. Holes cannot be punched.
func (f *handle) Allocate(ctx context.Context, off, size uint64, mode uint32) (errno syscall.Errno) {
	if mode&^unix.FALLOC_FL_KEEP_SIZE != 0 {
		return syscall.ENOTSUP
	}
	if off > math.MaxInt64 || size > math.MaxInt64-off {
		return syscall.EFBIG
	}
	c := f.t.enter(ctx, "fallocate")
	defer c.end(&errno)
	err := f.h.Allocate(c, int64(off), int64(size), mode&unix.FALLOC_FL_KEEP_SIZE != 0)
	if err != nil {
		return c.errno(err)
	}
	return 0
}

// viewResult hands a view to go-fuse, which sends its slices with one writev
// (MountOptions.DisableSplice keeps it from trying a pipe first).
type viewResult struct{ v cache.View }

var _ fuse.ReadResult = (*viewResult)(nil)

// Slices is what go-fuse looks for to send without copying.
func (r *viewResult) Slices() ([][]byte, fuse.Status) { return r.v.Slices(), fuse.OK }

// Size is the number of bytes in all slices.
func (r *viewResult) Size() int { return r.v.Len() }

// Bytes copies into buf, for callers that cannot take slices.
func (r *viewResult) Bytes(buf []byte) ([]byte, fuse.Status) {
	buf = buf[:0]
	for _, s := range r.v.Slices() {
		buf = append(buf, s...)
	}
	return buf, fuse.OK
}

// Done gives the buffers back: the kernel has the bytes.
func (r *viewResult) Done() { r.v.Release() }
