package cache

import (
	"context"
	"iter"
	"strings"
	"sync/atomic"

	"github.com/drivefs/drivefs/cache/tree"
)

// paths names inodes by where they are in the mount.
type paths struct {
	tree *tree.Tree
	root atomic.Uint64 // inode of the mounted folder, 0 until it is known
}

// of is the path of ino, "/…", through first parents; "" when it has none.
func (p *paths) of(ino uint64) (path string) {
	p.tree.Read(func(v tree.View) { path = v.Path(ino, p.root.Load()) })
	return path
}

// in is the path of name in the folder dir.
func (p *paths) in(dir uint64, name string) string {
	return join(p.of(dir), name)
}

func join(dir, name string) string {
	return strings.TrimSuffix(dir, "/") + "/" + name
}

// wanted is where the entry of ino wants it, or wanted it before it was removed.
func (p *paths) wanted(ino uint64) (path string) {
	p.tree.Read(func(v tree.View) {
		e, ok := v.Entry(ino)
		switch {
		case !ok:
			path = v.Path(ino, p.root.Load())
		case len(e.Place.Parents) == 0:
			path = e.Place.Shown
		default:
			path = join(v.Path(e.Place.Parents[0], p.root.Load()), e.Place.Shown)
		}
	})
	return path
}

// namesOf yields the names of a slash-separated path.
func namesOf(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range strings.SplitSeq(path, "/") {
			if name != "" && name != "." && !yield(name) {
				return
			}
		}
	}
}

// PathOf is the path of ino within the mount, "/…", through first parents; ""
// when it has none there.
func (s *Store) PathOf(ino uint64) string { return s.paths.of(ino) }

// Resolve finds the entry of a path within the mount; "/" is its root.
func (s *Store) Resolve(ctx context.Context, path string) (Entry, error) {
	return s.resolve(ctx, s.Root(), path)
}

// resolve is Resolve below the folder dir.
func (s *Store) resolve(ctx context.Context, dir uint64, path string) (Entry, error) {
	e := Entry{Primary: true}
	var err error
	e.Attr, err = s.Attr(ctx, dir, 0)
	for name := range namesOf(path) {
		if err != nil {
			return Entry{}, err
		}
		e, _, err = s.Lookup(ctx, e.Ino, name)
	}
	return e, err
}
