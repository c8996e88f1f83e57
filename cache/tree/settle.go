package tree

import (
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// What becomes of an intent that the drive does not take as it is.

// Conflicted is what Conflict came to.
type Conflicted struct {
	Was  string // the name as it was shown; "" = nothing was done
	Name string // of the conflict copy on the drive
}

// Conflict gives the local state of ino a name of its own beside what holds
// its place: for content the entry becomes a new file (no node, no base, a
// fresh localId), and the node goes on without us under an inode of its own; a
// folder, or a file without content to be sent, keeps its node and wants the
// other name.
func (t *Tree) Conflict(ino uint64) (c Conflicted, err error) {
	free, err := t.mirror.NewIno() // before the lock: it may write
	if err != nil {
		return c, err
	}
	parted := ""
	err = t.Change(func(tx *Tx) error {
		old, ok := tx.Entry(ino)
		if !ok || old.Removed {
			return nil
		}
		e := old.Clone()
		if len(e.Place.Parents) == 0 {
			e.Place.Parents = []uint64{t.mirror.Root().Ino}
		}
		name, err := tx.ConflictName(e)
		if err != nil {
			return err
		}
		c = Conflicted{Was: e.Place.Shown, Name: name}
		if e.Draft != nil && e.NodeID != "" {
			parted = e.NodeID
			if err := tx.part(parted, free); err != nil {
				return err
			}
			e.NodeID, e.Base = "", nil
		}
		e.Place.Name, e.Place.Shown = name, mirror.Shown(name, "", false)
		if e.NodeID == "" {
			e.LocalID, e.Sent = uuid.NewString(), nil
			e.Place.Parents = e.Place.Parents[:1]
		}
		e.Due, e.Failed, e.Attempts, e.RetryAt = time.Now(), "", 0, time.Time{}
		tx.Put(e)
		return nil
	})
	if err != nil {
		return Conflicted{}, err
	}
	return c, t.rebind(parted, free)
}

// part lets a node go on without the inode it had, as the inode to: an entry
// that wants nothing but to be shown, until the mirror has heard of it.
func (tx *Tx) part(nodeID string, to uint64) error {
	r, ok, err := tx.t.mirror.ByID(nodeID)
	if err != nil || !ok {
		return err
	}
	e, err := tx.entryOf(&r)
	if err != nil {
		return err
	}
	e.Ino, e.Due = to, time.Now()
	if b, err := tx.BaseOf(&r); err == nil {
		e.Base = b // not what an open file began from
	}
	tx.gens[to] = r.Gen
	tx.Put(e)
	return nil
}

// rebind tells the mirror what the journal says of a node's inode. It writes
// to the disk; should it fail, the next mount does it.
func (t *Tree) rebind(nodeID string, to uint64) error {
	if nodeID == "" {
		return nil
	}
	_, err := t.mirror.Rebind(nodeID, to)
	if errors.Is(err, mirror.ErrBound) {
		return nil // it was told of meanwhile, under its number
	}
	return err
}

// Lost makes the entry of ino a new file at its place: its node is gone from
// the drive under a local edit. was is its name, "" when nothing was to be done.
func (t *Tree) Lost(ino uint64) (was string, err error) {
	free, err := t.mirror.NewIno()
	if err != nil {
		return "", err
	}
	parted := ""
	err = t.Change(func(tx *Tx) error {
		old, ok := tx.Entry(ino)
		if !ok || old.NodeID == "" {
			return nil
		}
		e := old.Clone()
		parted, was = e.NodeID, e.Place.Shown
		e.NodeID, e.Base, e.Sent = "", nil, nil
		e.LocalID = uuid.NewString()
		if e.Place.Parents = e.Place.Parents[:min(1, len(e.Place.Parents))]; len(e.Place.Parents) == 0 {
			e.Place.Parents = []uint64{t.mirror.Root().Ino}
		}
		tx.Put(e)
		return nil
	})
	if err != nil {
		return "", err
	}
	return was, t.rebind(parted, free)
}

// Undo takes the intent (ino, rev) back because the drive refused it: the
// drive's word is shown again. Content is never taken back: of an entry that
// carries some, only the intent to be elsewhere, or to be removed, is. What a
// refused rename had replaced comes back with it. done=false: the intent is
// another one by now.
func (t *Tree) Undo(ino, rev uint64) (done bool, err error) {
	err = t.Change(func(tx *Tx) error {
		old, ok := tx.Entry(ino)
		if !ok || old.Rev != rev {
			return nil
		}
		done = true
		tx.bringBack(old)
		if old.Draft != nil || old.NodeID != "" && len(old.Props) > 0 && tx.wantsPlace(old) || tx.masked(old) {
			return tx.undoPlace(old.Clone())
		}
		tx.Drop(ino)
		return nil
	})
	return done && err == nil, err
}

// bringBack ends the removal of what the rename of e replaced. Its node may be
// in the trash by now; the write-back restores it.
func (tx *Tx) bringBack(e *journal.Entry) {
	for _, p := range e.Place.Parents {
		r, ok := tx.t.journal.Vacator(p, mirror.Fold(e.Place.Shown))
		if !ok || !r.Removed || r.ReplacedBy != e.Ino {
			continue
		}
		back := r.Clone()
		back.Removed, back.Vacated, back.ReplacedBy, back.Due = false, journal.Vacated{}, 0, time.Now()
		if back.Base != nil {
			back.Base.Doubt()
		}
		tx.Put(back)
	}
}

// masked tells whether e removes a node that has a temporary name: back in view
// it must get the one it had here.
func (v View) masked(e *journal.Entry) bool {
	r, ok, err := v.t.mirror.ByID(e.NodeID)
	return err == nil && ok && e.Removed && len(e.Place.Parents) > 0 && strings.HasPrefix(r.Name, TempPrefix)
}

// undoPlace takes the intent for another place, or for removal, out of an entry
// that carries content, and leaves the content. Where the name was given to
// another meanwhile, it stays with that.
func (tx *Tx) undoPlace(e *journal.Entry) error {
	masked := tx.masked(e)
	e.Removed, e.Vacated = false, journal.Vacated{}
	if r, ok, err := tx.t.mirror.ByID(e.NodeID); err != nil {
		return err
	} else if ok && !masked {
		e.Place = journal.Place{Parents: slices.Clone(r.Parents), Name: r.Name, Shown: r.Shown}
	}
	if masked && e.Base != nil {
		e.Base.Doubt()
	}
	if tx.nameHeld(e) {
		name, err := tx.ConflictName(e)
		if err != nil {
			return err
		}
		e.Place.Name, e.Place.Shown = name, mirror.Shown(name, "", false)
	}
	tx.Put(e)
	return nil
}

// ParentGone finds a folder for an entry whose own is gone from the drive: it
// is made again, in what is left of its path. Where nothing better is known, for
// now, the entry stays as it is.
func (t *Tree) ParentGone(ino uint64) error {
	fresh := make([]uint64, 0, 8) // before the lock: it may write
	for range cap(fresh) {
		n, err := t.mirror.NewIno()
		if err != nil {
			return err
		}
		fresh = append(fresh, n)
	}
	return t.Change(func(tx *Tx) error {
		old, ok := tx.Entry(ino)
		if !ok || old.Removed {
			return nil
		}
		e := old.Clone()
		re := remaking{tx: tx, fresh: fresh}
		for i, p := range e.Place.Parents {
			heir, err := re.folder(p, 0)
			if err != nil {
				return err
			}
			e.Place.Parents[i] = heir
		}
		slices.Sort(e.Place.Parents)
		e.Place.Parents = slices.Compact(e.Place.Parents)
		if slices.Equal(e.Place.Parents, old.Place.Parents) {
			return nil
		}
		e.Due = time.Now()
		tx.Put(e)
		if fn := t.o.Rescued; fn != nil {
			tx.done = append(tx.done, func() { fn(ino) })
		}
		return nil
	})
}

// remaking makes folders again in one change. All that belonged into one meets
// in one, since the first to come leaves its successor under its name.
type remaking struct {
	tx    *Tx
	fresh []uint64 // inode numbers
}

// folder gives a folder that can take children: dir itself while it is in the
// tree, else one of the same name below what is left of its path.
func (re *remaking) folder(dir uint64, depth int) (uint64, error) {
	tx := re.tx
	root := tx.t.mirror.Root().Ino
	if dir == root || depth > 256 {
		return root, nil
	}
	n, ok, err := tx.Inode(dir)
	if err != nil {
		return 0, err
	}
	if ok {
		up, err := tx.Reaches(dir, root)
		if err != nil {
			return 0, err
		}
		if up && (n.Fresh || tx.t.mirror.Reachable(dir)) {
			return dir, nil
		}
	}
	name, parent := "recovered", root
	if ok && len(n.Parents) > 0 {
		name = n.Name
		if parent, err = re.folder(n.Parents[0], depth+1); err != nil {
			return 0, err
		}
	} else if was, has := tx.t.lastPlace[dir]; has {
		name = was.Name
		if parent, err = re.folder(was.Dir, depth+1); err != nil {
			return 0, err
		}
	}
	for i := 0; i < math.MaxInt; i++ {
		shown := mirror.Shown(name, "", false)
		have, _, taken, err := tx.Lookup(parent, shown)
		switch {
		case err != nil:
			return 0, err
		case taken && have.Folder && have.Ino != dir:
			return have.Ino, nil
		case taken:
			name += " (folder)"
			continue
		}
		if len(re.fresh) == 0 {
			return parent, nil // deeper than eight folders: the rest of the path is left out
		}
		e := newEntry(re.fresh[0], parent, name, shown, 0)
		e.Folder = true
		re.fresh = re.fresh[1:]
		tx.Put(e)
		tx.Effect(Effect{Ino: e.Ino, Folder: true, New: []Dentry{{parent, shown}}})
		return e.Ino, nil
	}
	return root, nil
}
