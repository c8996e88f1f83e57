package chunk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/drivefs/drivefs/drive"
)

var (
	errStalled = errors.New("no byte arrived in time")
	errRange   = errors.New("the stream begins at another byte than asked for")
	errWrong   = errors.New("the bytes have another MD5 than the content")
	errApart   = errors.New("a stream without an ETag cannot continue one that had one")
)

// fetch is one run of missing granules on its way into memory, over as many
// connections one after the other as it takes, or out of the disk tier. It is
// in the fetches of its chunks from the moment it is decided, which makes it
// the process-wide table of what is in flight. Guarded by Cache.mu.
type fetch struct {
	ct     *content
	ctx    context.Context
	cancel context.CancelFunc
	disk   bool
	order  int64 // by which it was started

	first  int64    // index of chunks[0]
	chunks []*chunk // held
	lo     int64    // begins a granule; [lo, at) is there
	at     int64    // up to where bytes have arrived
	to     int64    // where it ends; comes down when the end is not wanted any more

	waiters []*waiter
	streams []*stream       // that want it for their window
	values  context.Context // whose values the request carries, nil = none

	// The state of the request.
	running  bool // has a goroutine
	cut      bool // the connection of its last attempt was not used up
	queued   bool // waits for a connection
	headed   bool // the answer to this attempt has begun
	headedAt time.Time
	low      bool // this attempt was made as read-ahead
	promoted bool // this attempt was given up to be made again as foreground
	attempts int
	giveUp   context.CancelFunc
	moved    time.Time // when the last byte came
	lastErr  error

	// The state of the bytes.
	trusted bool // they are the version's: granules become readable as they fill
	pending bool // they wait for a Confirm, in ct.pending
	tag     string
	byMD5   bool // pending, to be settled by the MD5 of the whole

	kept    []*block // pinned: the one being filled; all of them while pending
	promise int      // of pool.promised
	done    bool
	err     error // why nothing more will come, final ones only
}

// waiter waits for a fetch to have all bytes before need, or to end.
type waiter struct {
	need int64
	ch   chan struct{}
}

// span has the granules of ch that f is still to bring, or to have confirmed.
// What it brought to be read by anybody is the chunk's, which may lose it.
func (f *fetch) span(ch *chunk) uint64 {
	base, from := ch.base(), f.lo
	if f.trusted {
		from = f.at - f.at%granuleSize
	}
	return span(int(max(from-base, 0)), int(min(f.to-base, int64(ch.size))))
}

func (f *fetch) chunkAt(pos int64) *chunk { return f.chunks[pos/chunkSize-f.first] }

// startLocked decides the fetch of granules [a, b) of ch for s, nil for
// nobody's window. One from the disk tier is the caller's to run.
func (c *Cache) startLocked(ch *chunk, a, b int, disk bool, s *stream, values context.Context) *fetch {
	base := ch.base()
	lo := base + int64(a)*granuleSize
	f := &fetch{
		ct: ch.v, disk: disk, first: ch.index, chunks: []*chunk{ch},
		lo: lo, at: lo, to: min(base+int64(b)*granuleSize, base+int64(ch.size)),
		values: values,
	}
	c.order++
	f.order = c.order
	f.ctx, f.cancel = context.WithCancel(c.ctx)
	ch.holds++
	ch.fetches = append(ch.fetches, f)
	for i := a / granulesPerBlock; i <= (b-1)/granulesPerBlock; i++ {
		if ch.blocks[i] == nil {
			f.promise++
		}
	}
	c.pool.promised += f.promise
	if s != nil {
		s.adopt(f)
	}
	if disk {
		f.running = true // by the caller
		c.running = append(c.running, f)
		return f
	}
	if c.conns >= c.downloads {
		f.queued = true
		c.queue = append(c.queue, f)
		return f
	}
	c.conns++
	c.goLocked(f)
	return f
}

func (c *Cache) goLocked(f *fetch) {
	f.running = true
	c.running = append(c.running, f)
	c.wg.Go(func() { c.download(f) })
}

