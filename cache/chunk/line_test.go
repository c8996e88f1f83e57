package chunk

import (
	"testing"
	"time"
)

// flow runs l over a line that carries total bytes a second, each connection
// at most each, for d, with a reader that always wants more.
func flow(l *line, now time.Time, total, each float64, d time.Duration) time.Time {
	const tick = 10 * time.Millisecond
	for end := now.Add(d); now.Before(end); now = now.Add(tick) {
		l.blocked = true
		rate := min(total, each*float64(l.limit))
		l.moved(now, int(rate*tick.Seconds()))
	}
	return now
}

func TestLine(t *testing.T) {
	for _, x := range []struct {
		name        string
		total, each float64
		least, most int
	}{
		{"each connection is limited", 1e12, 50e6, 15, 15},
		{"a slow line", 2.5e6, 50e6, 1, 2},
		{"four fill it", 200e6, 50e6, 4, 6},
		{"ten fill it", 500e6, 50e6, 8, 15},
	} {
		t.Run(x.name, func(t *testing.T) {
			l := newLine(16)
			l.header(50 * time.Millisecond)
			now := flow(&l, time.Unix(1000, 0), x.total, x.each, 4*time.Second)
			if l.limit < x.least || l.limit > x.most {
				t.Errorf("%d connections, want %d to %d", l.limit, x.least, x.most)
			}
			l.throttled(now)
			was := l.limit
			l.throttled(now.Add(time.Millisecond))
			if l.limit != was {
				t.Error("one burst of 429 counted twice")
			}
			if now = flow(&l, now, x.total, x.each, 5*time.Second); l.limit != was {
				t.Error("grew at once after a 429")
			}
			flow(&l, now, x.total, x.each, 60*time.Second)
			if l.limit < x.least || l.limit > x.most {
				t.Errorf("%d connections a minute later, want %d to %d", l.limit, x.least, x.most)
			}
		})
	}
	l := newLine(16)
	now := time.Unix(1000, 0)
	for range 100 {
		now = now.Add(50 * time.Millisecond)
		l.moved(now, 1<<20)
	}
	if l.limit != firstConnections {
		t.Error("changed although nobody wanted more")
	}
	if l = newLine(1); l.limit != 1 {
		t.Errorf("%d of 1 connections", l.limit)
	}
}

// Where waiting is what takes the time, the line begins with all connections,
// and has fewer again when they are in each other's way.
func TestLineSwift(t *testing.T) {
	for _, x := range []struct {
		name        string
		rtt, took   time.Duration // of the first 256 KiB
		total       float64
		least, most int
	}{
		{"waiting", 50 * time.Millisecond, 5 * time.Millisecond, 1e12, 15, 15},
		{"near", 5 * time.Millisecond, 2 * time.Millisecond, 1e12, 8, 8},
		{"a slow line", 50 * time.Millisecond, 100 * time.Millisecond, 2.5e6, 8, 8},
		{"a burst of a slow line", 50 * time.Millisecond, 5 * time.Millisecond, 20e6, 15, 15},
	} {
		t.Run(x.name, func(t *testing.T) {
			l := newLine(16)
			l.header(x.rtt)
			l.body(firstFetch, x.took, true)
			if l.limit < x.least || l.limit > x.most {
				t.Errorf("begins with %d connections, want %d to %d", l.limit, x.least, x.most)
			}
			now := time.Unix(1000, 0)
			for range 20 {
				each := min(x.total/float64(l.limit), 50e6)
				for range l.limit {
					l.body(1<<20, time.Duration(1<<20/each*float64(time.Second)), false)
				}
				now = flow(&l, now, x.total, 50e6, 200*time.Millisecond)
			}
			if x.total < 50e6 && l.limit > 2 {
				t.Errorf("%d connections although one does as well", l.limit)
			}
			if x.total > 1e9 && l.limit < 15 {
				t.Errorf("%d connections although all are as good", l.limit)
			}
		})
	}
}
