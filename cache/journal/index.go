package journal

import (
	"cmp"
	"slices"

	"github.com/drivefs/drivefs/drive"
)

// index is the entries in memory, findable in every way the journal is asked
// for them. Entries in it are never modified, only replaced.
type index struct {
	items   map[uint64]*Entry
	inos    inoSet
	nodes   multimap[string]
	vacated multimap[Vacated] // of the removed ones
	dirs    map[uint64]*dirIndex
	bytes   int64 // that content intents are waiting to send
}

// dirIndex is what is shown in one directory.
type dirIndex struct {
	inos  inoSet
	names multimap[string] // by folded shown name
}

func newIndex() index {
	return index{items: make(map[uint64]*Entry), dirs: make(map[uint64]*dirIndex)}
}

// set replaces the entry of ino; e nil takes it out.
func (x *index) set(ino uint64, e *Entry) {
	if old := x.items[ino]; old != nil {
		x.bytes -= pendingBytes(old)
		x.nodes.remove(old.NodeID, ino, x.items)
		if old.Removed {
			x.vacated.remove(old.Vacated, ino, x.items)
		} else {
			x.unlink(old)
		}
	}
	if e == nil {
		delete(x.items, ino)
		x.inos.remove(ino)
		return
	}
	x.items[ino] = e
	x.inos.add(ino)
	x.bytes += pendingBytes(e)
	if e.NodeID != "" {
		x.nodes.add(e.NodeID, ino, x.items)
	}
	switch {
	case !e.Removed:
		x.link(e)
	case e.Vacated.Dir != 0:
		x.vacated.add(e.Vacated, ino, x.items)
	}
}

func (x *index) link(e *Entry) {
	name := drive.Fold(e.Place.Shown)
	for _, p := range e.Place.Parents {
		d := x.dirs[p]
		if d == nil {
			d = &dirIndex{}
			x.dirs[p] = d
		}
		d.inos.add(e.Ino)
		d.names.add(name, e.Ino, x.items)
	}
}

func (x *index) unlink(e *Entry) {
	name := drive.Fold(e.Place.Shown)
	for _, p := range e.Place.Parents {
		d := x.dirs[p]
		if d == nil {
			continue // the same parent was named twice
		}
		d.inos.remove(e.Ino)
		d.names.remove(name, e.Ino, x.items)
		if d.inos.len() == 0 {
			delete(x.dirs, p)
		}
	}
}

func pendingBytes(e *Entry) int64 {
	if e.Removed || e.Draft == nil {
		return 0
	}
	return e.Draft.Size
}

// multimap maps a key to inode numbers. Nearly always it is one; two happen
// between the steps of a rename. The one whose intent was recorded last is the
// answer, so taking a change back brings the former answer back.
type multimap[K comparable] struct {
	one  map[K]uint64
	more map[K][]uint64 // the others
}

func (m *multimap[K]) get(k K) (uint64, bool) {
	ino, ok := m.one[k]
	return ino, ok
}

// has reports whether ino is filed under k.
func (m *multimap[K]) has(k K, ino uint64) bool {
	one, ok := m.one[k]
	return ok && one == ino || slices.Contains(m.more[k], ino)
}

// add files ino, whose entry is in items, under k.
func (m *multimap[K]) add(k K, ino uint64, items map[uint64]*Entry) {
	if m.one == nil {
		m.one = make(map[K]uint64)
	}
	old, ok := m.one[k]
	if !ok || old == ino {
		m.one[k] = ino
		return
	}
	if items[ino].Order < items[old].Order {
		ino, old = old, ino
	}
	m.one[k] = ino
	if m.more == nil {
		m.more = make(map[K][]uint64)
	}
	if !slices.Contains(m.more[k], old) {
		m.more[k] = append(m.more[k], old)
	}
}

// remove takes ino out from under k; items has the entries of the others.
func (m *multimap[K]) remove(k K, ino uint64, items map[uint64]*Entry) {
	rest := m.more[k]
	switch cur, ok := m.one[k]; {
	case !ok:
		return
	case cur != ino:
		rest = slices.DeleteFunc(rest, func(i uint64) bool { return i == ino })
	case len(rest) > 0:
		last := slices.MaxFunc(rest, func(a, b uint64) int { return cmp.Compare(items[a].Order, items[b].Order) })
		m.one[k] = last
		rest = slices.DeleteFunc(rest, func(i uint64) bool { return i == last })
	default:
		delete(m.one, k)
	}
	if len(rest) > 0 {
		m.more[k] = rest
	} else {
		delete(m.more, k)
	}
}

// inoSet is an ordered set of inode numbers, kept in blocks so that neither
// filling nor emptying a directory of a hundred thousand is quadratic.
type inoSet struct {
	blocks [][]uint64 // none is empty
	n      int
}

const inoBlock = 512

func (s *inoSet) len() int { return s.n }

// block is the index of the block that has ino or would take it.
func (s *inoSet) block(ino uint64) int {
	i, found := slices.BinarySearchFunc(s.blocks, ino, func(b []uint64, ino uint64) int {
		switch {
		case b[0] < ino:
			return -1
		case b[0] > ino:
			return 1
		}
		return 0
	})
	if found || i == 0 {
		return i
	}
	return i - 1
}

func (s *inoSet) add(ino uint64) {
	if len(s.blocks) == 0 {
		s.blocks = [][]uint64{{ino}}
		s.n = 1
		return
	}
	i := s.block(ino)
	b := s.blocks[i]
	at, found := slices.BinarySearch(b, ino)
	if found {
		return
	}
	s.n++
	if len(b) < inoBlock {
		s.blocks[i] = slices.Insert(b, at, ino)
		return
	}
	if at == len(b) { // numbers mostly grow: leave full blocks behind
		s.blocks = slices.Insert(s.blocks, i+1, []uint64{ino})
		return
	}
	right := slices.Clone(b[inoBlock/2:])
	left := b[:inoBlock/2]
	if at <= len(left) {
		left = slices.Insert(left, at, ino)
	} else {
		right = slices.Insert(right, at-len(left), ino)
	}
	s.blocks[i] = left
	s.blocks = slices.Insert(s.blocks, i+1, right)
}

func (s *inoSet) remove(ino uint64) {
	if len(s.blocks) == 0 {
		return
	}
	i := s.block(ino)
	at, found := slices.BinarySearch(s.blocks[i], ino)
	if !found {
		return
	}
	s.n--
	s.blocks[i] = slices.Delete(s.blocks[i], at, at+1)
	if len(s.blocks[i]) == 0 {
		s.blocks = slices.Delete(s.blocks, i, i+1)
	}
}

// after calls fn for each number above ino, in order, until fn says false.
func (s *inoSet) after(ino uint64, fn func(uint64) bool) {
	if len(s.blocks) == 0 {
		return
	}
	for i := s.block(ino); i < len(s.blocks); i++ {
		for _, v := range s.blocks[i] {
			if v > ino && !fn(v) {
				return
			}
		}
	}
}

func (s *inoSet) all() []uint64 {
	out := make([]uint64, 0, s.n)
	for _, b := range s.blocks {
		out = append(out, b...)
	}
	return out
}
