package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// Handle is one open of a file. Its methods may be called at once.
type Handle struct {
	s        *Store
	f        *tree.File
	flags    uint32 // open(2)'s
	readable bool
	writable bool
	stream   *stream // of the handle that made a new file
	reader   struct {
		sync.Mutex
		r *chunk.Reader
		v chunk.Version
	}
	got  atomic.Int64             // bytes of the drive's that were read
	vain atomic.Pointer[vainRead] // the last read, when it failed after a long wait
}

// View is the answer to a read: slices that belong to the cache until
// Release, which must be called exactly once.
type View interface {
	Slices() [][]byte
	Len() int
	Release()
}

// Attr is what stat shows of the open version.
func (h *Handle) Attr(ctx context.Context) (Attr, error) {
	return h.s.Attr(ctx, h.f.Ino, h.f.Gen)
}

// Ino and Gen name the kernel inode the handle belongs to.
func (h *Handle) Ino() uint64 { return h.f.Ino }

// Gen: see Ino.
func (h *Handle) Gen() uint64 { return h.f.Gen }

// Writable tells whether the handle may write.
func (h *Handle) Writable() bool { return h.writable }

// Readable tells whether the handle may read.
func (h *Handle) Readable() bool { return h.readable }

// Read returns up to n bytes at off; fewer only at the end of the file. The
// wait is bounded, and ctx ends it.
func (h *Handle) Read(ctx context.Context, off int64, n int) (View, error) {
	// A handle opened for writing alone still reads: the kernel fills pages
	// of a shared mapping through it.
	d := h.f.Draft()
	if d == nil {
		if off >= h.f.Opened.Size || n <= 0 {
			return newBuffer(0), nil
		}
		r, err := h.chunkReader()
		if err != nil {
			return nil, err
		}
		return h.readRemote(ctx, r, off, n)
	}
	n = int(min(int64(n), d.Size()-off))
	if n <= 0 {
		return newBuffer(0), nil
	}
	v := newBuffer(n)
	for {
		// The base first, then what is local at one moment over it: a write
		// that has returned is in every answer from then on.
		missing := d.Missing(off, int64(n))
		for _, x := range missing {
			if err := h.readBase(ctx, v.b[x.Off-off:x.End-off], x.Off); err != nil {
				v.Release()
				return nil, err
			}
		}
		got, ok, err := d.Overlay(v.b, off, missing)
		if err != nil {
			v.Release()
			return nil, fmt.Errorf("reading the draft: %w", err)
		}
		if ok {
			v.b = v.b[:got] // less when a truncate came between
			return v, nil
		}
	}
}

