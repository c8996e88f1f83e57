package mirror

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Names. In a folder each folded shown name is a slot. A node claims the slot
// of its plain name (level 0); where an older node holds that, it also claims
// the slot of its name with eight characters of its id (level 1), and so on.
// Of several claims on a slot the one of the lowest level wins, among equals
// that of the oldest node. Who holds what is thus a function of the nodes
// alone, whatever the order in which they came, and the loser gets its plain
// name back when the winner goes, since its claim has waited.
//
// A name too long to be shown whole has no slot that follows from the name
// alone, so that the drive's name gets one of its own (longSlot) for ByName.

// claim is one entry of a slot.
type claim struct {
	ino   Ino
	level uint8
}

// levelMax bounds the climb. To get beyond level 2 somebody must have named a
// file after another one's id.
const levelMax = 15

// claimOp is a claim to be added to a slot or removed from it.
type claimOp struct {
	key []byte
	claim
	del bool
	nth int // in the order of the work
}

// longSlot follows the folder in the key of a drive name's own slot. No shown
// name contains it.
const longSlot = 0

func nameKey(b []byte, dir Ino, shown string) []byte {
	b = binary.BigEndian.AppendUint64(b, dir)
	return appendFold(b, shown)
}

func longKey(b []byte, dir Ino, name string) []byte {
	b = binary.BigEndian.AppendUint64(b, dir)
	b = append(b, longSlot)
	return appendFold(b, name)
}

func isLongKey(k []byte) bool { return len(k) > 8 && k[8] == longSlot }

// claim notes that e wants its plain name in dir, and the drive's name too where
// that has a slot of its own.
func (w *wtx) claim(e *entry, dir Ino) { w.note(e, dir, 0, false) }

// unclaim notes that e wants no name in dir any more.
func (w *wtx) unclaim(e *entry, dir Ino) error {
	level := w.levelIn(dir, e.Ino)
	for l := uint8(0); l <= level; l++ {
		w.note(e, dir, l, true)
	}
	return w.putLevel(dir, e.Ino, level, 0)
}

func (w *wtx) note(e *entry, dir Ino, level uint8, del bool) {
	w.enc = nameKey(w.enc[:0], dir, shownAt(e.Name, e.ID, level))
	w.claims = append(w.claims, claimOp{key: w.keep(w.enc), claim: claim{e.Ino, level}, del: del, nth: len(w.claims)})
	if level == 0 && isCut(e.Name) {
		w.enc = longKey(w.enc[:0], dir, e.Name)
		w.claims = append(w.claims, claimOp{key: w.keep(w.enc), claim: claim{e.Ino, 0}, del: del, nth: len(w.claims)})
	}
}

// putLevel changes the level of a name.
func (w *wtx) putLevel(dir, ino Ino, from, to uint8) error {
	switch {
	case from == to:
		return nil
	case to == 0:
		return w.level.Delete(key2(nil, dir, ino))
	}
	return w.level.Put(key2(nil, dir, ino), []byte{to})
}

func appendClaims(b []byte, list []claim) []byte {
	for _, c := range list {
		b = binary.AppendUvarint(b, c.ino<<4|uint64(c.level))
	}
	return b
}

func decodeClaims(list []claim, v []byte) ([]claim, error) {
	for len(v) > 0 {
		n, k := binary.Uvarint(v)
		if k <= 0 {
			return list, fmt.Errorf("claims on a name: %w", ErrDamaged)
		}
		list = append(list, claim{n >> 4, uint8(n & 15)})
		v = v[k:]
	}
	return list, nil
}

// firstClaim is the holder of a slot.
func firstClaim(v []byte) (claim, bool) {
	n, k := binary.Uvarint(v)
	return claim{n >> 4, uint8(n & 15)}, k > 0
}

// settle writes the collected claims, sorted, and lets nodes climb and descend
// until each slot has its rightful holder.
func (w *wtx) settle() error {
	slices.SortFunc(w.claims, func(a, b claimOp) int {
		return cmp.Or(bytes.Compare(a.key, b.key), cmp.Compare(a.nth, b.nth))
	})
	free := folderNames{c: w.name.Cursor()}
	var contested [][]byte
	var list []claim
	for i := 0; i < len(w.claims); {
		j := i + 1
		for j < len(w.claims) && bytes.Equal(w.claims[j].key, w.claims[i].key) {
			j++
		}
		ops := w.claims[i:j]
		i = j
		key := ops[0].key
		var old []byte
		if !free.all(key) {
			old = w.name.Get(key)
		}
		var err error
		if list, err = decodeClaims(list[:0], old); err != nil {
			return err
		}
		for _, op := range ops {
			list = applyClaim(list, op)
		}
		if w.enc = appendClaims(w.enc[:0], list); !bytes.Equal(w.enc, old) {
			if err := w.putClaims(key, list); err != nil {
				return err
			}
		}
		// A first claim on a free slot needs no look at anything else. An
		// unchanged slot does: a claim given up and made again starts at level 0.
		if old != nil || len(list) > 1 {
			contested = append(contested, key)
		}
	}
	w.claims = w.claims[:0]
	for n := 0; len(contested) > 0; n++ {
		if n > 1<<22 {
			return fmt.Errorf("names do not come to rest at %q: %w", contested[0], ErrDamaged)
		}
		key := contested[0]
		contested = contested[1:]
		more, err := w.settleSlot(key)
		if err != nil {
			return err
		}
		contested = append(contested, more...)
	}
	return nil
}

