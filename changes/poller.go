package changes

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive"
)

// Feed is the service's changes call, see drive.Client.Changes.
type Feed interface {
	Changes(ctx context.Context, r drive.ChangesRequest) iter.Seq2[drive.Batch, error]
}

var _ Feed = (*drive.Client)(nil)

// Target is what the feed is told to: the Store's Feed. Its methods are called
// from one goroutine, one at a time.
type Target interface {
	// Checkpoint is where the feed goes on; "" = nothing is known yet.
	Checkpoint() string
	// Apply commits nodes and checkpoint together.
	Apply(ctx context.Context, b drive.Batch) error
	// FeedEnd tells that an answer reached its end line and is applied.
	FeedEnd(ctx context.Context) error
	// Refreshed is when all there is was last told from the start; zero = never
	// yet, then it will be.
	Refreshed() time.Time

	// BeginRefresh begins to take everything anew, or, when nothing is known
	// yet, goes on behind from. There is one refresh at a time, which ends with
	// EndRefresh or AbortRefresh; an error of EndRefresh aborts it.
	BeginRefresh(ctx context.Context) (from string, err error)
	// ApplyRefresh takes a chunk of the full answer. After an error the refresh
	// is to be aborted.
	ApplyRefresh(ctx context.Context, b drive.Batch) error
	// EndRefresh: all was told. The checkpoint is that of the last chunk.
	EndRefresh(ctx context.Context) error
	AbortRefresh() error
}

var _ Target = (*cache.Feed)(nil)

// Options configures New; the zero value polls on Refresh only.
type Options struct {
	// Interval is the longest time between two polls; 0 = only on Refresh.
	Interval time.Duration
	// Checkpoint is where the first call begins instead of the Target's own.
	// Answers to it never count as all there is: FeedEnd is not told when the
	// Target knew nothing before.
	Checkpoint string
	// ChunkSize is how many nodes a line shall have, 0 = 2000.
	ChunkSize int
	Logger    *slog.Logger // nil = discard
}

// Status is what a Poller is doing.
type Status struct {
	Syncing   bool          // an answer is being read and applied
	NodesSeen int64         // nodes told since the last catch-up began
	LastEnd   time.Time     // when an end line was last reached, zero = never
	Err       error         // why the last poll failed, nil = it did not
	Interval  time.Duration // to the next poll, as it stands now; 0 = on Refresh only
}

// ErrStopped: the Poller does not run any more.
var ErrStopped = errors.New("the poller has ended")

const (
	// soonest is the shortest interval it chooses by itself.
	soonest = 2 * time.Second
	// slower is how the interval grows while nothing happens.
	slower = 1.5
	// Back-off after failures: doubling from the first to the last.
	backoffFirst = 2 * time.Second
	backoffLast  = 5 * time.Minute
	// authLast: a login heals a running mount, which shall show soon.
	authLast = 30 * time.Second
	// stuckMax is how often a stream may be cut at the same place before the
	// poll counts as failed; in between a wait that doubles. Somebody may be
	// waiting for it all.
	stuckMax   = 5
	stuckFirst = 500 * time.Millisecond
	// startMax is how often a poll may begin again from the start, because the
	// service does not go on where it was, before it counts as failed; before
	// each a wait that doubles. The whole account is a lot to ask for, so that
	// after such failures the polls become as rare as startLast.
	startMax  = 3
	startLast = time.Hour

	chunkSize = 2000
	// How many nodes are applied at a time when more are there, of news and of
	// everything: large transactions are cheaper, small ones let others go on.
	applyNews = 2000
	applyFull = 6000
	// readAhead is how many chunks are decoded ahead.
	readAhead = 4
)

// Poller keeps a Target in step with a Feed. New makes one; Run works.
type Poller struct {
	feed   Feed
	target Target
	o      Options
	log    *slog.Logger
	wake   chan struct{} // one slot: a round is waiting
	poked  chan struct{} // one slot: something happened here

	// Of Run's goroutine only.
	begin    string      // Options.Checkpoint until it was used
	full     bool        // everything is being told, over cut streams
	partial  bool        // what is told is not all there is, see Options.Checkpoint
	refresh  *fullAnswer // under way, over cut streams and between polls; nil = none
	starts   int         // how often this poll began again from the start
	interval time.Duration
	failures int
	renewAt  time.Time // a renewal is not to be begun before

	mu      sync.Mutex
	next    *round // asked for, not begun
	stopped bool
	status  Status
}

