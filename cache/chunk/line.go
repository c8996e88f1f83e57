package chunk

import "time"

// line decides how many connections read-ahead may use at once. It begins
// with few, since on a slow line many connections only take the bytes from the
// one the reader is waiting for, and opens more while they bring more. What
// they bring is told by what one connection brings: where twice as many
// connections bring half as much each, they are in each other's way.
// (The bytes of all together would tell about pauses between requests and
// about the reader just as much.) Guarded by Cache.mu.
type line struct {
	max   int
	limit int

	phase  phase
	before int   // the limit to compare with
	last   yield // with it, zero = not known yet
	hold   time.Time
	pause  time.Duration // the last time to hold
	again  bool          // grow again if fewer bring less

	// The epoch: what connections brought since start in which time of theirs.
	start   time.Time
	brought int64
	busy    time.Duration
	beside  float64 // that time weighed with how many there were, seconds
	blocked bool    // somebody wanted one more connection

	bringing int       // connections that bring bytes
	effect   bool      // they are about as many as the limit wants
	since    time.Time // from then on

	swift    bool          // began with several
	alone    int64         // bytes that the first connection brought
	aloneIn  time.Duration // time it took, without waiting for the answer
	aloneAll time.Duration // and with it

	each     float64       // bytes a second of one connection that brings some, lately
	lately   float64       // of which this is the quotient: bytes,
	latelyIn float64       // and seconds
	rtt      time.Duration // from request to answer, smoothed
	least    time.Duration // the shortest that was seen
	halvedAt time.Time
}

// yield is what an epoch showed: bytes a second of one connection, and how
// many there were (less than the limit when some waited for answers).
type yield struct{ each, conns float64 }

// all is what they would bring without waiting.
func (y yield) all() float64 { return y.each * y.conns }

type phase int

const (
	growing phase = iota
	shrinking
	resting
)

const (
	firstConnections = 2
	// Where an answer takes so long and then brings firstFetch in half the
	// time, a connection spends its time waiting: it begins with more of them.
	longTrip         = 20 * time.Millisecond
	swiftConnections = 4
)

// How long no more connections are tried after that brought nothing.
const (
	leastPause = 5 * time.Second
	mostPause  = time.Minute
)

func newLine(most int) line {
	return line{max: most, limit: min(firstConnections, most)}
}

// header is told how long an answer took to begin.
func (l *line) header(d time.Duration) {
	if l.rtt == 0 {
		l.rtt, l.least = d, d
	}
	l.rtt += (d - l.rtt) / 8
	l.least = min(l.least, d)
}

// epoch is how long is measured before something is concluded.
func (l *line) epoch() time.Duration {
	if l.swift && l.phase == growing {
		return l.rtt / 4 // where much comes in that time
	}
	return min(max(2*l.rtt, 50*time.Millisecond), time.Second)
}

// first is told how long the n bytes took that came as the first ever: took
// without the time until the answer, all with it; and whether they are for
// somebody who copies the whole file. It reports whether there are to be more
// connections.
func (l *line) first(now time.Time, n int64, took, all time.Duration, eager bool) bool {
	if l.alone > 0 || l.phase != growing || l.last.each > 0 {
		return false
	}
	l.alone, l.aloneIn, l.aloneAll = n, took, all
	if l.rtt < longTrip || took > l.rtt/2 {
		return false
	}
	l.swift = true
	was := l.limit
	if l.limit = min(max(l.limit, swiftConnections), l.max); eager {
		// Nobody looks at the bytes as they come, so that it may be tried at
		// once how many connections the line is good for.
		l.limit = l.max
	}
	if l.limit == was {
		return false
	}
	l.effect = false
	l.begin(now)
	l.look(now)
	return true
}

// aloneRate is what a connection brings that has the line for itself, 0 =
// unknown. What was late in being looked at had time to arrive before that;
// the first answer alone cannot tell, the ones after it can.
func (l *line) aloneRate() float64 {
	if l.alone == 0 {
		return 0
	}
	return float64(l.alone) / max(l.aloneIn, l.aloneAll-l.least, 100*time.Microsecond).Seconds()
}

// bodies is told how many connections bring bytes, whenever that changes.
func (l *line) bodies(now time.Time, n int) {
	l.bringing = n
	l.look(now)
}

