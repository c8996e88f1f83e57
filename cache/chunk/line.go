package chunk

import (
	"math/bits"
	"time"
)

// line is what is known of the way to the service, and decides how many
// connections read-ahead may use at once: on a slow line many of them only take
// the bytes from the one the reader is waiting for. What is told apart is how
// fast one connection is beside how many others, since the bytes of all together
// would tell about the reader just as much: where twice as many connections
// bring half as much each, they are in each other's way. Guarded by Cache.mu.
type line struct {
	max    int           // connections
	rtt    time.Duration // from request to answer, smoothed
	each   float64       // bytes a second of one connection that brings some, lately
	lately float64       // of which this is the quotient: bytes,
	lasted float64       // and seconds
	beside [8]pace       // by the number of connections: 1, 2, up to 4, up to 8 ...
	cap    int           // since the service throttled, 0 = none
	until  time.Time     // then cap doubles
}

// pace is how fast one of several connections was: sums that fade.
type pace struct {
	bytes, secs, conns float64 // conns weighed with the time
	n                  int     // samples
	at                 time.Time
}

// each is what one of them brings in a second, all what they do together.
func (p *pace) each() float64 { return p.bytes / max(p.secs, 1e-9) }
func (p *pace) all() float64  { return p.each() * p.conns / max(p.secs, 1e-9) }

// surely reports whether it was seen for long enough to believe that it is slow.
func (p *pace) surely() bool { return p.n >= 12 || p.n >= 3 && p.secs >= 0.5 }

const (
	// enough for a film: a connection that brings so many bytes a second beside
	// others is in nobody's way.
	enough = 5e6
	// worth is how many times as much twice as many connections have to bring
	// where each brings less than that.
	worth = 1.25
	// forgotten is when more connections are tried again that were not worth it,
	// and ones that the service refused.
	forgotten = 10 * time.Second
)

// header is told how long an answer took to begin.
func (l *line) header(d time.Duration) {
	if l.rtt == 0 {
		l.rtt = d
	}
	l.rtt += (d - l.rtt) / 8
}

// body is told that a connection has brought n bytes in the time took until
// now, beside which there were so many that brought some, itself included.
func (l *line) body(now time.Time, n int64, took time.Duration, conns float64) {
	took = max(took, 100*time.Microsecond)
	// Bytes and time each for itself: what a stall holds up comes at once after
	// it, and neither of the two is how fast a connection is.
	l.lately += (float64(n) - l.lately) / 8
	l.lasted += (took.Seconds() - l.lasted) / 8
	l.each = l.lately / l.lasted
	p := &l.beside[bits.Len(uint(conns+0.5)-1)]
	const fade = 0.9
	p.bytes = fade*p.bytes + float64(n)
	p.secs = fade*p.secs + took.Seconds()
	p.conns = fade*p.conns + conns*took.Seconds()
	p.n, p.at = p.n+1, now
}

// limit is how many connections may bring bytes of read-ahead at once. Whether
// more are worth having is tried by readers with a window that bears it.
func (l *line) limit(now time.Time, try bool) int {
	most := l.max
	if l.cap > 0 {
		if now.After(l.until) {
			l.cap, l.until = 2*l.cap, now.Add(forgotten)
		}
		most = min(most, l.cap)
	}
	i := 0
	for 1<<i < most {
		j := i + 1
		for 1<<(j-1) < most && l.beside[j].n == 0 {
			j++
		}
		if 1<<(j-1) >= most {
			if try {
				i++ // nothing is known of more
			}
			break
		}
		p := &l.beside[j]
		if p.each() >= enough || p.all() >= worth*l.beside[i].all() {
			i = j
			continue
		}
		if try && now.Sub(p.at) > forgotten {
			*p = pace{}
		}
		if try && (j > i+1 || !p.surely()) {
			i++
		}
		break
	}
	return min(1<<i, most)
}

// trip is what a connection could have brought while it waited for an answer.
func (l *line) trip() int64 { return int64(l.each * l.rtt.Seconds()) }

// request is how many bytes one request is to bring when w are to be on their
// way of left that are missing up to the end of the file: what keeps limit
// connections bringing bytes while others wait for their answers, but not more
// than one brings in longFetch, and towards the end the smaller part of its
// share of what is left, so that none is long at it when the others have nothing
// to do.
func (l *line) request(w, left int64, limit int) int64 {
	n := min(max(w/int64(limit)-l.trip(), w/int64(l.max)), w/2)
	n = min(n, max(left*3/4/int64(l.max), 2*l.trip()))
	if l.each > 0 {
		n = min(n, int64(l.each*longFetch.Seconds()))
	}
	return max(n, look)
}

// connections is how many may be used for requests of n bytes: where an answer
// takes longer than its bytes, most of them wait, and those are in nobody's way.
func (l *line) connections(n int64, limit int) int {
	return int(min(int64(limit)*(l.trip()+n)/n, int64(l.max)))
}

// throttled is told of every 429 that reached us.
func (l *line) throttled(now time.Time) {
	if l.cap > 0 && now.Sub(l.until) < time.Second-forgotten {
		return // one burst, one lesson
	}
	l.cap, l.until = max(1, l.limit(now, false)/2), now.Add(forgotten)
}
