package cache

import (
	"slices"

	"github.com/drivefs/drivefs/cache/journal"
)

// A wish names its folders by inode, and it is the mirror that knows which
// nodes these are. So that a wish finds its folders also when the mirror is
// lost, the journal keeps the ids beside the numbers; at the next start they
// are bound to each other again before anybody else gets the number or the id.

// foldersLocked are the folders of e as far as they have a node.
func (s *Store) foldersLocked(e *journal.Entry) ([]journal.FolderID, error) {
	if e.Removed {
		return nil, nil
	}
	var ids []journal.FolderID
	for _, dir := range e.Place.Parents {
		if dir == s.mirror.Root().Ino {
			continue
		}
		id := ""
		if !s.journal.Peek(dir, func(d *journal.Entry) { id = d.NodeID }) {
			r, ok, err := s.mirror.Get(dir)
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

// notePart is how many wishes are told of their folder's node at a time.
const notePart = 100

// noteFolder tells the wishes in a folder made here which node it has become.
// It returns at once.
func (s *Store) noteFolder(dir uint64, id string) {
	is := journal.FolderID{Ino: dir, ID: id}
	s.background.Go(func() {
		for s.life.Err() == nil {
			var lack []uint64
			s.view.RLock()
			s.journal.Children(dir, func(e *journal.Entry) bool {
				if !slices.Contains(e.Folders, is) {
					lack = append(lack, e.Ino)
				}
				return len(lack) < notePart
			})
			for _, ino := range lack {
				err := s.journal.Update(ino, func(e *journal.Entry) bool {
					e.Folders = append(e.Folders, is)
					return true
				})
				if err != nil {
					s.view.RUnlock()
					s.log.Warn("noting the folder of a wish", "inode", ino, "err", err)
					return
				}
			}
			s.view.RUnlock()
			if len(lack) < notePart {
				return
			}
		}
	})
}

// bindWish brings the mirror's identities in step with a wish: its node belongs
// to its inode, and its folders to theirs. A mirror that was begun anew knows
// neither and is told in advance.
func (s *Store) bindWish(e *journal.Entry) error {
	ids := slices.Clone(e.Folders)
	if e.NodeID != "" {
		ids = append(ids, journal.FolderID{Ino: e.Ino, ID: e.NodeID})
	}
	for _, f := range ids {
		if have, ok := s.mirror.Ino(f.ID); ok && have == f.Ino {
			continue
		}
		if f.Ino != e.Ino {
			// Another wish may have it, or another node by now.
			if _, wished := s.journal.Clone(f.Ino); wished {
				continue
			}
			if _, taken, err := s.mirror.Get(f.Ino); err != nil || taken {
				return err
			}
		}
		if _, err := s.mirror.Rebind(f.ID, f.Ino); err != nil {
			return err
		}
	}
	return nil
}

// folderToCome is the node of a folder that a mirror begun anew has not been
// told of yet, by what the wishes in it say; "" when none says it, or once
// all has been told.
func (s *Store) folderToCome(dir uint64) (id string) {
	if s.mirror.Complete() {
		return ""
	}
	s.journal.Children(dir, func(e *journal.Entry) bool {
		for _, f := range e.Folders {
			if f.Ino == dir {
				id = f.ID
			}
		}
		return id == ""
	})
	if ino, ok := s.mirror.Ino(id); !ok || ino != dir {
		return ""
	}
	return id
}
