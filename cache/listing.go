package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// listBound is how long a call waits for a folder that was never told to be
// listed, and how long a listing may go without news: below the 20 s after
// which a waiting call stops a suspend (fuse-recipes §5.3).
const listBound = 15 * time.Second

// flight lets callers who want the same folder listed share one listing.
type flight struct {
	mu sync.Mutex
	m  map[uint64]*listingCall
}

type listingCall struct {
	done chan struct{}
	err  error // valid once done is closed

	mu   sync.Mutex
	more chan struct{} // closed when more is known than when it was asked for
}

// news gives a channel that is closed when the next piece is applied.
func (c *listingCall) news() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.more
}

func (c *listingCall) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.more)
	c.more = make(chan struct{})
}

// wake lets all who wait look again: the feed has told everything.
func (f *flight) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.m {
		c.wake()
	}
}

// known makes sure that the view can answer for name in dir: it does when the
// folder was told completely, or as soon as the name is known.
func (s *Store) known(ctx context.Context, dir uint64, name string) error {
	there := func() (ok bool, err error) {
		s.tree.Read(func(v tree.View) { _, _, ok, err = v.Lookup(dir, name) })
		return ok, err
	}
	if !s.mirror.Listed(dir) {
		if ok, err := there(); ok || err != nil {
			return err
		}
		s.askName(ctx, dir, name)
	}
	return s.toldOf(ctx, dir, there)
}

// listed makes sure that the view knows all of dir, by listing it once while
// the first feed has not told everything yet. A caller that stops waiting
// does not stop the listing.
func (s *Store) listed(ctx context.Context, dir uint64) error {
	return s.toldOf(ctx, dir, func() (bool, error) { return false, nil })
}

// toldOf waits until dir is told completely, or until enough says so, for
// listBound at most: a very large folder goes on being listed meanwhile, and
// the next call finds more of it.
func (s *Store) toldOf(ctx context.Context, dir uint64, enough func() (bool, error)) error {
	var bound *time.Timer
	var c *listingCall
	for {
		if s.mirror.Listed(dir) {
			return nil
		}
		if ok, err := enough(); ok || err != nil {
			return err
		}
		r, ok, err := s.mirror.Get(dir)
		if err != nil {
			return err
		}
		if !ok || !r.Folder {
			return nil // local alone, or no folder: the view knows all there is
		}
		if c == nil {
			c = s.startListing(dir, r.ID)
		}
		more := c.news()
		// What came before that channel was made did not close it.
		if ok, err := enough(); ok || err != nil {
			return err
		}
		if bound == nil {
			bound = time.NewTimer(listBound)
			defer bound.Stop()
		}
		select {
		case <-c.done:
			return c.err
		case <-more:
		case <-bound.C:
			return fmt.Errorf("listing a folder: %w", context.DeadlineExceeded)
		case <-ctx.Done():
			return ctx.Err()
		}
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
		c = &listingCall{done: make(chan struct{}), more: make(chan struct{})}
		s.listing.m[dir] = c
		s.background.Go(func() {
			c.err = s.list(dir, id, c.wake)
			s.listing.mu.Lock()
			delete(s.listing.m, dir)
			s.listing.mu.Unlock()
			close(c.done)
		})
	}
	return c
}

// list asks the drive for all children of a folder and gives them to the
// mirror, piece by piece; more is called after each.
func (s *Store) list(dir uint64, id string, more func()) error {
	ctx := newIdleContext(s.life, listBound)
	defer ctx.end()
	asked, _ := s.propsAsked.look(dir)
	piece := mirror.ListingPiece
	if !s.mirror.Complete() {
		// Nothing is synced yet, so pages cost little, and a name on the
		// first of them may be all that is waited for.
		piece = 200
	}
	var nodes []drive.Node
	for n, err := range s.remote.Children(ctx, id, true) {
		switch {
		case errors.Is(err, drive.ErrNotFound):
			return ErrNotExist
		case err != nil:
			return ctx.why(err)
		}
		ctx.progress()
		if nodes = append(nodes, n); len(nodes) == piece {
			if err := s.listPiece(dir, nodes, false); err != nil {
				return err
			}
			nodes = nodes[:0]
			more()
		}
	}
	if err := s.listPiece(dir, nodes, true); err != nil {
		return err
	}
	ctx.progress()
	if err := s.askStragglers(ctx, dir); err != nil {
		return ctx.why(err)
	}
	owner := s.owner()
	lacks, err := s.childLacksProps(dir, owner)
	// Without an owner name none of what was told is ours.
	s.propsAsked.note(asked, owner == "" || err == nil && !lacks, propsLag)
	return nil
}

func (s *Store) listPiece(dir uint64, nodes []drive.Node, last bool) error {
	s.recognise(nodes)
	cs, err := s.mirror.Listing(dir, nodes, last)
	if errors.Is(err, mirror.ErrUnknown) {
		return ErrNotExist // it went while it was listed
	}
	if err != nil {
		return err
	}
	s.changedBy(dir, cs)
	return nil
}

// idleContext ends when nothing happened for some time. Its deadline is that
// of the moment, so a client that gives up early does so only when nothing
// comes any more.
type idleContext struct {
	context.Context
	cancel  context.CancelFunc
	bound   time.Duration
	timer   *time.Timer
	until   atomic.Pointer[time.Time]
	expired atomic.Bool
}

func newIdleContext(parent context.Context, bound time.Duration) *idleContext {
	c := &idleContext{bound: bound}
	c.Context, c.cancel = context.WithCancel(parent)
	until := time.Now().Add(bound)
	c.until.Store(&until)
	c.timer = time.AfterFunc(bound, func() {
		c.expired.Store(true)
		c.cancel()
	})
	return c
}

// Deadline is when it ends if nothing happens any more.
func (c *idleContext) Deadline() (time.Time, bool) { return *c.until.Load(), true }

// progress: something happened.
func (c *idleContext) progress() {
	until := time.Now().Add(c.bound)
	c.until.Store(&until)
	c.timer.Reset(c.bound)
}

func (c *idleContext) end() {
	c.timer.Stop()
	c.cancel()
}

// why is err, or that time ran out when that was the reason.
func (c *idleContext) why(err error) error {
	if err != nil && c.expired.Load() {
		return fmt.Errorf("%w: %v", context.DeadlineExceeded, err)
	}
	return err
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
	err := s.mirror.List(dir, 0, math.MaxInt, func(r *mirror.Record) bool {
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
