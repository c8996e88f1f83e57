package cache

import (
	"context"

	"github.com/drivefs/drivefs/cache/tree"
)

// What the tree shows, under the names of this package.
type (
	Attr    = tree.Attr
	Entry   = tree.Entry
	Dentry  = tree.Dentry
	Effect  = tree.Effect
	SetAttr = tree.SetAttr
)

// ModeSet marks a mode that was chosen, so that 0000 differs from none.
const ModeSet = tree.ModeSet

// inode is ino as the tree shows it; ErrNotExist when there is nothing to see.
func (s *Store) inode(ino uint64) (n tree.Inode, err error) {
	var ok bool
	if s.tree.Read(func(v tree.View) { n, ok, err = v.Inode(ino) }); err == nil && !ok {
		err = ErrNotExist
	}
	return n, err
}

// ownProps are our properties of ino as they shall be.
func (s *Store) ownProps(ino uint64) (m map[string]string) {
	s.tree.Read(func(v tree.View) { m = v.Props(ino) })
	return m
}

// Lookup finds name in the folder dir in any spelling (only the exact one
// with NamesExact). exact is true when name is the spelling that is shown.
// It waits for the network only when the folder was never told completely.
func (s *Store) Lookup(ctx context.Context, dir uint64, name string) (e Entry, exact bool, err error) {
	if err := s.lister.knowName(ctx, dir, name); err != nil {
		return Entry{}, false, err
	}
	s.lister.knowPropsOfName(ctx, dir, name)
	s.tree.Read(func(v tree.View) {
		var n tree.Inode
		var ok bool
		n, exact, ok, err = v.Lookup(dir, name)
		if err == nil && (!ok || s.o.NamesExact && !exact) {
			err = ErrNotExist
		}
		if err == nil {
			e = v.DirEntry(&n, dir)
		}
	})
	return e, exact && err == nil, err
}

// Attr is what stat shows of (ino, gen). A version that was superseded on the
// drive answers as it was while a handle has it open. ErrNotExist when the
// inode is gone and no handle has it open.
func (s *Store) Attr(ctx context.Context, ino, gen uint64) (a Attr, err error) {
	s.lister.knowPropsOf(ctx, ino)
	s.tree.Read(func(v tree.View) {
		var n tree.Inode
		var ok bool
		if n, ok, err = v.Inode(ino); err != nil {
			return
		}
		if f := s.tree.File(ino, gen); f != nil && (!ok || n.Gen != gen) {
			nlink := uint32(0)
			if ok {
				nlink = n.Attr().Nlink
			}
			a = f.Attr(nlink)
			return
		}
		if !ok {
			err = ErrNotExist
			return
		}
		a = v.DirEntry(&n, 0).Attr
	})
	return a, err
}

// Dir is an open folder. It keeps nothing but the inode: each Read asks the
// tree again, from a cookie on, so a folder of any size costs no memory and
// entries that come and go disturb no other.
type Dir struct {
	s   *Store
	ino uint64
}

// OpenDir opens the folder dir; when the drive never told all of it, it is
// listed first.
func (s *Store) OpenDir(ctx context.Context, dir uint64) (*Dir, error) {
	if err := s.lister.knowAll(ctx, dir); err != nil {
		return nil, err
	}
	s.lister.knowProps(ctx, dir)
	n, err := s.inode(dir)
	if err == nil && !n.Folder {
		err = ErrNotDir
	}
	if err != nil {
		return nil, err
	}
	return &Dir{s, dir}, nil
}

// Read returns up to limit entries whose cookie (Ino) is above after, in the
// order of cookies; fewer than limit means the end. An inode keeps its cookie
// in a folder as long as it is in it.
func (d *Dir) Read(ctx context.Context, after uint64, limit int) ([]Entry, error) {
	return d.Append(ctx, nil, after, limit)
}

// Append is Read into the room behind es, which is what it returns on an error.
func (d *Dir) Append(_ context.Context, es []Entry, after uint64, limit int) (out []Entry, err error) {
	d.s.tree.Read(func(v tree.View) { out, err = v.List(es, d.ino, after, limit) })
	return out, err
}
