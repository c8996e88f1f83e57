package cache

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/drive"
)

// inode is the merged view of one inode: the mirror's record with the
// journal's entry laid over it. It is a value; both sources may move on.
type inode struct {
	ino, gen uint64
	folder   bool
	id       string // node on the drive, "" while there is none
	name     string // as the drive has it or shall have it
	shown    string
	parents  []uint64
	size     int64
	mode     uint32
	mtime    time.Time
	ctime    time.Time
	created  time.Time
	version  int64  // metadata version the mirror knows, 0 = none
	content  int64  // content version on the drive that the bytes start from
	md5      string // of that content
	local    bool   // a wish is open: the journal has an entry
	draft    bool   // … and it carries content
	fresh    bool   // the drive has no node for it yet
}

func (n *inode) attr() Attr {
	a := Attr{
		Ino: n.ino, Gen: n.gen, Folder: n.folder, Size: n.size, Mode: n.mode,
		Mtime: n.mtime, Ctime: n.ctime, Created: n.created, Nlink: 1,
	}
	if !n.folder {
		a.Nlink = uint32(max(1, len(n.parents)))
	} else {
		a.Size = 0
	}
	return a
}

func (n *inode) entry(dir uint64) Entry {
	return Entry{Name: n.shown, Primary: len(n.parents) == 0 || n.parents[0] == dir, Attr: n.attr()}
}

func (n *inode) dentries() []Dentry {
	ds := make([]Dentry, 0, len(n.parents))
	for _, p := range n.parents {
		ds = append(ds, Dentry{p, n.shown})
	}
	return ds
}

// fromRecord is the view of a node without a wish.
func fromRecord(r *mirror.Record) inode {
	n := inode{
		ino: r.Ino, gen: r.Gen, folder: r.Folder, id: r.ID,
		name: r.Name, shown: r.Shown, parents: r.Parents,
		size: r.Size, ctime: r.Modified, created: r.Created,
		version: r.Version, content: r.Content, md5: r.MD5,
	}
	n.mtime, n.mode = parseAttrProp(r.Props[propAttr])
	if n.mtime.IsZero() {
		// The service's modifiedDate jumps with every rename (API §5.4); the
		// bytes of a first version are as old as the node.
		n.mtime = r.Modified
		if !r.Folder && r.Content <= 1 {
			n.mtime = r.Created
		}
	}
	return n
}

// fromEntryLocked is the view of an inode with a wish; view is held.
func (s *Store) fromEntryLocked(e *journal.Entry) (inode, error) {
	n := inode{
		ino: e.Ino, folder: e.Folder, id: e.NodeID,
		name: e.Place.Name, shown: e.Place.Shown, parents: slices.Clone(e.Place.Parents),
		mode: e.Mode, mtime: e.Mtime, ctime: e.Since, created: e.Created,
		local: true, draft: e.Draft != nil, fresh: e.NodeID == "",
	}
	n.gen = s.gens[e.Ino]
	if e.Base != nil {
		n.size, n.content, n.md5, n.version = e.Base.Size, e.Base.Content, e.Base.MD5, e.Base.Version
	}
	if e.Draft != nil {
		n.size = e.Draft.Size
	}
	return n, nil
}

// inodeLocked is the view of ino; ok=false when there is nothing to see: it
// was never known, is removed here, or gone from the drive.
func (s *Store) inodeLocked(ino uint64) (n inode, ok bool, err error) {
	if e, has := s.journal.Clone(ino); has {
		if e.Removed {
			return inode{}, false, nil
		}
		n, err = s.fromEntryLocked(e)
	} else {
		rec, known, rerr := s.mirror.Get(ino)
		if rerr != nil || !known {
			return inode{}, false, rerr
		}
		n = fromRecord(&rec)
	}
	if err == nil {
		s.open.overlay(&n)
	}
	return n, err == nil, err
}

