package chunk

import (
	"context"
	"slices"
	"time"
)

const (
	behind     = 2 * chunkSize // what of a window stays when it was read
	maxStreams = 4             // of one Reader

	// A reader that has found everything here so far is perhaps a library scan
	// that comes a second time: before it has read so much, nothing is fetched
	// for it that it does not ask for.
	foundRun = 8 << 20

	longFetch = time.Second // beyond it, nothing is won by asking for more at once

	idleAfter = 10 * time.Second
)

// stream is a window with what it holds: a few chunks behind and as many ahead
// as it has earned. Guarded by Cache.mu.
type stream struct {
	window
	r     *Reader
	ct    *content
	limit int64 // read-ahead ends here
	lacks bool  // a read waited for the network, or surely will

	chunks  []*chunk        // held
	cur     int64           // chunk next was last in, -1 none
	fetches []*fetch        // wanted
	values  context.Context // of ReadInto's caller, nil = none

	waiting int  // reads that wait
	returns int  // how often it was come back to after another stream
	running bool // in Cache.streams
	ended   bool
	plan    int64 // read-ahead is thought about again when next gets here
	used    time.Time

	rate   int64 // bytes a second it is read with
	rateAt time.Time
	rateN  int64
}

// streamLocked finds the stream that a read of [off, end) goes on with, or
// begins one, and moves it there.
func (c *Cache) streamLocked(r *Reader, off, end int64, now time.Time) *stream {
	var s *stream
	best := int64(0)
	for _, o := range r.streams {
		if d, ok := o.near(off); ok && (s == nil || d < best) {
			s, best = o, d
		}
	}
	if s == nil {
		s = c.beginStreamLocked(r, off)
	} else if s != r.last {
		s.returns++
	}
	r.last = s
	s.used = now
	c.moveLocked(s, off, end, now)
	return s
}

// beginStreamLocked makes a stream at off: the reader went elsewhere. What
// the others fetch ahead is given up, unless it is what is needed here or the
// reader was seen to come back to them.
func (c *Cache) beginStreamLocked(r *Reader, off int64) *stream {
	s := &stream{window: window{next: off}, r: r, ct: r.ct, limit: r.v.Size, cur: -1}
	for _, o := range r.streams {
		for _, f := range o.fetches {
			if f.lo < off+look && f.to > off {
				s.adopt(f)
			}
		}
		if o.returns < 2 {
			c.restLocked(o)
		}
	}
	if len(r.streams) >= maxStreams {
		oldest := slices.MinFunc(r.streams, func(a, b *stream) int { return a.used.Compare(b.used) })
		c.endStreamLocked(oldest)
		r.streams = remove(r.streams, oldest)
	}
	r.streams = append(r.streams, s)
	return s
}

// moveLocked takes s to the end of a read of [off, end).
func (c *Cache) moveLocked(s *stream, off, end int64, now time.Time) {
	s.read(off, end)
	if !s.running {
		s.running = true
		c.streams = append(c.streams, s)
	}
	s.rateN += end - off
	if s.rateAt.IsZero() {
		s.rateAt = now
	} else if d := now.Sub(s.rateAt); d >= time.Second {
		s.rate = int64(float64(s.rateN) / d.Seconds())
		s.rateAt, s.rateN = now, 0
	}
	index := (s.next - 1) / chunkSize
	if index != s.cur {
		s.cur = index
		c.touchLocked(s.ct, index)
		c.slideLocked(s)
	}
}

// slideLocked lets go of chunks that the window has passed.
func (c *Cache) slideLocked(s *stream) {
	lo, hi := (s.next-behind)/chunkSize, (s.next+max(2*s.ahead(s.ct.Name), 2*chunkSize))/chunkSize
	keep := s.chunks[:0]
	for _, ch := range s.chunks {
		if ch.index >= lo && ch.index <= hi {
			keep = append(keep, ch)
			continue
		}
		c.leaveLocked(ch)
	}
	clear(s.chunks[len(keep):])
	s.chunks = keep
}

// leaveLocked ends a window's hold of ch: ristretto and the disk may have it,
// and nobody is waited for to read it.
func (c *Cache) leaveLocked(ch *chunk) {
	if ch.windows--; ch.windows == 0 {
		c.readAllLocked(ch)
	}
	c.saveLocked(ch)
	c.offerLocked(ch)
	c.unholdLocked(ch)
}

// holdLocked makes ch part of the window.
func (c *Cache) holdLocked(s *stream, ch *chunk) {
	if slices.Contains(s.chunks, ch) {
		return
	}
	ch.holds++
	ch.windows++
	s.chunks = append(s.chunks, ch)
}

// adopt makes f wanted by s.
func (s *stream) adopt(f *fetch) {
	if !slices.Contains(f.streams, s) {
		f.streams = append(f.streams, s)
		s.fetches = append(s.fetches, f)
	}
}

func (c *Cache) releaseFetchesLocked(s *stream) {
	for _, f := range slices.Clone(s.fetches) {
		c.disownLocked(s, f)
	}
}

func (c *Cache) disownLocked(s *stream, f *fetch) {
	s.fetches = remove(s.fetches, f)
	f.streams = remove(f.streams, s)
	c.unwantedLocked(f)
}

// endStreamLocked lets go of everything s has.
func (c *Cache) endStreamLocked(s *stream) {
	s.ended = true
	c.restLocked(s)
	for _, ch := range s.chunks {
		c.leaveLocked(ch)
	}
	s.chunks = nil
}

