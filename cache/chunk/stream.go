package chunk

import (
	"context"
	"slices"
	"time"
)

// Windows.
const (
	firstFetch = 256 << 10      // what a read fetches of which nothing else is known
	fullWindow = 32 * chunkSize // of a reader that finds everything there
	maxWindow  = 96 * chunkSize // of one that waits for the line
	diskWindow = chunkSize      // what of it is read ahead from the disk tier
	behind     = 2 * chunkSize
	maxStreams = 4 // of one Reader

	// What still counts as going on where the last read ended: the kernel has
	// several reads of up to 1 MiB on their way, and they overtake each other.
	gapAhead  = 4 << 20
	gapBehind = 4 << 20

	// A reader that has found everything here so far is perhaps a library scan
	// that comes a second time: before it has read so much, nothing is fetched
	// for it that it does not ask for.
	foundRun = 8 << 20

	longFetch = time.Second // beyond it, nothing is won by asking for more at once

	// Whoever begins at the beginning of a file with reads of this size copies
	// it: the kernel makes them of reads of more than 128 KiB, and players,
	// scanners and viewers read less. What it reads is known without waiting
	// for it to go on.
	eagerRead = 512 << 10

	idleAfter = 10 * time.Second
)

// stream is one sequential course through a version: it has a window, a few
// chunks behind and as many ahead as it has earned. Guarded by Cache.mu.
type stream struct {
	r     *Reader
	ct    *content
	next  int64 // where the next read is expected
	limit int64 // read-ahead ends here
	win   int64 // bytes
	run   int64 // bytes read one after the other so far
	gap   int64 // bytes before next that were jumped over and not read yet
	slow  bool  // a read waited for the network since the window grew
	lacks bool  // one did so ever, or surely will
	eager bool  // began with an eagerRead

	chunks  []*chunk        // held
	cur     int64           // chunk next was last in, -1 none
	fetches []*fetch        // wanted
	values  context.Context // of ReadInto's caller, nil = none

	returns int  // how often it was come back to after another stream
	running bool // in Cache.streams
	ended   bool
	plan    int64 // read-ahead is thought about again when next gets here
	used    time.Time

	begun bool   // had its first read
	fresh bool   // nothing was given to its reader yet
	solo  *fetch // everything read by it came from this one, unconfirmed

	rate   int64 // bytes a second it is read with
	rateAt time.Time
	rateN  int64
}

// growth is how large the window is after so many bytes were read one after
// the other. It grows fast, since every step costs a round trip and a line
// that needs many connections waits for the last: 64 MiB after 2 MiB, which is
// more than a library scan reads at one place. Little of that has come when a
// reader leaves that soon, except where it costs little time. The last step
// is for readers the line is too slow for; a film that plays does not take the
// memory from others.
var growth = []struct{ run, win int64 }{
	{1, 1 << 20},
	{1 << 20, chunkSize},
	{2 << 20, 16 * chunkSize},
	{5 << 20, fullWindow},
	{9 << 20, maxWindow},
}

