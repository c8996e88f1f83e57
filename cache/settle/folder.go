package settle

import (
	"errors"
	"slices"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// makeFolder creates the folder of e. A folder of that name that is there
// already is adopted: mkdir of what exists loses nothing (design §6).
func (t *task) makeFolder(e *journal.Entry) report {
	if in, err := t.inTrash(e); err != nil {
		return t.fail(err)
	} else if in {
		return t.parentGone(e)
	}
	ids, r := t.targets(e)
	if r.kind != next {
		return r
	}
	parent, name, id := ids[0], t.wanted(e), e.LocalID
	if id == "" {
		id = newLocalID()
		if t.detour {
			name = TempPrefix + id
		}
	}
	now := time.Now()
	ok, err := t.sending(e, func(e *journal.Entry) {
		e.LocalID = id
		e.Sent = &journal.Sent{Whole: true, At: now, Deadline: now.Add(t.s.o.MinWait), ParentID: parent, Name: name}
	})
	if err != nil {
		return t.fail(err)
	}
	if !ok {
		return report{kind: next}
	}
	props := t.propsToSend(e)
	ctx, cancel := t.call("mkdir")
	n, err := t.s.r.CreateFolder(ctx, drive.NewNode{Name: name, ParentID: parent, LocalID: id, Properties: props})
	cancel()
	switch {
	case err == nil:
		t.created(&n, props)
		return t.madeFolder(n)
	case t.withoutProps(props, err):
		return t.makeFolder(e)
	case errors.Is(err, drive.ErrNameExists), errors.Is(err, drive.ErrConflict):
		return t.folderInTheWay(e, err, parent, name)
	case errors.Is(err, drive.ErrBadParent), errors.Is(err, drive.ErrNotFound):
		if e, ok := t.s.j.Clone(t.ino); ok {
			return t.parentTrouble(e, parent, err)
		}
		return report{kind: next}
	case errors.Is(err, drive.ErrNameTooLong), errors.Is(err, drive.ErrInvalid), errors.Is(err, drive.ErrForbidden):
		return t.refused(e, err)
	}
	return t.fail(err)
}

// sending records in the entry what is about to be sent, if the entry is
// still as e was.
func (t *task) sending(e *journal.Entry, fn func(*journal.Entry)) (ok bool, err error) {
	err = t.update(func(now *journal.Entry) bool {
		if now.Rev != e.Rev || now.Removed != e.Removed || now.NodeID != e.NodeID {
			return false
		}
		fn(now)
		ok = true
		return true
	})
	return ok, err
}

func (t *task) madeFolder(n drive.Node) report {
	err := t.learn(n, func(e *journal.Entry) { e.Base, e.Sent = baseOf(n), nil })
	if err != nil {
		return t.fail(err)
	}
	return report{kind: next}
}

// folderInTheWay settles a 409 to a CreateFolder.
func (t *task) folderInTheWay(e *journal.Entry, cause error, parent, name string) report {
	id := nodeIDOf(cause)
	if id == "" {
		return t.taken(e, cause, parent, name)
	}
	others := t.owned(id)
	n, err := t.get(id)
	if err != nil && !errors.Is(err, drive.ErrNotFound) {
		return t.fail(err)
	}
	// A conflict about the localId names the node that an earlier try made,
	// wherever it is now.
	ours := errors.Is(cause, drive.ErrConflict)
	switch {
	case err != nil || !n.Live():
		if !ours {
			return t.failClearing(cause, true)
		}
		return t.freshLocalID(cause)
	case n.Kind != drive.Folder:
		return t.nameTaken(e, cause, parent, name)
	}
	if others || t.owned(id) || !ours && !sits(n, parent, name) {
		return t.nameTaken(e, cause, parent, name)
	}
	return t.madeFolder(n)
}

// owned reports whether the node is another entry's. Whoever wants to adopt
// a node asks before and after getting it: an entry that ended in between may
// have taken the node away.
func (t *task) owned(id string) bool {
	other, ok := t.s.j.ByNode(id)
	return ok && other.Ino != t.ino
}

// sits reports whether the node holds the name in the folder.
func sits(n drive.Node, parent, name string) bool {
	return drive.Fold(n.Name) == drive.Fold(name) && slices.Contains(n.Parents, parent)
}

// adoptable tells of a node that a listing showed where we sent one whether
// it is still there and no other entry's.
func (t *task) adoptable(n drive.Node, sent *journal.Sent) (bool, error) {
	if t.owned(n.ID) {
		return false, nil
	}
	if ino := t.s.h.InoOf(n.ID); ino == 0 || ino == t.ino {
		return true, nil // nobody here knows it, so nobody here moved it
	}
	now, err := t.get(n.ID)
	if errors.Is(err, drive.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return now.Live() && sits(now, sent.ParentID, sent.Name) && !t.owned(n.ID), nil
}

// nameTaken is taken for a POST, which a definite 409 leaves without effect.
func (t *task) nameTaken(e *journal.Entry, cause error, parent, name string) report {
	if err := t.update(func(e *journal.Entry) bool { e.Sent = nil; return true }); err != nil {
		return t.fail(err)
	}
	return t.taken(e, cause, parent, name)
}

// freshLocalID is for a localId that maps to a node which is gone (API §6.6:
// it always maps to the same one).
func (t *task) freshLocalID(cause error) report {
	if t.stale++; t.stale > 3 {
		return t.failClearing(cause, true)
	}
	err := t.update(func(e *journal.Entry) bool {
		e.LocalID, e.Sent = newLocalID(), nil
		return true
	})
	if err != nil {
		return t.fail(err)
	}
	return report{kind: next}
}

// lookFolder settles a CreateFolder of unknown outcome. To the same place
// the call may be repeated, since its localId maps to one node; but when the
// folder is wanted elsewhere now, a repeat would make a second one should the
// service not keep to that.
func (t *task) lookFolder(e *journal.Entry) report {
	ids, r := t.targets(e)
	if r.kind != next {
		return r
	}
	if ids[0] == e.Sent.ParentID && e.Sent.Name == t.wanted(e) {
		return t.makeFolder(e)
	}
	n, err := t.findMade(e)
	switch {
	case err != nil:
		return t.fail(err)
	case n != nil:
		return t.madeFolder(*n)
	case t.mayAppear(e.Sent):
		return t.lookLater(e, nil)
	}
	if err := t.update(func(e *journal.Entry) bool { e.Sent = nil; return true }); err != nil {
		return t.fail(err)
	}
	return report{kind: next}
}

// findMade looks for the folder that a CreateFolder of unknown outcome may
// have made; nil when it is not there.
func (t *task) findMade(e *journal.Entry) (*drive.Node, error) {
	found, err := t.find(e.Sent.ParentID, e.Sent.Name)
	if err != nil {
		return nil, err
	}
	for _, n := range found {
		if n.Kind != drive.Folder || !t.byUs(n) || n.Created.Before(e.Sent.At.Add(-clockSkew)) {
			continue
		}
		if ok, err := t.adoptable(n, e.Sent); ok || err != nil {
			return &n, err
		}
	}
	return nil, nil
}

// clockSkew is how far the service's clock may be from ours.
const clockSkew = 10 * time.Minute

// byUs reports whether the node may have been made by this program.
func (t *task) byUs(n drive.Node) bool {
	owner := t.s.r.Owner()
	return owner == "" || n.CreatedBy == "" || n.CreatedBy == owner
}
