package chunk

import (
	"context"
	"errors"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// offlineWait is how long a read waits for the service while that answers
// nothing: long enough for the answer of one that is back, and less than the
// second after which people think a program hangs.
const offlineWait = 800 * time.Millisecond

// silence is since when the service has answered nothing. Guarded by Cache.mu.
type silence struct {
	since   time.Time // zero: it answers, as far as is known
	probing bool
}

// silentLocked notes that a request for the byte at of v, begun then, was not
// answered. What nobody asks for again is probed for from now on.
func (c *Cache) silentLocked(begun time.Time, v Version, at int64) {
	if c.silence.since.IsZero() {
		c.silence.since = begun
	}
	if !c.silence.probing && !c.closed {
		c.silence.probing = true
		c.wg.Go(func() { c.probe(v, at) })
	}
}

// offlineLocked reports whether the service is known to answer nothing: whoever
// waits for it now waits in vain. at of v is what is to be read.
func (c *Cache) offlineLocked(now time.Time, v Version, at int64) bool {
	if c.silence.since.IsZero() && c.offline != nil {
		if since := c.offline(); !since.IsZero() {
			if here := c.network(); here != c.place {
				c.place, since = here, now
			}
			c.silentLocked(since, v, at)
		}
	}
	return !c.silence.since.IsZero() && now.Sub(c.silence.since) >= c.readTimeout
}

// silenced reports whether err of a request tells that nobody answers. The
// service may refuse and throttle: that is an answer.
func silenced(err error) bool {
	return err != nil && !isFinal(err) && !errors.Is(err, drive.ErrThrottled)
}

// probe asks for one byte again and again until the service answers anybody.
// When this machine was asleep or is in another network, what was tried before
// tells nothing: the silence begins anew.
func (c *Cache) probe(v Version, at int64) {
	wait := c.readTimeout / 3 // until then who waits asks again himself
	for {
		select {
		case <-time.After(wait):
		case <-c.ctx.Done():
			return
		}
		wait = min(c.readTimeout/3, 4*time.Second)
		here := c.network()
		c.mu.Lock()
		if here != c.place {
			c.place = here
			if !c.silence.since.IsZero() {
				c.silence.since = time.Now()
			}
		}
		if c.silence.since.IsZero() {
			c.silence.probing = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		ctx, cancel := context.WithTimeout(drive.WithPriority(c.ctx, drive.ReadAhead), c.headerTimeout())
		st, err := c.source.Fetch(ctx, v, at, at+1)
		if err == nil {
			if n, rerr := st.Read(make([]byte, 1)); n == 0 {
				err = errors.Join(errStalled, rerr)
			}
			_ = st.Close()
		}
		cancel()
		if !silenced(err) {
			c.mu.Lock()
			c.silence.since = time.Time{}
			c.mu.Unlock()
		}
	}
}
