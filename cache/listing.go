package cache

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/drive"
)

// listBound is how long a folder that was never told may take to list: below
// the 20 s after which a waiting call stops a suspend (fuse-recipes §5.3).
const listBound = 15 * time.Second

// flight lets callers who want the same folder listed share one listing.
type flight struct {
	mu sync.Mutex
	m  map[uint64]*listingCall
}

type listingCall struct {
	done chan struct{}
	err  error
}

// known makes sure that the view can answer for name in dir: it does when the
// folder was told completely, or when it knows the name.
func (s *Store) known(ctx context.Context, dir uint64, name string) error {
	if s.mirror.Listed(dir) {
		return nil
	}
	s.view.RLock()
	_, _, ok, err := s.lookupLocked(dir, name)
	s.view.RUnlock()
	if err != nil || ok {
		return err
	}
	return s.listed(ctx, dir)
}

// listed makes sure that the view knows all of dir, by listing it once while
// the first feed has not told everything yet. A caller that stops waiting
// does not stop the listing.
func (s *Store) listed(ctx context.Context, dir uint64) error {
	if s.mirror.Listed(dir) {
		return nil
	}
	r, ok, err := s.mirror.Get(dir)
	if err != nil {
		return err
	}
	if !ok || !r.Folder {
		return nil // local alone, or no folder: the view knows all there is
	}
	c := s.startListing(dir, r.ID)
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startListing lists a folder in the background, or joins the listing that is
// under way.
func (s *Store) startListing(dir uint64, id string) *listingCall {
	s.listing.mu.Lock()
	defer s.listing.mu.Unlock()
	if s.listing.m == nil {
		s.listing.m = map[uint64]*listingCall{}
	}
	c := s.listing.m[dir]
	if c == nil {
		c = &listingCall{done: make(chan struct{})}
		s.listing.m[dir] = c
		s.background.Go(func() {
			c.err = s.list(dir, id)
			s.listing.mu.Lock()
			delete(s.listing.m, dir)
			s.listing.mu.Unlock()
			close(c.done)
		})
	}
	return c
}

// list asks the drive for all children of a folder and gives them to the
// mirror.
func (s *Store) list(dir uint64, id string) error {
	ctx, cancel := context.WithTimeout(s.life, listBound)
	defer cancel()
	var nodes []drive.Node
	for n, err := range s.remote.Children(ctx, id, true) {
		if errors.Is(err, drive.ErrNotFound) {
			return ErrNotExist
		}
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
	}
	s.recognise(nodes)
	cs, _, err := s.mirror.Listing(dir, nodes, true)
	if err != nil {
		return err
	}
	s.changed(cs)
	return s.askStragglers(ctx, dir)
}

// maxStragglers bounds the calls that make up for a lagging listing.
const maxStragglers = 32

// askStragglers asks for the nodes one by one whose properties a listing did
// not tell because it was older than they are (API §13.1): by id the service
// does not lag.
func (s *Store) askStragglers(ctx context.Context, dir uint64) error {
	owner := s.owner()
	if owner == "" {
		return nil
	}
	var ids []string
	err := s.mirror.List(dir, 0, int(^uint(0)>>1), func(r *mirror.Record) bool {
		if s.lacksProps(r, owner) {
			ids = append(ids, r.ID)
		}
		return len(ids) < maxStragglers
	})
	for _, id := range ids {
		n, gerr := s.remote.GetWithProperties(ctx, id)
		switch {
		case errors.Is(gerr, drive.ErrNotFound):
			continue // the feed will tell
		case gerr != nil:
			return gerr
		}
		if err := (host{s}).Foreign(n); err != nil {
			return err
		}
	}
	return err
}