// unwantedLocked ends f when nobody waits for it and no window has it. What
// is nearly complete is let finish: ending it would cost its connection, and
// the next request a round trip more for a new one.
func (c *Cache) unwantedLocked(f *fetch) {
	if len(f.waiters) > 0 || len(f.streams) > 0 || f.done {
		return
	}
	if f.queued {
		c.unqueueLocked(f)
		c.finishLocked(f)
		return
	}
	if left := f.to - f.at; f.headed && left <= 1<<20 {
		took := time.Since(f.headedAt)
		if float64(left)*took.Seconds() <= float64(f.at-f.lo)*c.line.rtt.Seconds() {
			return
		}
	}
	f.cancel()
}

func (c *Cache) unqueueLocked(f *fetch) {
	f.queued = false
	c.queue = remove(c.queue, f)
}

// download is the goroutine of a fetch from the network.
func (c *Cache) download(f *fetch) {
	defer f.cancel()
	c.peek(f.ct)
	var a attempted
	for {
		a.before, a.begun = c.reached(f), time.Now()
		a.err = c.attempt(f)
		a.match = c.wholeMatches(f)
		over, pause := c.afterAttempt(f, &a)
		if pause > 0 {
			select {
			case <-time.After(pause):
			case <-f.ctx.Done():
			}
			if over {
				c.end(f, a.match)
			}
		}
		if over {
			return
		}
	}
}

// attempted is how an attempt went.
type attempted struct {
	before   int64 // where the fetch was
	begun    time.Time
	err      error
	match    bool // see wholeMatches
	failures int  // in a row, without a byte
}

// reached is how far f has come.
func (c *Cache) reached(f *fetch) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f.at
}

func (c *Cache) end(f *fetch, match bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(f, match)
}

// afterAttempt decides whether f is over, and ends it then; but where there is a
// pause first, the caller ends it after that.
func (c *Cache) afterAttempt(f *fetch, a *attempted) (over bool, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.at > a.before {
		a.failures = 0
	}
	// Without an error there was no memory for more.
	over = f.at >= f.to || f.err != nil || f.ctx.Err() != nil || a.err == nil
	switch {
	case over:
	case f.promoted:
		f.promoted = false
	default:
		over, pause = c.failedLocked(f, a)
	}
	// Bytes of a second stream without an ETag must not follow those of
	// a first in one fetch: they wait for their own Confirm.
	if errors.Is(a.err, errApart) {
		over, pause = true, 0
	}
	over = over || f.pending && f.at > f.lo
	if over && pause == 0 {
		c.endLocked(f, a.match)
	}
	return over, pause
}

// failedLocked draws the consequences of an attempt that failed: whether it was
// the last one, and the pause after it.
func (c *Cache) failedLocked(f *fetch, a *attempted) (over bool, pause time.Duration) {
	f.lastErr = a.err
	if f.at == a.before {
		a.failures++
		if silenced(a.err) {
			c.silentLocked(a.begun, f.ct.Version, f.at)
		}
	}
	pause = backoff(a.failures)
	switch {
	case isFinal(a.err) && !(errors.Is(a.err, drive.ErrNotFound) && a.failures < 4):
		// A node just made may not be found for a moment, API §7.4.
		f.err, over = a.err, true
	case len(f.waiters) == 0 && a.failures > 0:
		over = true // read-ahead is not worth insisting on
	}
	if over {
		c.pauseLocked()
	}
	if errors.Is(a.err, drive.ErrThrottled) {
		c.line.throttled(time.Now())
	}
	return over, pause
}

// backoff is how long to wait after n failures in a row without a byte.
func backoff(n int) time.Duration {
	if n == 0 {
		return 0
	}
	d := 50 * time.Millisecond << min(n-1, 5)
	return d/2 + rand.N(d)
}

// under is a context with the values of another one above its own.
type under struct {
	context.Context
	over context.Context
}

func (u under) Value(key any) any {
	if v := u.over.Value(key); v != nil {
		return v
	}
	return u.Context.Value(key)
}

