package fs

import (
	"context"
	"syscall"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/drivefs/drivefs/cache"
)

// file is one content version of a file: StableAttr has its Ino and Gen.
type file struct {
	fusefs.Inode
	t *tree
}

var _ interface {
	fusefs.NodeOpener
	fusefs.NodeGetattrer
	fusefs.NodeStatxer
	fusefs.NodeSetattrer
	fusefs.NodeFsyncer
	fusefs.NodeStatfser
	fusefs.NodeGetxattrer
	fusefs.NodeSetxattrer
	fusefs.NodeListxattrer
	fusefs.NodeRemovexattrer
} = (*file)(nil)

// id names the version to the Store.
func (f *file) id() (ino, gen uint64) {
	id := f.StableAttr()
	return id.Ino, id.Gen
}

// Open opens this version; when it was superseded meanwhile, ESTALE makes the
// kernel look the path up again.
func (f *file) Open(ctx context.Context, flags uint32) (_ fusefs.FileHandle, _ uint32, errno syscall.Errno) {
	c := f.t.enter(ctx, "open")
	defer c.end(&errno)
	ino, gen := f.id()
	h, err := f.t.store.Open(c, ino, gen, flags)
	if err != nil {
		return nil, 0, c.nodeErrno(err)
	}
	fh, open := newHandle(f.t, h)
	return fh, open, 0
}

// Getattr answers stat for this version.
func (f *file) Getattr(ctx context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) (errno syscall.Errno) {
	c := f.t.enter(ctx, "getattr")
	defer c.end(&errno)
	a, err := f.attr(c)
	if err != nil {
		return c.nodeErrno(err)
	}
	f.t.attrOut(out, &a)
	return 0
}

// Statx is Getattr with the time of creation.
func (f *file) Statx(ctx context.Context, _ fusefs.FileHandle, _, _ uint32, out *fuse.StatxOut) (errno syscall.Errno) {
	c := f.t.enter(ctx, "statx")
	defer c.end(&errno)
	a, err := f.attr(c)
	if err != nil {
		return c.nodeErrno(err)
	}
	f.t.statx(out, &a)
	return 0
}

func (f *file) attr(c *call) (cache.Attr, error) {
	ino, gen := f.id()
	return f.t.store.Attr(c, ino, gen)
}

// Setattr sets size, mode and modification time.
func (f *file) Setattr(ctx context.Context, fh fusefs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) (errno syscall.Errno) {
	ino, gen := f.id()
	var h *cache.Handle
	if open, ok := fh.(*handle); ok {
		h = open.h
	}
	c := f.t.enter(ctx, "setattr")
	defer c.end(&errno)
	return f.t.setattr(c, ino, gen, h, in, out)
}

// Fsync makes the file safe: on this machine's disk, or on the drive.
func (f *file) Fsync(ctx context.Context, fh fusefs.FileHandle, _ uint32) syscall.Errno {
	open, ok := fh.(*handle)
	if !ok {
		return syscall.EBADF
	}
	return open.fsync(ctx)
}

// Statfs answers df.
func (f *file) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	return f.t.statfs(ctx, out)
}
