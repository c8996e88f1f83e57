package chunk

import (
	"testing"
	"time"
)

// How many connections the line is found to be good for, by a reader that
// always wants more.
func TestLine(t *testing.T) {
	for _, x := range []struct {
		name        string
		rtt         time.Duration
		total, each int64 // bytes a second: of all connections, of one
		least, most int
		read        int64 // bytes
	}{
		{"each connection is limited, far", 50 * time.Millisecond, 0, 50e6, 15, 15, 250e6},
		{"each connection is limited, near", 5 * time.Millisecond, 0, 20e6, 15, 15, 150e6},
		{"a slow line", 50 * time.Millisecond, 25e5, 50e6, 1, 2, 20e6},
		{"one that two connections fill", 30 * time.Millisecond, 20e6, 10e6, 2, 8, 60e6},
		{"one that four fill", 50 * time.Millisecond, 200e6, 50e6, 4, 15, 300e6},
		{"one that twelve fill", 50 * time.Millisecond, 600e6, 50e6, 12, 16, 300e6},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := &service{latency: x.rtt, rate: x.each, line: x.total, tags: true}
				c := open(t, Options{Source: s, Memory: 256 << 20})
				r := c.Reader(film("film", 1<<40))
				defer r.Close()
				begun := time.Now()
				off := int64(0)
				for ; off < x.read; off += 1 << 20 {
					w, err := r.ReadAt(t.Context(), off, 1<<20)
					if err != nil {
						t.Fatal(err)
					}
					w.Release()
				}
				c.mu.Lock()
				defer c.mu.Unlock()
				rate := float64(off) / time.Since(begun).Seconds()
				limit := c.line.limit(time.Now(), true)
				t.Logf("%d connections, %.1f MB/s", limit, rate/1e6)
				if limit < x.least || limit > x.most {
					t.Errorf("%d connections, want %d to %d", limit, x.least, x.most)
				}
			})
		})
	}
}

func TestLineThrottled(t *testing.T) {
	l := line{max: 16}
	now := time.Unix(1000, 0)
	// bring has connections that always want more bring 50 MB/s each.
	bring := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); now = now.Add(5 * time.Millisecond) {
			n := l.limit(now, true)
			for range n {
				l.body(now, 250e3, 5*time.Millisecond, float64(n))
			}
		}
	}
	bring(time.Second)
	l.throttled(now)
	l.throttled(now.Add(time.Millisecond))
	if n := l.limit(now, true); n != 8 {
		t.Errorf("%d connections after a burst of 429, want 8", n)
	}
	bring(5 * time.Second)
	if n := l.limit(now, true); n != 8 {
		t.Errorf("%d connections soon after, want 8", n)
	}
	bring(time.Minute)
	if n := l.limit(now, true); n != 16 {
		t.Errorf("%d connections a minute later, want 16", n)
	}
	l = line{max: 1}
	if n := l.limit(now, true); n != 1 {
		t.Errorf("%d of 1 connections", n)
	}
}