// readBase fills p with the base version's bytes at off.
func (h *Handle) readBase(ctx context.Context, p []byte, off int64) error {
	r, err := h.chunkReader()
	if err != nil {
		return err
	}
	for len(p) > 0 {
		v, err := h.readRemote(ctx, r, off, len(p))
		if err != nil {
			return err
		}
		n := 0
		for _, b := range v.Slices() {
			n += copy(p[n:], b)
		}
		v.Release()
		if n == 0 {
			return ErrStale
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// readRemote reads the version on the drive. When a read has just waited its
// time in vain, the next one of the handle does not wait that long again: the
// kernel asks a second time for what a read-ahead did not bring, and the
// program would wait twice.
func (h *Handle) readRemote(ctx context.Context, r *chunk.Reader, off int64, n int) (View, error) {
	bound := ctx
	before := h.vain.Load()
	if before != nil && time.Since(before.at) < vainFor {
		var cancel context.CancelFunc
		bound, cancel = context.WithTimeout(ctx, vainWait)
		defer cancel()
	}
	begin := time.Now()
	v, err := r.ReadAt(bound, off, n)
	switch {
	case err == nil:
		h.vain.Store(nil)
		if size := h.f.Opened.Size; size <= siblingSize && h.got.Add(int64(v.Len())) == size {
			h.s.siblings.wasRead(h.f.Ino)
		}
		return v, nil
	case ctx.Err() != nil:
		return nil, readError(err)
	case bound.Err() != nil:
		return nil, before.err
	}
	err = readError(err)
	if time.Since(begin) > h.s.o.ReadTimeout/2 {
		h.vain.Store(&vainRead{time.Now(), err})
	}
	return nil, err
}

// vainRead is a read that waited for the drive in vain.
type vainRead struct {
	at  time.Time
	err error
}

const (
	vainFor  = 2 * time.Second        // within it, a read is taken for the kernel's second try
	vainWait = 500 * time.Millisecond // how long that one waits
)

// chunkReader is the handle's reader of the version on the drive, made at the
// first read and again when the version under the draft became another.
func (h *Handle) chunkReader() (*chunk.Reader, error) {
	v := h.f.Version()
	h.reader.Lock()
	defer h.reader.Unlock()
	if h.reader.r != nil && h.reader.v != v {
		h.reader.r.Close()
		h.reader.r = nil
	}
	if h.reader.r == nil {
		h.reader.r, h.reader.v = h.s.chunks.Reader(v), v
	}
	return h.reader.r, nil
}

// readError names what a reader of a fixed version can meet.
func readError(err error) error {
	if errors.Is(err, drive.ErrChanged) || errors.Is(err, drive.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrStale, err)
	}
	return err
}

// Write stores p at off in the draft; the first write of a file makes it.
// Everything is written or an error tells why not; ENOSPC passes through and
// leaves what was there.
func (h *Handle) Write(ctx context.Context, p []byte, off int64) (int, error) {
	if !h.writable {
		return 0, ErrBadHandle
	}
	if off+int64(len(p)) > h.s.o.MaxFileSize {
		return 0, ErrTooLarge
	}
	d, err := h.f.EnsureDraft()
	if err != nil {
		return 0, err
	}
	n, err := d.WriteAt(p, off)
	if n > 0 {
		h.f.Touch()
		h.grown(off, off+int64(n))
	}
	return n, err
}

// Allocate makes sure that writes to [off, off+n) will find room on the local
// disk, and lets the file grow over it unless keepSize.
func (h *Handle) Allocate(ctx context.Context, off, n int64, keepSize bool) error {
	if !h.writable {
		return ErrBadHandle
	}
	if off+n > h.s.o.MaxFileSize {
		return ErrTooLarge
	}
	d, err := h.f.EnsureDraft()
	if err != nil {
		return err
	}
	if err := d.Allocate(off, n, keepSize); err != nil {
		return err
	}
	if !keepSize {
		h.f.Touch()
	}
	return nil
}

// Flush is close(2): when it returns, what was written is in the journal. It
// never waits for the network, and nothing but the local disk can make it
// fail. Who only reads closes nothing of what another is still writing, or was
// when drivefs was killed: half a file would go to the drive.
func (h *Handle) Flush() error {
	if !h.writable && (h.f.Written() || h.f.Unclosed()) {
		return nil
	}
	return h.f.Commit()
}

// Fsync is fsync(2): draft and journal are on the local disk; with
// --fsync drive also on the drive, which alone is what ctx can end.
func (h *Handle) Fsync(ctx context.Context) error {
	commit := h.f.Commit
	if !h.writable && h.f.Unclosed() {
		commit = h.f.Record
	}
	if err := commit(); err != nil {
		return err
	}
	if d := h.f.Draft(); d != nil {
		if err := d.Sync(); err != nil {
			return err
		}
	}
	if err := h.s.journal.Sync(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	if !h.s.o.FsyncDrive || h.f.Gone() {
		return nil
	}
	e, ok := h.s.journal.Get(h.f.Ino)
	if !ok {
		return nil
	}
	h.s.writeBack.Kick(h.f.Ino)
	return h.s.writeBack.Wait(ctx, h.f.Ino, e.Rev)
}

// Release ends the handle; what was written through a mapping after the last
// Flush is committed too, and tried again when that fails. The handle must not be
// used afterwards.
func (h *Handle) Release() {
	failed := h.Flush()
	if err := failed; err != nil {
		h.s.log.Error("a file could not be put into the journal when it was closed", "inode", h.f.Ino, "err", err)
		h.s.events.add("close", h.s.PathOf(h.f.Ino), err.Error())
	}
	h.closeReader()
	if failed != nil {
		h.f.ReleaseLater(h.flags)
		return
	}
	h.f.Release(h.flags)
	if h.writable && h.f.IsStreamed() && !h.f.Written() {
		h.s.writeBack.Written(h.f.Ino)
	}
}

func (h *Handle) closeReader() {
	h.reader.Lock()
	defer h.reader.Unlock()
	if h.reader.r != nil {
		h.reader.r.Close()
		h.reader.r = nil
	}
}

// Open opens the version gen of the file ino; flags are open(2)'s. The gen of
// a version that was superseded opens only while another handle has it open;
// else ErrStale.
func (s *Store) Open(ctx context.Context, ino, gen uint64, flags uint32) (*Handle, error) {
	write := tree.Writes(flags)
	if s.readOnly() && write {
		return nil, ErrReadOnly
	}
	f, err := s.tree.OpenFile(ino, gen, flags)
	if err != nil {
		return nil, err
	}
	h := newHandle(s, f, flags)
	if flags&unix.O_TRUNC != 0 && write {
		if err := h.truncate(0); err != nil {
			h.Release()
			return nil, err
		}
	}
	return h, nil
}

// newHandle is a handle of f, which has been opened for it.
func newHandle(s *Store, f *tree.File, flags uint32) *Handle {
	acc := flags & unix.O_ACCMODE
	return &Handle{s: s, f: f, flags: flags, readable: acc != unix.O_WRONLY, writable: acc != unix.O_RDONLY}
}

func (h *Handle) truncate(size int64) error {
	switch {
	case !h.writable:
		return ErrBadHandle
	case size > h.s.o.MaxFileSize:
		return ErrTooLarge
	}
	return h.f.Truncate(size)
}