// lookupLocked finds name in dir in any spelling; exact tells whether it is
// the shown one.
func (s *Store) lookupLocked(dir uint64, name string) (n inode, exact, ok bool, err error) {
	if e, has := s.journal.Child(dir, mirror.Fold(name)); has {
		n, err = s.fromEntryLocked(e)
		if err == nil {
			s.open.overlay(&n)
		}
		return n, n.shown == name, err == nil, err
	}
	rec, exact, known, err := s.mirror.Lookup(dir, name)
	if err != nil || !known {
		return inode{}, false, false, err
	}
	if s.journal.Peek(rec.Ino, func(*journal.Entry) {}) {
		// A wish moved it away or removed it: it is not here.
		return inode{}, false, false, nil
	}
	if s.echoLocked(&rec, s.sentIntoLocked(dir)) {
		return inode{}, false, false, nil
	}
	n = fromRecord(&rec)
	s.open.overlay(&n)
	return n, exact, true, nil
}

// listLocked appends to es the entries of dir with a cookie (inode number)
// above after, in cookie order, at most limit of them.
func (s *Store) listLocked(es []Entry, dir, after uint64, limit int) ([]Entry, error) {
	var local []inode
	hides := s.journal.HasChildren(dir)
	if hides {
		s.journal.ChildrenAfter(dir, after, func(e *journal.Entry) bool {
			n, err := s.fromEntryLocked(e)
			if err != nil {
				return true
			}
			local = append(local, n)
			return len(local) < limit
		})
	}
	wishes := s.journal.Len() > 0
	into := s.sentIntoLocked(dir)
	from := len(es)
	cursor := after
	for len(es)-from < limit {
		// The mirror is asked for as many as can still be wanted; those that
		// wishes hide make another round necessary.
		var got int
		want := limit - (len(es) - from)
		err := s.mirror.Scan(dir, cursor, want, func(r *mirror.Record) bool {
			got++
			cursor = r.Ino
			if wishes && s.journal.Peek(r.Ino, func(*journal.Entry) {}) {
				return true
			}
			if hides {
				if _, shadowed := s.journal.Child(dir, mirror.Fold(r.Shown)); shadowed {
					return true
				}
			}
			if s.echoLocked(r, into) {
				return true
			}
			for len(local) > 0 && local[0].ino < r.Ino {
				es = append(es, s.entryOf(&local[0], dir))
				local = local[1:]
			}
			n := fromRecord(r)
			n.shown = strings.Clone(n.shown) // the one thing of r that an Entry keeps
			es = append(es, s.entryOf(&n, dir))
			return true
		})
		if err != nil {
			return es[:from], err
		}
		if got < want {
			for i := range local {
				es = append(es, s.entryOf(&local[i], dir))
			}
			break
		}
	}
	es = es[:min(len(es), from+limit)]
	s.open.overlayAll(es[from:])
	return es, nil
}

// Lookup finds name in the folder dir in any spelling (only the exact one
// with NamesExact). exact is true when name is the spelling that is shown.
// It waits for the network only when the folder was never told completely.
func (s *Store) Lookup(ctx context.Context, dir uint64, name string) (e Entry, exact bool, err error) {
	if err := s.known(ctx, dir, name); err != nil {
		return Entry{}, false, err
	}
	s.propsOf(ctx, dir, name)
	s.view.RLock()
	defer s.view.RUnlock()
	n, exact, ok, err := s.lookupLocked(dir, name)
	if err != nil {
		return Entry{}, false, err
	}
	if !ok || s.o.NamesExact && !exact {
		return Entry{}, false, ErrNotExist
	}
	return s.entryOf(&n, dir), exact, nil
}

func (s *Store) entryOf(n *inode, dir uint64) Entry {
	e := n.entry(dir)
	if n.folder {
		e.Mtime = s.dirTimes.latest(n.ino, e.Mtime)
	}
	return e
}

