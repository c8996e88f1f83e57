package cache

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// Rename is rename(2): oname in odir becomes nname in ndir, replacing what is
// there (noReplace: ErrExist instead). Another spelling of the same name is a
// rename like any other.
func (s *Store) Rename(ctx context.Context, odir uint64, oname string, ndir uint64, nname string, noReplace bool) error {
	if s.readOnly() {
		return ErrReadOnly
	}
	driveName, shown, err := shownOf(nname)
	if err != nil {
		return err
	}
	if err := s.known(ctx, odir, oname); err != nil {
		return err
	}
	if err := s.known(ctx, ndir, nname); err != nil {
		return err
	}
	if err := s.replaceable(ctx, ndir, nname); err != nil {
		return err
	}
	if err := s.closeBeforeReplace(odir, oname, ndir, nname); err != nil {
		return err
	}
	clean := s.saveByRename(odir, oname, ndir, nname)
	e, gone, es, err := s.rename(odir, oname, ndir, driveName, shown, noReplace, clean)
	if err != nil || e == nil {
		return err
	}
	s.dirTimes.touch(odir)
	s.dirTimes.touch(ndir)
	s.emit(es)
	if e.NodeID == "" || e.Draft != nil || temporary(shown) || gone.unsent() {
		// Its place goes with its upload, or will change again soon, or what it
		// replaced could not be brought back: there is nothing to wait for.
		return nil
	}
	err = s.await(ctx, e)
	if err != nil && gone != nil {
		s.bringBack(ctx, gone)
	}
	return err
}

// replaced is what a rename put aside for its source.
type replaced struct {
	ino    uint64
	nodeID string         // "" = the drive never had it
	rev    uint64         // of the wish to remove it
	before *journal.Entry // its wish before that, nil = none
}

// unsent tells whether what was replaced had content that the drive does not
// have: it left the journal with the wish.
func (r *replaced) unsent() bool { return r != nil && r.before != nil && r.before.Draft != nil }

// bringBack undoes the removal of what a rename was to replace, after the
// drive refused the rename itself.
func (s *Store) bringBack(ctx context.Context, r *replaced) {
	s.view.Lock()
	e, waiting := s.journal.Clone(r.ino)
	var err error
	switch {
	case !waiting || e.Rev != r.rev:
		waiting = false
	case r.before != nil:
		err = s.putLocked(r.before)
	default:
		_, err = s.journal.Done(r.ino, r.rev)
		delete(s.gens, r.ino)
	}
	n, ok, verr := s.inodeLocked(r.ino)
	s.view.Unlock()
	if !waiting && r.nodeID != "" {
		// It is in the trash already.
		var node drive.Node
		if node, err = s.remote.Restore(ctx, r.nodeID); err == nil {
			err = host{s}.Foreign(node)
		}
	}
	if err = errors.Join(err, verr); err != nil {
		s.log.Error("what a refused rename was to replace stays in the drive's trash", "node", r.nodeID, "err", err)
		s.events.add("trash", "", "what a refused rename was to replace is in the drive's trash: "+r.nodeID)
		return
	}
	if waiting && ok {
		s.emit([]Effect{{Ino: r.ino, Folder: n.folder, New: n.dentries(), Attr: true}})
	}
}

// closeBeforeReplace puts a new file that was never closed into the journal
// before it takes the place of another: what it replaces may be closed content
// that nothing else has.
func (s *Store) closeBeforeReplace(odir uint64, oname string, ndir uint64, nname string) error {
	s.view.RLock()
	src, err := s.presentLocked(odir, oname)
	var dst inode
	taken := false
	if err == nil {
		dst, _, taken, err = s.lookupLocked(ndir, nname)
	}
	s.view.RUnlock()
	if err != nil || !taken || dst.ino == src.ino || src.folder || !src.fresh {
		return nil // rename tells
	}
	if f := s.open.pinned(src.ino); f != nil {
		return f.commit()
	}
	return nil
}

// replaceable lists a folder that a rename is about to replace, so that
// "empty" means empty.
func (s *Store) replaceable(ctx context.Context, dir uint64, name string) error {
	s.view.RLock()
	n, _, ok, err := s.lookupLocked(dir, name)
	s.view.RUnlock()
	if err != nil || !ok || !n.folder {
		return err
	}
	return s.listed(ctx, n.ino)
}