// look notes when the limit comes into effect: what is measured before then
// tells about another one.
func (l *line) look(now time.Time) {
	was := l.effect
	switch l.phase {
	case growing:
		l.effect = 4*l.bringing >= 3*l.limit
	case shrinking:
		l.effect = l.bringing <= l.limit
	default:
		l.effect = true
	}
	if l.effect && !was {
		l.since = now
		if l.brought == 0 && l.start.Before(now) {
			l.start = now
		}
	}
}

// body is told that a connection has brought n bytes in the time took until
// now. It reports whether there are to be fewer connections.
func (l *line) body(now time.Time, n int64, took time.Duration) bool {
	took = max(took, 100*time.Microsecond)
	// Bytes and time each for itself: what a stall holds up comes at once after
	// it, and neither of the two is how fast a connection is.
	l.lately += (float64(n) - l.lately) / 8
	l.latelyIn += (took.Seconds() - l.latelyIn) / 8
	l.each = l.lately / l.latelyIn
	if began := now.Add(-took); !l.effect || began.Before(l.start) || began.Before(l.since) {
		return false
	}
	l.brought += n
	l.busy += took
	l.beside += took.Seconds() * float64(max(l.bringing, 1))
	if now.Sub(l.start) < l.epoch() || l.brought < int64(l.limit)*firstFetch {
		return false
	}
	y := yield{float64(l.brought) / l.busy.Seconds(), l.beside / l.busy.Seconds()}
	was := l.blocked
	l.begin(now)
	if !was {
		return false // nobody missed a connection, and nothing can be learnt
	}
	limit := l.limit
	l.conclude(now, y)
	return l.limit < limit
}

// begin begins an epoch.
func (l *line) begin(at time.Time) {
	l.start, l.brought, l.busy, l.beside, l.blocked = at, 0, 0, 0, false
}

// conclude ends an epoch that showed y.
func (l *line) conclude(now time.Time, y yield) {
	switch l.phase {
	case growing:
		switch {
		case l.last.each == 0 && l.limit > 1 && y.each < 0.7*l.aloneRate():
			// In each other's way already, as it seems.
			l.again, l.swift = true, false
			l.fewer(now, y)
		case l.last.each == 0 || y.all() >= (l.last.all()+l.last.each*y.conns)/2:
			// Half of what the new connections would bring if they were as
			// good as the old ones is worth having them.
			l.pause = 0
			l.more(now, y)
		default:
			// They bring nothing: perhaps fewer do as well.
			l.limit = l.before
			l.fewer(now, l.last)
		}
	case shrinking:
		switch {
		case y.all() >= 0.8*l.last.all():
			l.again = false
			l.fewer(now, y)
		case l.again:
			l.again = false
			l.limit = l.before
			l.more(now, l.last)
		default:
			l.limit = l.before
			l.rest(now)
		}
	case resting:
		switch {
		case y.each < l.last.each/2 && y.all() < 0.6*l.last.all():
			l.fewer(now, y) // it has become another line
		case now.After(l.hold):
			l.phase = growing
			l.try(now, y, min(l.max, l.limit+max(1, l.limit/4)))
		}
	}
}

// more goes on with more connections where limit of them brought y.
func (l *line) more(now time.Time, y yield) {
	n := 2 * l.limit
	if l.swift {
		n *= 2
	}
	l.phase = growing
	l.try(now, y, min(n, l.max))
}

func (l *line) fewer(now time.Time, y yield) {
	l.phase = shrinking
	l.try(now, y, max(1, l.limit/2))
}

func (l *line) try(now time.Time, y yield, limit int) {
	l.last, l.before = y, l.limit
	if limit == l.limit {
		l.rest(now)
		return
	}
	l.limit, l.effect = limit, false
	l.begin(now)
	l.look(now)
}

// rest ends the experiments for a while.
func (l *line) rest(now time.Time) {
	l.phase, l.effect = resting, true
	l.before = l.limit
	l.pause = min(max(2*l.pause, leastPause), mostPause)
	l.hold = now.Add(l.pause)
}

// throttled is told of every 429 that reached us.
func (l *line) throttled(now time.Time) {
	if now.Sub(l.halvedAt) < time.Second {
		return // one burst, one lesson
	}
	l.halvedAt = now
	l.limit = max(1, l.limit/2)
	l.rest(now)
	l.last = yield{}
	l.hold = now.Add(10 * time.Second)
}
