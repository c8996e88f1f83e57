package tree

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// What system calls want. Each method is part of a Change: it checks by the
// rules of the local disk and puts the entries. Callers have made sure before
// that the folders concerned are told (or listed), and wait for the drive after.

// newEntry is the entry of an inode that is made now.
func newEntry(ino, dir uint64, driveName, shown string, mode uint32) *journal.Entry {
	now := time.Now()
	e := &journal.Entry{Ino: ino}
	e.Mode, e.Mtime, e.Created, e.Since, e.Due = mode, now, now, now, now
	e.Place = journal.Place{Parents: []uint64{dir}, Name: driveName, Shown: shown}
	e.LocalID = uuid.NewString()
	return e
}

// Mkdir makes the folder ino in dir. mode: ModeSet|bits, or 0 for none of its
// own. ErrExist when any spelling of the name is taken.
func (tx *Tx) Mkdir(ino, dir uint64, driveName, shown string, mode uint32) (*journal.Entry, error) {
	if err := tx.free(dir, shown); err != nil {
		return nil, err
	}
	e := newEntry(ino, dir, driveName, shown, mode)
	e.Folder = true
	if mode != 0 {
		e.Props = withAttrProp(nil, time.Time{}, mode)
	}
	tx.Put(e)
	return e, nil
}

// Free is nil when a name can be made in dir, see Mkdir.
func (v View) Free(dir uint64, name string) error { return v.free(dir, name) }

// Create makes the file ino in dir, open with flags, with d as its draft. f is
// valid once the change has taken place, and d its own from then on.
func (tx *Tx) Create(ino, dir uint64, driveName, shown string, flags, mode uint32, d *journal.Draft) (f *File, err error) {
	if err := tx.free(dir, shown); err != nil {
		return nil, err
	}
	e := newEntry(ino, dir, driveName, shown, mode)
	e.Open = true
	tx.Put(e)
	n := tx.fromEntry(e)
	f = &File{t: tx.t, Ino: ino, Opened: n.Attr()}
	place := e.Place
	f.place.Store(&place)
	f.draft.Store(d)
	f.mode.Store(mode)
	f.mtime.Store(e.Mtime.UnixNano())
	tx.after = append(tx.after, func() []Effect {
		tx.t.files.add(f, flags)
		f.noteUnsaved(e.Mtime.UnixNano())
		return nil
	})
	return f, nil
}

// Unlink takes the file called name out of dir. The last name of a node moves
// the node to the drive's trash; with several parents only this one is taken
// away.
func (tx *Tx) Unlink(dir uint64, name string) error {
	n, err := tx.Present(dir, name)
	if err != nil {
		return err
	}
	if n.Folder {
		return ErrIsDir
	}
	e, err := tx.Edit(n.Ino)
	if err != nil {
		return err
	}
	if len(n.Parents) == 1 {
		tx.asWorkedOn(e, &n)
		tx.remove(e, journal.Vacated{Dir: dir, Name: mirror.Fold(n.Shown)})
		return nil
	}
	tx.leave(e, &n, dir)
	left := slices.DeleteFunc(n.Dentries(), func(d Dentry) bool { return d.Dir == dir })
	tx.Effect(Effect{Ino: n.Ino, Old: left, New: left, Attr: true})
	return nil
}

// Rmdir removes an empty folder.
func (tx *Tx) Rmdir(dir uint64, name string) error {
	n, err := tx.Present(dir, name)
	if err != nil {
		return err
	}
	if !n.Folder {
		return ErrNotDir
	}
	if err := tx.empty(n.Ino); err != nil {
		return err
	}
	e, err := tx.Edit(n.Ino)
	if err != nil {
		return err
	}
	if len(n.Parents) > 1 {
		tx.leave(e, &n, dir)
		return nil
	}
	tx.remove(e, journal.Vacated{})
	return nil
}

// leave takes one of several parents away.
func (tx *Tx) leave(e *journal.Entry, n *Inode, dir uint64) {
	e.Place.Parents = slices.DeleteFunc(slices.Clone(n.Parents), func(p uint64) bool { return p == dir })
	e.Due = time.Now()
	tx.Put(e)
}

// remove wants e's inode in the trash. at is the place that it gives up, of a
// file; it is the one it was moved away from when a new file stands there: that
// is how many editors save.
func (tx *Tx) remove(e *journal.Entry, at journal.Vacated) {
	e.Removed, e.Open = true, e.Open && e.Draft != nil
	tx.settle(e)
	if m, ok := tx.t.moved[e.Ino]; ok && at.Dir != 0 && time.Since(m.at) < movedFor {
		was := journal.Vacated{Dir: m.Dir, Name: mirror.Fold(m.Name)}
		if tx.heir(was) != nil {
			at = was
		}
	}
	e.ReplacedBy = 0
	if e.NodeID != "" {
		e.Vacated = at
	}
	tx.Put(e)
}

