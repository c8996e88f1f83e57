package cache

import (
	"context"
	"sync"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

const (
	// siblingSize is up to what size a file takes longer to be answered than to
	// arrive.
	siblingSize = 64 << 10
	// siblingsFrom is how many were read before others come along.
	siblingsFrom = 3
	// siblingsAhead bounds how many; there are never more than were read.
	siblingsAhead = 64
	// siblingFolders is how many folders are being read so at once.
	siblingFolders = 4
)

// siblings reads ahead over files. A program that has read a few small files of
// a folder as a whole, one after the other as the folder lists them, is copying
// or searching it: each of them costs a round trip, and nothing else. So the next
// ones are fetched, several at once.
type siblings struct {
	tree       *tree.Tree
	chunks     *chunk.Cache
	remote     *drive.Client
	background *background
	slots      chan struct{} // connections it may use

	mu      sync.Mutex
	courses []*course // the one read last in front; guarded by mu
}

// newSiblings uses all but one of downloads connections, 0 = 16.
func newSiblings(t *tree.Tree, c *chunk.Cache, remote *drive.Client, b *background, downloads int) *siblings {
	if downloads <= 0 {
		downloads = 16
	}
	return &siblings{tree: t, chunks: c, remote: remote, background: b, slots: make(chan struct{}, max(1, downloads-1))}
}

// course is the reading of one folder. Guarded by siblings.mu.
type course struct {
	dir    uint64
	last   uint64 // inode read last
	read   int    // how many were, one after the other
	upTo   uint64 // inode up to which they were asked for
	ahead  []uint64
	ctx    context.Context
	cancel context.CancelFunc
}

// wasRead is told that the small file ino was read to its end.
func (b *siblings) wasRead(ino uint64) {
	var n tree.Inode
	var ok bool
	b.tree.Read(func(v tree.View) { n, ok, _ = v.Inode(ino) })
	if !ok || len(n.Parents) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.courseLocked(n.Parents[0])
	if ino == c.last {
		return
	}
	if c.read > 0 && !b.follows(c, ino) {
		// The reader goes elsewhere in it.
		c.cancel()
		*c = b.newCourse(c.dir)
	}
	c.last, c.upTo = ino, max(c.upTo, ino)
	c.read++
	for len(c.ahead) > 0 && c.ahead[0] <= ino {
		c.ahead = c.ahead[1:]
	}
	if want := min(c.read, siblingsAhead); c.read >= siblingsFrom && len(c.ahead) <= want/2 {
		ctx := c.ctx // the course may be another one when its fetch begins
		for _, x := range b.after(c, want-len(c.ahead)) {
			c.ahead = append(c.ahead, x.ino)
			b.background.run(func(context.Context) { b.fetch(ctx, x.v) })
		}
	}
}

func (b *siblings) newCourse(dir uint64) course {
	c := course{dir: dir}
	c.ctx, c.cancel = context.WithCancel(b.background.ctx)
	return c
}

// courseLocked is the course of dir, the first now.
func (b *siblings) courseLocked(dir uint64) *course {
	for i, c := range b.courses {
		if c.dir == dir {
			copy(b.courses[1:i+1], b.courses[:i])
			b.courses[0] = c
			return c
		}
	}
	if len(b.courses) == siblingFolders {
		b.courses[siblingFolders-1].cancel()
		b.courses = b.courses[:siblingFolders-1]
	}
	c := b.newCourse(dir)
	b.courses = append([]*course{&c}, b.courses...)
	return &c
}

// follows reports whether ino is one of the next files of the folder. A few may
// have been left out: they are large, or cached by the kernel.
func (b *siblings) follows(c *course, ino uint64) bool {
	if ino < c.last {
		return false
	}
	if ino <= c.upTo {
		return true
	}
	var es []Entry
	b.tree.Read(func(v tree.View) { es, _ = v.List(nil, c.dir, c.last, siblingsFrom) })
	for _, e := range es {
		if e.Ino == ino {
			return true
		}
	}
	return false
}

type sibling struct {
	ino uint64
	v   chunk.Version
}

// after are up to n small files behind those of c that were asked for,
// as far as they are not cached.
func (b *siblings) after(c *course, n int) (out []sibling) {
	b.tree.Read(func(v tree.View) {
		es, err := v.List(nil, c.dir, c.upTo, 2*n)
		if err != nil {
			return
		}
		for _, e := range es {
			if len(out) == n {
				break
			}
			c.upTo = e.Ino
			if e.Folder || e.Size <= 0 || e.Size > siblingSize {
				continue
			}
			if i, ok, err := v.Inode(e.Ino); err == nil && ok && !i.Draft && i.ID != "" {
				out = append(out, sibling{e.Ino, tree.VersionOf(&i)})
			}
		}
	})
	return out
}

// fetch has the bytes of v in the cache, unless ctx ends before.
func (b *siblings) fetch(ctx context.Context, v chunk.Version) {
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return
	}
	if b.chunks.Cached(v) >= v.Size || b.remote.State().Kind != drive.Online {
		return
	}
	_, _ = b.chunks.CopyRange(drive.WithPriority(ctx, drive.ReadAhead), v, 0, v.Size, func([]byte, int64) error { return nil })
}
