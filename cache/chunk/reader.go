package chunk

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/drivefs/drivefs/drive"
)

var errClosed = os.ErrClosed

// Reader is one open handle's view of one version: its windows, its streams.
// It is safe for concurrent use. Close it when the handle is released.
type Reader struct {
	c *Cache
	v Version

	// Guarded by Cache.mu.
	ct      *content
	streams []*stream
	last    *stream
	born    int64 // Cache.changes when it was opened
	denied  bool  // it will get nothing more from the service
	served  bool  // it was given bytes
	closed  bool
}

// Reader opens v for reading. It touches neither disk nor network.
func (c *Cache) Reader(v Version) *Reader {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &Reader{c: c, v: v, ct: c.contentLocked(v), born: c.changes}
	r.ct.readers++
	return r
}

// Close gives up the windows: running downloads nobody else wants are
// cancelled. Outstanding Views stay valid. Closing twice does nothing.
func (r *Reader) Close() {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	for _, s := range r.streams {
		c.endStreamLocked(s)
	}
	r.streams, r.last = nil, nil
	r.ct.readers--
	c.pumpLocked()
}

// View is bytes of a version, in the buffers they arrived in. Release it
// exactly once; the zero View has no bytes and may be released any number of
// times.
type View struct{ b *view }

type view struct {
	c      *Cache
	slices [][]byte
	blocks []*block // pinned
	n      int
}

var views = sync.Pool{New: func() any {
	const most = maxView/blockSize + 1
	return &view{slices: make([][]byte, 0, most), blocks: make([]*block, 0, most)}
}}

// Slices are the bytes in order. They must not be written to, nor used after
// Release.
func (v View) Slices() [][]byte {
	if v.b == nil {
		return nil
	}
	return v.b.slices
}

// Len is the number of bytes.
func (v View) Len() int {
	if v.b == nil {
		return 0
	}
	return v.b.n
}

// Release gives the buffers back, from any goroutine.
func (v View) Release() {
	if v.b != nil {
		v.b.c.mu.Lock()
		v.b.unpinLocked()
		v.b.c.mu.Unlock()
		v.b.free()
	}
}

func (b *view) unpinLocked() {
	for _, bl := range b.blocks {
		b.c.unpinLocked(bl)
	}
	clear(b.blocks)
	b.blocks = b.blocks[:0]
}

func (b *view) free() {
	clear(b.slices)
	b.slices, b.n, b.c = b.slices[:0], 0, nil
	views.Put(b)
}

// ReadAt returns up to n bytes at off, fewer only at the end of the version
// and none, without an error, at or behind it. The View must be Released.
//
// It waits until ctx ends, until no byte has arrived for Options.ReadTimeout or
// hardly any (drive.ErrUnavailable, see leastRate), a second once the service has
// answered nothing for that long, or until the version cannot be had any more
// (drive.ErrChanged). What others wait for goes on. Other errors are the
// sentinels of package drive, and os.ErrClosed after Close.
func (r *Reader) ReadAt(ctx context.Context, off int64, n int) (View, error) {
	end := min(off+int64(n), r.v.Size)
	if off < 0 || off >= end {
		return View{}, nil
	}
	if end-off > maxView {
		return r.readLong(ctx, off, int(end-off))
	}
	c := r.c
	now := time.Now()
	b := views.Get().(*view)
	b.c = c
	c.mu.Lock()
	if r.closed || c.closed {
		c.mu.Unlock()
		b.free()
		return View{}, errClosed
	}
	s := c.streamLocked(r, off, end, now)
	if c.hitLocked(s, b, off, end) {
		c.hits++
		c.served += end - off
		if s.next >= s.plan {
			c.aheadLocked(s, 1<<30)
		}
		c.mu.Unlock()
		return View{b}, nil
	}
	o := &op{c: c, r: r, s: s, ct: s.ct, off: off, end: end, b: b, begun: now, deadline: now.Add(c.readTimeout)}
	if c.offlineLocked(now, r.v, off) {
		o.deadline = now.Add(min(offlineWait, c.readTimeout))
	}
	s.waiting++
	err := o.waitLocked(ctx)
	o.s.waiting--
	o.s.used = time.Now()
	if err != nil && !c.silence.since.IsZero() && o.s.waiting == 0 {
		c.restLocked(o.s) // others need the connections
	}
	c.mu.Unlock()
	if err != nil {
		b.free()
		return View{}, err
	}
	return View{b}, nil
}

