package cache

import (
	"errors"
	"maps"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// How editors save: they write a temporary file and rename it over the
// document, or move the document to a backup name, write a new one and remove
// the backup. Either way the document shall stay the same node of the drive,
// and nothing shall get into the trash that nobody put there.

// handOver gives the node of d to e; d's inode ends, and what it had in
// properties with it.
func (s *Store) handOver(d, e *journal.Entry) error {
	id := d.NodeID
	stale := s.propsLocked(d.Ino, nil)
	maps.Copy(stale, d.Props) // some of them may be on the drive already
	for key := range stale {
		if _, own := e.Props[key]; !own {
			e.Props = withProp(e.Props, key, "")
		}
	}
	// What was sent last to the node may still arrive there.
	e.NodeID, e.Base, e.Sent = id, d.Base, d.Sent
	d.NodeID, d.Base, d.Sent, d.Removed, d.Open, d.Draft = "", nil, nil, true, false, nil
	d.Due = time.Now()
	if f := s.open.pinned(e.Ino); f != nil {
		// The draft is whole; what it overwrites is what dst stood for.
		f.base = *e.Base
	}
	_, err := s.mirror.Rebind(id, e.Ino)
	return err
}

// takeBack gives a node back to the inode it was handed over from, since the
// journal could not take the wish.
func (s *Store) takeBack(id string, ino uint64, cause error) error {
	_, err := s.mirror.Rebind(id, ino)
	return errors.Join(cause, err)
}

// saveByRename prepares an editor's save (write a temporary file, rename it
// over the document): when the source was never sent, an upload of it that
// may have begun is stopped, so that the document's node can take its
// content. It tells whether the drive has nothing of the source.
func (s *Store) saveByRename(odir uint64, oname string, ndir uint64, nname string) bool {
	s.view.RLock()
	src, err := s.presentLocked(odir, oname)
	var dst inode
	taken := false
	if err == nil {
		dst, _, taken, err = s.lookupLocked(ndir, nname)
	}
	s.view.RUnlock()
	if err != nil || !taken || src.folder || dst.folder || dst.ino == src.ino || !src.fresh || dst.fresh {
		return false
	}
	// Nothing may be in flight for the document either: its answer would be
	// taken for the inode that the node is about to leave.
	return s.settler.Interrupt(src.ino) && s.settler.Hold(dst.ino)
}

// saveByBackup recognises the other way to save (move the document to a
// backup name, write a new one, remove the backup): when the backup is
// removed and the new file was not sent yet, the document's node goes back to
// the new file instead of into the trash. done: that was the removal.
func (s *Store) saveByBackup(dir uint64, name string) (done bool, err error) {
	s.view.RLock()
	var heir, backup uint64
	if n, err := s.presentLocked(dir, name); err == nil {
		if e := s.heirLocked(&n); e != nil {
			heir, backup = e.Ino, n.ino
		}
	}
	s.view.RUnlock()
	if heir == 0 || !s.settler.Interrupt(heir) || !s.settler.Hold(backup) {
		return false, nil
	}
	s.view.Lock()
	defer s.view.Unlock()
	n, err := s.presentLocked(dir, name)
	if err != nil {
		return false, err
	}
	h := s.heirLocked(&n)
	if h == nil || h.Ino != heir || n.ino != backup {
		return false, nil
	}
	d, err := s.wishLocked(n.ino)
	if err != nil {
		return false, err
	}
	if err := s.handOver(d, h); err != nil {
		return false, err
	}
	if err := s.putLocked(d, h); err != nil {
		return false, s.takeBack(h.NodeID, d.Ino, err)
	}
	if f := s.open.get(n.ino, n.gen); f != nil {
		f.gone.Store(true)
	}
	return true, nil
}

// heirLocked is the wish for a new file at the place that n was moved away
// from a moment ago.
func (s *Store) heirLocked(n *inode) *journal.Entry {
	if n.folder || n.fresh || len(n.parents) != 1 {
		return nil
	}
	from, ok := s.moved[n.ino]
	if !ok || time.Since(from.at) > movedFor {
		return nil
	}
	heir, ok := s.journal.Child(from.Dir, mirror.Fold(from.Name))
	if !ok || heir.Folder || heir.Open || heir.NodeID != "" || heir.Sent != nil {
		return nil // a new file that was never closed is gone after a crash, and could not be the backup's end
	}
	return heir.Clone()
}

// movedFor is how long a moved file is remembered as what an editor may have
// put aside before a save.
const movedFor = time.Minute

// movedFrom is where a file was before its last rename.
type movedFrom struct {
	Dentry
	at time.Time
}

// rememberLocked notes that ino was moved away from a place.
func (s *Store) rememberLocked(ino uint64, from Dentry) {
	if len(s.moved) >= 1024 {
		for k, m := range s.moved {
			if time.Since(m.at) > movedFor {
				delete(s.moved, k)
			}
		}
		if len(s.moved) >= 1024 {
			clear(s.moved)
		}
	}
	s.moved[ino] = movedFrom{from, time.Now()}
}