// folderNames finds out whether a folder has names at all, once for all that are
// claimed in it.
type folderNames struct {
	c    *bolt.Cursor
	dir  []byte
	none bool
}

func (f *folderNames) all(key []byte) bool {
	if !bytes.Equal(f.dir, key[:8]) {
		f.dir = key[:8]
		k, _ := f.c.Seek(f.dir)
		f.none = !bytes.HasPrefix(k, f.dir)
	}
	return f.none
}

func applyClaim(list []claim, op claimOp) []claim {
	i := slices.Index(list, op.claim)
	switch {
	case op.del && i >= 0:
		return slices.Delete(list, i, i+1)
	case !op.del && i < 0:
		return append(list, op.claim)
	}
	return list
}

func (w *wtx) putClaims(key []byte, list []claim) error {
	if len(list) == 0 {
		return w.name.Delete(key)
	}
	return w.name.Put(key, w.keep(appendClaims(nil, list)))
}

// contender is a claim with what decides about it.
type contender struct {
	claim
	created time.Time
	id      string
}

func contenderOrder(a, b contender) int {
	return cmp.Or(cmp.Compare(a.level, b.level), older(a.created, a.id, b.created, b.id))
}

// settleSlot puts the rightful holder first and makes the others look for
// another name. It returns the slots that were changed by that.
func (w *wtx) settleSlot(key []byte) (more [][]byte, err error) {
	list, err := decodeClaims(nil, w.name.Get(key))
	if err != nil || len(list) == 0 {
		return nil, err
	}
	dir := binary.BigEndian.Uint64(key)
	entries := make(map[Ino]*entry, len(list))
	order := make([]contender, len(list))
	for i, c := range list {
		e := &entry{}
		live, err := w.view.entry(c.ino, e)
		if err != nil {
			return nil, err
		}
		if !live {
			return nil, fmt.Errorf("inode %d claims %q and is not live: %w", c.ino, key[8:], ErrDamaged)
		}
		entries[c.ino] = e
		order[i] = contender{c, e.Created, e.ID}
	}
	slices.SortFunc(order, contenderOrder)
	sorted := make([]claim, len(order))
	for i := range order {
		sorted[i] = order[i].claim
	}
	if !slices.Equal(sorted, list) {
		if err := w.putClaims(key, sorted); err != nil {
			return nil, err
		}
	}
	if isLongKey(key) {
		return nil, nil
	}
	for i, c := range sorted {
		e := entries[c.ino]
		level := w.levelIn(dir, c.ino)
		want := level
		switch {
		case i == 0 && level > c.level:
			want = c.level // the plainer name is free for it
		case i > 0 && level == c.level && level < levelMax:
			want = level + 1
		default:
			continue
		}
		keys, err := w.setLevel(e, dir, level, want)
		if err != nil {
			return nil, err
		}
		more = append(more, keys...)
	}
	return more, nil
}

// setLevel changes the level of e's name in dir and its claims accordingly.
func (w *wtx) setLevel(e *entry, dir Ino, from, to uint8) (changed [][]byte, err error) {
	w.touchLive(e)
	for l := min(from, to) + 1; l <= max(from, to); l++ {
		key := nameKey(nil, dir, shownAt(e.Name, e.ID, l))
		list, err := decodeClaims(nil, w.name.Get(key))
		if err != nil {
			return nil, err
		}
		list = applyClaim(list, claimOp{claim: claim{e.Ino, l}, del: to < from})
		if err := w.putClaims(key, list); err != nil {
			return nil, err
		}
		changed = append(changed, key)
	}
	return changed, w.putLevel(dir, e.Ino, from, to)
}

// holderOf is the oldest of the nodes in dir whose drive name folds as name
// does, among the claims of one slot.
func (v *view) holderOf(key []byte, name string, best *entry, found bool) (bool, error) {
	list, err := decodeClaims(nil, v.names().Get(key))
	if err != nil {
		return false, err
	}
	folded := Fold(name)
	for _, c := range list {
		var e entry
		if c.level != 0 {
			continue
		}
		ok, err := v.entry(c.ino, &e)
		if err != nil {
			return false, err
		}
		if !ok || Fold(e.Name) != folded {
			continue
		}
		if !found || older(e.Created, e.ID, best.Created, best.ID) < 0 {
			*best, found = e, true
		}
	}
	return found, nil
}
