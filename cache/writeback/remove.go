package writeback

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// remove takes the node of e to the drive's trash.
func (t *task) remove(e *journal.Entry) report {
	if e.NodeID == "" {
		if e.Sent != nil && e.Sent.Whole {
			return t.lookRemoved(e)
		}
		return t.done(e)
	}
	if e.Trashed {
		return t.replaced(e)
	}
	n, err := t.get(e.NodeID)
	switch {
	case errors.Is(err, drive.ErrNotFound):
		n = drive.Node{ID: e.NodeID, Status: drive.Purged}
	case err != nil:
		return t.fail(err)
	}
	gone := n.Status == drive.Trashed || n.Status == drive.Purged
	switch {
	case e.Base.Doubted() && !gone:
		// Only now the queue can say whether it goes with a folder.
		if err := t.standsAt(n); err != nil {
			return t.fail(err)
		}
		return report{kind: again}
	case e.Folder:
		return t.removeFolder(e, n, gone)
	case gone:
		return t.trashed(e, n)
	}
	if changed, err := t.changedSince(e, n); err != nil {
		return t.fail(err)
	} else if changed {
		if err := t.s.noteNode(n); err != nil {
			return t.fail(err)
		}
		return t.undo(e, drive.ErrChanged)
	}
	n, r := t.trash(e)
	if r.kind != next {
		return r
	}
	if changed, err := t.changedSince(e, n); err != nil {
		return t.fail(err)
	} else if changed {
		// Somebody wrote it between the look and the call: the change wins.
		if back, err := t.restore(n); err == nil {
			if err := t.s.noteNode(back); err != nil {
				return t.fail(err)
			}
			return t.undo(e, drive.ErrChanged)
		}
	}
	return t.trashed(e, n)
}

// restore takes a node out of the trash that went there by mistake, under
// another name when its own was taken meanwhile.
func (t *task) restore(n drive.Node) (drive.Node, error) {
	ctx, cancel := t.call("restore")
	defer cancel()
	back, err := t.s.r.Restore(ctx, n.ID)
	if errors.Is(err, drive.ErrNameExists) {
		// Names in the trash conflict with nothing (API §5.5).
		if _, err = t.s.r.Rename(ctx, n.ID, besideName(n.Name, n.ID), ""); err == nil {
			back, err = t.s.r.Restore(ctx, n.ID)
		}
	}
	if err != nil {
		t.s.log.Warn("a change from elsewhere went to the trash with its file", "node", n.ID, "err", err)
	}
	return back, err
}

// changedSince reports whether a node that is to be removed got other content
// from others. What our own last upload left is not other content.
func (t *task) changedSince(e *journal.Entry, n drive.Node) (bool, error) {
	if e.Base == nil || !changedContent(e.Base, n) {
		return false, nil
	}
	n.Status = drive.Available // whose the bytes are is the same in the trash
	l := look{clue: byNode, kind: drive.File}
	if s := e.Sent; s != nil && s.Whole && !arrived(e) {
		l.sent, l.tried = s, true
	}
	v, _, err := t.examine(e, n, l)
	return v == foreign, err
}

// trash makes the call.
func (t *task) trash(e *journal.Entry) (drive.Node, report) {
	ctx, cancel := t.call("trash")
	defer cancel()
	n, err := t.s.r.Trash(ctx, e.NodeID)
	switch {
	case err == nil:
		return n, report{}
	case errors.Is(err, drive.ErrNotFound):
		switch _, gerr := t.get(e.NodeID); {
		case errors.Is(gerr, drive.ErrNotFound):
			return drive.Node{ID: e.NodeID, Status: drive.Purged}, report{}
		case gerr != nil:
			return n, t.fail(gerr)
		}
		return n, t.fail(err)
	case errors.Is(err, drive.ErrForbidden), errors.Is(err, drive.ErrInvalid):
		return n, t.refused(e, err)
	}
	return n, t.fail(err)
}

