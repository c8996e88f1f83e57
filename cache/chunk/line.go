package chunk

import "time"

// line decides how many connections read-ahead may use at once. As TCP does
// with its window, it opens more while more connections bring more bytes, and
// goes back when they do not: on a slow line many connections only take the
// bytes from the one the reader is waiting for. Guarded by Cache.mu.
type line struct {
	max   int
	limit int

	blocked bool // somebody wanted one more connection during this epoch
	start   time.Time
	bytes   int64

	last   float64 // bytes a second with before connections
	before int
	hold   time.Time // no experiment until then

	alone     float64       // bytes a second of a swift connection, 0 = not seen
	each      float64       // bytes a second of one connection that brings some, lately
	rtt       time.Duration // from request to answer, smoothed
	halvedAt  time.Time
	growing   bool  // trying more
	shrinking bool  // trying fewer
	swiftly   bool  // began with all, not concluded from yet
	seen      int64 // bytes brought since then
}

// Until more is known, as many connections as an ordinary line can use.
const firstConnections = 8

func newLine(downloads int) line {
	// One connection stays out of read-ahead's reach where there are many:
	// a seek finds it open and idle, and so takes one round trip, not two.
	most := downloads
	if most >= 8 {
		most--
	}
	n := min(firstConnections, most)
	return line{max: most, limit: n, before: n, growing: true}
}

// header is told how long an answer took to begin.
func (l *line) header(d time.Duration) {
	if l.rtt == 0 {
		l.rtt = d
	}
	l.rtt += (d - l.rtt) / 8
}

// epoch is how long bytes are counted before something is concluded.
func (l *line) epoch() time.Duration {
	return min(max(3*l.rtt, 100*time.Millisecond), time.Second)
}

// Where an answer takes so long and then brings firstFetch in half the time,
// connections spend their time waiting: that takes all of them.
const longTrip = 20 * time.Millisecond

// body is told how long n bytes took that one connection brought without a
// pause; first, that they are those after its header. A swift connection has
// the line begin with all of them.
func (l *line) body(n int64, took time.Duration, first bool) {
	rate := float64(n) / max(took, 100*time.Microsecond).Seconds()
	if l.each == 0 {
		l.each = rate
	}
	l.each += (rate - l.each) / 8
	if l.swiftly {
		l.seen += n
	}
	if first && l.alone == 0 && l.growing && l.before == l.limit && l.rtt >= longTrip && took <= l.rtt/2 {
		l.alone, l.swiftly = rate, true
		l.limit, l.before = l.max, l.max
		l.start, l.bytes = time.Time{}, 0
	}
}

// moved is told of every n bytes that arrived.
func (l *line) moved(now time.Time, n int) {
	if l.start.IsZero() {
		l.start = now
	}
	if now.Before(l.start) {
		return // the last change has not taken effect yet
	}
	l.bytes += int64(n)
	if d := now.Sub(l.start); d >= l.epoch() {
		rate := float64(l.bytes) / d.Seconds()
		l.conclude(now, rate)
		l.bytes, l.blocked = 0, false
	}
}

// conclude ends an epoch in which the line brought rate.
func (l *line) conclude(now time.Time, rate float64) {
	l.start = now
	if !l.blocked {
		return // nobody missed a connection: nothing can be learnt
	}
	switch {
	case l.swiftly:
		// All from the beginning: are they in each other's way?
		switch {
		case l.seen < int64(l.max)*chunkSize/2:
			// They were not all busy yet.
		case l.each < l.alone/2:
			l.swiftly, l.growing, l.shrinking = false, false, true
			l.try(now, rate, max(1, l.limit/2))
		default:
			l.swiftly = false
			l.rest(now)
		}
	case l.growing && l.limit == l.before:
		// The first measure of this limit: the one to compare with.
		l.try(now, rate, min(l.max, 2*l.limit))
	case l.growing:
		// Half of what the new connections would bring if they were as good
		// as the old ones is worth having them.
		if rate >= l.last*(1+0.5*(float64(l.limit)/float64(l.before)-1)) {
			l.try(now, rate, min(l.max, 2*l.limit))
			return
		}
		// They bring nothing: perhaps fewer do as well.
		l.growing, l.shrinking = false, true
		l.limit = l.before
		l.try(now, l.last, max(1, l.limit/2))
	case l.shrinking:
		if rate >= 0.9*l.last {
			l.try(now, rate, max(1, l.limit/2))
			return
		}
		l.limit = l.before
		l.rest(now)
	case now.After(l.hold):
		l.growing = true
		l.try(now, rate, min(l.max, l.limit+max(1, l.limit/4)))
	}
}

// try goes on with limit connections where l.limit brought rate.
func (l *line) try(now time.Time, rate float64, limit int) {
	l.last, l.before = rate, l.limit
	if limit == l.limit {
		l.rest(now)
		return
	}
	l.limit = limit
	l.start = now.Add(min(max(l.rtt, 20*time.Millisecond), 500*time.Millisecond))
}

// rest ends the experiments for a while.
func (l *line) rest(now time.Time) {
	l.growing, l.shrinking = false, false
	l.before = l.limit
	l.hold = now.Add(5 * time.Second)
}

// throttled is told of every 429 that reached us.
func (l *line) throttled(now time.Time) {
	if now.Sub(l.halvedAt) < time.Second {
		return // one burst, one lesson
	}
	l.halvedAt = now
	l.limit = max(1, l.limit/2)
	l.swiftly = false
	l.rest(now)
	l.hold = now.Add(10 * time.Second)
}
