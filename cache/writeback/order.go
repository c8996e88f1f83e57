package writeback

import (
	"slices"
	"time"

	"github.com/drivefs/drivefs/cache/tree"
)

// patience bounds how long a removal waits for further removals, in settling
// times.
const patience = 20

// dueAt is when the item may be worked on; zero = at once.
func (q *queue) dueAt(it *item, now time.Time) time.Time {
	at := time.Time{}
	hasty := it.haste != 0 && it.haste == it.rev
	if !hasty && !q.flushing(it.ino) {
		at = it.due
		if it.removed && it.node != "" && at.Before(q.lastRemoval) && !at.IsZero() {
			// As long as something is being removed, the folder this one is
			// in may be next, and will then be trashed as a whole.
			at = q.lastRemoval
			if limit := it.due.Add(patience * q.s.o.UploadDelay); limit.Before(at) {
				at = limit
			}
		}
	}
	if !hasty && it.retry.After(at) {
		at = it.retry
	}
	return at
}

// settlePlace decides what an item that nobody works on waits for.
func (q *queue) settlePlace(it *item) {
	now := time.Now()
	it.detour = false // an answer to a circle that may be gone
	if q.placeStream(it, now) {
		return
	}
	if it.open && !it.removed && !q.wantsPlace(it) {
		q.parkOpen(it)
		return
	}
	if at := q.dueAt(it, now); at.After(now) {
		q.schedule(it, at)
		q.settles(it, at)
		return
	}
	if on, slot := q.blocker(it); on != 0 {
		q.blockOrDetour(it, on, slot, false)
		return
	}
	q.enqueue(it)
}

// wantsPlace tells whether the node of it belongs elsewhere.
func (q *queue) wantsPlace(it *item) bool {
	return it.node != "" && (it.name != it.place.Name || q.moves(it))
}

// parkOpen lets content wait for its close, which a flush is as little about as
// what waits for it.
func (q *queue) parkOpen(it *item) {
	q.park(it)
	q.settled(it.ino, nil)
	for dep := range q.deps[it.ino] {
		q.settled(dep.ino, nil)
	}
}

// blocker finds an entry that must be worked on before this one, 0 = none;
// slot tells that it holds the name this one wants.
func (q *queue) blocker(it *item) (on uint64, slot bool) {
	if it.removed {
		if p := q.cover(it); p != nil {
			return p.ino, false
		}
		if it.folder && it.node != "" {
			return q.inside(it, 0), false
		}
		return q.heir(it), false
	}
	ids, wait, gone, err := resolve(q.s.tree, it.place.Parents, it.home)
	if err != nil {
		return 0, false // the worker meets it too, and says so
	}
	if wait != 0 {
		if q.items[wait] == nil {
			q.look(wait)
		}
		if q.items[wait] != nil {
			return wait, false
		}
	}
	if wait != 0 || gone != 0 {
		return 0, false // the worker gives it another place, or tries again
	}
	moves := !sameSet(ids, it.home)
	if it.node != "" && !moves && it.name == it.place.Name {
		return 0, false
	}
	if it.folder && it.node != "" && moves && q.mover != nil && q.mover != it {
		return q.mover.ino, false // two at once could put each inside the other
	}
	for _, id := range ids {
		if h := q.inTheWay(it.ino, it.node, id, it.place.Name); h != nil {
			return h.ino, true
		}
	}
	return 0, false
}

// heir is the new file that takes over the node of a removed one: it has to be
// settled first.
func (q *queue) heir(it *item) uint64 {
	if it.node == "" || it.folder {
		return 0
	}
	ino := q.s.tree.Heir(it.ino)
	if ino != 0 && q.items[ino] == nil {
		q.look(ino)
	}
	if q.items[ino] == nil {
		return 0
	}
	return ino
}

// cover is the removed folder whose trashing takes this removed node along.
// A node with several parents is trashed by itself: what the trashing of one
// of its folders means for it is not known. One whose place is in doubt is
// looked for first.
func (q *queue) cover(it *item) *item {
	if it.node == "" || len(it.home) != 1 || it.doubt {
		return nil
	}
	if p := q.byNode[it.home[0]]; p != nil && p != it && p.removed {
		return p
	}
	return nil
}

// inside finds what must leave a removed folder before it can be trashed.
func (q *queue) inside(folder *item, depth int) uint64 {
	if depth > 512 {
		return 0
	}
	for c := range q.under[folder.node] {
		switch {
		case c == folder:
		case c.task != nil, c.node == "", c.removed && c.doubt:
			return c.ino
		case c.removed && len(c.home) > 1:
			return c.ino
		case c.removed:
			if c.folder {
				if on := q.inside(c, depth+1); on != 0 {
					return on
				}
			}
		case q.leaves(c, folder.node, ""):
			return c.ino
		}
	}
	return 0
}

