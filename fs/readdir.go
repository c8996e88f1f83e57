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
	buf   []cache.Entry   // read ahead of at, within req only
	batch int             // size of the next read
	end   bool            // buf is the last of the folder
	last  cache.Entry     // the entry handed out last, from buf
}

var _ interface {
	fusefs.FileReaddirenter
	fusefs.FileSeekdirer
	fusefs.FileLookuper
	fusefs.FileFsyncdirer
	fusefs.FileReleasedirer
} = (*dirHandle)(nil)

// OpendirHandle opens d. The kernel keeps the listing until it is told.
func (d *dir) OpendirHandle(ctx context.Context, _ uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	c := d.begin(ctx)
	defer c.end()
	in, err := d.t.store.OpenDir(c, d.ino)
	if err != nil {
		return nil, 0, d.t.nodeErrno(c, "opendir", err)
	}
	a, err := d.t.store.Attr(c, d.ino, 0)
	if err != nil {
		return nil, 0, d.t.nodeErrno(c, "opendir", err)
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
	if len(h.buf) == 0 {
		return nil, 0
	}
	h.last = h.buf[0]
	h.buf = h.buf[1:]
	h.at = h.last.Ino
	id := h.d.identity(&h.last)
	return &fuse.DirEntry{Name: h.last.Name, Mode: id.Mode, Ino: id.Ino, Off: h.last.Ino}, 0
}

// fillLocked makes sure that buf has the next entry, if there is one. What an
// earlier request read is not used any more: the kernel would keep for an hour
// what an effect may have told it to forget in between.
func (h *dirHandle) fillLocked(ctx context.Context) syscall.Errno {
	if h.req != ctx {
		h.req, h.buf, h.end, h.batch = ctx, nil, false, firstBatch
		h.last = cache.Entry{}
	}
	if len(h.buf) > 0 || h.end {
		return 0
	}
	c := h.d.begin(ctx)
	defer c.end()
	es, err := h.in.Read(c, max(h.at, cookieUp), h.batch)
	if errors.Is(err, cache.ErrNotExist) {
		// Removed while it was open: it is empty.
		es, err = nil, nil
	}
	if err != nil {
		return h.d.t.errno(c, "readdir", err)
	}
	h.end = len(es) < h.batch
	h.batch = min(2*h.batch, mostBatch)
	h.buf = es
	return 0
}

// Seekdir continues after the entry whose cookie is off, whether that entry
// still exists or not.
func (h *dirHandle) Seekdir(_ context.Context, off uint64) syscall.Errno {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = off
	h.req, h.buf, h.last = nil, nil, cache.Entry{}
	return 0
}

// Lookup completes an entry of READDIRPLUS: the one handed out last, or, when
// the bridge kept it over from an earlier request, as it is now.
func (h *dirHandle) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	h.mu.Lock()
	e, fresh := h.last, h.req == ctx && h.last.Name == name
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
func (h *dirHandle) Releasedir(context.Context, uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.req, h.buf = nil, nil
}
