package fs

import (
	"context"
	"strings"
	"syscall"

	"github.com/drivefs/drivefs/cache"
)

// asked tells whether an attribute is ours to answer. The one that names the
// control socket is answered also when extended attributes are off: it is how
// every verb finds the mount. ls asks two foreign ones for each file, so this
// comes before anything else; ENOTSUP, and not ENODATA, lets cp -p succeed and
// makes ls stop asking.
func (t *tree) asked(ino uint64, name string) bool {
	if !strings.HasPrefix(name, "user.") {
		return false
	}
	return t.xattrs || ino == t.root && name == cache.ControlAttr
}

func (t *tree) getxattr(ctx context.Context, ino, gen uint64, name string, dest []byte) (_ uint32, errno syscall.Errno) {
	if !t.asked(ino, name) {
		return 0, syscall.ENOTSUP
	}
	c := t.enter(ctx, "getxattr")
	defer c.end(&errno)
	val, err := t.store.Getxattr(c, ino, gen, name)
	if err != nil {
		return 0, c.nodeErrno(err)
	}
	if len(val) > len(dest) {
		return uint32(len(val)), syscall.ERANGE
	}
	return uint32(copy(dest, val)), 0
}

func (t *tree) setxattr(c *call, ino, gen uint64, name string, val []byte, flags uint32) syscall.Errno {
	if !t.xattrs || !t.asked(ino, name) {
		return syscall.ENOTSUP
	}
	if err := t.store.Setxattr(c, ino, gen, name, val, flags); err != nil {
		return c.nodeErrno(err)
	}
	return 0
}

func (t *tree) removexattr(c *call, ino, gen uint64, name string) syscall.Errno {
	if !t.xattrs || !t.asked(ino, name) {
		return syscall.ENOTSUP
	}
	if err := t.store.Removexattr(c, ino, gen, name); err != nil {
		return c.nodeErrno(err)
	}
	return 0
}

func (t *tree) listxattr(ctx context.Context, ino, gen uint64, dest []byte) (_ uint32, errno syscall.Errno) {
	if !t.xattrs {
		return 0, syscall.ENOTSUP
	}
	c := t.enter(ctx, "listxattr")
	defer c.end(&errno)
	names, err := t.store.Listxattr(c, ino, gen)
	if err != nil {
		return 0, c.nodeErrno(err)
	}
	var size int
	for _, n := range names {
		size += len(n) + 1
	}
	if size > len(dest) {
		return uint32(size), syscall.ERANGE
	}
	out := dest[:0]
	for _, n := range names {
		out = append(append(out, n...), 0)
	}
	return uint32(size), 0
}

// The nodes' own methods name themselves to the Store.

// Getxattr reads an extended attribute of the folder.
func (d *dir) Getxattr(ctx context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	return d.t.getxattr(ctx, d.ino, 0, name, dest)
}

// Setxattr sets an extended attribute of the folder.
func (d *dir) Setxattr(ctx context.Context, name string, val []byte, flags uint32) (errno syscall.Errno) {
	c := d.hold(ctx, "setxattr")
	defer c.end(&errno)
	return d.t.setxattr(c, d.ino, 0, name, val, flags)
}

// Removexattr removes an extended attribute of the folder.
func (d *dir) Removexattr(ctx context.Context, name string) (errno syscall.Errno) {
	c := d.hold(ctx, "removexattr")
	defer c.end(&errno)
	return d.t.removexattr(c, d.ino, 0, name)
}

// Listxattr names the extended attributes of the folder.
func (d *dir) Listxattr(ctx context.Context, dest []byte) (uint32, syscall.Errno) {
	return d.t.listxattr(ctx, d.ino, 0, dest)
}

// Getxattr reads an extended attribute of the file.
func (f *file) Getxattr(ctx context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	ino, gen := f.id()
	return f.t.getxattr(ctx, ino, gen, name, dest)
}

// Setxattr sets an extended attribute of the file.
func (f *file) Setxattr(ctx context.Context, name string, val []byte, flags uint32) (errno syscall.Errno) {
	ino, gen := f.id()
	c := f.t.enter(ctx, "setxattr")
	defer c.end(&errno)
	return f.t.setxattr(c, ino, gen, name, val, flags)
}

// Removexattr removes an extended attribute of the file.
func (f *file) Removexattr(ctx context.Context, name string) (errno syscall.Errno) {
	ino, gen := f.id()
	c := f.t.enter(ctx, "removexattr")
	defer c.end(&errno)
	return f.t.removexattr(c, ino, gen, name)
}

// Listxattr names the extended attributes of the file.
func (f *file) Listxattr(ctx context.Context, dest []byte) (uint32, syscall.Errno) {
	ino, gen := f.id()
	return f.t.listxattr(ctx, ino, gen, dest)
}