// restLocked: s is not being read. It fetches nothing ahead until it is again,
// and what it had fetched ahead may be taken by others.
func (c *Cache) restLocked(s *stream) {
	c.releaseFetchesLocked(s)
	if s.running {
		s.running = false
		c.streams = remove(c.streams, s)
	}
	for _, ch := range s.chunks {
		c.readAllLocked(ch)
	}
}

// extendLocked has f go on to end in the chunks after its own, as far as nothing
// of them is there: in a deep window the time a connection waits for its
// answer is what limits it, and that is paid less often. end is at the end of a
// block, or beyond the end of the version.
func (c *Cache) extendLocked(f *fetch, s *stream, end int64, room int) {
	for f.to < min(end, s.limit) {
		ch := c.chunkLocked(s.ct, f.first+int64(len(f.chunks)))
		to := min(end, ch.base()+int64(ch.size))
		blocks := int(to-ch.base()+blockSize-1) / blockSize
		room -= blocks
		if room < 0 || !ch.asked || ch.disk|ch.have|ch.flying() != 0 || s.limit < to {
			c.dropLocked(ch)
			return
		}
		ch.holds++
		ch.fetches = append(ch.fetches, f)
		f.chunks = append(f.chunks, ch)
		f.to = to
		f.promise += blocks
		c.pool.promised += blocks
		c.holdLocked(s, ch)
	}
}

// shareLocked is how many bytes one running stream may have ahead of it.
func (c *Cache) shareLocked() int64 {
	return int64(c.pool.max*3/4/max(1, len(c.streams))) * blockSize
}

// windowLocked is how many bytes s may have ahead of it: what it has earned, as
// far as there is memory for it and the line carries that in a second.
func (c *Cache) windowLocked(s *stream) int64 {
	w := min(s.ahead(s.ct.Name), c.shareLocked())
	if c.line.each > 0 {
		w = min(w, max(int64(c.line.each*float64(c.line.limit(time.Now(), false))), look))
	}
	return w
}

// aheadLocked fetches ahead for s, at most n fetches, and reports whether it
// has started any.
func (c *Cache) aheadLocked(s *stream, n int) bool {
	ct := s.ct
	if ct.changed || c.closed || len(c.memory) > 0 || len(c.queue) > 0 {
		return false
	}
	w := c.windowLocked(s)
	s.plan = s.next + min(w/4, 1<<20)
	end := min(s.next+w, s.limit)
	started := false
	for pos := s.next; pos < end && n > 0; {
		index := pos / chunkSize
		ch := c.chunkLocked(ct, index)
		base := ch.base()
		wanted := span(int(pos-base), int(min(end-base, int64(ch.size)))) &^ ch.have
		for _, f := range ch.fetches {
			if f.span(ch)&wanted != 0 {
				s.adopt(f)
			}
		}
		if !ch.asked && wanted != 0 {
			if base <= s.next+chunkSize {
				c.findLocked(s, ch)
			}
			c.dropLocked(ch)
			break
		}
		a, b := run(wanted &^ ch.flying() &^ ch.disk)
		if a == b {
			c.dropLocked(ch)
			pos = base + chunkSize
			continue
		}
		ok := c.runAheadLocked(s, ch, a, b, end, w)
		c.dropLocked(ch)
		if !ok {
			break
		}
		started = true
		n--
	}
	return started
}

// findLocked has it found out what of ch is in the disk tier. The window holds it,
// lest that is forgotten at once.
func (c *Cache) findLocked(s *stream, ch *chunk) {
	c.holdLocked(s, ch)
	if !ch.finding {
		ch.finding = true
		ch.holds++
		c.wg.Go(func() { c.findDisk(ch) })
	}
}

// runAheadLocked fetches granules [a, b) of ch ahead, or a beginning of them,
// and what follows up to end, if there are memory and a connection for it and it
// is not too little to be worth a request.
func (c *Cache) runAheadLocked(s *stream, ch *chunk, a, b int, end, w int64) bool {
	lo := ch.base() + int64(a)*granuleSize
	now := time.Now()
	limit := c.line.limit(now, s.run >= trusting)
	n := c.requestLocked(s, lo, w, limit)
	if end < s.limit && end-lo < n && b*granuleSize >= min(int(end-ch.base()), ch.size) {
		return false // wait until it is more
	}
	b = min(b, a+int((n+granuleSize-1)/granuleSize))
	room := c.pool.available() - c.pool.max/8
	need := 0
	for g := a; g < b; g++ {
		if i := g / granulesPerBlock; ch.blocks[i] == nil && (g == a || g%granulesPerBlock == 0) {
			if need++; need > room {
				b = g
				break
			}
		}
	}
	if a >= b {
		return false
	}
	if c.conns >= c.line.connections(n, limit) || !s.lacks && s.run < foundRun {
		return false
	}
	if now.Before(c.aheadAt) || c.streak > 0 && c.conns > 0 {
		return false
	}
	f := c.startLocked(ch, a, b, false, s, s.values)
	c.holdLocked(s, ch)
	if b*granuleSize >= chunkSize {
		if end = min(end, lo+n); end < s.limit {
			end = end / blockSize * blockSize
		}
		c.extendLocked(f, s, end, room-need)
	}
	return true
}

// requestLocked is how many bytes one request that begins at pos is to bring in
// a window of w bytes. Towards the end of the file each brings the smaller part
// of its share of what is left, so that none is long at it when the others have
// nothing to do.
func (c *Cache) requestLocked(s *stream, pos, w int64, limit int) int64 {
	left := s.limit - pos
	for _, f := range s.fetches {
		if !f.disk {
			left += f.to - f.at
		}
	}
	return c.line.request(w, left, limit)
}
