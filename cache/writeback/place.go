package writeback

import (
	"errors"
	"fmt"
	"slices"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// rename gives the node a name. last tells that a conflict would be with the
// name that is wanted where it is wanted.
func (t *task) rename(e *journal.Entry, name string, last bool) report {
	if r := t.unsure(e); r.kind != next {
		return r
	}
	t.askedName, t.moved = name, true
	ctx, cancel := t.call("rename")
	n, err := t.s.r.Rename(ctx, e.NodeID, name, t.tag(e))
	cancel()
	switch {
	case err == nil:
		return t.noted(t.learn(n, func(e *journal.Entry) { e.Base.Name = name }))
	case errors.Is(err, drive.ErrPrecondition):
		return t.rebase(e, err)
	case errors.Is(err, drive.ErrNotFound), errors.Is(err, drive.ErrConflict):
		return t.rebase(e, err)
	case errors.Is(err, drive.ErrNameExists):
		if !last && !t.noRename {
			t.noRename = true
			return report{kind: next}
		}
		parent := e.Base.Parents[0]
		return t.taken(e, err, parent, name)
	case errors.Is(err, drive.ErrNameTooLong), errors.Is(err, drive.ErrInvalid), errors.Is(err, drive.ErrForbidden):
		return t.refused(e, err)
	}
	return t.fail(err)
}

// tag is what a rename of e's node is held against, "" = nothing.
func (t *task) tag(e *journal.Entry) string {
	if e.Base.Doubted() {
		return ""
	}
	return t.s.tree.Tag(t.ino, e.Base)
}

// move takes the node to the folder to, out of the folder from, "" = of none. last
// as in rename.
func (t *task) move(e *journal.Entry, to, from string, last bool) report {
	if r := t.unsure(e); r.kind != next {
		return r
	}
	t.askedParent, t.moved = to, true
	var n drive.Node
	var err error
	if from != "" {
		ctx, cancel := t.call("move")
		n, err = t.s.r.Move(ctx, e.NodeID, from, to)
		cancel()
	} else {
		ctx, cancel := t.call("add-parent")
		err = t.s.r.AddParent(ctx, e.NodeID, to)
		cancel()
		if err == nil {
			n, err = t.get(e.NodeID)
		}
	}
	switch {
	case err == nil:
		parents := append(slices.DeleteFunc(slices.Clone(e.Base.Parents), func(p string) bool { return p == from }), to)
		if !slices.Contains(n.Parents, to) {
			n.Parents = parents // the answer lags behind what it answers
		}
		return t.noted(t.learn(n, func(e *journal.Entry) { e.Base.Parents = parents }))
	case errors.Is(err, drive.ErrNameExists):
		if !last && !t.noMove {
			t.noMove = true
			return report{kind: next}
		}
		return t.taken(e, err, to, e.Base.Name)
	case errors.Is(err, drive.ErrBadParent), errors.Is(err, drive.ErrNotFound), errors.Is(err, drive.ErrInvalid), errors.Is(err, drive.ErrConflict):
		// The node, the folder it was in, or the one it goes to is not what we think.
		parent, gerr := t.get(to)
		switch {
		case gerr == nil && parent.Live():
			return t.rebase(e, err)
		case gerr == nil || errors.Is(gerr, drive.ErrNotFound):
			return t.parentTrouble(e, to, err)
		}
		return t.fail(gerr)
	case errors.Is(err, drive.ErrForbidden):
		return t.refused(e, err)
	}
	return t.fail(err)
}

func (t *task) removeParent(e *journal.Entry, parent string) report {
	if len(e.Base.Parents) < 2 {
		return t.fail(errNoParent) // the last one is never removed (API §5.7)
	}
	if r := t.unsure(e); r.kind != next {
		return r
	}
	t.moved = true
	ctx, cancel := t.call("remove-parent")
	err := t.s.r.RemoveParent(ctx, e.NodeID, parent)
	cancel()
	if err != nil {
		switch {
		case errors.Is(err, drive.ErrNotFound), errors.Is(err, drive.ErrConflict), errors.Is(err, drive.ErrInvalid):
			return t.rebase(e, err)
		case errors.Is(err, drive.ErrForbidden):
			return t.refused(e, err)
		}
		return t.fail(err)
	}
	n, err := t.get(e.NodeID)
	if err != nil {
		return t.nodeError(e, err)
	}
	n.Parents = slices.DeleteFunc(n.Parents, func(p string) bool { return p == parent })
	return t.noted(t.learn(n, func(e *journal.Entry) {
		e.Base.Parents = slices.DeleteFunc(e.Base.Parents, func(p string) bool { return p == parent })
	}))
}

// noted is the end of a step that had something to record.
func (t *task) noted(err error) report {
	if err != nil {
		return t.fail(err)
	}
	return report{kind: next}
}

// rebase gets the node after a call that found it other than thought, and
// takes over what is not our business: its tag, and the name or the folders
// that others gave it where we have an intent of our own.
func (t *task) rebase(e *journal.Entry, cause error) report {
	if t.stale++; t.stale > 5 {
		return t.fail(cause)
	}
	n, r, ok := t.nodeNow(e)
	if !ok {
		return r
	}
	same := n.Name == e.Base.Name && sameSet(n.Parents, e.Base.Parents) && n.ETag == e.Base.ETag
	if same && t.stale > 1 {
		if errors.Is(cause, drive.ErrInvalid) {
			return t.refused(e, cause)
		}
		return t.fail(cause)
	}
	ids, wait, gone, err := resolve(t.s.tree, e.Place.Parents, e.Base.Parents)
	if err != nil {
		return t.fail(err)
	}
	movesNode := wait != 0 || gone != 0 || !sameSet(ids, e.Base.Parents)
	return t.noted(t.update(func(e *journal.Entry) bool {
		if e.Base == nil {
			return false
		}
		e.Base.Version, e.Base.ETag = n.Version, n.ETag
		// What a call of ours has brought about after all is not of others,
		// though the intent may be for the former place again.
		if e.Base.Name != e.Place.Name || n.Name == t.askedName {
			e.Base.Name = n.Name
		}
		if (movesNode || slices.Contains(n.Parents, t.askedParent)) && len(n.Parents) > 0 {
			e.Base.Parents = slices.Clone(n.Parents)
		}
		return true
	}))
}

// unsure records that the node's place is about to change: a Base in doubt is
// not believed until the node was got. Should the answer be lost, and
// the intent change meanwhile, nothing else would tell that the node is not
// where it was.
func (t *task) unsure(e *journal.Entry) report {
	ok := false
	err := t.update(func(now *journal.Entry) bool {
		if ok = now.Rev == e.Rev && now.NodeID == e.NodeID && now.Base != nil; ok {
			now.Base.Doubt()
		}
		return ok
	})
	switch {
	case err != nil:
		return t.fail(err)
	case !ok:
		return report{kind: again}
	}
	t.sure = false
	return report{}
}

// ascertain gets the node whose place is not known for sure.
func (t *task) ascertain(e *journal.Entry) report {
	n, err := t.get(e.NodeID)
	if err != nil {
		return t.nodeError(e, err)
	}
	if !n.Live() && n.Status != drive.Pending {
		return t.nodeGone(e, n.Version)
	}
	t.sure = true
	return t.noted(t.standsAt(n))
}

// standsAt takes the node's place for the one the intent begins from.
func (t *task) standsAt(n drive.Node) error {
	return t.update(func(e *journal.Entry) bool {
		if e.Base == nil || e.NodeID != n.ID {
			return false
		}
		e.Base.Version, e.Base.ETag, e.Base.Name = n.Version, n.ETag, n.Name
		if len(n.Parents) > 0 {
			e.Base.Parents = slices.Clone(n.Parents)
		}
		return true
	})
}

// resync takes the node's real name and folders for the ones the intent begins
// from, after a conflict that makes no sense with the ones we know.
func (t *task) resync(e *journal.Entry, cause error) report {
	if t.stale++; t.stale > 5 {
		return t.fail(cause)
	}
	n, r, ok := t.nodeNow(e)
	if !ok {
		return r
	}
	if n.Name == e.Base.Name && sameSet(n.Parents, e.Base.Parents) {
		return t.fail(cause)
	}
	return t.noted(t.standsAt(n))
}

// taken settles a name conflict at the place the entry is wanted to be.
func (t *task) taken(e *journal.Entry, cause error, parent, name string) report {
	id, err := t.holder(e, cause, parent, name)
	switch {
	case err != nil:
		return t.fail(err)
	case id == "":
		return t.hidden(e, cause)
	case id == e.NodeID && name == tempName(e):
		return t.fail(cause)
	case id == e.NodeID:
		// The service takes a name that differs in case only for taken by
		// the node itself (API §5.5, unknown).
		t.viaTemp = true
		if t.stale++; t.stale > 3 {
			return t.fail(cause)
		}
		return report{kind: next}
	}
	// Before the get: an entry that ends in between has moved the node first.
	other, _ := t.s.j.ByNode(id)
	n, err := t.get(id)
	switch {
	case errors.Is(err, drive.ErrNotFound):
		return t.fail(cause)
	case err != nil:
		return t.fail(err)
	case n.Status == drive.Pending:
		return t.fail(cause) // somebody's upload; it will be a file, or nothing
	case !n.Live():
		return t.fail(cause) // it has just left
	case e.Attempts > 1 && n.ID == nodeIDOf(cause) && slices.Contains(n.Parents, parent):
		// Told again and again: the service holds two names for one that are
		// two by our rule (API §5.5).
	case !sits(n, parent, name) && e.NodeID != "":
		return t.resync(e, cause) // it is not in our way, unless we are elsewhere than we think
	case !sits(n, parent, name):
		return t.fail(cause)
	}
	now, _ := t.s.j.ByNode(id)
	for _, o := range []*journal.Entry{other, now} {
		if o == nil || o.Ino == t.ino {
			continue
		}
		if leaves, err := t.leaves(o, parent, name); err != nil {
			return t.fail(err)
		} else if leaves {
			return report{kind: waits, on: o.Ino, slot: true}
		}
	}
	return t.foreign(e, n, cause)
}

// holder is the node that a conflict is about, as it names it or as the folder
// shows it; "" = none is seen.
func (t *task) holder(e *journal.Entry, cause error, parent, name string) (id string, err error) {
	if id = nodeIDOf(cause); id != "" {
		return id, nil
	}
	found, err := t.find(parent, name)
	for _, n := range found {
		if n.ID != e.NodeID {
			id = n.ID
		}
	}
	return id, err
}

// hidden: the name is taken by what cannot be seen. That is lag, for a while.
func (t *task) hidden(e *journal.Entry, cause error) report {
	if e.Attempts < 6 {
		return t.failClearing(cause, e.NodeID == "")
	}
	return t.conflict(e, "the name is taken on the drive by what cannot be seen")
}

// foreign: the name belongs to somebody else's node, and stays so.
func (t *task) foreign(e *journal.Entry, n drive.Node, cause error) report {
	if ino, err := t.s.tree.InoOf(n.ID); err != nil {
		return t.fail(err)
	} else if ino != t.ino {
		if err := t.s.noteNode(n); err != nil {
			return t.fail(err)
		}
	}
	if e.NodeID != "" && e.Draft != nil {
		// Only the name is in dispute. With the content on the node first,
		// what is left is an intent about the name, and the node stays one.
		if !contentDone(e) {
			return t.overwrite(e)
		}
		if ok, err := t.sending(e, func(e *journal.Entry) { e.Draft, e.Sent = nil, nil }); err != nil || !ok {
			return t.noted(err)
		}
		e.Draft = nil
	}
	if e.Draft == nil && t.s.awaited(t.ino, e.Rev) && t.back(e) && t.s.promise(t.ino, e.Rev) {
		return t.undo(e, cause)
	}
	what := "a file"
	if n.Kind == drive.Folder {
		what = "a folder"
	}
	return t.conflict(e, fmt.Sprintf("%s of that name was made on the drive meanwhile", what))
}

func (t *task) conflict(e *journal.Entry, why string) report {
	// The answer took its time; the name may not be wanted any more.
	if now, ok := t.entry(); !ok || now.Rev != e.Rev {
		return report{kind: next}
	}
	return t.noted(t.s.conflict(t.ino, why))
}

// nesting finds out whether the folder to is inside of e's node on the drive
// right now. Locally it is not, so what keeps it there is another intent.
func (t *task) nesting(e *journal.Entry, to string) report {
	var on uint64
	for range 256 {
		if to == e.NodeID {
			if on == 0 {
				return t.fail(errNested)
			}
			return report{kind: waits, on: on}
		}
		n, err := t.get(to)
		if err != nil {
			return t.fail(err)
		}
		if len(n.Parents) == 0 {
			return report{}
		}
		if o, ok := t.s.j.ByNode(n.ID); ok && o.Base != nil {
			in, err := t.inPlace(o)
			if err != nil {
				return t.fail(err)
			}
			if !in {
				on = o.Ino
			}
		}
		to = n.Parents[0]
	}
	return t.fail(errNested)
}

var errNested = errors.New("the folder would be put inside itself")

// minus is what a has and b has not, in a's order.
func minus(a, b []string) (d []string) {
	for _, x := range a {
		if !slices.Contains(b, x) {
			d = append(d, x)
		}
	}
	return d
}
