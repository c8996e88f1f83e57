package fs

import (
	"context"
	"errors"
	"sync"
	"syscall"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/drivefs/drivefs/cache"
)

// Cookies of the two entries that are in every folder. The others' cookies are
// their inode numbers: given once, kept as long as the entry is in the folder,
// and counting up, so that nothing is missed or shown twice whatever comes and
// goes meanwhile.
const (
	cookieSelf = 1
	cookieUp   = 2
)

const (
	firstBatch = 32 // entries read at once at the start of a request
	mostBatch  = 512
)

// dirHandle is an open folder. go-fuse calls it for one request at a time; mu
// is there because it need not stay so.
type dirHandle struct {
	d      *dir
	in     *cache.Dir
	opened cache.Attr // what a removed folder shows to those who have it open

	mu    sync.Mutex
	at    uint64          // cookie of the last entry handed out
	req   context.Context // the request that read buf
	buf   []cache.Entry   // read within req; from pool
	pool  *[]cache.Entry  // what buf goes back to; nil = there is no buf
	next  int             // index in buf of what is read ahead of at
	given int             // entries handed out within req
	batch int             // size of the next read
	end   bool            // buf is the last of the folder
	de    fuse.DirEntry   // the entry handed out last; the bridge copies it
}

// buffers are what handles read into. Between two requests a handle keeps its
// own, at the end of the folder it gives it back.
var buffers = sync.Pool{New: func() any { return new([]cache.Entry) }}

var _ interface {
	fusefs.FileReaddirenter
	fusefs.FileSeekdirer
	fusefs.FileLookuper
	fusefs.FileFsyncdirer
	fusefs.FileReleasedirer
} = (*dirHandle)(nil)

// OpendirHandle opens d. The kernel keeps the listing until it is told.
func (d *dir) OpendirHandle(ctx context.Context, _ uint32) (_ fusefs.FileHandle, _ uint32, errno syscall.Errno) {
	c := d.begin(ctx, "opendir")
	defer c.end(&errno)
	in, err := d.t.store.OpenDir(c, d.ino)
	if err != nil {
		return nil, 0, c.nodeErrno(err)
	}
	a, err := d.t.store.Attr(c, d.ino, 0)
	if err != nil {
		return nil, 0, c.nodeErrno(err)
	}
	return &dirHandle{d: d, in: in, opened: a}, fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE, 0
}

// Readdirent gives the next entry, nil at the end.
func (h *dirHandle) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch h.at {
	case 0:
		h.at = cookieSelf
		return &fuse.DirEntry{Name: ".", Mode: fuse.S_IFDIR, Ino: h.d.StableAttr().Ino, Off: cookieSelf}, 0
	case cookieSelf:
		h.at = cookieUp
		up := h.d.StableAttr().Ino
		if _, above := h.d.Parent(); above != nil {
			up = above.StableAttr().Ino
		}
		return &fuse.DirEntry{Name: "..", Mode: fuse.S_IFDIR, Ino: up, Off: cookieUp}, 0
	}
	if errno := h.fillLocked(ctx); errno != 0 {
		return nil, errno
	}
	if h.next == len(h.buf) {
		h.dropLocked()
		return nil, 0
	}
	e := &h.buf[h.next]
	h.next++
	h.given++
	h.at = e.Ino
	id := h.d.identity(e)
	h.de = fuse.DirEntry{Name: e.Name, Mode: id.Mode, Ino: id.Ino, Off: e.Ino}
	return &h.de, 0
}

// fillLocked makes sure that buf has the next entry, if there is one. What an
// earlier request read is not used any more: the kernel would keep for an hour
// what an effect may have told it to forget in between.
func (h *dirHandle) fillLocked(ctx context.Context) (errno syscall.Errno) {
	if h.req != ctx {
		// As a rule a request takes as many as the one before.
		h.batch = min(max(h.given+1, firstBatch), mostBatch)
		h.req, h.buf, h.next, h.given, h.end = ctx, h.buf[:0], 0, 0, false
	}
	if h.next < len(h.buf) || h.end {
		return 0
	}
	if h.pool == nil {
		h.pool, _ = buffers.Get().(*[]cache.Entry)
		h.buf = *h.pool
	}
	c := h.d.hold(ctx, "readdir")
	defer c.end(&errno)
	es, err := h.in.Append(c, h.buf[:0], max(h.at, cookieUp), h.batch)
	h.buf, h.next = es, 0
	if err != nil && !errors.Is(err, cache.ErrNotExist) { // removed while it was open: it is empty
		return c.errno(err)
	}
	h.end = len(es) < h.batch
	h.batch = min(2*h.batch, mostBatch)
	return 0
}

// dropLocked gives buf back.
func (h *dirHandle) dropLocked() {
	if h.pool != nil {
		clear(h.buf[:cap(h.buf)])
		*h.pool = h.buf[:0]
		buffers.Put(h.pool)
	}
	h.buf, h.pool, h.next = nil, nil, 0
}

// Seekdir continues after the entry whose cookie is off, whether that entry
// still exists or not.
func (h *dirHandle) Seekdir(_ context.Context, off uint64) syscall.Errno {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.req = off, nil
	h.dropLocked()
	return 0
}

// Lookup completes an entry of READDIRPLUS: the one handed out last, or, when
// the bridge kept it over from an earlier request, as it is now.
func (h *dirHandle) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	var e cache.Entry
	h.mu.Lock()
	fresh := h.req == ctx && h.next > 0 && h.buf[h.next-1].Name == name
	if fresh {
		e = h.buf[h.next-1]
	}
	h.mu.Unlock()
	if !fresh {
		return h.d.Lookup(ctx, name, out)
	}
	h.d.t.entry(out, &e, name)
	return h.d.child(ctx, name, &e), 0
}

// Fsyncdir is fsync on the open folder.
func (h *dirHandle) Fsyncdir(ctx context.Context, flags uint32) syscall.Errno {
	return h.d.Fsync(ctx, h, flags)
}

// Releasedir drops what the handle read.
func (h *dirHandle) Releasedir(ctx context.Context, _ uint32) {
	c := h.d.t.enter(ctx, "releasedir")
	defer c.end(nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.req = nil
	h.dropLocked()
}
