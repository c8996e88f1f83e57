package fs

import (
	"slices"
	"sync"
)

// index finds the nodes of a folder by its inode number, which go-fuse's tree
// cannot. A folder that is reached through several parents has several.
//
// A node is in the index from the first request inside it (keep) until the
// kernel forgets it (drop). The kernel caches something under a folder only
// as the answer to such a request, and keep comes before the request reads
// the Store; so an effect that finds no node here found nothing cached either.
// go-fuse may discard a node it was offered when another one was first; no
// request ever reaches a discarded node, so it never gets here.
type index struct {
	mu     sync.Mutex
	places map[uint64][]*dir // guarded by mu
}

// keep puts d into the index. Cheap when it is there already.
func (x *index) keep(d *dir) {
	if d.kept.Load() {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if d.kept.Load() {
		return
	}
	if x.places == nil {
		x.places = map[uint64][]*dir{}
	}
	x.places[d.ino] = append(x.places[d.ino], d)
	d.kept.Store(true)
}

// drop takes d out once the kernel forgot it. go-fuse may say so late, when a
// lookup has brought the node back meanwhile; then it stays.
func (x *index) drop(d *dir) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !d.kept.Load() || !d.forgotten() {
		return
	}
	d.kept.Store(false)
	left := slices.DeleteFunc(x.places[d.ino], func(o *dir) bool { return o == d })
	if len(left) == 0 {
		delete(x.places, d.ino)
		return
	}
	x.places[d.ino] = left
}

// of gives the nodes of the folder ino; empty when the kernel has cached
// nothing in it.
func (x *index) of(ino uint64) []*dir {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.places[ino])
}

// several tells whether the folder ino is known at more than one place.
func (x *index) several(ino uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.places[ino]) > 1
}

// place numbers the kernel inode of the folder ino that is not reached
// through first parents alone: a stable hash of the place above it and of
// itself, with the top bit set, which no inode number of the Store has.
func place(above, ino uint64) uint64 {
	h := mix(mix(above) ^ ino)
	h |= 1 << 63
	if h == ^uint64(0) {
		// Reserved by go-fuse.
		h--
	}
	return h
}

// mix is the finaliser of splitmix64: a bijection that spreads every bit.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
