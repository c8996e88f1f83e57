package mirror

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// full is a full answer of the feed being taken: the first sync, what the
// service tells after reset:true, a renewal. It is spooled, and merged into the
// file folder by folder when all was told. What lives and was not told is hidden
// then. Numbers, tombstones, Gen and properties stay where they are.
type full struct {
	m       *Mirror
	spool   spool
	reached string // checkpoint of what was told

	// told are the numbers that it told, beside those that others told since
	// shortly before it began, which it may not know yet. Guarded by Mirror.wmu.
	told, beside bits
	resumed      bool // beside is not known
}

// bits is a set of numbers.
type bits []uint64

func (b bits) has(ino Ino) bool { return ino/64 < Ino(len(b)) && b[ino/64]>>(ino%64)&1 != 0 }

func (b *bits) add(ino Ino) {
	if i := int(ino / 64); i >= len(*b) {
		*b = append(*b, make([]uint64, i+1024-len(*b))...)
	}
	(*b)[ino/64] |= 1 << (ino % 64)
}

// Errors of a refresh.
var (
	// ErrRefreshing: there is one already.
	ErrRefreshing = errors.New("everything is being told anew already")
	errDone       = errors.New("the refresh has ended")
	errNothing    = errors.New("of all there is, nothing was told")
)

func spoolPath(path string) string { return path + ".told-" }

// BeginRefresh begins to take everything anew. As long as the first sync is not
// complete, it goes on where one was when the process died: from is the
// checkpoint reached, "" = from the start.
func (m *Mirror) BeginRefresh() (from string, err error) {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	if m.full != nil {
		return "", ErrRefreshing
	}
	f := &full{m: m, spool: spool{path: spoolPath(m.o.Path)}}
	if !m.Complete() {
		f.reached = f.spool.resume()
		f.resumed = f.spool.runs > 0
	}
	if !f.resumed {
		if err := f.spool.drop(); err != nil {
			return "", err
		}
	}
	now := time.Now()
	for ino, at := range m.recent {
		if now.Sub(at) <= recentFor {
			f.beside.add(ino)
		}
	}
	m.full = f
	return f.reached, nil
}

// refreshing is the refresh under way.
func (m *Mirror) refreshing() (*full, error) {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	if m.full == nil {
		return nil, errDone
	}
	return m.full, nil
}

// ApplyRefresh takes one chunk of the full answer. It is called by one
// goroutine, and durable with EndRefresh only.
func (m *Mirror) ApplyRefresh(b drive.Batch) error {
	f, err := m.refreshing()
	if err != nil {
		return err
	}
	for i := range b.Nodes {
		if why := unstorable(&b.Nodes[i]); why != "" {
			m.say([]skipped{{b.Nodes[i].ID, why}})
			continue
		}
		f.spool.add(&b.Nodes[i])
	}
	if b.Checkpoint == "" {
		return nil // a part of a chunk
	}
	if f.reached = b.Checkpoint; f.spool.isFull() {
		return f.spool.flush(f.reached)
	}
	return nil
}

// AbortRefresh drops what was told, if a refresh is under way.
func (m *Mirror) AbortRefresh() error {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	f := m.full
	if f == nil {
		return nil
	}
	m.full = nil
	return f.spool.drop()
}

// closeLocked ends a refresh with the Mirror. A first sync goes on at the next
// start.
func (f *full) closeLocked() error {
	f.m.full = nil
	if !f.m.Complete() {
		return f.spool.flush(f.reached)
	}
	return f.spool.drop()
}

const (
	// mergeFirst and mergeMost are how many nodes are merged at a time: much
	// while nobody knows anything yet, little when others want to write and
	// bbolt would make readers wait (see Apply).
	mergeFirst = 40_000
	mergeMost  = 2000
	// sweepMost is how many inodes are looked at, at a time, for those not told.
	sweepMost = 10_000
)