// round is one poll that somebody waits for.
type round struct {
	done chan struct{}
	err  error // valid once done is closed
}

// New makes a Poller. It does nothing until Run.
func New(f Feed, t Target, o Options) *Poller {
	if o.ChunkSize == 0 {
		o.ChunkSize = chunkSize
	}
	p := &Poller{
		feed: f, target: t, o: o, log: o.Logger,
		wake: make(chan struct{}, 1), poked: make(chan struct{}, 1),
		begin: o.Checkpoint, interval: o.soonest(),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.status.Interval = o.Interval
	return p
}

func (o *Options) soonest() time.Duration { return min(soonest, o.Interval) }

// Run polls until ctx ends, then returns nil. It may be called once.
func (p *Poller) Run(ctx context.Context) error {
	defer p.stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	if p.o.Interval == 0 {
		timer.Stop()
	}
	var due time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.poked:
			if p.o.Interval == 0 || p.failures > 0 {
				continue
			}
			p.interval = p.o.soonest()
			if time.Until(due) > p.interval {
				due = time.Now().Add(p.interval)
				timer.Reset(p.interval)
				p.setStatus(func(s *Status) { s.Interval = p.interval })
			}
			continue
		case <-timer.C:
		case <-p.wake:
		}
		if ctx.Err() != nil {
			return nil
		}
		r := p.take()
		n, err := p.catchUp(ctx)
		if ctx.Err() != nil {
			if r != nil {
				r.end(ErrStopped)
			}
			return nil
		}
		wait := p.wait(n, err)
		p.setStatus(func(s *Status) {
			s.Syncing = false
			s.Err = err
			s.Interval = wait
			if err == nil {
				s.LastEnd = time.Now()
			}
		})
		if r != nil {
			r.end(err)
		}
		if err != nil {
			p.log.LogAttrs(ctx, slog.LevelWarn, "changes feed", slog.Any("err", err), slog.Duration("again_in", wait))
		} else {
			p.renew(ctx)
		}
		if wait > 0 {
			due = time.Now().Add(wait)
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// wait is the time to the next poll after one that told n nodes, or failed.
// 0 = until somebody asks.
func (p *Poller) wait(n int64, err error) time.Duration {
	if p.o.Interval == 0 {
		return 0
	}
	if err != nil {
		last := max(backoffLast, p.o.Interval)
		switch {
		case errors.Is(err, drive.ErrAuth):
			last = authLast
		case errors.Is(err, drive.ErrCheckpoint):
			last = max(last, startLast)
		}
		d := min(backoffFirst<<min(p.failures, 20), last)
		p.failures++
		p.interval = p.o.soonest()
		return jitter(max(d, p.o.soonest()))
	}
	p.failures = 0
	if n > 0 {
		p.interval = p.o.soonest()
		return p.interval
	}
	d := p.interval
	p.interval = min(time.Duration(float64(p.interval)*slower), p.o.Interval)
	return d
}

// jitter is between half of d and one and a half.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d+1) }

// Poke tells that something was changed here, whose echo is worth to be looked
// for soon. It never blocks.
func (p *Poller) Poke() {
	select {
	case p.poked <- struct{}{}:
	default:
	}
}

// Refresh polls now and returns when all that the service had to tell then is
// applied. It joins a poll that waits to be begun, but not one under way, whose
// answer may be older than the question. A stream that is cut on the way is
// continued; what makes the poll fail is returned. ErrStopped when Run has
// ended; before Run it waits.
func (p *Poller) Refresh(ctx context.Context) error {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return ErrStopped
	}
	if p.next == nil {
		p.next = &round{done: make(chan struct{})}
	}
	r := p.next
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take begins the round that is asked for, if one is.
func (p *Poller) take() *round {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.next
	p.next = nil
	p.status.Syncing = true
	p.status.NodesSeen = 0
	return r
}

func (r *round) end(err error) {
	r.err = err
	close(r.done)
}

func (p *Poller) stop() {
	p.abortRefresh()
	p.mu.Lock()
	r := p.next
	p.next = nil
	p.stopped = true
	p.status.Syncing = false
	p.mu.Unlock()
	if r != nil {
		r.end(ErrStopped)
	}
}

// Status tells what is going on.
func (p *Poller) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *Poller) setStatus(fn func(*Status)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn(&p.status)
}