// headLocked looks at the answer before its bytes are taken.
func (c *Cache) headLocked(f *fetch, st *Stream, from int64) error {
	ct := f.ct
	switch {
	case ct.changed:
		return drive.ErrChanged
	case st.From != from:
		return fmt.Errorf("%w: %w", drive.ErrProtocol, errRange)
	case st.Total >= 0 && st.Total != ct.Size:
		c.changedLocked(ct)
		return drive.ErrChanged
	}
	switch c.judgeLocked(ct, st.ETag) {
	case foreign:
		c.changedLocked(ct)
		return drive.ErrChanged
	case trusted:
		if f.lo == 0 && f.to == ct.Size && f.at == 0 && ct.Size <= filmLook && ct.MD5 != "" && ct.wrong < 2 {
			// Nobody sees a byte of it before the sum is right.
			f.pending, f.byMD5, f.tag = true, true, st.ETag
			ct.pending = append(ct.pending, f)
			break
		}
		f.trusted = true
		f.wakeLocked(1 << 62) // they may have less to wait for than a granule
	case unconfirmed:
		if f.trusted && f.at > f.lo {
			return errApart
		}
		f.trusted, f.pending, f.tag = false, true, st.ETag
		ct.pending = append(ct.pending, f)
		f.byMD5 = st.ETag == "" && f.lo == 0 && f.to == ct.Size && ct.MD5 != ""
		if !f.byMD5 {
			c.askLocked(ct)
		}
	}
	return nil
}

// bufferLocked is where the next bytes of f go, nil when it must end: it is
// complete, not wanted, or there is no memory for more.
func (c *Cache) bufferLocked(f *fetch) []byte {
	if f.at >= f.to || f.ctx.Err() != nil || !f.trusted && !f.pending {
		return nil
	}
	ch := f.chunkAt(f.at)
	pos := int(f.at - ch.base())
	idx := pos / blockSize
	b := ch.blocks[idx]
	if b == nil {
		if b = c.takeLocked(false); b == nil {
			return nil
		}
		if f.promise > 0 {
			f.promise--
			c.pool.promised--
		}
		c.attachLocked(b, ch, idx)
		if f.aheadLocked() {
			b.unread = true
			c.pool.unread++
		}
	}
	if n := len(f.kept); n == 0 || f.kept[n-1] != b {
		c.pinLocked(b)
		f.kept = append(f.kept, b)
		c.trimKeptLocked(f)
	}
	end := min(int64((idx+1)*blockSize), f.to-ch.base())
	return b.buf[pos-idx*blockSize : end-int64(idx*blockSize)]
}

// aheadLocked reports whether f serves the window of a running stream, for
// which what arrives is kept until it is read.
func (f *fetch) aheadLocked() bool {
	for _, s := range f.streams {
		if s.running {
			return true
		}
	}
	return false
}

// trimKeptLocked unpins what a trusted fetch has filled.
func (c *Cache) trimKeptLocked(f *fetch) {
	if f.pending || len(f.kept) < 2 {
		return
	}
	last := len(f.kept) - 1
	for _, b := range f.kept[:last] {
		c.unpinLocked(b)
	}
	f.kept = append(f.kept[:0], f.kept[last])
}

// arrivedLocked: n more bytes are in the buffer.
func (c *Cache) arrivedLocked(f *fetch, n int) {
	if ch := f.chunkAt(f.at); ch.blocks[(f.at-ch.base())/blockSize] != f.kept[len(f.kept)-1] {
		f.cancel() // the block was given up under us: what it holds is nobody's
		return
	}
	f.moved = time.Now()
	before := f.at
	f.at = min(f.at+int64(n), f.to)
	if !f.disk {
		c.downloaded += int64(n)
		c.silence.since = time.Time{}
		if f.headedAt.After(c.failedAt) {
			c.streak = 0 // answers from before the failure tell nothing
		}
		c.floodLocked(f.moved, int64(n))
	}
	if f.trusted {
		c.haveLocked(f, before)
	}
	f.wakeLocked(f.at)
}

// haveLocked makes the granules of f that were completed since before
// readable.
func (c *Cache) haveLocked(f *fetch, before int64) {
	for pos := before - before%granuleSize; pos < f.at; pos += granuleSize {
		ch := f.chunkAt(pos)
		g := int(pos-ch.base()) / granuleSize
		if ch.base()+int64(ch.granuleEnd(g)) > f.at {
			return
		}
		ch.have |= 1 << g
		if ch.loaded &^= 1 << g; f.disk {
			ch.loaded |= 1 << g
		}
	}
}

