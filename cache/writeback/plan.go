package writeback

import (
	"slices"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// action is what brings the drive closer to an entry.
type action int

const (
	idle         action = iota // nothing here and now; the queue says what is next
	await                      // the entry step.on must be worked on first
	remove                     // to the trash
	untrash                    // out of it again
	lookFolder                 // for a folder whose making was not answered
	lookFile                   // for a file whose upload was not answered
	makeFolder                 //
	makeFile                   // by sending its content
	locate                     // get the node, to know its place
	findFolder                 // its folder is gone: it needs another
	strand                     // it belongs in no folder
	rename                     // to step.name
	move                       // from the folder step.from, "" = out of none, to step.to
	removeParent               // step.from
	overwrite                  // send the content over the node's
	finish                     // properties, and then the entry is fulfilled
)

func (a action) String() string {
	return [...]string{"idle", "await", "remove", "untrash", "look for folder", "look for file", "make folder", "make file",
		"locate", "find folder", "strand", "rename", "move", "remove parent", "overwrite", "finish"}[a]
}

// step is what to do next for one entry.
type step struct {
	do       action
	on       uint64
	name     string
	from, to string
	last     bool   // of rename and move: a name in the way is in the way of what is wanted
	under    string // the folder that a folder goes to; it must not be inside of that; "" = it cannot be
}

// facts is what a plan rests on beside the entry.
type facts struct {
	ids        []string // of the folders it belongs in
	wait, gone uint64   // a folder without a node, or one that left; then ids is not complete
	sure       bool     // Base tells the node's place although it has no tag
	detour     bool     // bring the node under its temporary name, no further
	others     bool     // further folders are to change parents
	nameTaken  bool     // the wanted name, in a folder that the node is in
	hereTaken  bool     // the name it has, in the folder that it goes to
	noRename   bool     // renaming before moving met a name in the way
	noMove     bool     // moving before renaming did
	viaTemp    bool     // the service takes the node's own name for in the way
	sent       bool     // the drive has the content, or there is none
	light      bool     // this work is to send no content
	behind     uint64   // an entry that has the name as far as the mirror knows, and is about to leave it
}

// plan decides on the next step. The order of steps follows from the state
// alone, so that a crash between two of them is continued, not repeated.
func plan(e *journal.Entry, f *facts) step {
	switch {
	case e.Removed:
		return step{do: remove}
	case e.Trashed:
		return step{do: untrash}
	case e.Open && e.NodeID == "":
		return step{} // the queue parks it
	case e.NodeID == "" && e.Folder && e.Sent != nil:
		return step{do: lookFolder}
	case e.NodeID == "" && e.Folder:
		return step{do: makeFolder}
	case e.NodeID == "" && e.Sent != nil:
		return step{do: lookFile}
	case e.NodeID == "":
		return step{do: makeFile}
	case (e.Base.ETag == "" || e.Base.Doubted()) && !f.sure:
		return step{do: locate}
	case f.gone != 0:
		return step{do: findFolder}
	case f.wait != 0:
		return step{do: await, on: f.wait}
	case len(f.ids) == 0 && len(e.Base.Parents) > 0:
		return step{do: strand} // the root is in none, and stays where it is
	}
	s := planPlace(e, f)
	switch {
	case s.do != idle, f.detour, e.Open, !f.sent && f.light:
		return s
	case !f.sent:
		return step{do: overwrite}
	case f.behind != 0:
		return step{do: await, on: f.behind}
	}
	return step{do: finish}
}

// planPlace is the one call that brings the node of e closer to its place, idle
// when it is there. Of a rename and a move that goes first which meets no name in
// between (API §14); a temporary name is the way out.
func planPlace(e *journal.Entry, f *facts) step {
	add, drop := minus(f.ids, e.Base.Parents), minus(e.Base.Parents, f.ids)
	name, temp := wanted(e, f.detour), tempName(e)
	renames := e.Base.Name != name
	s := step{do: move, last: true}
	if len(drop) > 0 {
		s.from = drop[0]
	}
	if len(add) > 0 {
		s.to = add[0]
		if e.Folder && f.others {
			s.under = s.to
		}
	}
	switch {
	case renames && len(add) > 0 && !f.noRename && !f.nameTaken:
		return step{do: rename, name: name, under: s.under}
	case renames && len(add) > 0 && !f.noMove && !f.hereTaken:
		s.last = false
		return s
	case renames && len(add) > 0 && e.Base.Name != temp:
		return step{do: rename, name: temp, under: s.under}
	case len(add) > 0:
		return s
	case len(drop) > 0:
		// First, so that the new name need not be free in a folder it leaves.
		return step{do: removeParent, from: s.from}
	case renames && f.viaTemp && e.Base.Name != temp:
		return step{do: rename, name: temp, last: true}
	case renames:
		return step{do: rename, name: name, last: true}
	}
	return step{}
}

// wanted is the name to bring about now.
func wanted(e *journal.Entry, detour bool) string {
	if detour {
		return tempName(e)
	}
	return e.Place.Name
}

// tempName is a name nobody else uses, always the same one for the same
// node, so that nothing must be remembered of it.
func tempName(e *journal.Entry) string {
	if e.NodeID != "" {
		return tree.TempPrefix + e.NodeID
	}
	return tree.TempPrefix + e.LocalID
}

// facts gathers what the plan for e rests on. An error says that it is not known.
func (t *task) facts(e *journal.Entry) (f facts, err error) {
	f = facts{
		sure: t.sure, detour: t.detour, others: t.others,
		noRename: t.noRename, noMove: t.noMove, viaTemp: t.viaTemp,
		sent:  contentDone(e) || t.uploaded != 0 && t.uploaded == e.Draft.Gen,
		light: t.lane == laneCalls || t.moved,
	}
	if e.NodeID == "" || e.Base == nil || e.Removed || e.Trashed {
		return f, nil
	}
	f.ids, f.wait, f.gone, err = resolve(t.s.tree, e.Place.Parents, e.Base.Parents)
	if err != nil || f.wait != 0 || f.gone != 0 {
		return f, err
	}
	name, add := wanted(e, t.detour), minus(f.ids, e.Base.Parents)
	switch {
	case len(add) > 0 && e.Base.Name != name:
		if f.nameTaken, err = t.holds(e, name, e.Base.Parents); err == nil {
			f.hereTaken, err = t.holds(e, e.Base.Name, add)
		}
	case f.sent && e.Base.Name == name && len(f.ids) == len(e.Base.Parents):
		f.behind, err = t.behind(e, f.ids)
	}
	return f, err
}

// holds reports whether the mirror has another node of that name in a folder.
func (t *task) holds(e *journal.Entry, name string, parents []string) (bool, error) {
	for _, p := range parents {
		if ino, node, err := t.s.tree.Holder(p, name); err != nil || ino != 0 && node != e.NodeID {
			return true, err
		}
	}
	return false, nil
}

// behind is an inode that still has the name of e as far as the mirror knows,
// and wants to leave it, 0 = none: its node has left on the drive, or e's
// would not be there, but the answer is on its way. Without its intent e would
// not show under its own name until then.
func (t *task) behind(e *journal.Entry, ids []string) (uint64, error) {
	for _, id := range ids {
		ino, node, err := t.s.tree.Holder(id, e.Place.Name)
		if err != nil {
			return 0, err
		}
		if ino == 0 || ino == t.ino || node == e.NodeID {
			continue
		}
		if other, ok := t.s.j.Get(ino); ok && other.NodeID == node {
			if leaves, err := t.leaves(other, id, e.Place.Name); err != nil || leaves {
				return ino, err
			}
		}
	}
	return 0, nil
}

// leaves reports whether who wants a place wants its node, which is in the folders
// home, out of one of them, or away from a name there; "" = whatever its name.
func leaves(t *tree.Tree, removed bool, place *journal.Place, home []string, parent, name string) (bool, error) {
	if removed || name != "" && drive.Fold(place.Name) != drive.Fold(name) {
		return true, nil
	}
	ids, _, _, err := resolve(t, place.Parents, home)
	return err == nil && !slices.Contains(ids, parent), err
}

// leaves is leaves for an entry read from the journal.
func (t *task) leaves(e *journal.Entry, parent, name string) (bool, error) {
	var home []string
	if e.Base != nil {
		home = e.Base.Parents
	}
	return leaves(t.s.tree, e.Removed, &e.Place, home, parent, name)
}
