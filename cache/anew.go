package cache

import (
	"context"
	"slices"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// The third way to replace a file, beside those of save.go: install, git, tar
// and cp --remove-destination remove it and make a new one in its place. When
// one thread does both, and makes the new one with O_EXCL as these do, the node
// stays the document's. Who removes a file, and then somebody makes another one
// of that name, has the old one in the trash.

// callerKey is the key of a context's CalledBy.
type callerKey struct{}

// CalledBy says which thread asks for Unlink, or for Create with O_EXCL of its
// own; 0 = unknown.
func CalledBy(ctx context.Context, thread uint32) context.Context {
	return context.WithValue(ctx, callerKey{}, thread)
}

func callerOf(ctx context.Context) uint32 {
	thread, _ := ctx.Value(callerKey{}).(uint32)
	return thread
}

// anew is what is known of such replacements under way. Guarded by Store.view.
type anew struct {
	removed map[Dentry]removedBy // by place, the name folded
	heirs   map[uint64]uint64    // new file → the removed one, until it is closed
	since   time.Time            // of the first that was handed over of late
	handed  int
}

type removedBy struct {
	ino    uint64
	thread uint32
	at     time.Time
}

// Handing a node over costs a synced write: what replaces many files at a time,
// as the checkout of another branch does, is not slowed down for it.
const (
	anewMost = 32
	anewPer  = 5 * time.Second
)

// noteRemovedLocked notes that a thread removed n, its only name.
func (s *Store) noteRemovedLocked(n *inode, thread uint32) {
	if thread == 0 || n.fresh || n.folder || len(n.parents) != 1 || s.open.get(n.ino, n.gen) != nil {
		return // who has it open reads on in it
	}
	a := &s.anew
	if a.removed == nil || len(a.removed) >= 256 {
		a.removed = map[Dentry]removedBy{}
	}
	a.removed[Dentry{n.parents[0], mirror.Fold(n.shown)}] = removedBy{n.ino, thread, time.Now()}
}

// noteMadeLocked notes that a thread made the file ino.
func (s *Store) noteMadeLocked(ino, dir uint64, shown string, thread uint32) {
	a := &s.anew
	at := Dentry{dir, mirror.Fold(shown)}
	r, ok := a.removed[at]
	if !ok {
		return
	}
	delete(a.removed, at)
	if r.thread != thread || time.Since(r.at) > movedFor {
		return
	}
	if a.heirs == nil || len(a.heirs) >= 256 {
		a.heirs = map[uint64]uint64{}
	}
	a.heirs[ino] = r.ino
}

// madeAnew is called when a file was closed: where it replaces one that the
// same thread removed, and the drive has heard of neither, it gets the node of
// that. It is best effort: else the old one goes to the trash.
func (s *Store) madeAnew(ino uint64) {
	s.view.RLock()
	old, ok := s.anew.heirs[ino]
	if ok {
		a := &s.anew
		ok = s.mayHandOverLocked(ino, old) && (a.handed < anewMost || time.Since(a.since) > anewPer)
	}
	s.view.RUnlock()
	if old == 0 {
		return
	}
	ok = ok && s.settler.Interrupt(ino) && s.settler.Hold(old)
	s.view.Lock()
	defer s.view.Unlock()
	delete(s.anew.heirs, ino)
	if !ok || !s.mayHandOverLocked(ino, old) {
		return
	}
	a := &s.anew
	if time.Since(a.since) > anewPer {
		a.since, a.handed = time.Now(), 0
	}
	if a.handed++; a.handed > anewMost {
		return
	}
	e, _ := s.journal.Clone(ino)
	d, _ := s.journal.Clone(old)
	id := d.NodeID
	err := s.handOver(d, e)
	if err == nil {
		if err = s.putLocked(d, e); err != nil {
			err = s.takeBack(id, old, err)
		}
	}
	if err != nil {
		s.log.Warn("a file that was made anew could not get the node of the one before", "inode", ino, "err", err)
	}
}

// mayHandOverLocked tells whether the removed file's node can still be the
// new file's.
func (s *Store) mayHandOverLocked(ino, old uint64) bool {
	e, ok := s.journal.Clone(ino)
	if !ok || e.Folder || e.Removed || e.Open || e.Draft == nil || e.NodeID != "" || e.Sent != nil {
		return false
	}
	d, ok := s.journal.Clone(old)
	return ok && d.Removed && !d.Folder && d.NodeID != "" && d.Base != nil && !d.Base.Doubted() && d.Sent == nil &&
		samePlace(&d.Place, &e.Place)
}

func samePlace(a, b *journal.Place) bool {
	return slices.Equal(a.Parents, b.Parents) && mirror.Fold(a.Shown) == mirror.Fold(b.Shown)
}
