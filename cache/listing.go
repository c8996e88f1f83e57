package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/recent"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

const (
	// listBound is how long a call waits for a folder that was never told to be
	// listed, and how long a listing may go without an answer: below the 20 s after
	// which a waiting call stops a suspend (fuse-recipes §5.3).
	listBound = 15 * time.Second
	// nameBound is how long a name is asked for before its folder is listed.
	nameBound = time.Second
	// namesAsked bounds the names asked for one by one in a folder: its listing
	// serves those better who want more of it.
	namesAsked = 4
	// maxStale bounds the calls that make up for a lagging listing.
	maxStale = 32
)

// lister asks the drive for what a call wants to know of a folder and the
// mirror lacks: its names until the first sync has told them all, and the
// properties of our own nodes in it. Callers who want the same folder share one
// listing, which goes on when they stop waiting.
type lister struct {
	mirror     *mirror.Mirror
	tree       *tree.Tree
	journal    *journal.Journal
	remote     *drive.Client
	props      *properties
	intake     *intake
	background *background
	propsBound time.Duration // how long a call waits for properties
	log        *slog.Logger

	mu    sync.Mutex
	calls map[uint64]*listing     // by folder; guarded by mu
	asked recent.Map[uint64, int] // folder → names asked for one by one; guarded by mu
}

// listing is one that is under way.
type listing struct {
	done chan struct{}
	err  error // valid once done is closed

	mu   sync.Mutex
	more chan struct{} // closed when more is known than when it was asked for
}

// next gives a channel that is closed when the next piece is shown.
func (c *listing) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.more
}

func (c *listing) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.more)
	c.more = make(chan struct{})
}

// wake lets all who wait look again: the feed has told everything.
func (l *lister) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		c.wake()
	}
}

// knowName makes sure that the tree can answer for name in dir: it does when the
// folder was told completely, or as soon as the name is known.
func (l *lister) knowName(ctx context.Context, dir uint64, name string) error {
	there := func() (ok bool, err error) {
		l.tree.Read(func(v tree.View) { _, _, ok, err = v.Lookup(dir, name) })
		return ok, err
	}
	if !l.mirror.Listed(dir) {
		if ok, err := there(); ok || err != nil {
			return err
		}
		l.askName(ctx, dir, name)
	}
	return l.wait(ctx, dir, there)
}

// knowAll makes sure that the tree knows all of dir, by listing it once while
// the first feed has not told everything yet.
func (l *lister) knowAll(ctx context.Context, dir uint64) error {
	return l.wait(ctx, dir, func() (bool, error) { return false, nil })
}

