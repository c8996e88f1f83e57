package fs

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
)

// dir is a folder at one place. Its StableAttr.Ino is the place: ino, unless
// the way to it leads through another than a first parent.
type dir struct {
	fusefs.Inode
	t    *tree
	ino  uint64
	kept atomic.Bool // in the index; set under index.mu
	// asked: the kernel may remember that a name is absent here. Set before
	// the Store is asked, with exact names only.
	asked atomic.Bool
	calls calls
}

var _ interface {
	fusefs.NodeLookuper
	fusefs.NodeOpendirHandler
	fusefs.NodeGetattrer
	fusefs.NodeStatxer
	fusefs.NodeSetattrer
	fusefs.NodeCreater
	fusefs.NodeMkdirer
	fusefs.NodeMknoder
	fusefs.NodeSymlinker
	fusefs.NodeLinker
	fusefs.NodeUnlinker
	fusefs.NodeRmdirer
	fusefs.NodeRenamer
	fusefs.NodeFsyncer
	fusefs.NodeStatfser
	fusefs.NodeGetxattrer
	fusefs.NodeSetxattrer
	fusefs.NodeListxattrer
	fusefs.NodeRemovexattrer
	fusefs.NodeOnForgetter
} = (*dir)(nil)

// begin is the start of a request inside d: see index.
func (d *dir) begin(ctx context.Context, op string) *call {
	d.t.index.keep(d)
	return d.t.enter(ctx, op)
}

// hold is begin for a request during which the kernel holds the lock of d.
func (d *dir) hold(ctx context.Context, op string) *call {
	c := d.begin(ctx, op)
	c.holds(d)
	return c
}

// OnForget is told when the kernel dropped d.
func (d *dir) OnForget() { d.t.index.drop(d) }

// forgotten tells whether the kernel has no reference to d. Inode.Forgotten
// alone misses a node whose name was taken over by another one.
func (d *dir) forgotten() bool {
	if d.IsRoot() {
		return false
	}
	//lint:ignore SA1019 OnForget is told of it as well, but an answer must not depend on which comes first
	if d.Forgotten() {
		return true
	}
	name, above := d.Parent()
	return above != nil && above.GetChild(name) != d.EmbeddedInode()
}

// identity is the kernel inode of an entry of d.
func (d *dir) identity(e *cache.Entry) fusefs.StableAttr {
	if !e.Folder {
		return fusefs.StableAttr{Mode: fuse.S_IFREG, Ino: e.Ino, Gen: e.Gen}
	}
	here := d.StableAttr().Ino
	if e.Primary && here == d.ino {
		return fusefs.StableAttr{Mode: fuse.S_IFDIR, Ino: e.Ino}
	}
	return fusefs.StableAttr{Mode: fuse.S_IFDIR, Ino: place(here, e.Ino)}
}

// child is the node for the entry e, asked for under name: the one the kernel
// has, or a new one, for which the bridge substitutes the one it knows.
func (d *dir) child(ctx context.Context, name string, e *cache.Entry) *fusefs.Inode {
	id := d.identity(e)
	if have := d.GetChild(name); have != nil && have.StableAttr() == id {
		return have
	}
	if e.Folder {
		return d.NewInode(ctx, &dir{t: d.t, ino: e.Ino}, id)
	}
	return d.NewInode(ctx, &file{t: d.t}, id)
}

// find looks name up by the rule of the mount.
func (d *dir) find(c *call, name string) (e cache.Entry, err error) {
	e, exact, err := d.t.store.Lookup(c, d.ino, name)
	if err == nil && d.t.exact && !exact {
		err = cache.ErrNotExist
	}
	return e, err
}

