package tree

import (
	"math"

	"github.com/drivefs/drivefs/cache/mirror"
)

// Which node an inode is, and where that is, for the write-back. An error says
// that the answer is not known, which is another thing than no.

// FolderState is what FolderID knows of a folder.
type FolderState int

// The states of a folder that something is to be put in.
const (
	Known   FolderState = iota // it has a node; the id is given
	Waiting                    // the drive has no node for it yet
	Gone                       // it is removed, or nobody knows it
)

// FolderID gives the id of a folder's node.
func (t *Tree) FolderID(ino uint64) (id string, st FolderState, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v := View{t: t}
	if e, ok := v.Entry(ino); ok {
		switch {
		case e.Removed:
			return "", Gone, nil
		case e.NodeID == "":
			return "", Waiting, nil
		}
		return e.NodeID, Known, nil
	}
	r, ok, err := t.mirror.Get(ino)
	if err != nil || ok {
		return r.ID, Known, err
	}
	if id = v.folderToCome(ino); id == "" {
		return "", Gone, nil
	}
	return id, Known, nil
}

// InoOf is the inode that a node belongs to, 0 = none.
func (t *Tree) InoOf(id string) (uint64, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return View{t: t}.InoOf(id)
}

// Holder is the node that has a name in a folder, as far as the mirror knows,
// and its inode; 0 = none.
func (t *Tree) Holder(parentID, name string) (ino uint64, nodeID string, err error) {
	dir, err := t.mirror.InoOf(parentID)
	if err != nil || dir == 0 {
		return 0, "", err
	}
	r, ok, err := t.mirror.ByName(dir, name)
	if err != nil || !ok {
		return 0, "", err
	}
	ino, err = t.InoOf(r.ID)
	return ino, r.ID, err
}

// NodePlace is the name that the mirror has for a node and the ids of its
// folders, in no order; ok=false: it does not know the node, or knows it to be
// gone.
func (t *Tree) NodePlace(nodeID string) (name string, folders []string, ok bool, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r, ok, err := t.mirror.ByID(nodeID)
	if err != nil || !ok {
		return "", nil, false, err
	}
	for _, p := range r.Parents {
		dir, known, err := t.mirror.Get(p)
		if err != nil || !known {
			return "", nil, false, err
		}
		folders = append(folders, dir.ID)
	}
	return r.Name, folders, true, nil
}

// OutOfTree tells whether no path is known that leads from the root to a
// folder: it, or one above it, is in the trash, or has not been told yet.
func (t *Tree) OutOfTree(ino uint64) (bool, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, root := View{t: t}, t.mirror.Root().Ino
	if ino == root || !t.mirror.Complete() {
		return false, nil
	}
	if _, has := v.Entry(ino); has {
		return false, nil
	}
	if _, ok, err := t.mirror.Get(ino); err != nil || !ok || t.mirror.Reachable(ino) {
		return false, err
	}
	up, err := v.Reaches(ino, root)
	return err == nil && !up, err
}

// Adopted tells the kernel of what is in the folder dir, whose node was made
// elsewhere.
func (t *Tree) Adopted(dir uint64) error {
	var es []Effect
	err := t.mirror.List(dir, 0, math.MaxInt, func(r *mirror.Record) bool {
		es = append(es, Effect{Ino: r.Ino, Folder: r.Folder, New: []Dentry{{Dir: dir, Name: r.Shown}}})
		return true
	})
	t.Emit(es)
	return err
}
