package cache

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestPatience: a single call may wait the bound, a burst of calls that one bound
// together; a quarter of the time that passes comes back, and a debt is bounded.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := patience{bound: time.Second}
		wait := func() (waited time.Duration) {
			begun := time.Now()
			err := p.within(t.Context(), func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
			if waited = time.Since(begun); waited > 0 && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			return waited
		}
		for i, want := range []time.Duration{time.Second, 250 * time.Millisecond, 62500 * time.Microsecond} {
			if d := wait(); d != want {
				t.Errorf("call %d waited %v, want %v", i, d, want)
			}
		}
		time.Sleep(time.Hour)
		if d := wait(); d != time.Second {
			t.Errorf("after an hour: %v", d)
		}
		for range 64 { // at once
			p.spent(time.Second)
		}
		if d := wait(); d != 0 {
			t.Errorf("in debt: %v", d)
		}
		time.Sleep(3 * time.Second)
		if d := wait(); d != 0 {
			t.Errorf("when the debt is paid: %v", d)
		}
		time.Sleep(2 * time.Second)
		if d := wait(); d != 500*time.Millisecond {
			t.Errorf("2 s later: %v", d)
		}
	})
}
