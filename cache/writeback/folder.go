package writeback

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
	parent, id := ids[0], t.s.localID(e)
	e.LocalID = id // a temporary name is made of it
	name := wanted(e, t.detour)
	now := time.Now()
	ok, err := t.sending(e, func(e *journal.Entry) {
		e.LocalID = id
		e.Sent = t.newSent(e.Sent, journal.Sent{Whole: true, At: now, Deadline: now.Add(t.s.o.MinWait), ParentID: parent, Name: name})
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
	case errors.Is(err, drive.ErrNameExists), errors.Is(err, drive.ErrConflict), errors.Is(err, drive.ErrProtocol) && unclearCall(err):
		return t.folderInTheWay(err, parent, name)
	case errors.Is(err, drive.ErrBadParent), errors.Is(err, drive.ErrNotFound):
		if e, ok := t.entry(); ok {
			return t.parentTrouble(e, parent, err)
		}
		return report{kind: next}
	case errors.Is(err, drive.ErrNameTooLong), errors.Is(err, drive.ErrInvalid), errors.Is(err, drive.ErrForbidden):
		return t.refused(e, err)
	case errors.Is(err, drive.ErrThrottled), errors.Is(err, drive.ErrAuth):
		return t.failClearing(err, !unclearCall(err))
	}
	return t.fail(err)
}

// unclearCall reports whether a call that failed may have made its folder.
func unclearCall(err error) bool {
	var de *drive.Error
	return errors.As(err, &de) && de.Unclear
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
	return t.noted(t.learn(n, func(e *journal.Entry) { e.Base, e.Sent = baseOf(n), nil }))
}

// folderInTheWay settles a CreateFolder that met a node, or whose answer cannot
// be read: then it looks for the one that it made.
func (t *task) folderInTheWay(cause error, parent, name string) report {
	e, ok := t.entry()
	if !ok || e.Sent == nil {
		return report{kind: next}
	}
	v, n, err := t.meetConflict(e, cause, look{
		kind: drive.Folder, parent: parent, name: name, sent: e.Sent, tried: e.Sent.Tries > 0 || unclearCall(cause),
	})
	switch {
	case err != nil:
		return t.fail(err)
	case v == ours:
		return t.madeFolder(n)
	case v == foreign && n.Kind == drive.Folder && sits(n, parent, name) && !t.owned(n.ID) && !t.s.awaited(t.ino, e.Rev):
		// Whoever made the folder here was told long ago that it is there, and
		// what is in it belongs into the one that exists (design §6).
		return t.madeFolder(n)
	}
	return t.notOurs(e, v, n, cause, parent, name)
}

// meetConflict judges the node that a call met: the one that the conflict
// names, else the one that has the name. absent without a node: none is seen.
func (t *task) meetConflict(e *journal.Entry, cause error, l look) (verdict, drive.Node, error) {
	l.clue = byTaken
	if id := nodeIDOf(cause); id != "" {
		if errors.Is(cause, drive.ErrConflict) {
			l.clue = byMapped
		}
		l.insisted = e.Attempts > 1
		return t.meet(e, id, l)
	}
	found, err := t.find(l.parent, l.name)
	if err != nil || len(found) == 0 {
		return absent, drive.Node{}, err
	}
	return t.meet(e, found[0].ID, l)
}

// notOurs ends a POST that met a node which it did not make.
func (t *task) notOurs(e *journal.Entry, v verdict, n drive.Node, cause error, parent, name string) report {
	mapped := errors.Is(cause, drive.ErrConflict) && nodeIDOf(cause) != ""
	switch {
	case v == foreign && mapped && !sits(n, parent, name):
		// What our earlier try made was taken elsewhere, and is another's by now.
		if err := t.s.noteNode(n); err != nil {
			return t.fail(err)
		}
		return t.freshLocalID(cause)
	case v == foreign:
		return t.nameTaken(e, cause, parent, name)
	case v == absent && mapped:
		return t.freshLocalID(cause)
	case v == absent && n.ID == "" && nodeIDOf(cause) == "" && e.Sent.Tries == 0:
		return t.hidden(e, cause)
	}
	// It has just left, or is not to be seen yet, or not complete. What an
	// earlier call may have made is still on its way.
	until := time.Now().Add(t.patience(e.Sent.Size))
	if err := t.update(func(e *journal.Entry) bool { e.Sent = unsend(e.Sent, until); return true }); err != nil {
		return t.fail(err)
	}
	return t.fail(cause)
}

// owned reports whether the node is another entry's.
func (t *task) owned(id string) bool {
	other, ok := t.s.j.ByNode(id)
	return ok && other.Ino != t.ino
}

// sits reports whether the node holds the name in the folder.
func sits(n drive.Node, parent, name string) bool {
	return drive.Fold(n.Name) == drive.Fold(name) && slices.Contains(n.Parents, parent)
}

// nameTaken is taken for a POST, which a definite 409 leaves without effect.
func (t *task) nameTaken(e *journal.Entry, cause error, parent, name string) report {
	if err := t.nothingSent(); err != nil {
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
	return t.noted(t.update(func(e *journal.Entry) bool {
		e.LocalID, e.Sent = newLocalID(), nil
		return true
	}))
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
	if ids[0] == e.Sent.ParentID && e.Sent.Name == wanted(e, t.detour) {
		return t.makeFolder(e)
	}
	n, v, err := t.findSent(e, drive.Folder)
	switch {
	case err != nil:
		return t.fail(err)
	case v == ours:
		return t.madeFolder(n)
	case t.mayAppear(e.Sent):
		return t.lookLater(e, nil)
	}
	return t.noted(t.nothingSent())
}
