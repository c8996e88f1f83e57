package cache

import (
	"context"
	"sync"
	"time"
)

// spaceCache is the last answer about the quota.
type spaceCache struct {
	mu          sync.Mutex
	total, free int64
	at          time.Time
	asking      chan struct{} // open while a question is under way
}

const (
	spaceLife = time.Minute
	// spaceUnknown is shown while the drive has not told: copy dialogs refuse
	// a disk that says it is full.
	spaceUnknown = 1 << 50
)

// Space is the size of the account and what is free of it, in bytes, from the
// drive's quota. It waits for the network for a second at the very most; what
// was known before, or a large number, is the answer otherwise. Drafts that
// are still to be uploaded are taken off.
func (s *Store) Space(ctx context.Context) (total, free int64) {
	c := &s.space
	c.mu.Lock()
	fresh := !c.at.IsZero() && time.Since(c.at) < spaceLife
	if !fresh && c.asking == nil {
		done := make(chan struct{})
		c.asking = done
		s.background.Go(func() {
			ask, cancel := context.WithTimeout(s.life, 10*time.Second)
			defer cancel()
			q, err := s.remote.Quota(ask)
			c.mu.Lock()
			if err == nil {
				c.total, c.free, c.at = q.Quota, q.Available, time.Now()
			}
			c.asking = nil
			c.mu.Unlock()
			close(done)
		})
	}
	asking, ever := c.asking, !c.at.IsZero()
	c.mu.Unlock()
	if !ever && asking != nil {
		t := time.NewTimer(s.o.CallTimeout)
		defer t.Stop()
		select {
		case <-asking:
		case <-ctx.Done():
		case <-t.C:
		}
	}
	c.mu.Lock()
	total, free, ever = c.total, c.free, !c.at.IsZero()
	c.mu.Unlock()
	if !ever {
		return spaceUnknown, spaceUnknown
	}
	return total, max(0, free-s.journal.PendingBytes())
}

// Event is something a person should know: a conflict, a change that was
// undone, something set aside.
type Event struct {
	At   time.Time `json:"at"`
	Kind string    `json:"kind"`
	Path string    `json:"path,omitempty"`
	Text string    `json:"text"`
}

// events are the last things worth telling, newest last.
type events struct {
	mu   sync.Mutex
	list []Event
}

const maxEvents = 200

func (e *events) add(kind, path, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, Event{time.Now(), kind, path, text})
	if len(e.list) > maxEvents {
		e.list = append([]Event(nil), e.list[len(e.list)-maxEvents:]...)
	}
}

func (e *events) all() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Event(nil), e.list...)
}
