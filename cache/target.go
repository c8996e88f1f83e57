package cache

import (
	"context"
	"time"

	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/drive"
)

// The changes poller's side of the Store (changes.Target).

// Checkpoint is where the feed goes on; "" = from the start.
func (s *Store) Checkpoint() string {
	cp, _ := s.mirror.Checkpoint()
	return cp
}

// Refreshed is when the drive last told all there is, zero = never yet.
func (s *Store) Refreshed() time.Time { return s.mirror.Refreshed() }

// OnActivity sets who is told that something changed here, or was met that the
// feed has not told: it is worth asking soon. fn must not block.
func (s *Store) OnActivity(fn func()) { s.activity.Store(&fn) }

// Apply takes one chunk of the feed: nodes and checkpoint in one transaction,
// then the effects.
func (s *Store) Apply(ctx context.Context, b drive.Batch) error {
	changes, err := s.mirror.Apply(b)
	if err != nil {
		return err
	}
	s.told(changes)
	return nil
}

// FeedEnd notes that the feed reached its end line: what the drive had then
// is all here.
func (s *Store) FeedEnd(ctx context.Context) error {
	first := !s.mirror.Complete()
	err := s.mirror.FeedEnd(time.Now())
	s.settler.Polled()
	if first && err == nil {
		s.listing.wake()
	}
	return err
}

// BeginRefresh begins to take everything anew; inode numbers, open files and
// wishes are untouched by it. A first sync goes on behind from.
func (s *Store) BeginRefresh(ctx context.Context) (from string, err error) {
	return s.mirror.BeginRefresh()
}

// ApplyRefresh takes one chunk of the full answer.
func (s *Store) ApplyRefresh(ctx context.Context, b drive.Batch) error {
	return s.mirror.ApplyRefresh(b)
}

// EndRefresh shows what was told anew, and tells the kernel the difference.
func (s *Store) EndRefresh(ctx context.Context) error {
	first := !s.mirror.Complete()
	err := s.mirror.EndRefresh(s.told)
	if first && err == nil {
		s.listing.wake()
	}
	return err
}

// AbortRefresh drops what was told anew.
func (s *Store) AbortRefresh() error { return s.mirror.AbortRefresh() }

// changed is told of changes that came by an answer.
func (s *Store) changed(cs []mirror.Change) { s.changedBy(0, cs) }

// changedBy is changed for a listing of the folder dir with properties, which is
// no news about what else is to be asked for there; 0 = no listing.
func (s *Store) changedBy(dir uint64, cs []mirror.Change) {
	if len(cs) == 0 {
		return
	}
	s.toldBy(dir, cs)
	// While the first feed streams in, everything is news.
	if fn := s.activity.Load(); fn != nil && s.mirror.Complete() {
		(*fn)()
	}
}

// told turns what became different in the mirror into effects, and asks again
// for the properties of what others changed.
func (s *Store) told(cs []mirror.Change) { s.toldBy(0, cs) }

func (s *Store) toldBy(listed uint64, cs []mirror.Change) {
	for i := range cs {
		if c := &cs[i]; !c.Own {
			for _, d := range c.New {
				if d.Dir != listed {
					s.propsAsked.forget(d.Dir)
				}
			}
		}
	}
	if err := s.tree.Told(cs); err != nil {
		s.log.Warn("noting what the drive told", "err", err)
	}
}
