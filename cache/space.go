package cache

import (
	"context"
	"sync"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// space is the last answer about the quota. Callers who ask at once share a
// question, which goes on when they stop waiting.
type space struct {
	remote     *drive.Client
	background *background
	bound      time.Duration // how long a caller waits for the first answer

	mu     sync.Mutex
	last   drive.Quota   // guarded by mu
	at     time.Time     // of last; zero = never told; guarded by mu
	asking chan struct{} // open while a question is under way; guarded by mu
}

const (
	spaceLife  = time.Minute
	spaceBound = 10 * time.Second // for a question
	// spaceUnknown is shown while the drive has not told: copy dialogs refuse
	// a disk that says it is full.
	spaceUnknown = 1 << 50
)

// Space is the size of the account and what is free of it, in bytes, from the
// drive's quota. It waits for the network for a second at the very most; what
// was known before, or a large number, is the answer otherwise. Drafts that
// are still to be uploaded are taken off.
func (s *Store) Space(ctx context.Context) (total, free int64) {
	q, ok := s.space.quota(ctx)
	if !ok {
		return spaceUnknown, spaceUnknown
	}
	return q.Quota, max(0, q.Available-s.journal.PendingBytes())
}

// quota is what the drive told last, false = nothing yet; after spaceLife it is
// asked again.
func (s *space) quota(ctx context.Context) (drive.Quota, bool) {
	if asking := s.ask(); asking != nil {
		t := time.NewTimer(s.bound)
		defer t.Stop()
		select {
		case <-asking:
		case <-ctx.Done():
		case <-t.C:
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, !s.at.IsZero()
}

// ask asks when it is time, and gives what is closed with the answer when there
// was none before; else nil.
func (s *space) ask() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	ever := !s.at.IsZero()
	if s.asking == nil && (!ever || time.Since(s.at) >= spaceLife) {
		done := make(chan struct{})
		s.asking = done
		s.background.run(func(ctx context.Context) {
			defer close(done)
			ctx, cancel := context.WithTimeout(ctx, spaceBound)
			defer cancel()
			q, err := s.remote.Quota(ctx)
			s.answered(q, err)
		})
	}
	if ever {
		return nil
	}
	return s.asking
}

func (s *space) answered(q drive.Quota, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking = nil
	if err == nil {
		s.last, s.at = q, time.Now()
	}
}
