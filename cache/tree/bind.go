package tree

import (
	"errors"
	"slices"

	"github.com/drivefs/drivefs/cache/journal"
)

// An entry names its folders by inode, and it is the mirror that knows which
// nodes these are. So that an entry finds its folders also when the mirror is
// lost, the journal keeps the ids beside the numbers; Reconcile binds them to
// each other again before anything else gets the number or the id.

// folders are the folders of e as far as they have a node.
func (v View) folders(e *journal.Entry) ([]journal.FolderID, error) {
	if e.Removed {
		return nil, nil
	}
	var ids []journal.FolderID
	for _, dir := range e.Place.Parents {
		if dir == v.t.mirror.Root().Ino {
			continue
		}
		id := ""
		if d, has := v.Entry(dir); has {
			id = d.NodeID
		} else {
			r, ok, err := v.t.mirror.Get(dir)
			if err != nil {
				return nil, err
			}
			if ok {
				id = r.ID
			}
		}
		if id != "" {
			ids = append(ids, journal.FolderID{Ino: dir, ID: id})
		}
	}
	return ids, nil
}

// noteFolderPart is how many entries are told of their folder's node at a time.
const noteFolderPart = 100

// NoteFolder tells the entries in a folder that was made here which node it
// has become. more says that there are others to be told: call it again.
func (t *Tree) NoteFolder(dir uint64, id string) (more bool, err error) {
	is := journal.FolderID{Ino: dir, ID: id}
	err = t.Change(func(tx *Tx) error {
		tx.FromKernel() // nothing that is shown changes
		var lack []*journal.Entry
		t.journal.Children(dir, func(e *journal.Entry) bool {
			if !slices.Contains(e.Folders, is) {
				lack = append(lack, e)
			}
			return len(lack) < noteFolderPart
		})
		for _, e := range lack {
			tx.Learn(e.Clone()) // a change writes what is known of its folders
		}
		more = len(lack) == noteFolderPart
		return nil
	})
	return more, err
}

// Reconcile brings the mirror's identities in step with the journal when a
// mount begins: a node named by an entry belongs to the entry's inode, an entry
// without a node has none. The tree may not be used before.
func (t *Tree) Reconcile() error {
	for _, ino := range t.journal.Inos() {
		e, ok := t.journal.Get(ino)
		if !ok {
			continue
		}
		rec, known, err := t.mirror.Get(ino)
		if err != nil {
			return err
		}
		t.gens[ino] = rec.Gen
		t.echoes.note(e)
		tx := &Tx{View: View{t: t}}
		if err := tx.rememberPath(e); err != nil {
			return err
		}
		if e.NodeID == "" && known {
			if err := t.Unbind(rec.ID); err != nil {
				return err
			}
		}
		if err := t.bind(e); err != nil {
			return err
		}
	}
	return nil
}

// Unbind gives a node a new inode in the mirror, so that the one it had stays
// with a local file. It writes to the disk.
func (t *Tree) Unbind(nodeID string) error {
	ino, err := t.mirror.NewIno()
	if err != nil {
		return err
	}
	_, err = t.mirror.Rebind(nodeID, ino)
	return err
}

// bind gives the node of an entry to its inode, and its folders to theirs. A
// mirror that was begun anew knows neither and is told in advance.
func (t *Tree) bind(e *journal.Entry) error {
	ids := slices.Clone(e.Folders)
	if e.NodeID != "" {
		ids = append(ids, journal.FolderID{Ino: e.Ino, ID: e.NodeID})
	}
	for _, f := range ids {
		if have, ok := t.mirror.Ino(f.ID); ok && have == f.Ino {
			continue
		}
		if f.Ino != e.Ino {
			// Another entry may have it, or another node by now.
			if t.journal.Has(f.Ino) {
				continue
			}
			if _, taken, err := t.mirror.Get(f.Ino); err != nil {
				return err
			} else if taken {
				continue
			}
		}
		if _, err := t.mirror.Rebind(f.ID, f.Ino); err != nil {
			return err
		}
	}
	return nil
}

// folderToCome is the node of a folder that a mirror begun anew has not been
// told of yet, by what the entries in it say; "" when none says it, or once
// all has been told.
func (v View) folderToCome(dir uint64) (id string) {
	if v.t.mirror.Complete() {
		return ""
	}
	v.t.journal.Children(dir, func(e *journal.Entry) bool {
		for _, f := range e.Folders {
			if f.Ino == dir {
				id = f.ID
			}
		}
		return id == ""
	})
	if ino, ok := v.t.mirror.Ino(id); !ok || ino != dir {
		return ""
	}
	return id
}

// BindAgain is the part of Reconcile for a mirror that was begun anew while the
// tree is used: every entry's node belongs to its inode.
func (t *Tree) BindAgain() error {
	var errs []error
	for _, ino := range t.journal.Inos() {
		if e, ok := t.journal.Get(ino); ok {
			errs = append(errs, t.bind(e))
		}
	}
	return errors.Join(errs...)
}