// Attr is what stat shows of (ino, gen). A version that was superseded on the
// drive answers as it was while a handle has it open. ErrNotExist when the
// inode is gone and nobody has it open.
func (s *Store) Attr(ctx context.Context, ino, gen uint64) (Attr, error) {
	s.view.RLock()
	n, ok, err := s.inodeLocked(ino)
	s.view.RUnlock()
	if err != nil {
		return Attr{}, err
	}
	if ok && n.gen == gen {
		return s.entryOf(&n, 0).Attr, nil
	}
	if f := s.open.get(ino, gen); f != nil {
		return f.attr(n.attr().Nlink * b2u(ok)), nil
	}
	if !ok {
		return Attr{}, ErrNotExist
	}
	return s.entryOf(&n, 0).Attr, nil
}

func b2u(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// Parent is the first parent of ino, 0 for the drive's root and for inodes
// that are not in the tree.
func (s *Store) Parent(ino uint64) uint64 {
	s.view.RLock()
	defer s.view.RUnlock()
	n, ok, err := s.inodeLocked(ino)
	if err != nil || !ok || len(n.parents) == 0 {
		return 0
	}
	return n.parents[0]
}

// Dir is an open folder. It keeps nothing but the inode: each Read asks the
// view again, from a cookie on, so a folder of any size costs no memory and
// entries that come and go disturb no other.
type Dir struct {
	s   *Store
	ino uint64
}

// OpenDir opens the folder dir; when the drive never told all of it, it is
// listed first.
func (s *Store) OpenDir(ctx context.Context, dir uint64) (*Dir, error) {
	if err := s.listed(ctx, dir); err != nil {
		return nil, err
	}
	s.propsKnown(ctx, dir)
	s.view.RLock()
	defer s.view.RUnlock()
	n, ok, err := s.inodeLocked(dir)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, ErrNotExist
	case !n.folder:
		return nil, ErrNotDir
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
func (d *Dir) Append(_ context.Context, es []Entry, after uint64, limit int) ([]Entry, error) {
	d.s.view.RLock()
	defer d.s.view.RUnlock()
	return d.s.listLocked(es, d.ino, after, limit)
}

// reachesLocked tells whether ino is anc or lies below it, by any of its
// parents. Cycles that the service made end the search too.
func (s *Store) reachesLocked(ino, anc uint64) (bool, error) {
	seen := map[uint64]bool{}
	for todo := []uint64{ino}; len(todo) > 0; {
		ino, todo = todo[len(todo)-1], todo[:len(todo)-1]
		if ino == anc {
			return true, nil
		}
		if seen[ino] {
			continue
		}
		seen[ino] = true
		n, ok, err := s.inodeLocked(ino)
		if err != nil {
			return false, err
		}
		if ok {
			todo = append(todo, n.parents...)
		}
	}
	return false, nil
}

// PathOf is the path of ino within the mount, "/…", through first parents; ""
// when it has none there.
func (s *Store) PathOf(ino uint64) string {
	s.view.RLock()
	defer s.view.RUnlock()
	return s.pathLocked(ino)
}

func (s *Store) pathLocked(ino uint64) string {
	var names []string
	for range 4096 {
		if ino == s.Root() {
			slices.Reverse(names)
			return "/" + strings.Join(names, "/")
		}
		n, ok, err := s.inodeLocked(ino)
		if err != nil || !ok || len(n.parents) == 0 {
			return ""
		}
		names = append(names, n.shown)
		ino = n.parents[0]
	}
	return ""
}

// Resolve finds the entry of a path within the mount; "/" is its root.
func (s *Store) Resolve(ctx context.Context, path string) (Entry, error) {
	e := Entry{Primary: true}
	ino := s.Root()
	a, err := s.Attr(ctx, ino, 0)
	if err != nil {
		return Entry{}, err
	}
	e.Attr = a
	for name := range pathNames(path) {
		e, _, err = s.Lookup(ctx, ino, name)
		if err != nil {
			return Entry{}, err
		}
		ino = e.Ino
	}
	return e, nil
}

// pathNames yields the names of a slash-separated path.
func pathNames(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range strings.SplitSeq(path, "/") {
			if name != "" && name != "." && !yield(name) {
				return
			}
		}
	}
}

// baseOf is what the drive said of a node, as the journal keeps it.
func (s *Store) baseOf(r *mirror.Record) (*journal.Base, error) {
	b := &journal.Base{
		Name: r.Name, Version: r.Version, ETag: r.ETag,
		Content: r.Content, Size: r.Size, MD5: r.MD5,
	}
	for _, p := range r.Parents {
		pr, ok, err := s.mirror.Get(p)
		if err != nil {
			return nil, err
		}
		if ok {
			b.Parents = append(b.Parents, pr.ID)
		}
	}
	return b, nil
}

// wishLocked is the journal's entry of ino to be changed and Put: the one
// that is open, or a new one that wishes for what there is.
func (s *Store) wishLocked(ino uint64) (*journal.Entry, error) {
	if e, ok := s.journal.Clone(ino); ok {
		return e, nil
	}
	r, ok, err := s.mirror.Get(ino)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNotExist
	}
	b, err := s.baseOf(&r)
	if err != nil {
		return nil, err
	}
	if f := s.open.pinned(ino); f != nil && !r.Folder {
		b.Content, b.MD5, b.Size = f.base.Content, f.base.MD5, f.base.Size
	}
	n := fromRecord(&r)
	return &journal.Entry{
		Ino: ino, Folder: r.Folder,
		Intent:   journal.Intent{Place: journal.Place{Parents: slices.Clone(r.Parents), Name: r.Name, Shown: r.Shown}, Mode: n.mode, Mtime: n.mtime, Created: n.created, Since: time.Now()},
		Progress: journal.Progress{NodeID: r.ID, Base: b},
	}, nil
}