// heir is the new file at a place that a removed one gave up, as long as the
// drive can have no node for it: nil when there is none. It will take over the
// node of the removed one.
func (v View) heir(at journal.Vacated) *journal.Entry {
	if at.Dir == 0 {
		return nil
	}
	e, ok := v.child(at.Dir, at.Name)
	if !ok || e.Folder || e.NodeID != "" || e.WentWhole() {
		return nil
	}
	return e
}

// Heir is the inode of the new file that takes over the node of the removed
// file ino, 0 = none. The removal must wait for it.
func (t *Tree) Heir(ino uint64) uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v := View{t: t}
	e, ok := v.Entry(ino)
	if !ok || !e.Removed || e.Folder || e.NodeID == "" || e.Trashed {
		return 0
	}
	if h := v.heir(e.Vacated); h != nil && v.ancestor(h) == e.Ino {
		return h.Ino
	}
	return 0
}

// ancestor is the inode of the removed file whose node the new file e takes
// over, 0 = none.
func (v View) ancestor(e *journal.Entry) uint64 {
	for _, p := range e.Place.Parents {
		r, ok := v.t.journal.Vacator(p, mirror.Fold(e.Place.Shown))
		if ok && r.Removed && !r.Folder && r.NodeID != "" && r.Base != nil && !r.Trashed {
			return r.Ino
		}
	}
	return 0
}

// Ancestor is the inode of the removed file whose node the new file ino takes
// over, 0 = none. Nothing may be on its way for it when that happens.
func (t *Tree) Ancestor(ino uint64) uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v := View{t: t}
	e, ok := v.Entry(ino)
	if !ok || e.Removed || e.Folder || e.NodeID != "" {
		return 0
	}
	return v.ancestor(e)
}

// Inherit gives the node of the removed file whose place the new file ino has
// to that: its content overwrites the old one, and id, parents and share links
// survive. It is for the write-back, before it would make a node. false: there
// is no such file.
func (t *Tree) Inherit(ino, rev uint64) (did bool, err error) {
	err = t.Change(func(tx *Tx) error {
		old, ok := tx.Entry(ino)
		if !ok || old.Rev != rev || old.Removed || old.Folder || old.Open || old.NodeID != "" || old.Sent != nil || old.Draft == nil {
			return nil
		}
		from := tx.ancestor(old)
		if from == 0 {
			return nil
		}
		was, _ := tx.Entry(from)
		e, r := old.Clone(), was.Clone()
		// What was kept on the node for the old file is not the new one's.
		for key := range tx.propsWith(r.Ino, r) {
			if _, own := e.Props[key]; !own {
				e.Props = withProp(e.Props, key, "")
			}
		}
		for key := range r.Props { // some of them may be on the drive already
			if _, own := e.Props[key]; !own {
				e.Props = withProp(e.Props, key, "")
			}
		}
		// What was sent last to the node may still arrive there.
		e.NodeID, e.Base, e.Sent = r.NodeID, r.Base, r.Sent
		r.NodeID, r.Base, r.Sent, r.Draft, r.Vacated = "", nil, nil, nil, journal.Vacated{}
		tx.Learn(e)
		tx.Put(r)
		did = true
		return nil
	})
	return did && err == nil, err
}

// MayStream tells whether the upload of a new file may begin while it is being
// written. It may not when its name does not look final, and not where it
// would take over the node of a file that was removed, or moved out of its way
// just now: overwrites do not stream.
func (t *Tree) MayStream(ino uint64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v := View{t: t}
	e, ok := v.Entry(ino)
	if !ok || e.Removed || e.NodeID != "" || Temporary(e.Place.Shown) || v.ancestor(e) != 0 {
		return false
	}
	for _, m := range t.moved {
		if m.Name == e.Place.Shown && slices.Contains(e.Place.Parents, m.Dir) && time.Since(m.at) < movedFor {
			return false
		}
	}
	return true
}

// StreamDelay is how long after its creation a large new file goes up, whether
// it was closed by then or not: a name that looks final is by then. Never longer
// than closed files settle.
func (t *Tree) StreamDelay() time.Duration { return min(300*time.Millisecond, t.o.UploadDelay()) }

