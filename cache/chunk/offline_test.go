package chunk

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// Once the service has answered nothing for 15 s, reads of what is not here fail
// within a second, until it answers: to a probe, when nobody reads. A shorter
// interruption is a pause.
func TestOffline(t *testing.T) {
	errRefused := &drive.Error{Kind: drive.ErrUnavailable, Err: errReset}
	for _, x := range []struct {
		name string
		out  fault
	}{
		{"refused", fault{err: errRefused}},
		{"no byte after the answer", fault{stall: true}},
		{"server errors", fault{err: &drive.Error{Kind: drive.ErrUnavailable, Status: 500}}},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var down atomic.Bool
				s := &service{latency: 50 * time.Millisecond, tags: true}
				s.fault = func(int, int64, int64) *fault {
					if down.Load() {
						return &x.out
					}
					return nil
				}
				var place atomic.Uint64
				c := open(t, Options{Source: s, Network: place.Load})
				film := film("film", 1<<30)
				r := c.Reader(film)
				defer r.Close()
				mustRead(t, r, 0, 4096)
				fails := func(off int64, least, most time.Duration) {
					t.Helper()
					begun := time.Now()
					err := readAt(t.Context(), r, off, 4096)
					if d := time.Since(begun); !errors.Is(err, drive.ErrUnavailable) || d < least || d > most {
						t.Errorf("%v after %v, want a failure after %v to %v", err, d, least, most)
					}
				}
				down.Store(true)
				time.AfterFunc(10*time.Second, func() { down.Store(false) })
				begun := time.Now()
				mustRead(t, r, 100<<20, 4096) // a pause
				if d := time.Since(begun); d > 14*time.Second {
					t.Errorf("an interruption of 10 s was one of %v", d)
				}

				down.Store(true)
				fails(200<<20, 14*time.Second, 16*time.Second)
				for i := range int64(20) {
					fails((300+i)<<20, 0, time.Second)
				}
				mustRead(t, r, 0, 4096) // what is here is read
				time.Sleep(time.Hour)   // nobody reads
				fails(400<<20, 0, time.Second)
				place.Add(1) // another network, or it was asleep
				time.Sleep(5 * time.Second)
				fails(500<<20, 9*time.Second, 16*time.Second)
				fails(501<<20, 0, time.Second)

				down.Store(false)
				time.Sleep(20 * time.Second) // nobody reads
				down.Store(true)
				fails(600<<20, 14*time.Second, 16*time.Second) // known again
				down.Store(false)
				time.Sleep(100 * time.Millisecond)
				mustRead(t, r, 700<<20, 4096) // answered within what a read waits
				if n := c.Stats().Streams; len(n) > 4 {
					t.Errorf("%d streams", len(n))
				}
				check(t, c)
			})
		})
	}
}

// What others know counts: the first read waits no longer than the next.
func TestOfflineKnown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{tags: true, fault: func(int, int64, int64) *fault { return &fault{err: drive.ErrUnavailable} }}
		since := time.Now()
		c := open(t, Options{Source: s, Offline: func() time.Time { return since }})
		time.Sleep(time.Minute)
		r := c.Reader(film("film", 1<<30))
		defer r.Close()
		begun := time.Now()
		err := readAt(t.Context(), r, 0, 4096)
		if d := time.Since(begun); !errors.Is(err, drive.ErrUnavailable) || d > time.Second {
			t.Errorf("%v after %v", err, d)
		}
	})
}
