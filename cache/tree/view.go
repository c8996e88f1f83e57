package tree

import (
	"slices"
	"strings"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// Inode is the merged view of one inode: the mirror's record with the
// journal's entry laid over it, and an open file's unclosed writes over that.
// It is a value; the sources may move on.
type Inode struct {
	Ino, Gen uint64
	Folder   bool
	ID       string // node on the drive, "" while there is none
	Name     string // as the drive has it or shall have it
	Shown    string
	Parents  []uint64
	Size     int64
	Mode     uint32
	Mtime    time.Time
	Ctime    time.Time
	Created  time.Time
	Version  int64  // metadata version the mirror knows, 0 = none
	Content  int64  // content version on the drive that the bytes start from
	MD5      string // of that content
	Draft    bool   // an intent is open that carries content
	Fresh    bool   // the drive has no node for it yet
	Writing  bool   // as in Attr
}

// Attr is what stat shows of it.
func (n *Inode) Attr() Attr {
	a := Attr{
		Ino: n.Ino, Gen: n.Gen, Folder: n.Folder, Size: n.Size, Mode: n.Mode,
		Mtime: n.Mtime, Ctime: n.Ctime, Created: n.Created, Nlink: 1, Writing: n.Writing,
	}
	if !n.Folder {
		a.Nlink = uint32(max(1, len(n.Parents)))
	} else {
		a.Size = 0
	}
	return a
}

// Entry is its line in the folder dir.
func (n *Inode) Entry(dir uint64) Entry {
	return Entry{Name: n.Shown, Primary: len(n.Parents) == 0 || n.Parents[0] == dir, Attr: n.Attr()}
}

// Dentries are all places where it is shown.
func (n *Inode) Dentries() []Dentry {
	ds := make([]Dentry, 0, len(n.Parents))
	for _, p := range n.Parents {
		ds = append(ds, Dentry{p, n.Shown})
	}
	return ds
}

// fromRecord is the view of a node without an intent.
func fromRecord(r *mirror.Record) Inode {
	n := Inode{
		Ino: r.Ino, Gen: r.Gen, Folder: r.Folder, ID: r.ID,
		Name: r.Name, Shown: r.Shown, Parents: r.Parents,
		Size: r.Size, Ctime: r.Modified, Created: r.Created,
		Version: r.Version, Content: r.Content, MD5: r.MD5,
	}
	n.Mtime, n.Mode = parseAttrProp(r.Props[PropAttr])
	if n.Mtime.IsZero() {
		// The service's modifiedDate jumps with every rename (API §5.4); the
		// bytes of a first version are as old as the node.
		n.Mtime = r.Modified
		if !r.Folder && r.Content <= 1 {
			n.Mtime = r.Created
		}
	}
	return n
}

// View is the tree at one moment. It is valid within Read or Change only, and
// does no I/O but reads of the mirror's mapped file.
type View struct {
	t  *Tree
	tx *Tx // nil outside of a Change
}

// Entry is the journal's entry of ino, shared: it must not be modified.
func (v View) Entry(ino uint64) (*journal.Entry, bool) {
	if v.tx != nil {
		if e, ok := v.tx.puts[ino]; ok {
			return e, e != nil
		}
	}
	return v.t.journal.Get(ino)
}

// child is the live entry that dir shows under a folded name.
func (v View) child(dir uint64, folded string) (*journal.Entry, bool) {
	if v.tx == nil {
		return v.t.journal.Child(dir, folded)
	}
	for i := len(v.tx.order) - 1; i >= 0; i-- {
		e := v.tx.puts[v.tx.order[i]]
		if e != nil && !e.Removed && slices.Contains(e.Place.Parents, dir) && mirror.Fold(e.Place.Shown) == folded {
			return e, true
		}
	}
	e, ok := v.t.journal.Child(dir, folded)
	if ok {
		if _, changed := v.tx.puts[e.Ino]; changed {
			return nil, false
		}
	}
	return e, ok
}

// ByNode is the entry whose inode a node belongs to, shared.
func (v View) ByNode(id string) (*journal.Entry, bool) {
	if v.tx != nil {
		for _, e := range v.tx.puts {
			if e != nil && e.NodeID == id {
				return e, true
			}
		}
	}
	e, ok := v.t.journal.ByNode(id)
	if ok && v.tx != nil {
		if _, changed := v.tx.puts[e.Ino]; changed {
			return nil, false
		}
	}
	return e, ok
}

// InoOf is the inode that a node belongs to, 0 = none: the journal's word
// counts before the mirror's, which learns of it with the next answer.
func (v View) InoOf(id string) (uint64, error) {
	if id == "" {
		return 0, nil
	}
	if e, ok := v.ByNode(id); ok {
		return e.Ino, nil
	}
	return v.t.mirror.InoOf(id)
}

// elsewhere tells whether the node of a record belongs to another inode than
// the mirror has it under.
func (v View) elsewhere(r *mirror.Record) bool {
	if v.tx == nil && v.t.journal.Len() == 0 {
		return false
	}
	e, ok := v.ByNode(r.ID)
	return ok && e.Ino != r.Ino
}

// fromEntry is the view of an inode with an intent.
func (v View) fromEntry(e *journal.Entry) Inode {
	n := Inode{
		Ino: e.Ino, Folder: e.Folder, ID: e.NodeID,
		Name: e.Place.Name, Shown: e.Place.Shown, Parents: slices.Clone(e.Place.Parents),
		Mode: e.Mode, Mtime: e.Mtime, Ctime: e.Since, Created: e.Created,
		Draft: e.Draft != nil, Fresh: e.NodeID == "",
	}
	n.Gen = v.t.gens[e.Ino]
	if e.Base != nil {
		n.Size, n.Content, n.MD5, n.Version = e.Base.Size, e.Base.Content, e.Base.MD5, e.Base.Version
	}
	if e.Draft != nil {
		n.Size = e.Draft.Size
	}
	v.t.files.overlay(&n)
	return n
}

// Inode is the view of ino; ok=false when there is nothing to see: it was
// never known, is removed here, or gone from the drive.
func (v View) Inode(ino uint64) (n Inode, ok bool, err error) {
	if e, has := v.Entry(ino); has {
		if e.Removed {
			return Inode{}, false, nil
		}
		return v.fromEntry(e), true, nil
	}
	rec, known, err := v.t.mirror.Get(ino)
	if err != nil || !known || v.elsewhere(&rec) {
		return Inode{}, false, err
	}
	n = fromRecord(&rec)
	v.t.files.overlay(&n)
	return n, true, nil
}

// Lookup finds name in dir in any spelling; exact tells whether it is the
// shown one.
func (v View) Lookup(dir uint64, name string) (n Inode, exact, ok bool, err error) {
	if e, has := v.child(dir, mirror.Fold(name)); has {
		n = v.fromEntry(e)
		return n, n.Shown == name, true, nil
	}
	rec, exact, known, err := v.t.mirror.Lookup(dir, name)
	if err != nil || !known || v.hidden(&rec) || v.echo(&rec, v.sentInto(dir)) {
		return Inode{}, false, false, err
	}
	n = fromRecord(&rec)
	v.t.files.overlay(&n)
	return n, exact, true, nil
}

// hidden tells whether the journal says another thing of a record's inode or
// node than the mirror does.
func (v View) hidden(r *mirror.Record) bool {
	_, has := v.Entry(r.Ino)
	return has || v.elsewhere(r)
}

// Present is Lookup by the rule of the mount; ErrNotExist when there is no
// such name.
func (v View) Present(dir uint64, name string) (Inode, error) {
	n, exact, ok, err := v.Lookup(dir, name)
	if err != nil {
		return Inode{}, err
	}
	if !ok || v.t.o.NamesExact && !exact {
		return Inode{}, ErrNotExist
	}
	return n, nil
}

// List appends to es the entries of dir with a cookie (inode number) above
// after, in cookie order, at most limit of them.
func (v View) List(es []Entry, dir, after uint64, limit int) ([]Entry, error) {
	var local []Inode
	hides := v.t.journal.HasChildren(dir)
	if hides {
		var here []*journal.Entry // fromEntry takes locks that come before the journal's
		v.t.journal.ChildrenAfter(dir, after, func(e *journal.Entry) bool {
			here = append(here, e)
			return len(here) < limit
		})
		for _, e := range here {
			local = append(local, v.fromEntry(e))
		}
	}
	pending := v.t.journal.Len() > 0
	into := v.sentInto(dir)
	from := len(es)
	cursor := after
	for len(es)-from < limit {
		// The mirror is asked for as many as can still be wanted; those that
		// entries hide make another round necessary.
		var got int
		want := limit - (len(es) - from)
		err := v.t.mirror.Scan(dir, cursor, want, func(r *mirror.Record) bool {
			got++
			cursor = r.Ino
			if pending && v.hidden(r) {
				return true
			}
			if hides {
				if _, shadowed := v.child(dir, mirror.Fold(r.Shown)); shadowed {
					return true
				}
			}
			if v.echo(r, into) {
				return true
			}
			for len(local) > 0 && local[0].Ino < r.Ino {
				es = append(es, v.DirEntry(&local[0], dir))
				local = local[1:]
			}
			n := fromRecord(r)
			n.Shown = strings.Clone(n.Shown) // the one thing of r that an Entry keeps
			es = append(es, v.DirEntry(&n, dir))
			return true
		})
		if err != nil {
			return es[:from], err
		}
		if got < want {
			for i := range local {
				es = append(es, v.DirEntry(&local[i], dir))
			}
			break
		}
	}
	es = es[:min(len(es), from+limit)]
	v.t.files.overlayAll(es[from:])
	return es, nil
}

// empty is nil when nothing is shown in dir, else ErrNotEmpty. Within a Change
// it does not see the Change's own work.
func (v View) empty(dir uint64) error {
	in, err := v.List(nil, dir, 0, 1)
	if err != nil {
		return err
	}
	if len(in) > 0 {
		return ErrNotEmpty
	}
	return nil
}

// free makes sure that dir is a folder in the tree and that no spelling of
// name is taken in it.
func (v View) free(dir uint64, name string) error {
	d, ok, err := v.Inode(dir)
	switch {
	case err != nil:
		return err
	case !ok:
		return ErrNotExist
	case !d.Folder:
		return ErrNotDir
	}
	_, _, taken, err := v.Lookup(dir, name)
	if err != nil {
		return err
	}
	if taken {
		return ErrExist
	}
	return nil
}

// DirEntry is n's line in the folder dir, with what only this mount knows of a
// folder's times.
func (v View) DirEntry(n *Inode, dir uint64) Entry {
	e := n.Entry(dir)
	if n.Folder {
		e.Mtime = v.t.DirTimes.Latest(n.Ino, e.Mtime)
	}
	return e
}

// Reaches tells whether ino is anc or lies below it, by any of its parents.
// Cycles that the service made end the search too.
func (v View) Reaches(ino, anc uint64) (bool, error) {
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
		n, ok, err := v.Inode(ino)
		if err != nil {
			return false, err
		}
		if ok {
			todo = append(todo, n.Parents...)
		}
	}
	return false, nil
}

