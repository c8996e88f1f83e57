package chunk

import "time"

// pumpLocked gives free connections away: first to reads that wait, then to
// the windows in turn.
func (c *Cache) pumpLocked() {
	if c.closed {
		return
	}
	for len(c.queue) > 0 && c.conns < c.downloads {
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
		if s := c.streams[i]; s.waiting == 0 && now.Sub(s.used) >= idleAfter {
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