// readLong copies: a View of many blocks could need more of them at once
// than there are.
func (r *Reader) readLong(ctx context.Context, off int64, n int) (View, error) {
	p := make([]byte, n)
	for got := 0; got < n; {
		v, err := r.ReadAt(ctx, off+int64(got), min(n-got, maxView/2))
		if err != nil {
			return View{}, err
		}
		for _, s := range v.Slices() {
			got += copy(p[got:], s)
		}
		v.Release()
	}
	b := views.Get().(*view)
	b.c, b.n = r.c, n
	b.slices = append(b.slices, p)
	return View{b}, nil
}

// hitLocked fills b if every byte is there.
func (c *Cache) hitLocked(s *stream, b *view, off, end int64) bool {
	for pos := off; pos < end; {
		ch := s.ct.chunks[pos/chunkSize]
		if ch == nil {
			return false
		}
		to := min(end-ch.base(), int64(ch.size))
		if m := span(int(pos-ch.base()), int(to)); ch.have&m != m {
			return false
		}
		pos = ch.base() + to
	}
	c.pinRangeLocked(s.ct, b, off, end, false)
	c.giveLocked(s, b, off, end)
	return true
}

// pinRangeLocked pins the blocks of [off, end) into b, taking new ones for
// those that are not there. All or nothing: who waits for memory holds none,
// so that there is always somebody who can go on.
func (c *Cache) pinRangeLocked(ct *content, b *view, off, end int64, take bool) bool {
	for pos := off - off%blockSize; pos < end; pos += blockSize {
		ch := ct.chunks[pos/chunkSize]
		idx := int(pos-ch.base()) / blockSize
		bl := ch.blocks[idx]
		if bl == nil {
			if take {
				bl = c.takeLocked(true)
			}
			if bl == nil {
				// Nobody has more memory than before: waking the others
				// would have all of them try in turn for ever.
				for _, bl := range b.blocks {
					c.letGoLocked(bl)
				}
				b.blocks = b.blocks[:0]
				return false
			}
			c.attachLocked(bl, ch, idx)
		}
		c.pinLocked(bl)
		b.blocks = append(b.blocks, bl)
	}
	return true
}

// giveLocked makes the slices of the pinned blocks and moves the window's
// holds there.
func (c *Cache) giveLocked(s *stream, b *view, off, end int64) {
	b.n = int(end - off)
	s.r.served = true
	pos := off
	for _, bl := range b.blocks {
		in := pos % blockSize
		to := min(in+end-pos, blockSize)
		b.slices = append(b.slices, bl.buf[in:to:to])
		pos += to - in
		if bl.ch != nil && !s.ended {
			c.holdLocked(s, bl.ch)
		}
		if o := c.followerLocked(s, pos-1); o != nil && bl.ch != nil {
			c.holdLocked(o, bl.ch)
			bl.unread = true
		} else {
			c.readLocked(bl)
		}
	}
}

// followerLocked is a reader of the same version that will soon come to pos.
func (c *Cache) followerLocked(s *stream, pos int64) *stream {
	if s.ct.readers > 1 {
		for _, o := range c.streams {
			if o != s && o.ct == s.ct && o.next <= pos && pos < o.next+behind {
				return o
			}
		}
	}
	return nil
}

// op is a read that has to wait.
type op struct {
	c        *Cache
	r        *Reader
	s        *stream
	ct       *content
	off, end int64
	b        *view
	chunks   []*chunk // held
	pinned   bool
	begun    time.Time
	deadline time.Time
	awaited  int64 // where the fetch it waits for was when last looked at
	arrived  int64 // bytes that came while it waited
	lastErr  error
	missed   bool // waited for the network
	first    bool // for memory: came back and goes in front
}

// waitLocked fills o.b. It is called and returns with the lock, and lets go
// of it while it waits.
func (o *op) waitLocked(ctx context.Context) error {
	c := o.c
	for i := o.off / chunkSize; i <= (o.end-1)/chunkSize; i++ {
		ch := c.chunkLocked(o.ct, i)
		ch.holds++
		o.chunks = append(o.chunks, ch)
	}
	defer func() {
		for _, ch := range o.chunks {
			c.unholdLocked(ch)
		}
	}()
	timer := time.NewTimer(time.Until(o.deadline))
	defer timer.Stop()
	for {
		if c.closed {
			o.b.unpinLocked()
			return errClosed
		}
		wait, f, err := o.stepLocked(ctx)
		if err != nil {
			o.b.unpinLocked()
			return err
		}
		if wait == nil {
			break
		}
		if f != nil && !f.disk {
			o.missed, o.s.lacks = true, true
		}
		if !o.s.ended {
			// What comes after it is asked for now, not a round trip later.
			c.aheadLocked(o.s, 1<<30)
		}
		c.mu.Unlock()
		select {
		case <-wait.ch:
		case <-timer.C:
		case <-ctx.Done():
		case <-c.ctx.Done():
		}
		c.mu.Lock()
		if err := o.wokenLocked(ctx, wait, f, timer); err != nil {
			o.b.unpinLocked()
			return err
		}
	}
	if o.missed {
		c.misses++
	} else {
		c.hits++
	}
	c.served += o.end - o.off
	c.giveLocked(o.s, o.b, o.off, o.end)
	if !o.s.ended {
		c.aheadLocked(o.s, 1<<30)
	}
	return nil
}