// EndRefresh: all was told. It is merged, and fn, which may be nil, is given
// what that changed, part by part, with nothing locked. The checkpoint comes last: when it fails or the
// process dies, the service will tell everything again.
func (m *Mirror) EndRefresh(fn func([]Change)) error {
	f, err := m.refreshing()
	if err != nil {
		return err
	}
	if fn == nil {
		fn = func([]Change) {}
	}
	if f.reached == "" && m.Complete() {
		return errors.Join(errNothing, m.AbortRefresh())
	}
	if err := f.merge(fn); err != nil {
		return errors.Join(err, m.AbortRefresh())
	}
	return nil
}

// step is one transaction of the merge.
func (f *full) step(fn func([]Change), do func(*wtx) error) error {
	m := f.m
	m.wmu.Lock()
	changes, err := []Change(nil), errDone
	if m.full == f {
		changes, err = m.writeLocked(sourceRepair, false, func(w *wtx) error {
			w.full = f
			return do(w)
		})
	}
	m.wmu.Unlock()
	if len(changes) > 0 {
		fn(changes)
	}
	return err
}

func (f *full) merge(fn func([]Change)) error {
	first := !f.m.Complete()
	size := mergeMost
	if first {
		size = mergeFirst
	}
	nodes := make([]drive.Node, 0, size)
	put := func() error {
		err := f.step(fn, func(w *wtx) error { return w.apply(nodes) })
		nodes = nodes[:0]
		return err
	}
	err := f.spool.each(func(n *drive.Node) error {
		if nodes = append(nodes, *n); len(nodes) < size {
			return nil
		}
		return put()
	})
	if err == nil {
		err = put()
	}
	if err == nil && !f.resumed {
		err = f.sweep(fn)
	}
	if err != nil {
		return err
	}
	now := time.Now()
	err = f.step(fn, func(w *wtx) error {
		for _, key := range []string{keyRefreshed, keyComplete} {
			if err := w.meta.Put([]byte(key), be(uint64(now.UnixMilli()))); err != nil {
				return err
			}
		}
		return w.putCheckpoint(f.reached)
	})
	if err != nil {
		return err
	}
	m := f.m
	m.wmu.Lock()
	defer m.wmu.Unlock()
	m.confirm(now, f.reached)
	m.state.mu.Lock()
	m.state.complete, m.state.refreshed = true, now
	m.state.mu.Unlock()
	m.full = nil
	return f.spool.drop()
}

// sourceFor says how much the full answer counts for a node, and notes that it
// was told. The first word of it is believed also against a higher version,
// since the service may have begun to count anew, but not against others who
// told the node meanwhile.
func (f *full) sourceFor(ino Ino) source {
	again := f.told.has(ino)
	f.told.add(ino)
	if again || f.beside.has(ino) || f.resumed {
		return sourceFeed
	}
	return sourceRepair
}

// sweep hides what lives and was not told: perhaps it is purged, perhaps it is
// younger than what the full answer knew. Whoever tells of it again is believed.
func (f *full) sweep(fn func([]Change)) error {
	for from := RootIno + 1; from != 0; {
		var untold []Ino
		err := f.m.view(func(v *view) error {
			c := v.inode.Cursor()
			k, val := c.Seek(be(from))
			for n := 0; k != nil && n < sweepMost && len(untold) < mergeMost; n++ {
				from = binary.BigEndian.Uint64(k)
				if stateOf(val) == stateLive && !f.told.has(from) && !f.beside.has(from) {
					untold = append(untold, from)
				}
				k, val = c.Next()
			}
			from = 0
			if k != nil {
				from = binary.BigEndian.Uint64(k)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(untold) == 0 {
			continue
		}
		err = f.step(fn, func(w *wtx) error {
			for _, ino := range untold {
				var cur entry
				if live, err := w.view.entry(ino, &cur); err != nil {
					return err
				} else if !live || f.beside.has(ino) { // since a moment ago
					continue
				}
				gone := cur
				gone.state = statePending
				gone.raw = slices.Clone(cur.raw)
				if err := w.hide(&gone, &cur); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