// Lookup finds name in any spelling.
func (d *dir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (_ *fusefs.Inode, errno syscall.Errno) {
	c := d.hold(ctx, "lookup")
	defer c.end(&errno)
	if len(name) > maxName {
		return nil, syscall.ENAMETOOLONG
	}
	if d.t.exact {
		d.asked.Store(true)
	}
	e, err := d.find(c, name)
	if errors.Is(err, cache.ErrNotExist) && d.gone(c) {
		// A path through a folder that is gone: another one may be there now.
		return nil, syscall.ESTALE
	}
	if err != nil {
		return nil, c.errno(err)
	}
	d.t.entry(out, &e, name)
	return d.child(ctx, name, &e), 0
}

// gone tells whether d itself is no more.
func (d *dir) gone(c *call) bool {
	_, err := d.t.store.Attr(c, d.ino, 0)
	return errors.Is(err, cache.ErrNotExist)
}

// Getattr answers stat. A folder that was removed while somebody has it open
// shows what it was, with no name left.
func (d *dir) Getattr(ctx context.Context, f fusefs.FileHandle, out *fuse.AttrOut) (errno syscall.Errno) {
	c := d.t.enter(ctx, "getattr")
	defer c.end(&errno)
	a, err := d.attr(c, f)
	if err != nil {
		return c.nodeErrno(err)
	}
	d.t.attrOut(out, &a)
	return 0
}

func (d *dir) attr(c *call, f fusefs.FileHandle) (cache.Attr, error) {
	a, err := d.t.store.Attr(c, d.ino, 0)
	if h, ok := f.(*dirHandle); ok && errors.Is(err, cache.ErrNotExist) {
		a, err = h.opened, nil
		a.Nlink = 0
	}
	return a, err
}

// Statx is Getattr with the time of creation.
func (d *dir) Statx(ctx context.Context, f fusefs.FileHandle, _, _ uint32, out *fuse.StatxOut) (errno syscall.Errno) {
	c := d.t.enter(ctx, "statx")
	defer c.end(&errno)
	a, err := d.attr(c, f)
	if err != nil {
		return c.nodeErrno(err)
	}
	d.t.statx(out, &a)
	return 0
}

// Setattr sets mode and modification time.
func (d *dir) Setattr(ctx context.Context, _ fusefs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) (errno syscall.Errno) {
	c := d.hold(ctx, "setattr")
	defer c.end(&errno)
	return d.t.setattr(c, d.ino, 0, nil, in, out)
}

// Create makes a file and opens it.
func (d *dir) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (_ *fusefs.Inode, _ fusefs.FileHandle, _ uint32, errno syscall.Errno) {
	c := d.hold(ctx, "create")
	defer c.end(&errno)
	if len(name) > maxName {
		return nil, nil, 0, syscall.ENAMETOOLONG
	}
	// The kernel sends CREATE only after it saw no such name. When there is
	// one after all, ESTALE makes it look again and open that one: the bridge
	// would give an inode that is known already a second identity.
	e, h, err := d.t.store.Create(c, d.ino, name, flags|unix.O_EXCL, cache.ModeSet|mode&0o777)
	if errors.Is(err, cache.ErrExist) && flags&unix.O_EXCL == 0 {
		if _, err := d.find(c, name); err == nil {
			return nil, nil, 0, syscall.ESTALE
		}
	}
	if err != nil {
		return nil, nil, 0, c.errno(err)
	}
	d.changed(name)
	e.Writing = false // nobody else can have asked, and cp looks at once
	d.t.entry(out, &e, name)
	fh, open := newHandle(d.t, h)
	return d.child(ctx, name, &e), fh, open, 0
}

// Mknod makes a regular file; there are no others.
func (d *dir) Mknod(ctx context.Context, name string, mode, _ uint32, out *fuse.EntryOut) (_ *fusefs.Inode, errno syscall.Errno) {
	c := d.hold(ctx, "mknod")
	defer c.end(&errno)
	if len(name) > maxName {
		return nil, syscall.ENAMETOOLONG
	}
	if mode&unix.S_IFMT != unix.S_IFREG {
		return nil, syscall.ENOTSUP
	}
	e, h, err := d.t.store.Create(c, d.ino, name, unix.O_WRONLY|unix.O_EXCL, cache.ModeSet|mode&0o777)
	if err != nil {
		return nil, c.errno(err)
	}
	err = h.Flush()
	h.Release()
	if err != nil {
		return nil, c.errno(err)
	}
	d.changed(name)
	d.t.entry(out, &e, name)
	return d.child(ctx, name, &e), 0
}

// Mkdir makes a folder. Trash folders of desktops are refused at the top: what
// is moved there would be uploaded, and removing is the drive's trash already.
func (d *dir) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (_ *fusefs.Inode, errno syscall.Errno) {
	c := d.hold(ctx, "mkdir")
	defer c.end(&errno)
	switch {
	case len(name) > maxName:
		return nil, syscall.ENAMETOOLONG
	case d.ino == d.t.root && (name == ".Trash" || strings.HasPrefix(name, ".Trash-")):
		return nil, syscall.EPERM
	}
	e, err := d.t.store.Mkdir(c, d.ino, name, cache.ModeSet|mode&0o777)
	if err != nil {
		return nil, c.errno(err)
	}
	d.changed(name)
	d.t.entry(out, &e, name)
	return d.child(ctx, name, &e), 0
}

// Symlink: the service has none.
func (d *dir) Symlink(context.Context, string, string, *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	return nil, syscall.ENOTSUP
}

// Link gives a file another folder, where the service can.
func (d *dir) Link(ctx context.Context, target fusefs.InodeEmbedder, name string, out *fuse.EntryOut) (_ *fusefs.Inode, errno syscall.Errno) {
	c := d.hold(ctx, "link")
	defer c.end(&errno)
	if len(name) > maxName {
		return nil, syscall.ENAMETOOLONG
	}
	f, ok := target.(*file)
	if !ok {
		return nil, syscall.EPERM
	}
	e, err := d.t.store.Link(c, f.StableAttr().Ino, d.ino, name)
	if err != nil {
		return nil, c.errno(err)
	}
	d.changed(name)
	d.t.entry(out, &e, name)
	return d.child(ctx, name, &e), 0
}

// Unlink removes a file's name.
func (d *dir) Unlink(ctx context.Context, name string) syscall.Errno {
	return d.remove(ctx, "unlink", name, d.t.store.Unlink)
}

// Rmdir removes an empty folder.
func (d *dir) Rmdir(ctx context.Context, name string) syscall.Errno {
	return d.remove(ctx, "rmdir", name, d.t.store.Rmdir)
}

func (d *dir) remove(ctx context.Context, op, name string, do func(context.Context, uint64, string) error) (errno syscall.Errno) {
	c := d.hold(ctx, op)
	defer c.end(&errno)
	if len(name) > maxName {
		return syscall.ENAMETOOLONG
	}
	shown := d.shown(c, name)
	if err := do(c, d.ino, name); err != nil {
		return c.errno(err)
	}
	d.respelled(name, shown)
	d.changed(name)
	return 0
}

// Rename moves a name.
func (d *dir) Rename(ctx context.Context, name string, newParent fusefs.InodeEmbedder, newName string, flags uint32) (errno syscall.Errno) {
	c := d.hold(ctx, "rename")
	defer c.end(&errno)
	to, ok := newParent.(*dir)
	switch {
	case !ok, flags&^unix.RENAME_NOREPLACE != 0:
		// Never ENOSYS: the kernel would stop sending NOREPLACE as well.
		return syscall.EINVAL
	case len(name) > maxName, len(newName) > maxName:
		return syscall.ENAMETOOLONG
	}
	if to != d {
		d.t.index.keep(to)
		c.holds(to)
	}
	e, err := d.find(c, name)
	if err != nil {
		return c.errno(err)
	}
	target := to.shown(c, newName)
	err = d.t.store.Rename(c, d.ino, name, to.ino, newName, flags&unix.RENAME_NOREPLACE != 0)
	if err != nil {
		return c.errno(err)
	}
	d.respelled(name, e.Name)
	to.respelled(newName, target)
	to.respelled(to.shown(c, newName), newName)
	d.changed(name)
	to.changed(newName)
	return 0
}

// shown is the spelling under which name is shown in d, "" when it is absent.
// With exact names there is only one, and nothing is asked.
func (d *dir) shown(c *call, name string) string {
	if d.t.exact {
		return name
	}
	e, err := d.find(c, name)
	if err != nil {
		return ""
	}
	return e.Name
}

// respelled makes the kernel forget the name that it has cached for an hour
// when a call of its own changed the entry through another spelling, or left
// it with another spelling than it asked for.
func (d *dir) respelled(used, known string) {
	if used != "" && known != "" && known != used {
		d.t.notify.name(d.ino, known)
	}
}

// changed tells the other places of d what the kernel did at this one.
func (d *dir) changed(name string) {
	if d.t.index.several(d.ino) {
		d.t.notify.name(d.ino, name)
	}
}

// Fsync makes what was done in d safe on this machine's disk.
func (d *dir) Fsync(ctx context.Context, _ fusefs.FileHandle, _ uint32) (errno syscall.Errno) {
	c := d.hold(ctx, "fsyncdir")
	defer c.end(&errno)
	if err := d.t.store.SyncDir(c, d.ino); err != nil {
		return c.nodeErrno(err)
	}
	return 0
}

// Statfs answers df.
func (d *dir) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	return d.t.statfs(ctx, out)
}
