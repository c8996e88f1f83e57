package cache

import (
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// Between the moment the service makes a node for us and the moment we know
// it (the answer is on its way, was lost, or the call was cut by a crash) the
// feed or a listing may tell of the node: it would show as somebody else's
// file, under a name that was removed or changed here meanwhile. The wish
// says what was sent where, so such an echo is recognised and not shown.

// sentTo is where a call that makes a node puts it.
type sentTo struct{ parentID, folded string }

// echoes knows the calls whose node is not known yet; guarded by Store.view.
type echoes struct {
	at map[sentTo]uint64 // → the inode the node is made for
	of map[uint64]sentTo
}

// noteSentLocked keeps the echoes in step with an entry of the journal.
func (s *Store) noteSentLocked(e *journal.Entry) {
	var to sentTo
	if e.NodeID == "" && e.Sent != nil {
		to = sentTo{e.Sent.ParentID, mirror.Fold(e.Sent.Name)}
	}
	was, had := s.echoes.of[e.Ino]
	if had && was == to {
		return
	}
	s.forgetSentLocked(e.Ino)
	if to == (sentTo{}) {
		return
	}
	if s.echoes.at == nil {
		s.echoes.at, s.echoes.of = map[sentTo]uint64{}, map[uint64]sentTo{}
	}
	s.echoes.at[to], s.echoes.of[e.Ino] = e.Ino, to
}

func (s *Store) forgetSentLocked(ino uint64) {
	to, had := s.echoes.of[ino]
	if !had {
		return
	}
	delete(s.echoes.of, ino)
	if s.echoes.at[to] == ino {
		delete(s.echoes.at, to)
	}
}

// sentIntoLocked is the node id of dir if some call is making a node in it
// or elsewhere, else "". It must not be asked for within a mirror.List.
func (s *Store) sentIntoLocked(dir uint64) string {
	if len(s.echoes.at) == 0 {
		return ""
	}
	d, _, err := s.mirror.Get(dir)
	if err != nil {
		return ""
	}
	return d.ID
}

// echoLocked tells whether a record in the folder dirID is the echo of a call
// of ours. dirID is from sentIntoLocked.
func (s *Store) echoLocked(r *mirror.Record, dirID string) (echo bool) {
	if dirID == "" {
		return false
	}
	ino, sent := s.echoes.at[sentTo{dirID, mirror.Fold(r.Name)}]
	if !sent || ino == r.Ino {
		return false
	}
	owner := s.owner()
	s.journal.Peek(ino, func(e *journal.Entry) {
		echo = e.Sent != nil && e.Folder == r.Folder && (owner == "" || owner == r.CreatedBy) &&
			(e.Folder || e.Sent.MD5 == "" || e.Sent.MD5 == r.MD5 || r.Size < e.Sent.Size)
	})
	return echo
}

// unechoedLocked is what comes into view when the wish of ino does not wait for a
// node at that place any more, and one is there that is not ours.
func (s *Store) unechoedLocked(ino uint64, to sentTo) []Effect {
	if to == (sentTo{}) || s.echoes.of[ino] == to {
		return nil
	}
	dir, ok := s.mirror.Ino(to.parentID)
	if !ok {
		return nil
	}
	r, ok, err := s.mirror.ByName(dir, to.folded)
	if err != nil || !ok || r.Ino == ino || s.journal.Peek(r.Ino, func(*journal.Entry) {}) {
		return nil
	}
	n := fromRecord(&r)
	return []Effect{{Ino: r.Ino, Folder: r.Folder, New: n.dentries()}}
}
