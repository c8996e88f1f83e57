package tree

import (
	"maps"
	"slices"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// The write-back's half of entries: what it learned, and that an intent is
// fulfilled.

// Learn changes what the write-back knows of ino; fn gets a copy of the entry
// and returns false to leave it. Without an entry fn is not called.
func (t *Tree) Learn(ino uint64, fn func(*journal.Entry) bool) error {
	return t.Change(func(tx *Tx) error {
		old, ok := tx.Entry(ino)
		if !ok {
			return nil
		}
		if e := old.Clone(); fn(e) {
			tx.Learn(e)
		}
		return nil
	})
}

// Fulfil ends the intent (ino, rev), whose properties, if any, are on the
// drive. The mirror holds what fulfilled it already, so for a reader nothing
// moves; where the mirror knows something else by now (the feed told of a later
// change meanwhile) that comes into view, with effects. false: the intent is
// another one by now.
func (t *Tree) Fulfil(ino, rev uint64) (ok bool, err error) {
	if e, has := t.journal.Get(ino); has && e.Rev == rev && e.NodeID != "" && !e.Removed {
		// Synced writes, and not under the lock: the entry still covers it.
		if e.Props != nil {
			if err := t.keepProps(e); err != nil {
				return false, err
			}
		}
		if err := t.keepGen(e); err != nil {
			return false, err
		}
	}
	err = t.Change(func(tx *Tx) error {
		e, has := tx.Entry(ino)
		if ok = !has || e.Rev == rev; !has || !ok {
			return nil
		}
		gen := t.gens[ino]
		tx.Drop(ino)
		tx.after = append(tx.after, func() []Effect { return tx.uncovered(ino, gen) })
		return nil
	})
	return ok && err == nil, err
}

// uncovered is what has to be told when the entry of ino went, beside the
// difference of what is shown: readers of a version that was replaced part
// from it, and a Gen that the mirror has otherwise comes into view.
func (tx *Tx) uncovered(ino, gen uint64) []Effect {
	v := View{t: tx.t}
	if es := v.letGo(ino); es != nil {
		return es
	}
	n, ok, err := v.Inode(ino)
	if err != nil || !ok || n.Gen == gen || tx.t.files.pinned(ino) != nil {
		return nil
	}
	ds := n.Dentries()
	return []Effect{{Ino: ino, Old: ds, New: ds, Content: true, Attr: true}}
}

// keepProps notes in the mirror the properties that an intent has brought to
// the drive: no answer of the service carries them. Those that came with a new
// node are there already.
func (t *Tree) keepProps(e *journal.Entry) error {
	r, ok, err := t.mirror.ByID(e.NodeID)
	if err != nil || !ok || knows(&r, e) {
		return err // without a synced write
	}
	props, version := brought(&r, e)
	t.noteStaleTag(e.Ino, r.Version)
	_, err = t.mirror.SetProps(e.NodeID, version, props)
	return err
}

// noteStaleTag: a call of ours changed the tag of ino's node since version.
func (t *Tree) noteStaleTag(ino uint64, version int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.staleTags) >= maxRecent {
		clear(t.staleTags)
	}
	t.staleTags[ino] = version
}

// Tag is the eTagResponse to hold a rename of ino's node against: that of b, or
// "" when calls of our own are known to have changed it since.
func (t *Tree) Tag(ino uint64, b *journal.Base) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if at, ok := t.staleTags[ino]; ok && b.Version <= at {
		return ""
	}
	return b.ETag
}

// keepGen makes the mirror show the file of an intent that ends under the Gen
// it was shown with, although its node may have had another: the bytes are the
// same, and who has them open goes on seeing what is written. Other bytes must
// not come under a Gen that was used already.
func (t *Tree) keepGen(e *journal.Entry) error {
	var gen uint64
	var shown bool
	t.Read(func(View) { gen, shown = t.gens[e.Ino] })
	if !shown || e.Folder || e.Base == nil {
		return nil
	}
	r, ok, err := t.mirror.ByID(e.NodeID)
	if err != nil || !ok || r.Gen == gen {
		return err
	}
	if !SameContent(e.Base, &r) {
		if r.Gen > gen {
			return nil
		}
		gen++
	}
	return t.mirror.SetGen(e.NodeID, r.Content, gen)
}

// brought is what the properties of r are when all that e wants are on the
// drive, and the version from which they are.
func brought(r *mirror.Record, e *journal.Entry) (props map[string]string, version int64) {
	props = map[string]string{}
	maps.Copy(props, r.Props)
	for k, v := range e.Props {
		if v == "" {
			delete(props, k)
		} else {
			props[k] = v
		}
	}
	// The mirror may not have heard of those that were set before.
	version = max(r.Version, r.PropsVersion)
	counted := false // while it was streamed
	if e.Base != nil && e.Base.Version > version {
		version, counted = e.Base.Version, true
	}
	if !counted || r.Version > 1 {
		// Each property that was set on its own made the version grow (API
		// §11). Rather too high than too low: what was listed before they were
		// set is not to take them away again.
		version += int64(len(e.Props))
	}
	return props, version
}

// knows reports whether r has the properties that e wants, as of the version
// from which they are.
func knows(r *mirror.Record, e *journal.Entry) bool {
	props, version := brought(r, e)
	if r.Props == nil || !maps.Equal(props, r.Props) {
		return false
	}
	came := r.Version <= 1 && r.PropsVersion == r.Version && (e.Base == nil || e.Base.Version <= r.Version)
	return came || version <= r.PropsVersion // those of a new node came with it
}

// wantsPlace tells whether e wants another place than its node has.
func (v View) wantsPlace(e *journal.Entry) bool {
	r, ok, err := v.t.mirror.ByID(e.NodeID)
	return err == nil && ok && (e.Removed || e.Place.Name != r.Name || !slices.Equal(e.Place.Parents, r.Parents))
}
