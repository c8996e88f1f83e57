package writeback

import (
	"time"

	"github.com/drivefs/drivefs/cache/tree"
)

// A closed file settles for Options.UploadDelay, since its name or content may
// soon be another. Where many are new (a tree was copied in) that is idle time:
// then those that have settled for a part of it go up while the line is free.

// burstFrom is how many new files must be settling, for each upload at once.
const burstFrom = 4

// settling are the new files that only wait to be due, in the order they came.
type settling struct {
	slots []laneSlot
	n     int // of those still waiting
}

func (s *settling) add(it *item) {
	if s.n == 0 {
		s.slots = s.slots[:0]
	}
	it.settling = true
	s.n++
	s.slots = append(s.slots, laneSlot{it, it.turn})
}

// first is the one that has waited longest, nil when there is none.
func (s *settling) first() *item {
	for len(s.slots) > 0 {
		if f := s.slots[0]; f.it.settling && f.it.turn == f.turn {
			return f.it
		}
		s.slots = s.slots[1:]
	}
	return nil
}

// settles notes an item that waits until at.
func (q *queue) settles(it *item, at time.Time) {
	if it.lane == laneSmall && it.node == "" && len(it.home) == 0 && at.Equal(it.due) && !tree.Temporary(it.place.Name) {
		q.settling.add(it)
	}
}

// ripe is when a new file that settles may go up in a burst.
func (q *queue) ripe(it *item) time.Time { return it.due.Add(-q.s.o.UploadDelay / 4 * 3) }

// hurry makes settling files ready that the free places are for, and gives the
// time when the next is ripe; zero = none waits for that.
func (q *queue) hurry(now time.Time) (next time.Time) {
	if q.settling.n < burstFrom*q.s.o.Uploads || q.down || q.s.held.Load() {
		return time.Time{}
	}
	for range q.limits.uploads - q.limits.content() {
		it := q.settling.first()
		if it == nil {
			break
		}
		if at := q.ripe(it); at.After(now) {
			return at
		}
		it.haste = it.rev
		q.settlePlace(it)
	}
	return time.Time{}
}