// Path is the path of ino below root, "/…", through first parents; "" when it
// has none there.
func (v View) Path(ino, root uint64) string {
	var names []string
	for range 4096 {
		if ino == root {
			slices.Reverse(names)
			return "/" + strings.Join(names, "/")
		}
		n, ok, err := v.Inode(ino)
		if err != nil || !ok || len(n.Parents) == 0 {
			return ""
		}
		names = append(names, n.Shown)
		ino = n.Parents[0]
	}
	return ""
}

// BaseOf is what the drive said of a node, as the journal keeps it.
func (v View) BaseOf(r *mirror.Record) (*journal.Base, error) {
	b := &journal.Base{
		Name: r.Name, Version: r.Version, ETag: r.ETag,
		Content: r.Content, Size: r.Size, MD5: r.MD5,
	}
	for _, p := range r.Parents {
		pr, ok, err := v.t.mirror.Get(p)
		if err != nil {
			return nil, err
		}
		if ok {
			b.Parents = append(b.Parents, pr.ID)
		}
	}
	return b, nil
}

// Props are the own properties of ino as they shall be.
func (v View) Props(ino uint64) map[string]string {
	e, _ := v.Entry(ino)
	return v.propsWith(ino, e)
}

func (v View) propsWith(ino uint64, e *journal.Entry) map[string]string {
	props := map[string]string{}
	if r, ok, err := v.t.mirror.Get(ino); err == nil && ok && !v.elsewhere(&r) {
		for k, x := range r.Props {
			props[k] = x
		}
	}
	if e != nil {
		for k, x := range e.Props {
			if x == "" {
				delete(props, k)
			} else {
				props[k] = x
			}
		}
	}
	return props
}