// wait returns when dir is told completely, or when enough says so, after
// listBound at most: a very large folder goes on being listed meanwhile, and
// the next call finds more of it.
func (l *lister) wait(ctx context.Context, dir uint64, enough func() (bool, error)) error {
	var bound *time.Timer
	var c *listing
	for {
		if l.mirror.Listed(dir) {
			return nil
		}
		if ok, err := enough(); ok || err != nil {
			return err
		}
		r, ok, err := l.mirror.Get(dir)
		if err != nil {
			return err
		}
		if !ok || !r.Folder {
			return nil // local alone, or no folder: the tree knows all there is
		}
		if c == nil {
			c = l.start(dir, r.ID)
		}
		more := c.next()
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

// start lists a folder in the background, or joins the listing that is under
// way.
func (l *lister) start(dir uint64, id string) *listing {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[dir]
	if c == nil {
		c = &listing{done: make(chan struct{}), more: make(chan struct{})}
		if l.calls == nil {
			l.calls = map[uint64]*listing{}
		}
		l.calls[dir] = c
		l.background.run(func(ctx context.Context) {
			defer close(c.done)
			c.err = l.list(ctx, dir, id, c.wake)
			l.ended(dir)
		})
	}
	return c
}

func (l *lister) ended(dir uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.calls, dir)
}

// list asks the drive for all children of a folder and takes them piece by
// piece; more is called after each.
func (l *lister) list(ctx context.Context, dir uint64, id string, more func()) error {
	idle := newIdleContext(ctx, listBound)
	defer idle.end()
	look, _ := l.props.look(dir)
	size := mirror.ListingPiece
	if !l.mirror.Complete() {
		// Nothing is synced yet, so pages cost little, and a name on the
		// first of them may be all that is waited for.
		size = 200
	}
	var nodes []drive.Node
	for n, err := range l.remote.Children(idle, id, true) {
		switch {
		case errors.Is(err, drive.ErrNotFound):
			return ErrNotExist
		case err != nil:
			return idle.why(err)
		}
		idle.progress()
		if nodes = append(nodes, n); len(nodes) == size {
			if err := l.intake.children(dir, nodes, false); err != nil {
				return err
			}
			nodes = nodes[:0]
			more()
		}
	}
	if err := l.intake.children(dir, nodes, true); err != nil {
		return err
	}
	idle.progress()
	if err := l.askStale(idle, dir); err != nil {
		return idle.why(err)
	}
	owner := l.remote.Owner()
	lacks, err := l.props.childLacks(dir, owner)
	// Without an owner name none of what was told is ours.
	l.props.note(look, owner == "" || err == nil && !lacks, propsLag)
	return nil
}

// lookForChildren asks the drive for what is in a folder that the mirror may not
// have heard of yet. No answer before ctx ends is none that matters: the
// write-back looks again before anything goes to the trash, but a person wants to
// know now.
func (l *lister) lookForChildren(ctx context.Context, dir uint64, id string) error {
	var nodes []drive.Node
	for n, err := range l.remote.Children(ctx, id, true) {
		if err != nil {
			return nil
		}
		nodes = append(nodes, n)
	}
	if len(nodes) == 0 {
		return nil
	}
	return l.intake.children(dir, nodes, true)
}

// askStale asks for the nodes one by one whose properties a listing did
// not tell because it was older than they are (API §13.1): by id the service
// does not lag.
func (l *lister) askStale(ctx context.Context, dir uint64) error {
	owner := l.remote.Owner()
	if owner == "" {
		return nil
	}
	var ids []string
	err := l.mirror.List(dir, 0, math.MaxInt, func(r *mirror.Record) bool {
		if l.props.lacks(r, owner) {
			ids = append(ids, r.ID)
		}
		return len(ids) < maxStale
	})
	for _, id := range ids {
		n, gerr := l.remote.GetWithProperties(ctx, id)
		switch {
		case errors.Is(gerr, drive.ErrNotFound):
			continue // the feed will tell
		case gerr != nil:
			return gerr
		}
		if err := l.intake.node(n); err != nil {
			return err
		}
	}
	return err
}

// askName asks the drive for one name of a folder that is not known completely,
// so that a path costs a call for each of its names and not the listings of large
// folders. What it does not find, a listing may: the drive's answer may lag, and
// a name may be shown otherwise than the drive has it.
func (l *lister) askName(ctx context.Context, dir uint64, name string) {
	if !l.mayAskName(dir) {
		return
	}
	r, ok, err := l.mirror.Get(dir)
	if err != nil || !ok || !r.Folder {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, nameBound)
	defer cancel()
	nodes, err := l.remote.Find(ctx, r.ID, name)
	if err != nil || len(nodes) == 0 {
		return // the listing tells why
	}
	changes, err := l.mirror.Listing(dir, nodes, false)
	if err != nil {
		l.log.Debug("a node found by its name", "inode", dir, "err", err)
		return
	}
	l.intake.answered(changes)
}

func (l *lister) mayAskName(dir uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, _ := l.asked.Get(dir)
	l.asked.Put(dir, n+1)
	return n < namesAsked
}

// knowProps makes sure that the properties of our own nodes in dir are
// known, as far as the drive tells within propsBound; past it the answer
// goes without them, and they are pushed to the kernel when they come.
func (l *lister) knowProps(ctx context.Context, dir uint64) {
	look, ask := l.props.look(dir)
	if !ask {
		return
	}
	bound, cancel := context.WithTimeout(ctx, l.propsBound)
	defer cancel()
	for range 2 { // the first answer may tell that we have an owner name
		owner := l.remote.Owner()
		if lacks, err := l.props.childLacks(dir, owner); err != nil {
			return
		} else if !lacks {
			l.props.note(look, true, 0)
			return
		}
		r, ok, err := l.mirror.Get(dir)
		if err != nil || !ok || unreachable(l.remote) {
			return
		}
		c := l.start(dir, r.ID)
		select {
		case <-c.done:
		case <-bound.Done():
			if ctx.Err() == nil {
				l.props.note(look, false, propsRetry)
			}
			return
		}
		if c.err != nil {
			l.props.note(look, false, propsRetry)
			return
		}
		if owner == l.remote.Owner() {
			return // the listing noted how far it told
		}
	}
}

// unreachable tells whether it is known that the drive will not answer.
func unreachable(remote *drive.Client) bool {
	kind := remote.State().Kind
	return kind == drive.Offline || kind == drive.AuthRequired
}

// knowPropsOfName is knowProps for the folder of one node that is looked up by
// name.
func (l *lister) knowPropsOfName(ctx context.Context, dir uint64, name string) {
	if _, ask := l.props.look(dir); !ask {
		return
	}
	// What has a local change shows that, and needs nothing from the drive.
	if r, _, ok, err := l.mirror.Lookup(dir, name); err == nil && ok && !l.journal.Has(r.Ino) && l.props.lacks(&r, l.remote.Owner()) {
		l.knowProps(ctx, dir)
	}
}

// knowPropsOf is knowProps for the folder of the node ino, which the kernel
// asks for, or wants to change, without looking it up.
func (l *lister) knowPropsOf(ctx context.Context, ino uint64) {
	if l.journal.Has(ino) {
		return
	}
	r, ok, err := l.mirror.Get(ino)
	if err == nil && ok && len(r.Parents) > 0 && l.props.lacks(&r, l.remote.Owner()) {
		l.knowProps(ctx, r.Parents[0])
	}
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