// wakeLocked wakes whoever waits for nothing beyond upTo.
func (f *fetch) wakeLocked(upTo int64) {
	keep := f.waiters[:0]
	for _, w := range f.waiters {
		if w.need <= upTo {
			close(w.ch)
		} else {
			keep = append(keep, w)
		}
	}
	clear(f.waiters[len(keep):])
	f.waiters = keep
}

// endLocked: no more bytes will come by f's goroutine, which ends. match says
// that the MD5 of the whole was right.
func (c *Cache) endLocked(f *fetch, match bool) {
	f.running = false
	c.running = remove(c.running, f)
	if !f.disk {
		c.leftLocked(f)
	}
	c.pool.promised -= f.promise
	f.promise = 0
	switch {
	case f.pending && match:
		f.ct.plain = f.ct.plain || f.tag == ""
		c.settleFetchLocked(f, nil)
	case f.pending && f.byMD5 && f.tag != "" && f.at < f.ct.Size:
		c.settleFetchLocked(f, nil) // cut short: it goes on with what is of the same ETag
	case f.pending:
		// Whole granules only: another fetch may have to write the rest.
		if f.to = f.at - f.at%granuleSize; f.at == f.ct.Size {
			f.to = f.at
		}
		f.at = f.to
		if f.at <= f.lo {
			c.settleFetchLocked(f, f.err)
			break
		}
		f.wakeLocked(1 << 62)
		c.askLocked(f.ct)
	default:
		c.finishLocked(f)
	}
	c.pumpLocked()
}

// leftLocked gives the connection of f to another. The service sees one that
// was cut for a round trip longer.
func (c *Cache) leftLocked(f *fetch) {
	if !f.cut || c.closed {
		c.conns--
		return
	}
	trip := c.line.rtt
	c.wg.Go(func() {
		select {
		case <-time.After(trip):
		case <-c.ctx.Done():
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns--
		c.pumpLocked()
	})
}

// wrongLocked settles a fetch of a whole content, which is of the version, and
// whose sum is another than the version's: it is fetched anew once. If that is no
// better, it is what the service has.
func (c *Cache) wrongLocked(f *fetch) {
	ct := f.ct
	ct.wrong++
	again := ct.wrong > 1
	if c.wrong != nil {
		c.wg.Go(func() { c.wrong(ct.Version, again) })
	}
	if again {
		c.settleFetchLocked(f, nil)
		return
	}
	c.settleFetchLocked(f, errWrong)
	f.err = nil // who waits for it looks again
}

// settleFetchLocked ends the waiting of a pending fetch: its bytes are the
// version's, or with an error nobody's.
func (c *Cache) settleFetchLocked(f *fetch, err error) {
	f.pending, f.byMD5 = false, false
	f.ct.pending = remove(f.ct.pending, f)
	if err == nil {
		f.trusted = true
		c.haveLocked(f, f.lo)
		c.trimKeptLocked(f)
	} else {
		f.err = err
		f.cancel()
		// A View may still be read from what was shown unconfirmed: nobody
		// must write there again.
		for _, b := range f.kept {
			if b.pins > 1 && b.ch != nil {
				c.detachLocked(b)
			}
		}
	}
	if f.running {
		f.wakeLocked(1 << 62)
	} else {
		c.finishLocked(f)
	}
}

// finishLocked takes f out of the table and wakes everybody: what it did not
// bring is missing again.
func (c *Cache) finishLocked(f *fetch) {
	f.done = true
	f.cancel()
	c.pool.promised -= f.promise
	f.promise = 0
	for _, ch := range f.chunks {
		ch.fetches = remove(ch.fetches, f)
	}
	if len(f.streams) == 0 {
		for _, ch := range f.chunks {
			c.readAllLocked(ch)
		}
	}
	for _, s := range f.streams {
		s.fetches = remove(s.fetches, f)
	}
	f.streams = nil
	for _, b := range f.kept {
		c.unpinLocked(b)
	}
	f.kept = nil
	for _, ch := range f.chunks {
		if !f.disk {
			c.saveLocked(ch)
		}
		c.unholdLocked(ch)
	}
	f.wakeLocked(1 << 62)
}

func remove[T comparable](s []T, x T) []T {
	for i := range s {
		if s[i] == x {
			last := len(s) - 1
			copy(s[i:], s[i+1:])
			var zero T
			s[last] = zero
			return s[:last]
		}
	}
	return s
}
