package fs

import "sync"

// calls are the requests under way for which the kernel holds the lock of a
// folder: what looks a name up in it, reads it or changes it. A name is told
// to the kernel under that lock, so while one of them is unanswered telling
// would only wait; and were this process killed meanwhile, caller and notifier
// would wait for each other for ever (see package guard).
type calls struct {
	mu  sync.Mutex
	now *cohort // requests that began since the last after; guarded by mu
}

// cohort is what after waits for: requests that came later do not count, or a
// busy folder would never be told.
type cohort struct {
	n    int    // requests that are unanswered; guarded by calls.mu
	over func() // called when there are none left; guarded by calls.mu
}

func (c *calls) begin() *cohort {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now = &cohort{}
	}
	c.now.n++
	return c.now
}

func (c *calls) end(in *cohort) {
	c.mu.Lock()
	in.n--
	var over func()
	if in.n == 0 {
		over = in.over
	}
	c.mu.Unlock()
	if over != nil {
		over()
	}
}

// after calls over once when the requests that are under way now are answered.
// false: there are none, and over is not called.
func (c *calls) after(over func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now
	if now == nil || now.n == 0 {
		return false
	}
	c.now, now.over = nil, over
	return true
}
