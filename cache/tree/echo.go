package tree

import (
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// Between the moment the service makes a node for us and the moment we know
// it (the answer is on its way, was lost, or the call was cut by a crash) the
// feed or a listing may tell of the node: it would show as somebody else's
// file, under a name that was removed or changed here meanwhile. The entry
// says what was sent where, so such an echo is recognised and not shown.

// sentTo is where a call that makes a node puts it.
type sentTo struct{ parentID, folded string }

// echoes knows the calls whose node is not known yet; guarded by Tree.mu.
type echoes struct {
	at map[sentTo]uint64 // → the inode the node is made for
	of map[uint64]sentTo
}

// note keeps the echoes in step with an entry of the journal.
func (x *echoes) note(e *journal.Entry) {
	var to sentTo
	if e.NodeID == "" && e.Sent != nil {
		to = sentTo{e.Sent.ParentID, mirror.Fold(e.Sent.Name)}
	}
	was, had := x.of[e.Ino]
	if had && was == to {
		return
	}
	x.forget(e.Ino)
	if to == (sentTo{}) {
		return
	}
	if x.at == nil {
		x.at, x.of = map[sentTo]uint64{}, map[uint64]sentTo{}
	}
	x.at[to], x.of[e.Ino] = e.Ino, to
}

func (x *echoes) forget(ino uint64) {
	to, had := x.of[ino]
	if !had {
		return
	}
	delete(x.of, ino)
	if x.at[to] == ino {
		delete(x.at, to)
	}
}

// sentInto is the node id of dir if some call is making a node in it or
// elsewhere, else "". It must not be asked for within a mirror.List.
func (v View) sentInto(dir uint64) string {
	if len(v.t.echoes.at) == 0 {
		return ""
	}
	d, _, err := v.t.mirror.Get(dir)
	if err != nil {
		return ""
	}
	return d.ID
}

// echo tells whether a record in the folder dirID is the echo of a call of
// ours. dirID is from sentInto.
func (v View) echo(r *mirror.Record, dirID string) bool {
	if dirID == "" {
		return false
	}
	ino, sent := v.t.echoes.at[sentTo{dirID, mirror.Fold(r.Name)}]
	if !sent || ino == r.Ino {
		return false
	}
	owner := v.t.o.Owner()
	e, ok := v.t.journal.Get(ino)
	return ok && e.Sent != nil && e.Folder == r.Folder && (owner == "" || owner == r.CreatedBy) &&
		(e.Folder || e.Sent.MD5 == "" || e.Sent.MD5 == r.MD5 || r.Size < e.Sent.Size)
}

// unechoed is what comes into view when the entry of ino does not wait for a
// node at that place any more, and one is there that is not ours.
func (v View) unechoed(ino uint64, was sentTo) []Effect {
	if was == (sentTo{}) || v.t.echoes.of[ino] == was {
		return nil
	}
	dir, ok := v.t.mirror.Ino(was.parentID)
	if !ok {
		return nil
	}
	r, ok, err := v.t.mirror.ByName(dir, was.folded)
	if err != nil || !ok || r.Ino == ino || v.t.journal.Has(r.Ino) {
		return nil
	}
	n := fromRecord(&r)
	return []Effect{{Ino: r.Ino, Folder: r.Folder, New: n.Dentries()}}
}
