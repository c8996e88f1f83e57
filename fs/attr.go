package fs

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
)

const (
	// cached is how long the kernel keeps names and attributes. Changes are
	// pushed to it; this is only the safety net under that.
	cached = time.Hour
	// maxName is the longest name in bytes. The kernel passes longer ones on.
	maxName = 255
	// blockSize is what stat and statfs count in.
	blockSize = 4096
)

// mode is the permission bits that a node shows: its own, else the mount's.
func (t *tree) mode(a *cache.Attr) uint32 {
	var m uint32
	switch {
	case a.Mode&cache.ModeSet != 0:
		m = a.Mode & 0o777
	case a.Folder:
		m = 0o777 &^ t.umask
	default:
		m = 0o666 &^ t.umask
	}
	if t.ownerOnly && a.Ino == t.root {
		// The kernel knows no allow_root. Nobody but the owner and root may
		// pass this folder, and every path leads through it.
		m &^= 0o077
	}
	return m
}

// attr fills out with a. The type bits come from the node: the bridge sets
// them, and the inode number, which for some folders is a place.
func (t *tree) attr(out *fuse.Attr, a *cache.Attr) {
	out.Ino = a.Ino
	out.Size = uint64(a.Size)
	out.Blocks = (out.Size + blockSize - 1) / blockSize * (blockSize / 512)
	out.Blksize = blockSize
	out.Mode = t.mode(a)
	out.Nlink = a.Nlink
	out.Uid, out.Gid = t.uid, t.gid
	out.Mtime, out.Mtimensec = clock(a.Mtime)
	out.Atime, out.Atimensec = out.Mtime, out.Mtimensec
	out.Ctime, out.Ctimensec = clock(a.Ctime)
}

// kept is how long the kernel keeps attributes; of a file being written not at
// all. Of two answers under way it keeps the one that it processed first: a
// reader would see the size with a write that has not returned yet, and then,
// from what was kept, the one before.
func kept(a *cache.Attr) time.Duration {
	if a.Writing {
		return 0
	}
	return cached
}

// clock splits a time for the kernel; the zero time is the epoch.
func clock(t time.Time) (sec uint64, nsec uint32) {
	if t.IsZero() {
		return 0, 0
	}
	return uint64(t.Unix()), uint32(t.Nanosecond())
}

// entry fills the answer to LOOKUP and its kind. A name is cached only in the
// spelling that is shown: no notification would reach another one.
func (t *tree) entry(out *fuse.EntryOut, e *cache.Entry, name string) {
	t.attr(&out.Attr, &e.Attr)
	out.SetAttrTimeout(kept(&e.Attr))
	if name == e.Name {
		out.SetEntryTimeout(cached)
	}
}

// attrOut fills the answer to GETATTR and SETATTR.
func (t *tree) attrOut(out *fuse.AttrOut, a *cache.Attr) {
	t.attr(&out.Attr, a)
	out.SetTimeout(kept(a))
}

// statx fills the answer to STATX, which has the one thing more that GETATTR
// lacks: when the node was created.
func (t *tree) statx(out *fuse.StatxOut, a *cache.Attr) {
	var plain fuse.Attr
	t.attr(&plain, a)
	out.SetTimeout(kept(a))
	s := &out.Statx
	s.Mask = unix.STATX_BASIC_STATS
	s.Blksize = plain.Blksize
	s.Nlink = plain.Nlink
	s.Uid, s.Gid = plain.Uid, plain.Gid
	s.Mode = uint16(plain.Mode)
	s.Size, s.Blocks = plain.Size, plain.Blocks
	s.Atime = fuse.SxTime{Sec: plain.Atime, Nsec: plain.Atimensec}
	s.Mtime = fuse.SxTime{Sec: plain.Mtime, Nsec: plain.Mtimensec}
	s.Ctime = fuse.SxTime{Sec: plain.Ctime, Nsec: plain.Ctimensec}
	if !a.Created.IsZero() {
		s.Mask |= unix.STATX_BTIME
		s.Btime.Sec, s.Btime.Nsec = clock(a.Created)
	}
}

// setattr is SETATTR for both kinds of nodes; h may be nil. Owner and access
// time are accepted and kept by nobody, so that cp -p, tar and rsync work.
func (t *tree) setattr(c *call, ino, gen uint64, h *cache.Handle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	var want cache.SetAttr
	if size, ok := in.GetSize(); ok {
		if size > 1<<62 {
			return syscall.EFBIG
		}
		n := int64(size)
		want.Size = &n
	}
	if mode, ok := in.GetMode(); ok {
		mode &= 0o777
		want.Mode = &mode
	}
	if mtime, ok := in.GetMTime(); ok {
		want.Mtime = &mtime
	}
	var a cache.Attr
	var err error
	if want == (cache.SetAttr{}) {
		a, err = t.store.Attr(c, ino, gen)
	} else {
		a, err = t.store.Setattr(c, ino, gen, h, want)
	}
	if err != nil {
		return c.nodeErrno(err)
	}
	t.attrOut(out, &a)
	return 0
}

// statfs answers df. What is unknown is shown large: a zero would hide the
// mount from df and make file managers refuse to copy.
func (t *tree) statfs(ctx context.Context, out *fuse.StatfsOut) (errno syscall.Errno) {
	c := t.enter(ctx, "statfs")
	defer c.end(&errno)
	total, free := t.store.Space(c)
	if total <= 0 {
		total, free = unknownSpace, unknownSpace
	}
	*out = fuse.StatfsOut{
		Bsize: blockSize, Frsize: blockSize, NameLen: maxName,
		Blocks: uint64(total) / blockSize,
		Bfree:  uint64(max(free, 0)) / blockSize,
		Bavail: uint64(max(free, 0)) / blockSize,
	}
	return 0
}

const unknownSpace = 1 << 50 // bytes
