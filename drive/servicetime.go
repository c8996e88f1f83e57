package drive

import (
	"net/http"
	"sync"
	"time"
)

// serviceClock is the service's clock as its answers tell it. Dates of nodes
// are its dates: they compare with this, and with no local clock.
type serviceClock struct {
	mu    sync.Mutex
	date  time.Time // the header of the last answer that had one; whole seconds
	heard time.Time // when it came, with the monotonic reading
	// ahead is how far the dates of new nodes are ahead of the headers: they
	// may come from other machines.
	ahead time.Duration
}

func (s *serviceClock) note(h http.Header) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.date, s.heard = date.UTC(), time.Now()
}

// made is told of a node that was made just now.
func (s *serviceClock) made(n Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.date.IsZero() && !n.Created.IsZero() {
		s.ahead = n.Created.Sub(s.nowLocked())
	}
}

func (s *serviceClock) nowLocked() time.Time { return s.date.Add(time.Since(s.heard)) }

// ServiceTime is the time by the clock that dates new nodes, about: a second
// or the way of an answer behind it. Zero = no answer had a date yet. Safe for
// concurrent use.
func (c *Client) ServiceTime() time.Time {
	s := &c.clock
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.date.IsZero() {
		return time.Time{}
	}
	return s.nowLocked().Add(s.ahead)
}