// stepLocked either finds everything there (nil, nil, nil) or says what to
// wait for: a fetch, or memory when it is nil.
func (o *op) stepLocked(ctx context.Context) (*waiter, *fetch, error) {
	c := o.c
	if o.pinned && !o.attachedLocked() {
		o.b.unpinLocked()
		o.pinned = false
	}
	if !o.pinned {
		if len(c.memory) > 0 && !o.first || !c.pinRangeLocked(o.ct, o.b, o.off, o.end, true) {
			w := &waiter{ch: make(chan struct{})}
			if o.first {
				c.memory = append([]*waiter{w}, c.memory...)
			} else {
				c.memory = append(c.memory, w)
			}
			o.first = true
			return w, nil, nil
		}
		o.pinned, o.first = true, false
		c.nextForMemoryLocked() // there may be enough for one more
	}
	for {
		f, need, missing := o.lookLocked()
		switch {
		case f != nil:
			w := &waiter{need: need, ch: make(chan struct{})}
			f.waiters = append(f.waiters, w)
			o.awaited = f.at
			if !o.s.ended {
				o.s.adopt(f)
			}
			c.hurryLocked(f)
			return w, f, nil
		case !missing:
			return nil, nil, nil
		case o.ct.changed:
			if err := o.againLocked(ctx); err != nil {
				return nil, nil, err
			}
			return o.stepLocked(ctx)
		}
		for _, f := range o.demandLocked() {
			c.mu.Unlock()
			c.readDisk(f)
			c.mu.Lock()
		}
	}
}

// againLocked is for a read that needs what the service does not give any
// more: perhaps it does, and the reader starts over.
func (o *op) againLocked(ctx context.Context) error {
	c := o.c
	o.b.unpinLocked()
	o.pinned = false
	c.mu.Unlock()
	err := o.r.recheck(ctx)
	c.mu.Lock()
	switch {
	case err != nil:
		return err
	case o.r.closed || c.closed:
		return errClosed
	case o.r.ct.changed:
		return drive.ErrChanged
	}
	for i, ch := range o.chunks {
		c.unholdLocked(ch)
		o.chunks[i] = c.chunkLocked(o.r.ct, ch.index)
		o.chunks[i].holds++
	}
	o.ct = o.r.ct
	o.s.waiting--
	o.s = c.streamLocked(o.r, o.off, o.end, time.Now())
	o.s.waiting++
	return nil
}

// attachedLocked reports whether the pinned blocks are still the chunks'.
func (o *op) attachedLocked() bool {
	pos := o.off - o.off%blockSize
	for _, bl := range o.b.blocks {
		ch := o.chunks[pos/chunkSize-o.off/chunkSize]
		if ch.blocks[int(pos-ch.base())/blockSize] != bl {
			return false
		}
		pos += blockSize
	}
	return true
}

// lookLocked finds the first byte that is not there: the fetch it will come
// with and up to where that is needed, or missing without a fetch.
func (o *op) lookLocked() (f *fetch, need int64, missing bool) {
	for pos := o.off; pos < o.end; {
		ch := o.chunks[pos/chunkSize-o.off/chunkSize]
		g := int(pos-ch.base()) / granuleSize
		to := min(o.end, ch.base()+int64(ch.granuleEnd(g)))
		if ch.have&(1<<g) == 0 {
			f := ch.fetchOf(g)
			switch {
			case f == nil:
				return nil, 0, true
			case f.pending || !f.trusted:
				// The granules, and then their being confirmed: a pending
				// fetch wakes everybody when it is settled.
				last := o.chunks[(o.end-1)/chunkSize-o.off/chunkSize]
				need := min(last.base()+int64(last.granuleEnd(int(o.end-1-last.base())/granuleSize)), f.to)
				if f.at >= need {
					need = 1<<62 - 1
				}
				return f, need, false
			case f.at < to:
				return f, min(o.end, f.to), false
			}
		}
		pos = to
	}
	return nil, 0, false
}