// trashed ends the intent of a node that is in the trash.
func (t *task) trashed(e *journal.Entry, n drive.Node) report {
	t.unmask(e, n.Name)
	if e.ReplacedBy != 0 {
		// Before the name is free for the rename that replaced it, and may be
		// refused: whoever takes this back then must know where the node is.
		if err := t.update(func(e *journal.Entry) bool { e.Trashed = true; return true }); err != nil {
			return t.fail(err)
		}
	}
	if err := t.s.noteGone(e.NodeID, n.Version); err != nil {
		return t.fail(err)
	}
	return t.replaced(e)
}

// replaced ends the removal of what is in the trash, unless a rename that took
// its place is still under way: should the drive refuse that, it comes back.
func (t *task) replaced(e *journal.Entry) report {
	on, err := t.replacer(e)
	switch {
	case err != nil:
		return t.fail(err)
	case on != 0:
		return report{kind: waits, on: on}
	}
	return t.done(e)
}

// replacer is the inode whose rename to the place of the removed file e is not
// through, 0 = none.
func (t *task) replacer(e *journal.Entry) (uint64, error) {
	if e.ReplacedBy == 0 {
		return 0, nil
	}
	by, ok := t.s.j.Get(e.ReplacedBy)
	if !ok || by.Removed || by.NodeID == "" ||
		drive.Fold(by.Place.Shown) != e.Vacated.Name || !slices.Contains(by.Place.Parents, e.Vacated.Dir) {
		return 0, nil
	}
	if there, err := t.inPlace(by); err != nil || there {
		return 0, err
	}
	return by.Ino, nil
}

// untrash takes the node of an entry out of the trash again: the rename that
// had replaced it was refused.
func (t *task) untrash(e *journal.Entry) report {
	back, err := t.restore(drive.Node{ID: e.NodeID, Name: e.Base.Name})
	if err != nil {
		return t.nodeError(e, err)
	}
	return t.noted(t.learn(back, func(e *journal.Entry) {
		e.Trashed = false
		e.Base.Name, e.Base.Parents = back.Name, slices.Clone(back.Parents)
	}))
}

// unmask gives a node that was removed under a temporary name the name it was
// removed under, for whoever restores it. Names in the trash conflict with
// nothing, and may be changed (API §5.5, §6.7). It is not worth a failure.
func (t *task) unmask(e *journal.Entry, name string) {
	if !strings.HasPrefix(name, tree.TempPrefix) || e.Place.Name == "" {
		return
	}
	ctx, cancel := t.call("rename")
	defer cancel()
	if _, err := t.s.r.Rename(ctx, e.NodeID, e.Place.Name, ""); err != nil {
		t.s.log.Warn("a node stays in the trash under a temporary name", "node", e.NodeID, "name", e.Place.Name, "err", err)
	}
}

// lookRemoved settles a POST of unknown outcome whose inode is not wanted
// any more: what it made must go to the trash, and only that.
func (t *task) lookRemoved(e *journal.Entry) report {
	kind := drive.File
	if e.Folder {
		kind = drive.Folder
	}
	made, v, err := t.findSent(e, kind)
	if err == nil && v == ours && e.Folder {
		// One with something inside is not the one that was never used here.
		var empty bool
		if empty, err = t.empty(made.ID); !empty {
			v = foreign
		}
	}
	switch {
	case err != nil:
		return t.fail(err)
	case v == ours, v == broken:
		return t.noted(t.learn(made, func(e *journal.Entry) { e.Base, e.Sent = baseOf(made), nil }))
	case t.mayAppear(e.Sent):
		return t.lookLater(e, nil)
	}
	return t.done(e)
}

func (t *task) empty(id string) (bool, error) {
	ctx, cancel := t.call("list")
	defer cancel()
	for n, err := range t.s.r.Children(ctx, id, false) {
		if err != nil {
			return false, err
		}
		if n.Live() {
			return false, nil
		}
	}
	return true, nil
}

// listers is how many folders of one tree are listed at once.
const listers = 4

// walk is what a look through a tree of removed folders found.
type walk struct {
	mu      sync.Mutex       // guards what follows
	seen    map[uint64]found // removed inodes that are inside
	strange map[uint64]bool  // removed folders that hold something else
	unseen  []drive.Node     // … which is this
	changed []*journal.Entry // removed files with content we never saw
	on      uint64           // an entry that must leave first
}