// movedFor is how long a moved file is remembered as what an editor may have
// put aside before a save.
const movedFor = time.Minute

// movedFrom is where a file was before its last rename.
type movedFrom struct {
	Dentry
	at time.Time
}

// rememberMove notes that ino was moved away from a place.
func (t *Tree) rememberMove(ino uint64, from Dentry) {
	if len(t.moved) >= 1024 {
		maps.DeleteFunc(t.moved, func(_ uint64, m movedFrom) bool { return time.Since(m.at) > movedFor })
		if len(t.moved) >= 1024 {
			clear(t.moved)
		}
	}
	t.moved[ino] = movedFrom{from, time.Now()}
}

// Renamed is what a rename came to.
type Renamed struct {
	Entry    *journal.Entry // of what was renamed; nil = there was nothing to do
	Replaced bool           // something else had the name
	Unsent   bool           // … whose content the drive does not have
}

// Rename is rename(2): oname in odir becomes nname (driveName on the drive) in
// ndir, replacing what is there (noReplace: ErrExist instead). Another spelling
// of the same name is a rename like any other.
func (tx *Tx) Rename(odir uint64, oname string, ndir uint64, driveName, nname string, noReplace bool) (r Renamed, err error) {
	src, err := tx.Present(odir, oname)
	if err != nil {
		return r, err
	}
	dst, taken, same, err := tx.target(&src, odir, ndir, nname, noReplace)
	if err != nil || same {
		return r, err
	}
	e, err := tx.Edit(src.Ino)
	if err != nil {
		return r, err
	}
	parents := movedParents(src.Parents, odir, ndir)
	if taken {
		if parents, err = tx.replace(e, &src, &dst, ndir, parents); err != nil {
			return r, err
		}
		if was, has := tx.t.journal.Get(dst.Ino); has {
			r.Unsent = was.Draft != nil
		}
		r.Replaced = true
	}
	before := src.Dentries()
	e.Place.Parents = parents
	if nname == src.Shown {
		// A move alone: what Linux cannot show of the name stays as it is.
		driveName = src.Name
	}
	e.Place.Name, e.Place.Shown = driveName, nname
	tx.settle(e)
	if e.NodeID != "" && e.Draft == nil && !Temporary(nname) {
		e.Due = time.Now()
	}
	tx.Put(e)
	if !src.Folder {
		tx.after = append(tx.after, func() []Effect {
			tx.t.rememberMove(src.Ino, Dentry{odir, src.Shown})
			return nil
		})
	}
	if len(before) > 1 {
		// The name is common to all parents (API §5.7).
		var old, now []Dentry
		for _, d := range before {
			if d.Dir != odir {
				old = append(old, d)
				now = append(now, Dentry{d.Dir, nname})
			}
		}
		tx.Effect(Effect{Ino: src.Ino, Folder: src.Folder, Old: old, New: now, Attr: true})
	}
	r.Entry = e
	return r, nil
}

// target is what has the name that src is to get, if something has, and whether
// it is src itself and rename(2) does nothing.
func (tx *Tx) target(src *Inode, odir, ndir uint64, name string, noReplace bool) (dst Inode, taken, same bool, err error) {
	nd, ok, err := tx.Inode(ndir)
	switch {
	case err != nil:
		return dst, false, false, err
	case !ok:
		return dst, false, false, ErrNotExist
	case !nd.Folder:
		return dst, false, false, ErrNotDir
	}
	if src.Folder {
		if in, err := tx.Reaches(ndir, src.Ino); err != nil || in {
			return dst, false, false, errors.Join(ErrInvalid, err)
		}
	}
	dst, exact, taken, err := tx.Lookup(ndir, name)
	switch {
	case err != nil || !taken:
		return dst, false, false, err
	case dst.Ino == src.Ino:
		return dst, false, odir != ndir || src.Shown == name, nil // two names of one node, or no change
	case noReplace, tx.t.o.NamesExact && !exact:
		return dst, true, false, ErrExist
	case src.Folder && !dst.Folder:
		return dst, true, false, ErrNotDir
	case !src.Folder && dst.Folder:
		return dst, true, false, ErrIsDir
	case dst.Folder:
		return dst, true, false, tx.empty(dst.Ino)
	}
	return dst, true, false, nil
}

