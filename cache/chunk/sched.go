package chunk

import "time"

const maxDiskReads = 4 // read-ahead from the disk tier at once

// pumpLocked gives free connections away: first to reads that wait, then to
// the windows in turn.
func (c *Cache) pumpLocked() {
	if c.closed {
		return
	}
	for len(c.queue) > 0 && c.conns < c.downloads+c.handover+c.spare {
		f := c.queue[0]
		c.unqueueLocked(f)
		c.conns++
		c.goLocked(f)
	}
	for {
		started := false
		for range len(c.streams) {
			c.turn++
			s := c.streams[c.turn%len(c.streams)]
			started = c.aheadLocked(s, 1) || started
		}
		if !started {
			return
		}
	}
}

// leaveLineLocked lets read-ahead ask for what comes next when f will have
// brought its last bytes by the time the answer comes: a connection would
// else wait a round trip after each request.
func (c *Cache) leaveLineLocked(f *fetch) {
	if f.leaving || c.leaving >= c.handover || float64(f.to-f.at) > c.line.each*c.line.rtt.Seconds() {
		return
	}
	f.leaving = true
	c.leaving++
	c.pumpLocked()
}

// stayLocked ends what leaveLineLocked began.
func (c *Cache) stayLocked(f *fetch) {
	if f.leaving {
		f.leaving = false
		c.leaving--
	}
}

// preemptLocked takes a connection from read-ahead: the one begun last has
// the least to lose. What it brought stays.
func (c *Cache) preemptLocked() {
	var last *fetch
	leaving := 0
	for _, f := range c.running {
		switch {
		case f.disk:
		case f.ctx.Err() != nil:
			leaving++
		case len(f.waiters) == 0 && (last == nil || f.order > last.order):
			last = f
		}
	}
	if last != nil && leaving < len(c.queue) {
		last.cancel()
	}
}

// fewerLocked: the line is for fewer connections now. The last begun that
// would go on for long are ended; what they brought stays.
func (c *Cache) fewerLocked() {
	excess := c.conns - c.leaving - c.line.limit
	for i := len(c.running) - 1; i >= 0 && excess > 0; i-- {
		f := c.running[i]
		if f.disk || len(f.waiters) > 0 || f.ctx.Err() != nil || float64(f.to-f.at) < c.line.each*longFetch.Seconds() {
			continue
		}
		f.cancel()
		excess--
	}
}

// pauseLocked stops read-ahead from the network after a fetch that failed,
// longer each time until a new answer brings bytes; from then on one connection tries
// at a time.
func (c *Cache) pauseLocked() {
	now := time.Now()
	c.failedAt = now
	if c.closed || now.Before(c.aheadAt) {
		return // one of several that failed together
	}
	c.streak++
	d := backoff(min(c.streak, 5)) << max(0, min(c.streak-5, 4))
	c.aheadAt = now.Add(d)
	if c.pause != nil {
		c.pause.Stop()
	}
	c.pause = time.AfterFunc(d, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pumpLocked()
	})
}

// hurryLocked: somebody waits for f now, which was asked for as read-ahead.
// If the answer has not begun soon, it is asked for again as foreground, so
// that it does not wait behind what is less urgent.
func (c *Cache) hurryLocked(f *fetch) {
	if !f.running || f.disk || f.headed || !f.low || f.promoted || f.values != nil {
		return
	}
	giveUp := f.giveUp
	if giveUp == nil {
		return // its first attempt has not begun, and will see the waiter
	}
	f.low = false
	attempt := f.attempts
	time.AfterFunc(max(4*c.line.rtt, 250*time.Millisecond), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if f.running && f.attempts == attempt && !f.headed && len(f.waiters) > 0 && f.ctx.Err() == nil {
			f.promoted = true
			giveUp()
		}
	})
}

// settleIdle is the janitor's round: streams nobody reads any more give back
// what they hold for themselves.
func (c *Cache) settleIdle(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.streams) - 1; i >= 0; i-- {
		if s := c.streams[i]; now.Sub(s.used) >= idleAfter {
			c.restLocked(s)
			s.returns = 0
		}
	}
	c.pumpLocked()
}

// janitor does what must not be done under the lock or by a reader.
func (c *Cache) janitor() {
	tick := time.NewTicker(idleAfter / 2)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			c.settlePolicy()
			return
		case <-c.work:
			c.settlePolicy()
		case now := <-tick.C:
			c.settleIdle(now)
		}
	}
}
