package drive

import (
	"errors"
	"maps"
	"sync"
	"time"
)

// StateKind is how the service looks from here.
type StateKind string

// The four states.
const (
	Online       StateKind = "online"
	Offline      StateKind = "offline"       // no connection, or 5xx
	Throttled    StateKind = "throttled"     // 429
	AuthRequired StateKind = "auth-required" // ErrAuth: a login is needed
)

// State is the state of the service as the calls see it, since when, and
// for all but Online the error that led there. Before the first call it is
// Online.
type State struct {
	Kind  StateKind
	Since time.Time
	Err   error
}

// status keeps State. One failed try among good ones is not news: it takes
// two in a row, or a whole call that failed.
type status struct {
	mu      sync.Mutex
	state   State
	changed chan struct{} // closed at the next change
	bad     StateKind     // kind of the failed tries in a row
	badRow  int
}

func newStatus() *status {
	return &status{state: State{Kind: Online, Since: time.Now()}, changed: make(chan struct{})}
}

func (s *status) get() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *status) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// try notes one failed try.
func (s *status) try(k StateKind, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bad != k {
		s.bad, s.badRow = k, 0
	}
	if s.badRow++; s.badRow >= 2 {
		s.setLocked(k, err)
	}
}

// final notes the error of a whole call; one that says nothing of the service is ignored.
func (s *status) final(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, ErrAuth):
		s.setLocked(AuthRequired, err)
	case errors.Is(err, ErrThrottled):
		s.setLocked(Throttled, err)
	case errors.Is(err, ErrUnavailable):
		s.setLocked(Offline, err)
	}
}

func (s *status) good() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad, s.badRow = "", 0
	s.setLocked(Online, nil)
}

func (s *status) setLocked(k StateKind, err error) {
	if s.state.Kind == k {
		s.state.Err = err
		return
	}
	s.state = State{Kind: k, Since: time.Now(), Err: err}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Count sums up the calls of one operation since New. A call counts once,
// however many tries it took.
type Count struct {
	Count     int64 // calls
	Errors    int64 // calls that failed in the end
	Throttled int64 // tries answered with 429
	Retries   int64 // tries beyond the first
}

type counters struct {
	mu sync.Mutex
	by map[string]Count
}

func newCounters() *counters { return &counters{by: map[string]Count{}} }

func (c *counters) add(op string, f func(*Count)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.by[op]
	f(&n)
	c.by[op] = n
}

func (c *counters) called(op string)    { c.add(op, func(n *Count) { n.Count++ }) }
func (c *counters) failed(op string)    { c.add(op, func(n *Count) { n.Errors++ }) }
func (c *counters) settled(op string)   { c.add(op, func(n *Count) { n.Errors-- }) } // the failure was none
func (c *counters) throttled(op string) { c.add(op, func(n *Count) { n.Throttled++ }) }
func (c *counters) retried(op string)   { c.add(op, func(n *Count) { n.Retries++ }) }

func (c *counters) copy() map[string]Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.by)
}

// State tells how the service looks from here.
func (c *Client) State() State { return c.status.get() }

// StateChanged gives a channel that is closed when State's Kind changes
// next. Ask for a new one each time.
func (c *Client) StateChanged() <-chan struct{} { return c.status.wait() }

// Counters gives the numbers by operation ("nodes.get", "content.upload" …).
func (c *Client) Counters() map[string]Count { return c.counters.copy() }

// Bytes is the content sent and received since New, in bytes; what was sent twice counts twice.
func (c *Client) Bytes() (uploaded, downloaded int64) {
	return c.uploaded.Load(), c.downloaded.Load()
}