// found is a removed entry as it was when a listing confirmed it.
type found struct {
	rev  uint64
	name string // its node's
}

// removeFolder trashes the folder with all that was removed below it, in one
// call, after listings have shown that there is nothing else inside.
func (t *task) removeFolder(e *journal.Entry, n drive.Node, gone bool) report {
	w := &walk{seen: map[uint64]found{}, strange: map[uint64]bool{}}
	if !gone {
		if err := t.list(e, w); err != nil {
			return t.fail(err)
		}
		if r, stop := t.mustStay(e, w); stop {
			return r
		}
		var r report
		if n, r = t.trash(e); r.kind != next {
			return r
		}
	}
	t.unmask(e, n.Name)
	if err := t.s.noteGone(e.NodeID, n.Version); err != nil {
		return t.fail(err)
	}
	// The children first: as long as the folder's own entry is there, a
	// crash leads back here and not to trashing them one by one, which would
	// keep them out of a later restore of the folder.
	for _, ino := range t.covered {
		if err := t.doneInside(e, ino, w); err != nil {
			return t.fail(err)
		}
	}
	return t.done(e)
}

// doneInside ends the intent of a removed entry below a folder that is in the
// trash.
func (t *task) doneInside(top *journal.Entry, ino uint64, w *walk) error {
	c, ok := t.s.j.Clone(ino)
	if !ok || !c.Removed {
		return nil
	}
	in, listed := w.seen[ino]
	if !listed {
		// Not in a listing: gone before, taken elsewhere by somebody, or the
		// listing lagged. Or the trashing was in an earlier life.
		inside, err := t.below(c.NodeID, top.NodeID)
		if err != nil || !inside {
			return err // its own intent goes on
		}
		in = found{rev: c.Rev, name: c.Base.Name}
	}
	t.unmask(c, in.name)
	ok, err := t.s.tree.Fulfil(ino, in.rev)
	if err != nil {
		return err
	}
	if ok {
		t.s.fulfilled(ino, in.rev)
	}
	t.touched = append(t.touched, ino)
	return nil
}

// below reports whether the node is not live, or hangs below top by its first
// parents.
func (t *task) below(id, top string) (bool, error) {
	for range 256 {
		if id == top {
			return true, nil
		}
		n, err := t.get(id)
		switch {
		case errors.Is(err, drive.ErrNotFound):
			return true, nil
		case err != nil:
			return false, err
		case !n.Live():
			return true, nil
		case len(n.Parents) != 1:
			return false, nil
		}
		id = n.Parents[0]
	}
	return false, nil
}

