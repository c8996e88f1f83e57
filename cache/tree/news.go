package tree

import (
	"slices"
	"strings"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// TempPrefix begins the names that nodes have on the drive while their own is
// in the way.
const TempPrefix = ".drivefs-"

// Told turns what became different in the mirror into effects: what an entry
// or an open draft covers stays as it is for those who look.
func (t *Tree) Told(cs []mirror.Change) error {
	if len(cs) == 0 {
		return nil
	}
	return t.Change(func(tx *Tx) error {
		for i := range cs {
			tx.told(&cs[i])
		}
		return nil
	})
}

func (tx *Tx) told(c *mirror.Change) {
	t := tx.t
	if c.Folder && len(t.lastPlace) > 0 {
		_, has := t.lastPlace[c.Ino]
		switch {
		case len(c.New) > 0 && has && !t.journal.Has(c.Ino):
			t.lastPlace[c.Ino] = Dentry(c.New[0])
		case len(c.New) == 0 && len(c.Old) > 0:
			t.lastPlace[c.Ino] = Dentry(c.Old[0])
		}
	}
	if c.Folder && !c.Own && len(c.New) == 0 && len(c.Old) > 0 {
		tx.done = append(tx.done, func() { t.rescue(c.Ino) })
	}
	f := t.files.pinned(c.Ino)
	if f != nil && len(c.New) == 0 && len(c.Old) > 0 {
		f.keepPlace(c)
	}
	if _, covered := tx.Entry(c.Ino); covered {
		tx.follow(c, f != nil)
		return // the entry says where it is
	}
	if f != nil && c.Content && tx.letGo(c.Ino) != nil {
		f = nil
	}
	if !c.Own {
		tx.giveWay(c)
	}
	tx.Effect(Effect{
		Ino: c.Ino, Folder: c.Folder, Attr: c.Attr,
		Old: dentries(c.Old), New: dentries(c.New),
		Content: c.Content && f == nil,
	})
}

// rescue shows the local content below a folder that went from the drive where
// it will be, at once: in a folder that is made again. What was edited becomes a
// new file, since its node goes with the folder.
func (t *Tree) rescue(dir uint64) {
	var lost []uint64
	t.Read(func(v View) {
		for _, ino := range t.journal.Inos() {
			e, ok := v.Entry(ino)
			if !ok || e.Removed || e.Folder || e.Draft == nil && !e.Open {
				continue
			}
			if slices.ContainsFunc(e.Place.Parents, func(p uint64) bool { return v.below(p, dir) }) {
				lost = append(lost, ino)
			}
		}
	})
	for _, ino := range lost {
		t.moveOut(ino)
	}
}

// moveOut gives a local change whose folder went from the drive another one, as
// a new file.
func (t *Tree) moveOut(ino uint64) {
	_, err := t.Lost(ino)
	if err == nil {
		err = t.ParentGone(ino)
	}
	if err != nil {
		t.log.Warn("keeping a local change whose folder went from the drive", "inode", ino, "err", err)
	}
}

// below tells whether ino is dir, or in it by any of its parents, also where
// dir itself is not in the tree any more.
func (v View) below(ino, dir uint64) bool {
	seen := map[uint64]bool{}
	for todo := []uint64{ino}; len(todo) > 0; {
		ino, todo = todo[len(todo)-1], todo[:len(todo)-1]
		if ino == dir {
			return true
		}
		if seen[ino] {
			continue
		}
		seen[ino] = true
		if n, ok, err := v.Inode(ino); err == nil && ok {
			todo = append(todo, n.Parents...)
		} else if was, has := v.t.lastPlace[ino]; has {
			todo = append(todo, was.Dir) // it went with a folder above it
		}
	}
	return false
}

// giveWay shows both where a file that was made elsewhere takes the name of a
// new file of ours: ours gets the name that the upload would give it. Equal
// sizes are left to the upload, since they may well be the same file.
func (tx *Tx) giveWay(c *mirror.Change) {
	if c.Folder {
		return
	}
	for _, d := range c.New {
		if slices.Contains(c.Old, d) {
			continue
		}
		e, ok := tx.child(d.Dir, mirror.Fold(d.Name))
		if !ok || e.Folder || e.NodeID != "" || e.Sent != nil || e.Draft == nil || len(e.Place.Parents) != 1 || tx.ancestor(e) != 0 {
			continue
		}
		r, known, err := tx.t.mirror.Get(c.Ino)
		if err != nil || !known || r.Size == e.Draft.Size || tx.elsewhere(&r) || tx.echo(&r, tx.sentInto(d.Dir)) {
			continue // ours, or perhaps the same
		}
		e = e.Clone()
		name, err := tx.ConflictName(e)
		if err != nil {
			continue
		}
		e.Place.Name, e.Place.Shown = name, mirror.Shown(name, "", false)
		tx.Put(e)
		tx.t.noteUnseen(c.Ino)
		tx.conflicted(e.Ino, name)
	}
}

// conflicted reports a conflict name once the change has taken place.
func (tx *Tx) conflicted(ino uint64, name string) {
	if report := tx.t.o.Conflict; report != nil {
		tx.done = append(tx.done, func() { report(ino, name) })
	}
}

// keepPlace remembers where an edited file was when the drive lost it.
func (f *File) keepPlace(c *mirror.Change) {
	p := *f.place.Load()
	p.Parents = nil
	for _, d := range c.Old {
		p.Parents = append(p.Parents, d.Dir)
	}
	p.Shown = c.Old[0].Name
	p.Name = mirror.DriveName(p.Shown)
	p.Parents = slices.Compact(p.Parents)
	f.place.Store(&p)
}

func dentries(ds []mirror.Dentry) []Dentry {
	if len(ds) == 0 {
		return nil
	}
	out := make([]Dentry, len(ds))
	for i, d := range ds {
		out[i] = Dentry(d)
	}
	return out
}

// follow lets an entry follow what was done elsewhere to what it does not
// touch: to the content, when it has none; to the name and the folders, when
// it wants no others.
func (tx *Tx) follow(c *mirror.Change, pinned bool) {
	if c.Own {
		return
	}
	now, seen, err := tx.Inode(c.Ino)
	r, known, rerr := tx.t.mirror.Get(c.Ino)
	if err != nil || rerr != nil {
		tx.t.log.Warn("noting a change under a local one", "inode", c.Ino, "err", err, "mirror", rerr)
		return
	}
	if !seen || !known || now.ID != r.ID {
		return
	}
	old, err := tx.Edit(c.Ino)
	if err != nil {
		return
	}
	e := old.Clone()
	did := false
	// While a call of ours that moves the node is on its way, this may be its
	// echo, and the intent another one by now.
	stands := !e.Base.Doubted()
	if c.Content && !pinned && !now.Draft {
		e.Base.Content, e.Base.Size, e.Base.MD5, e.Base.Version = r.Content, r.Size, r.MD5, r.Version
		tx.gens[c.Ino] = newerGen(tx.t.gens[c.Ino], &r)
		did = true
	}
	if stands && e.Base.Name == e.Place.Name && e.Base.Name != r.Name && !strings.HasPrefix(r.Name, TempPrefix) {
		e.Base.Name, e.Place.Name, e.Place.Shown = r.Name, r.Name, r.Shown
		did = true
	}
	if stands && slices.Equal(e.Place.Parents, oldParents(c)) && !slices.Equal(e.Place.Parents, r.Parents) {
		b, err := tx.BaseOf(&r)
		if err != nil {
			return
		}
		e.Base.Parents, e.Place.Parents = b.Parents, slices.Clone(r.Parents)
		did = true
	}
	if !did {
		return
	}
	if tx.nameHeld(e) {
		// Another file is shown there. Both are, and each call acts on the one
		// that its name shows.
		name, err := tx.ConflictName(e)
		if err != nil {
			return
		}
		e.Place.Name, e.Place.Shown = name, mirror.Shown(name, "", false)
		tx.Put(e)
		tx.conflicted(e.Ino, name)
		return
	}
	tx.Learn(e)
}

// nameHeld tells whether another entry is shown at the place of e.
func (v View) nameHeld(e *journal.Entry) bool {
	for _, p := range e.Place.Parents {
		if other, taken := v.child(p, mirror.Fold(e.Place.Shown)); taken && other.Ino != e.Ino {
			return true
		}
	}
	return false
}

// newerGen is the Gen of what replaced that which was shown under gen.
func newerGen(gen uint64, r *mirror.Record) uint64 { return max(gen+1, r.Gen) }

// oldParents are the folders in which the mirror showed a node before c.
func oldParents(c *mirror.Change) (dirs []uint64) {
	for _, d := range c.Old {
		dirs = append(dirs, d.Dir)
	}
	return dirs
}