// rename makes the wishes; clean tells that the source is surely not on the
// drive nor on its way. A nil entry means there is nothing to do.
func (s *Store) rename(odir uint64, oname string, ndir uint64, driveName, shown string, noReplace, clean bool) (wish *journal.Entry, gone *replaced, effects []Effect, err error) {
	s.view.Lock()
	defer s.view.Unlock()
	src, err := s.presentLocked(odir, oname)
	if err != nil {
		return nil, nil, nil, err
	}
	nd, ok, err := s.inodeLocked(ndir)
	switch {
	case err != nil:
		return nil, nil, nil, err
	case !ok:
		return nil, nil, nil, ErrNotExist
	case !nd.folder:
		return nil, nil, nil, ErrNotDir
	}
	if src.folder {
		if in, err := s.reachesLocked(ndir, src.ino); err != nil || in {
			return nil, nil, nil, errors.Join(ErrInvalid, err)
		}
	}
	dst, dstExact, taken, err := s.lookupLocked(ndir, shown)
	if err != nil {
		return nil, nil, nil, err
	}
	self := taken && dst.ino == src.ino
	switch {
	case self && (odir != ndir || src.shown == shown):
		return nil, nil, nil, nil // two names of one node, or no change: rename(2) does nothing
	case taken && !self && noReplace, taken && !self && s.o.NamesExact && !dstExact:
		return nil, nil, nil, ErrExist
	case taken && !self && src.folder && !dst.folder:
		return nil, nil, nil, ErrNotDir
	case taken && !self && !src.folder && dst.folder:
		return nil, nil, nil, ErrIsDir
	}
	e, err := s.wishLocked(src.ino)
	if err != nil {
		return nil, nil, nil, err
	}
	puts := []*journal.Entry{}
	var dstBefore *journal.Entry
	if taken && !self {
		if dst.folder {
			if err := s.emptyLocked(dst.ino); err != nil {
				return nil, nil, nil, err
			}
		}
		dstBefore, _ = s.journal.Clone(dst.ino)
		handed, more, err := s.replaceLocked(e, &src, &dst, ndir, clean)
		if err != nil {
			return nil, nil, nil, err
		}
		puts = append(puts, handed)
		effects = append(effects, more...)
	}
	before := src.dentries()
	e.Place.Parents = movedParents(src.parents, odir, ndir)
	if taken && !self && src.fresh && e.NodeID != "" {
		e.Place.Parents = slices.Clone(dst.parents) // the node was handed over with all its folders
	}
	if shown == src.shown {
		// A move alone: what Linux cannot show of the name stays as it is.
		driveName = src.name
	}
	e.Place.Name, e.Place.Shown = driveName, shown
	s.settleLater(e)
	if e.NodeID != "" && e.Draft == nil && !temporary(shown) {
		e.Due = time.Now()
	}
	puts = append(puts, e)
	if err := s.putLocked(puts...); err != nil {
		if src.fresh && e.NodeID != "" {
			err = s.takeBack(e.NodeID, dst.ino, err)
		}
		return nil, nil, nil, err
	}
	if taken && !self && puts[0].Removed {
		gone = &replaced{dst.ino, puts[0].NodeID, puts[0].Rev, dstBefore}
		if f := s.open.get(dst.ino, dst.gen); f != nil {
			f.gone.Store(true)
		}
	}
	if !src.folder {
		s.rememberLocked(src.ino, Dentry{odir, src.shown})
	}
	if f := s.open.pinned(src.ino); f != nil {
		p := e.Place
		f.place.Store(&p)
	}
	if len(before) > 1 {
		// The name is common to all parents (API §5.7).
		var old, now []Dentry
		for _, d := range before {
			if d.Dir != odir {
				old = append(old, d)
				now = append(now, Dentry{d.Dir, shown})
			}
		}
		effects = append(effects, Effect{Ino: src.ino, Folder: src.folder, Old: old, New: now, Attr: true})
	}
	return e, gone, effects, nil
}

// movedParents is parents with from replaced by to.
func movedParents(parents []uint64, from, to uint64) []uint64 {
	out := make([]uint64, 0, len(parents))
	for _, p := range parents {
		if p == from {
			p = to
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// replaceLocked makes room for e at dst's name. When e's content never was on
// the drive and dst is a node there, the node passes to e: its content will
// be overwritten, its id and other parents survive. Else dst goes to the
// trash. The returned entry is dst's, to be Put with e.
func (s *Store) replaceLocked(e *journal.Entry, src, dst *inode, ndir uint64, clean bool) (*journal.Entry, []Effect, error) {
	d, err := s.wishLocked(dst.ino)
	if err != nil {
		return nil, nil, err
	}
	if clean && !src.folder && e.NodeID == "" && e.Sent == nil && d.NodeID != "" {
		if err := s.handOver(d, e); err != nil {
			return nil, nil, err
		}
		var effects []Effect
		for _, p := range dst.parents {
			if p != ndir {
				ds := []Dentry{{p, dst.shown}}
				effects = append(effects, Effect{Ino: dst.ino, Old: ds}, Effect{Ino: e.Ino, New: ds})
			}
		}
		return d, effects, nil
	}
	if len(dst.parents) > 1 {
		d.Place.Parents = slices.DeleteFunc(slices.Clone(dst.parents), func(p uint64) bool { return p == ndir })
		d.Due = time.Now()
		return d, nil, nil
	}
	d.Removed, d.Open = true, false
	d.Due = time.Now() // its name is wanted
	d.Failed, d.Attempts, d.RetryAt = "", 0, time.Time{}
	return d, nil, nil
}

// RenameExact renames a node in place, also to another spelling of its own
// name; unlike Rename it takes the shown spelling only. It is what `drivefs
// rename` does.
func (s *Store) RenameExact(ctx context.Context, dir uint64, oldName, newName string) error {
	e, _, err := s.Lookup(ctx, dir, oldName)
	if err != nil {
		return err
	}
	if err := s.Rename(ctx, dir, e.Name, dir, newName, true); err != nil {
		return err
	}
	// The kernel did not make this call: it has to be told.
	s.emit([]Effect{{Ino: e.Ino, Folder: e.Folder, Old: []Dentry{{dir, e.Name}}, New: []Dentry{{dir, newName}}, Attr: true}})
	return nil
}