// putLocked records wishes; view is held for writing. An inode that gets its
// first wish keeps the Gen it is shown with until the wish is fulfilled.
func (s *Store) putLocked(es ...*journal.Entry) error {
	for _, e := range es {
		if err := s.rememberPathLocked(e); err != nil {
			return err
		}
		var err error
		if e.Folders, err = s.foldersLocked(e); err != nil {
			return err
		}
		s.noteSentLocked(e)
		if _, pinned := s.gens[e.Ino]; pinned {
			continue
		}
		if rec, ok, err := s.mirror.Get(e.Ino); err != nil {
			return err
		} else if ok {
			g := rec.Gen
			if f := s.open.pinned(e.Ino); f != nil {
				g = f.gen
			}
			s.gens[e.Ino] = g
		} else {
			s.gens[e.Ino] = 0
		}
	}
	return s.journal.Put(es...)
}

// rememberPathLocked notes where the folders above a wish are: should the
// drive lose them, they are made again under these names.
func (s *Store) rememberPathLocked(e *journal.Entry) error {
	if e.Removed {
		return nil
	}
	if len(s.lastPlace) >= maxLastPlaces {
		clear(s.lastPlace)
	}
	if e.Folder && len(e.Place.Parents) > 0 {
		s.lastPlace[e.Ino] = Dentry{e.Place.Parents[0], e.Place.Shown}
	}
	for _, dir := range e.Place.Parents {
		for range 4096 {
			if _, known := s.lastPlace[dir]; known {
				break
			}
			n, ok, err := s.inodeLocked(dir)
			if err != nil {
				return err
			}
			if !ok || len(n.parents) == 0 {
				break
			}
			s.lastPlace[dir] = Dentry{n.parents[0], n.shown}
			dir = n.parents[0]
		}
	}
	return nil
}

// maxLastPlaces bounds what is remembered; forgetting costs a folder its
// name only if the drive loses it while wishes below it are open.
const maxLastPlaces = 1 << 16

// Fold is the comparison of names, as the service compares them.
func Fold(name string) string { return drive.Fold(name) }
