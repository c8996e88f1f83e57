package tree

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// DropContent takes the content gen out of the entry of ino: what the drive has
// is what is shown, which is nothing when it has no node. done=false: the entry
// carries another content by now.
func (t *Tree) DropContent(ino, gen uint64) (done bool, err error) {
	err = t.Change(func(tx *Tx) error {
		done, err = tx.dropContent(ino, gen)
		return err
	})
	return done && err == nil, err
}

// ReplaceContent is DropContent, and a new file, the inode beside, with the
// content st gets a conflict name in the same folder. name is that name.
func (t *Tree) ReplaceContent(ino, gen, beside uint64, st journal.DraftState) (name string, done bool, err error) {
	err = t.Change(func(tx *Tx) error {
		e, ok := tx.Entry(ino)
		if !ok {
			return nil
		}
		if name, err = tx.ConflictName(e); err != nil {
			return err
		}
		if done, err = tx.dropContent(ino, gen); !done || err != nil {
			return err
		}
		now := time.Now()
		c := &journal.Entry{Ino: beside}
		c.Place = journal.Place{Parents: slices.Clone(e.Place.Parents[:1]), Name: name, Shown: mirror.Shown(name, "", false)}
		c.Draft, c.Props = &st, maps.Clone(e.Props)
		c.Mode, c.Mtime, c.Created, c.Since, c.Due = e.Mode, e.Mtime, now, now, now
		c.LocalID = uuid.NewString()
		tx.Put(c)
		return nil
	})
	return name, done && err == nil, err
}

func (tx *Tx) dropContent(ino, gen uint64) (done bool, err error) {
	e, ok := tx.Entry(ino)
	if !ok || e.Draft == nil || e.Draft.Gen != gen {
		return false, nil
	}
	if e.NodeID == "" {
		tx.Drop(ino) // there is nothing else of it
		return true, nil
	}
	e = e.Clone()
	e.Draft, e.Sent = nil, nil
	r, known, err := tx.t.mirror.ByID(e.NodeID)
	if err != nil {
		return false, err
	}
	if known {
		b, err := tx.BaseOf(&r)
		if err != nil {
			return false, err
		}
		e.Base = b
		tx.gens[ino] = newerGen(tx.t.gens[ino], &r)
	}
	tx.Put(e)
	return true, nil
}
