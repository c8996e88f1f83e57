package cache

import (
	"context"
	"sync"
	"time"
)

// nameBound is how long a name is asked for before its folder is listed.
const nameBound = time.Second

// namesAsked bounds the names asked for one by one in a folder: who wants more
// of it is better served by its listing.
const namesAsked = 4

// byName counts the names asked for while the first sync lasts.
type byName struct {
	mu sync.Mutex
	n  map[uint64]int
}

// may reports whether another name of dir may be asked for by itself.
func (b *byName) may(dir uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n == nil || len(b.n) >= 1<<14 {
		b.n = map[uint64]int{}
	}
	b.n[dir]++
	return b.n[dir] <= namesAsked
}

// askName asks the drive for one name of a folder that is not known completely,
// so that a path costs a call for each of its names and not the listings of large
// folders. What it does not find, a listing may: the drive's answer may lag, and
// a name may be shown otherwise than the drive has it.
func (s *Store) askName(ctx context.Context, dir uint64, name string) {
	if !s.byName.may(dir) {
		return
	}
	r, ok, err := s.mirror.Get(dir)
	if err != nil || !ok || !r.Folder {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, nameBound)
	defer cancel()
	nodes, err := s.remote.Find(ctx, r.ID, name)
	if err != nil || len(nodes) == 0 {
		return // the listing tells why
	}
	cs, err := s.mirror.Listing(dir, nodes, false)
	if err != nil {
		s.log.Debug("a node found by its name", "inode", dir, "err", err)
		return
	}
	s.changed(cs)
}
