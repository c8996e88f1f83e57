package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/writeback"
	"github.com/drivefs/drivefs/drive"
)

// patience is how long namespace calls may wait for the drive. One call waits
// up to bound. A burst of them (mkdir -p, git checkout) shares a purse that
// fills again slowly, so that it soon runs at local speed, while the single
// call of a person gets the drive's true answer. Trees that grow from a folder
// made a moment ago (cp -r) do not touch it.
type patience struct {
	bound time.Duration

	mu   sync.Mutex
	left time.Duration // guarded by mu
	at   time.Time     // when left was so; zero = never yet; guarded by mu
}

// refill is how much of the time that passes may be spent waiting.
const refill = 4 // a quarter

// within calls fn with what time the purse has left, and takes off what fn used.
// Where nothing is left to speak of fn is not called.
func (p *patience) within(ctx context.Context, fn func(context.Context) error) error {
	d := p.take()
	if d < time.Millisecond {
		return nil
	}
	start := time.Now()
	defer func() { p.spent(time.Since(start)) }()
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return fn(ctx)
}

// take gives the time that the caller may wait; what of it was used is told by
// spent.
func (p *patience) take() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.at.IsZero() {
		p.left = p.bound
	} else {
		p.left = min(p.bound, p.left+now.Sub(p.at)/refill)
	}
	p.at = now
	return max(p.left, 0)
}

// spent takes d off. Many calls that waited at once leave a debt of one bound
// at most, or no call would get the drive's answer for minutes.
func (p *patience) spent(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = max(-p.bound, p.left-d)
}

// waiter is a caller who may get the drive's answer to the intent that it is
// about to make. The zero waiter gets none.
type waiter struct {
	*writeback.Waiter
	p     *patience
	d     time.Duration
	began time.Time
}

// expect is called before the intent about ino is made: the drive may have
// refused it before the call that made it goes on, and what the write-back does
// then depends on whether a caller will be told. The waiter must be left.
func (s *Store) expect(ino uint64) waiter {
	if unreachable(s.remote) {
		return waiter{} // the journal has it
	}
	d := s.patience.take()
	if d < time.Millisecond {
		return waiter{}
	}
	return waiter{Waiter: s.writeBack.Expect(ino), p: &s.patience, d: d, began: time.Now()}
}

func (w *waiter) leave() {
	if w.Waiter != nil {
		w.Leave()
	}
}

// await waits until the intent e is fulfilled, as long as patience lasts. nil:
// it is, or will be; an error: the drive refused it, and the intent is undone.
// When ctx ends first the intent stays, and the answer is nil too.
func (w *waiter) await(ctx context.Context, e *journal.Entry) error {
	if w.Waiter == nil {
		return nil
	}
	defer func() { w.p.spent(time.Since(w.began)) }()
	wait, cancel := context.WithTimeout(ctx, w.d)
	defer cancel()
	err := w.Wait(wait, e.Rev)
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		return nil // the journal has it; taking it back would be a lie too
	case errors.Is(err, drive.ErrNameExists):
		return fmt.Errorf("%w: %w", ErrExist, err)
	case errors.Is(err, writeback.ErrNotEmpty):
		return fmt.Errorf("%w: %w", ErrNotEmpty, err)
	case errors.Is(err, drive.ErrBadParent), errors.Is(err, drive.ErrNotFound):
		return fmt.Errorf("%w: %w", ErrNotExist, err)
	}
	return err
}