// covered lists the removed entries that go with the folder.
func (q *queue) covered(folder *item) (inos []uint64) {
	for c := range q.under[folder.node] {
		if c != folder && c.removed && c.node != "" && len(c.home) == 1 {
			inos = append(inos, c.ino)
			if c.folder {
				inos = append(inos, q.covered(c)...)
			}
		}
	}
	return inos
}

// inTheWay finds the entry whose node holds a name and is to leave it.
func (q *queue) inTheWay(ino uint64, node, parent, name string) *item {
	for u := range q.unborn[slotOf(parent, name)] {
		// What became of its POST must be known first, or this one would take
		// the other's node for its own.
		if u.ino != ino && u.node == "" {
			return u
		}
	}
	holder, id, err := q.s.tree.Holder(parent, name)
	if err != nil || holder == 0 || holder == ino || id == node {
		return nil
	}
	if h := q.byNode[id]; h != nil && h.ino != ino && q.leaves(h, parent, name) {
		if h.task == nil && h.removed && q.s.tree.Heir(h.ino) == ino {
			return nil // it gives its node to this one
		}
		return h
	}
	return nil
}

// leaves reports whether the entry wants its node out of the folder, or with
// a name, away from that name there.
func (q *queue) leaves(it *item, parent, name string) bool {
	out, err := leaves(q.s.tree, it.removed, &it.place, it.home, parent, name)
	return err == nil && out
}

// moves reports whether the entry wants other parents than its node has.
func (q *queue) moves(it *item) bool {
	ids, wait, gone, err := resolve(q.s.tree, it.place.Parents, it.home)
	return err != nil || wait != 0 || gone != 0 || !sameSet(ids, it.home)
}

// resolve gives the node ids of parents. One that the node has already (home)
// needs no node that is known to be live. wait or gone is a folder for which
// there is none; then the ids are not complete.
func resolve(t *tree.Tree, parents []uint64, home []string) (ids []string, wait, gone uint64, err error) {
	for _, p := range parents {
		id := ""
		for _, have := range home {
			ino, err := t.InoOf(have)
			if err != nil {
				return nil, 0, 0, err
			}
			if ino == p {
				id = have
				break
			}
		}
		if id == "" {
			var st tree.FolderState
			if id, st, err = t.FolderID(p); err != nil {
				return nil, 0, 0, err
			}
			switch st {
			case tree.Waiting:
				wait = p
				continue
			case tree.Gone:
				gone = p
				continue
			}
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, wait, gone, nil
}

func sameSet(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.Contains(b, x) {
			return false
		}
	}
	return true
}

// blockOrDetour lets the item wait for another. When that waits for this one
// in turn, somebody in the circle who wants a name takes a temporary one. told
// tells that a worker found out what it has to wait for.
func (q *queue) blockOrDetour(it *item, on uint64, slot, told bool) {
	q.block(it, on, slot, told)
	last := q.items[on]
	if slot && last != nil && last.state == timed && last.haste != last.rev && !last.retry.After(time.Now()) {
		// What only settles need not, when somebody is waiting for its name.
		last.haste = last.rev
		q.settlePlace(last)
	}
	var wants *item
	if slot {
		wants = it
	}
	for n := 0; last != nil && last != it && last.state == blocked && n <= len(q.items); n++ {
		if last.slot {
			wants = last
		}
		last = q.items[last.on]
	}
	switch {
	case last == nil:
	case last != it:
		if last.open && last.state == parked {
			q.settled(it.ino, nil) // as little meant by a flush as the file it waits for
		}
		if last.err != nil && last.final && last.state == timed {
			q.settled(it.ino, last.err)
		}
		if q.heldBack(last) {
			q.settled(it.ino, ErrPaused)
		}
	case wants != nil:
		wants.detour = true
		q.enqueue(wants)
	default:
		q.openCircle(it)
	}
}

// openCircle is for a circle in which nobody wants a name. What a worker saw
// somebody wait for may want something else by now, and need not be waited
// for any more: who was told so tries again.
func (q *queue) openCircle(it *item) {
	out, wait := it, q.s.slow()
	for range q.items {
		if out.told {
			wait = q.s.after(1)
			break
		}
		if out = q.items[out.on]; out == it {
			q.s.log.Error("entries wait for each other", "ino", it.ino, "on", it.on)
			break
		}
	}
	out.retry = time.Now().Add(wait)
	q.schedule(out, out.retry)
}

// metInCircle reports whether the name that it ran into is held by one that
// ran into another's, and so on back to it.
func (q *queue) metInCircle(it *item) bool {
	for next, n := q.items[it.met], 0; next != nil && next.met != 0 && n <= len(q.items); n++ {
		if next.met == it.ino {
			return true
		}
		next = q.items[next.met]
	}
	return false
}