// streamLocked finds the stream that a read of [off, end) goes on with, or
// begins one, and moves it there.
func (c *Cache) streamLocked(r *Reader, off, end int64, now time.Time) *stream {
	var s *stream
	for _, o := range r.streams {
		if off < o.next-gapBehind || off > o.next+gapAhead {
			continue
		}
		if s == nil || distance(off, o.next) < distance(off, s.next) {
			s = o
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

func distance(a, b int64) int64 { return max(a-b, b-a) }

// beginStreamLocked makes a stream at off: the reader went elsewhere. What
// the others fetch ahead is given up, unless it is what is needed here or the
// reader was seen to come back to them.
func (c *Cache) beginStreamLocked(r *Reader, off int64) *stream {
	s := &stream{r: r, ct: r.ct, next: off, limit: r.v.Size, win: firstFetch, cur: -1, fresh: true}
	if isImage(r.v.Name) && off < firstFetch && r.v.Size <= fullWindow {
		// Pictures are read whole: both ends of one at the same time.
		s.win, s.run, s.lacks = 2*chunkSize, 1, true
	}
	for _, o := range r.streams {
		for _, f := range o.fetches {
			if f.lo < off+firstFetch && f.to > off {
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
	// Only what is read earns read-ahead: a jump may be an overtaking read or
	// a reader that looks at a little here and there.
	d := off - s.next
	switch {
	case !s.begun:
		s.begun = true
		s.next = end
		if off == 0 && end-off >= eagerRead && s.limit == s.ct.Size && s.run == 0 {
			s.eager = true
			s.run = end - off
			s.earnLocked()
		}
	case s.run == 0 && d > firstFetch:
		s.gap += d
		s.next = end
	case d >= 0:
		s.gap += d
		s.run += end - off
		s.next = end
		s.earnLocked()
	default:
		// Overtaken by another read, or looked at again.
		late := min(min(end, s.next)-off, s.gap)
		s.gap -= late
		s.run += late
		if end > s.next {
			s.run += end - s.next
			s.next = end
		}
		if s.run > 0 {
			s.earnLocked()
		}
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

// earnLocked lets the window grow with what was read, and s read ahead.
func (s *stream) earnLocked() {
	c := s.r.c
	for _, g := range growth {
		if (s.run >= g.run || s.eager) && s.win < g.win && (g.win <= fullWindow || s.slow || s.eager) {
			s.win, s.plan = g.win, 0
			s.slow = false
		}
	}
	if !s.running {
		s.running = true
		c.streams = append(c.streams, s)
	}
}

// slideLocked lets go of chunks that the window has passed.
func (c *Cache) slideLocked(s *stream) {
	lo, hi := (s.next-behind)/chunkSize, (s.next+max(2*s.win, 2*chunkSize))/chunkSize
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
		if room < 0 || !ch.asked || ch.disk|ch.have|ch.flying() != 0 || len(ch.parts) > 0 || s.limit < to {
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

// aheadLocked fetches ahead for s, at most n fetches, and reports whether it
// has started any.
func (c *Cache) aheadLocked(s *stream, n int) bool {
	ct := s.ct
	if s.run == 0 || ct.changed || c.closed || len(c.memory) > 0 || len(c.queue) > 0 {
		return false
	}
	w := min(s.win, c.shareLocked())
	s.plan = s.next + min(w/4, 1<<20)
	end := s.next + w
	if w >= chunkSize {
		end = (end + chunkSize - 1) / chunkSize * chunkSize
	}
	end = min(end, s.limit)
	started := false
	for pos := s.next; pos < end && n > 0; {
		index := pos / chunkSize
		ch := c.chunkLocked(ct, index)
		base := ch.base()
		to := int(min(end-base, int64(ch.size)))
		wanted := span(int(pos-base), to) &^ ch.have
		for _, f := range ch.fetches {
			if f.span(ch)&wanted != 0 {
				s.adopt(f)
			}
		}
		a, b := run(wanted &^ ch.flying())
		if a == b {
			c.dropLocked(ch)
			pos = base + chunkSize
			continue
		}
		ok := c.runAheadLocked(s, ch, a, b, to, w)
		c.dropLocked(ch)
		if !ok {
			break
		}
		started = true
		n--
	}
	return started
}

// runAheadLocked fetches granules [a, b) of ch ahead, or a beginning of them,
// if there are memory and a connection for it and it is not too little to be
// worth a request.
func (c *Cache) runAheadLocked(s *stream, ch *chunk, a, b, to int, w int64) bool {
	disk := !ch.asked || ch.disk&(1<<a) != 0
	if ch.asked {
		for g := a + 1; g < b; g++ {
			if (ch.disk&(1<<g) != 0) != disk {
				b = g
				break
			}
		}
	}
	if whole := int(min(w/2, chunkSize)) / granuleSize; !disk && b-a < whole && b*granuleSize >= to && to < ch.size {
		return false // wait until it is more
	}
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
	if disk {
		if c.diskReads >= maxDiskReads || ch.base() > s.next+diskWindow {
			return false
		}
	} else {
		if c.conns-c.leaving >= c.line.limit {
			c.line.blocked = true
			return false
		}
		if !s.lacks && s.run < foundRun {
			return false
		}
		if time.Now().Before(c.aheadAt) || c.streak > 0 && c.conns > 0 {
			return false
		}
	}
	f := c.startLocked(ch, a, b, disk, s, s.values)
	c.holdLocked(s, ch)
	if !disk && b*granuleSize >= chunkSize {
		c.extendLocked(f, s, (f.lo+c.requestLocked(s, f.lo, w))/blockSize*blockSize, room-need)
	}
	return true
}

// requestLocked is how many bytes one request that begins at pos is to bring
// at least, in a window of w bytes.
func (c *Cache) requestLocked(s *stream, pos, w int64) int64 {
	most := int64(c.line.max + 1)
	// All connections together have most of the window, the rest of it is for
	// those that are done before the others. What is read soon comes in smaller
	// requests.
	n := min(w*3/4/most, (pos-s.next)/12)
	// Towards the end each brings the smaller part of its share of what is left,
	// so that none is long at it when the others have nothing to do.
	left := s.limit - pos
	for _, f := range s.fetches {
		if !f.disk {
			left += f.to - f.at
		}
	}
	share := left / int64(max(c.line.limit, 1))
	n = max(min(n, share*3/4, int64(c.line.each*longFetch.Seconds())), chunkSize)
	if c.handover > 0 {
		// Those that begin together must not end together: for only so many an
		// answer is awaited while they bring their last bytes.
		waiting := 0
		for _, f := range c.running {
			if !f.disk && !f.headed {
				waiting++
			}
		}
		n += int64(c.line.each*c.line.rtt.Seconds()) * int64(waiting) / int64(c.handover)
		n = min(n, w/most, max(share, chunkSize))
	}
	return n
}