// list looks through the tree of removed folders below e.
func (t *task) list(e *journal.Entry, w *walk) error {
	level := []*journal.Entry{e}
	for len(level) > 0 {
		var below []*journal.Entry
		g, ctx := errgroup.WithContext(t.ctx)
		g.SetLimit(listers)
		for _, f := range level {
			g.Go(func() error {
				folders, err := t.listOne(ctx, f, w)
				w.mu.Lock()
				below = append(below, folders...)
				w.mu.Unlock()
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		level = below
	}
	return nil
}

// listOne looks into one folder and returns the removed folders inside.
func (t *task) listOne(ctx context.Context, f *journal.Entry, w *walk) (folders []*journal.Entry, err error) {
	op := "list"
	t.op.Store(&op)
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	var doubtful []drive.Node
	for n, err := range t.s.r.Children(ctx, f.NodeID, false) {
		if errors.Is(err, drive.ErrNotFound) {
			if _, gerr := t.get(f.NodeID); errors.Is(gerr, drive.ErrNotFound) {
				return nil, nil // gone with all it held
			} else if gerr != nil {
				return nil, gerr
			}
		}
		if err != nil {
			return nil, err
		}
		if !n.Live() {
			continue
		}
		c, ok := t.s.j.ByNode(n.ID)
		expected := ok && c.Removed
		if expected {
			changed, err := t.changedSince(c, n)
			if err != nil {
				return nil, err
			}
			expected = !changed
		}
		switch {
		case !expected:
			doubtful = append(doubtful, n)
		case c.Base.Doubted() && t.s.working(c.Ino):
			w.wait(c.Ino) // it is on its way here; what must leave it first is known after
		default:
			w.found(c, n.Name)
			if c.Folder {
				folders = append(folders, c)
			}
		}
	}
	if len(doubtful) == 0 {
		return folders, nil
	}
	// In this order: an entry has what it sent until it has its node.
	sent := t.placesSent(f.NodeID)
	for _, n := range doubtful {
		c, err := t.expect(f, n, sent, w)
		if err != nil {
			return nil, err
		}
		if c != nil {
			folders = append(folders, c)
		}
	}
	return folders, nil
}

// expect looks again at a node that should not be in the removed folder f:
// listings lag (API §13.1), and it may just have left, or be one of ours on its
// way. A removed folder that is in it after all is returned.
func (t *task) expect(f *journal.Entry, n drive.Node, sent map[string]uint64, w *walk) (*journal.Entry, error) {
	now, err := t.get(n.ID)
	if errors.Is(err, drive.ErrNotFound) {
		return nil, nil
	}
	if err != nil || !now.Live() || !slices.Contains(now.Parents, f.NodeID) {
		return nil, err
	}
	c, ok := t.s.j.ByNode(n.ID)
	var leaves, changed bool
	switch {
	case ok && c.Removed:
		changed, err = t.changedSince(c, now)
	case ok:
		leaves, err = t.leaves(c, f.NodeID, "")
	}
	if err != nil {
		return nil, err
	}
	maker := sent[drive.Fold(now.Name)]
	switch {
	case !ok && maker != 0:
		w.wait(maker)
	case leaves:
		w.wait(c.Ino)
	case ok && c.Removed && !changed:
		w.found(c, n.Name)
		if c.Folder {
			return c, nil
		}
	default:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.strange[f.Ino] = true
		w.unseen = append(w.unseen, now)
		if ok && c.Removed {
			w.changed = append(w.changed, c)
		}
	}
	return nil, nil
}

// wait notes an entry that must leave first.
func (w *walk) wait(ino uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = ino
}

// found notes a removed entry that is inside.
func (w *walk) found(c *journal.Entry, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[c.Ino] = found{c.Rev, name}
}

// mustStay says whether the folder cannot be trashed. What holds something else
// stays, and so does every folder above it; the rest is trashed by itself.
func (t *task) mustStay(e *journal.Entry, w *walk) (report, bool) {
	if len(w.strange) == 0 {
		if w.on != 0 {
			return report{kind: waits, on: w.on}, true
		}
		return report{}, false
	}
	for _, n := range w.unseen {
		t.s.log.Info("not seen before in a removed folder", "node", n.ID, "name", n.Name, "folder", n.Parents)
		if err := t.s.noteNode(n); err != nil {
			return t.fail(err), true
		}
	}
	for _, c := range w.changed {
		if r := t.undoOther(c, drive.ErrChanged); r.kind != next {
			return r, true
		}
	}
	stay := map[uint64]*journal.Entry{}
	for ino := range w.strange {
		for range 256 {
			c, ok := t.s.j.Clone(ino)
			if !ok || stay[ino] != nil {
				break
			}
			stay[ino] = c
			if ino == e.Ino || c.Base == nil || len(c.Base.Parents) == 0 {
				break
			}
			p, ok := t.s.j.ByNode(c.Base.Parents[0])
			if !ok {
				break
			}
			ino = p.Ino
		}
	}
	// From the inside out, so that no folder returns without the ones that
	// must return with it: the top's own entry leads back here after a crash.
	inos := make([]uint64, 0, len(stay))
	for ino := range stay {
		if ino != e.Ino {
			inos = append(inos, ino)
		}
	}
	slices.Sort(inos)
	for _, ino := range inos {
		if r := t.undoOther(stay[ino], ErrNotEmpty); r.kind != next {
			return r, true
		}
	}
	return t.undo(e, ErrNotEmpty), true
}

// undoOther takes back the intent of an entry that this task covers.
func (t *task) undoOther(c *journal.Entry, why error) report {
	if err := t.s.refuse(c.Ino, c.Rev, why); err != nil {
		return t.fail(err)
	}
	t.touched = append(t.touched, c.Ino)
	return report{}
}