// demandLocked starts fetches for all that is missing in the read and on no
// way, and returns those from the disk tier.
func (o *op) demandLocked() (fromDisk []*fetch) {
	c := o.c
	for _, ch := range o.chunks {
		from := int(max(o.off-ch.base(), 0))
		to := int(min(o.end-ch.base(), int64(ch.size)))
		for {
			a, b := run(span(from, to) &^ ch.have &^ ch.flying())
			if a == b {
				break
			}
			if !o.s.ended {
				c.holdLocked(o.s, ch)
			}
			if !ch.asked || ch.disk&(1<<a) != 0 {
				if ch.asked {
					_, n := run(ch.disk >> a)
					b = min(b, a+n)
				}
				fromDisk = append(fromDisk, c.startLocked(ch, a, b, true, nil, nil))
				continue
			}
			a, b = o.extentLocked(ch, a, b)
			var s *stream
			if !o.s.ended {
				s = o.s
			}
			c.startLocked(ch, a, b, false, s, o.s.values)
		}
	}
	return fromDisk
}

// extentLocked is how much to fetch when granules [a, b) are needed: the whole of a
// small file, as much as the window says in a sequential stream, little else.
// It ends where something is there or comes already, and with the memory that
// can be had without taking it from others.
func (o *op) extentLocked(ch *chunk, a, b int) (int, int) {
	want := min(o.s.wants(&o.ct.Version, o.off, o.end), o.end+o.c.shareLocked())
	if o.ct.Size <= filmLook {
		a = 0
	}
	blocked := ch.have | ch.flying()
	if ch.asked {
		blocked |= ch.disk
	}
	for blocked&(1<<a) != 0 {
		a++
	}
	last := (ch.size + granuleSize - 1) / granuleSize
	if end := o.s.limit - ch.base(); end < int64(ch.size) {
		last = max(b, int(end+granuleSize-1)/granuleSize)
	}
	room := o.c.pool.available() - o.c.pool.max/8
	g := a
	for g < last && blocked&(1<<g) == 0 {
		if g >= b {
			if ch.base()+int64(g)*granuleSize >= want {
				break
			}
			if ch.blocks[g/granulesPerBlock] == nil && g%granulesPerBlock == 0 {
				if room--; room < 0 {
					break
				}
			}
		}
		g++
	}
	return a, g
}

// wokenLocked is what follows a wait: an error, or another look.
func (o *op) wokenLocked(ctx context.Context, w *waiter, f *fetch, timer *time.Timer) error {
	c := o.c
	if f == nil {
		c.memory = remove(c.memory, w)
		err := o.boundLocked(ctx, time.Now(), timer)
		if err != nil {
			c.nextForMemoryLocked() // what was too little for us may do for them
		}
		return err
	}
	f.waiters = remove(f.waiters, w)
	c.unwantedLocked(f)
	if f.lastErr != nil {
		o.lastErr = f.lastErr
	}
	o.extendLocked(f)
	if f.err != nil && !(isChanged(f.err) && o.ct.changed) {
		// A change is looked at once more: the reader may be younger.
		return f.err
	}
	return o.boundLocked(ctx, time.Now(), timer)
}

// A read waits longer than Options.ReadTimeout as long as bytes go on
// arriving, but not for less than leastRate, which is a service that gives a
// little to each request and stops, and not for longer than longestRead times
// that: the kernel waits with a page locked. It asks again for what it needs
// of a long read that failed, and finds what has come.
const (
	leastRate   = 4 << 10 // bytes a second
	longestRead = 4
)

// extendLocked gives the read more time for what f brought meanwhile.
func (o *op) extendLocked(f *fetch) {
	if f.at <= o.awaited {
		return
	}
	o.arrived += f.at - o.awaited
	o.awaited = f.at
	worth := time.Duration(o.arrived) * time.Second / leastRate
	d := o.begun.Add(o.c.readTimeout + min(worth, (longestRead-1)*o.c.readTimeout))
	if idle := f.moved.Add(o.c.readTimeout); idle.Before(d) {
		d = idle
	}
	if d.After(o.deadline) {
		o.deadline = d
	}
}

// boundLocked ends the wait when the caller's context or the time is over.
func (o *op) boundLocked(ctx context.Context, now time.Time, timer *time.Timer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if o.c.closed {
		return errClosed
	}
	if left := o.deadline.Sub(now); left > 0 {
		timer.Reset(left)
		return nil
	}
	err := o.lastErr
	if err == nil {
		err = errStalled
	}
	return &drive.Error{Op: "content.read", Kind: drive.ErrUnavailable, Err: err}
}