// replace makes room for e, which is src, at dst's name, and gives the folders
// that e will be in. dst goes to the trash, unless e is a new file: then the
// write-back lets e take over its node, in all its folders.
func (tx *Tx) replace(e *journal.Entry, src, dst *Inode, ndir uint64, parents []uint64) ([]uint64, error) {
	d, err := tx.Edit(dst.Ino)
	if err != nil {
		return nil, err
	}
	tx.asWorkedOn(d, dst)
	heir := !src.Folder && e.NodeID == "" && !e.WentWhole() && d.NodeID != ""
	if len(dst.Parents) > 1 {
		if !heir {
			tx.leave(d, dst, ndir)
			return parents, nil
		}
		for _, p := range dst.Parents {
			if p != ndir {
				ds := []Dentry{{p, dst.Shown}}
				tx.Effect(Effect{Ino: dst.Ino, Old: ds}, Effect{Ino: e.Ino, New: ds})
			}
		}
		// The first is where the node would be made, should it come to that.
		parents = append([]uint64{ndir}, slices.DeleteFunc(slices.Clone(dst.Parents), func(p uint64) bool { return p == ndir })...)
	}
	d.Removed, d.Open = true, d.Open && d.Draft != nil
	d.Due = time.Now() // its name is wanted
	d.Failed, d.Attempts, d.RetryAt = "", 0, time.Time{}
	d.Vacated, d.ReplacedBy = journal.Vacated{}, 0
	if !dst.Folder && d.NodeID != "" {
		d.Vacated = journal.Vacated{Dir: ndir, Name: mirror.Fold(dst.Shown)}
		d.ReplacedBy = src.Ino
	}
	tx.Put(d)
	return parents, nil
}

// movedParents is parents with from replaced by to.
func movedParents(parents []uint64, from, to uint64) []uint64 {
	out := make([]uint64, 0, len(parents))
	for _, p := range parents {
		if p == from {
			p = to
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// Link gives the file ino a second folder under the same name, which is all
// that the service can do (API §5.7); anything else is ErrNotPermitted.
func (tx *Tx) Link(ino, dir uint64, name string) (*journal.Entry, error) {
	n, ok, err := tx.Inode(ino)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, ErrNotExist
	case n.Folder:
		return nil, ErrNotPermitted
	}
	if err := tx.free(dir, name); err != nil {
		return nil, err
	}
	if name != n.Shown || slices.Contains(n.Parents, dir) {
		return nil, ErrNotPermitted
	}
	e, err := tx.Edit(ino)
	if err != nil {
		return nil, err
	}
	before := n.Dentries()
	e.Place.Parents = append(slices.Clone(n.Parents), dir)
	if e.NodeID != "" && e.Draft == nil {
		e.Due = time.Now()
	}
	tx.Put(e)
	tx.Effect(Effect{Ino: ino, Old: before, New: before, Attr: true})
	return e, nil
}

// SetMeta sets mode and modification time; nil fields stay.
func (tx *Tx) SetMeta(ino uint64, a SetAttr) error {
	e, err := tx.Edit(ino)
	if err != nil {
		return err
	}
	if e.Removed {
		return ErrNotExist
	}
	before := AttrProp(e.Mtime, e.Mode)
	if a.Mtime != nil {
		e.Mtime = *a.Mtime
		tx.t.DirTimes.Forget(ino)
	}
	if a.Mode != nil {
		e.Mode = ModeSet | *a.Mode&0o777
	}
	now := AttrProp(e.Mtime, e.Mode)
	if e.Rev == 0 && now == before {
		if r, ok, err := tx.t.mirror.Get(ino); err == nil && ok && r.Props[PropAttr] == before {
			return nil // the drive has it already
		}
	}
	e.Props = withAttrProp(e.Props, e.Mtime, e.Mode)
	tx.props(e)
	return nil
}

// maxProps is the service's limit per owner and node (API §5.8).
const maxProps = 10

// SetProp wants an own property of ino; "" takes it away. ErrAttrSpace when
// the drive takes no more.
func (tx *Tx) SetProp(ino uint64, key, value string) error {
	e, err := tx.Edit(ino)
	if err != nil {
		return err
	}
	if e.Removed {
		return ErrNotExist
	}
	if value != "" {
		keys := tx.propsWith(ino, e)
		keys[PropAttr] = "" // its place is kept
		delete(keys, key)
		if len(keys) >= maxProps {
			return fmt.Errorf("%w: the drive takes %d properties a node", ErrAttrSpace, maxProps)
		}
	}
	e.Props = withProp(e.Props, key, value)
	tx.props(e)
	return nil
}

// props puts an entry whose properties are to change.
func (tx *Tx) props(e *journal.Entry) {
	if e.Rev == 0 || e.NodeID != "" && e.Draft == nil {
		tx.settle(e)
	}
	tx.Put(e)
}
