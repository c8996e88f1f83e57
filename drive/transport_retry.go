package drive

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// retrier repeats failed tries: what was throttled or refused for its
// token always (it had no effect), what failed otherwise only when the call
// is idempotent or nothing was sent. Uploads: see uploadSource.next.
//
// It returns the last answer or error. A wait that would pass the context's
// deadline is not begun.
type retrier struct {
	next     sender
	tries    int
	counters *counters
	pauses   *pauses
}

func (t retrier) send(c *call, req *http.Request) (*http.Response, error) {
	ctx, try := req.Context(), req
	for {
		c.tries++
		c.redirected, c.sameToken = false, false
		resp, err := t.next(c, try)
		again, k, after := t.judge(ctx, c, resp, err)
		if !again {
			return resp, err
		}
		if c.tries >= t.tries || (k == classAuth && c.sameToken && c.tries >= maxRefusals) {
			c.exhausted = true
			return resp, err
		}
		asked := after > 0
		if !asked {
			after = backoff(c.tries - 1)
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= after {
			return resp, err
		}
		body, ok := repeatBody(try, c, k == classAuth)
		if !ok {
			return resp, err
		}
		if resp != nil {
			resp.Body.Close()
		}
		t.counters.retried(c.op)
		ended := t.pauses.ended()
		if k == classThrottle || asked {
			ended = nil
		}
		if err := sleepUntil(ctx, after, ended); err != nil {
			return nil, err
		}
		try = req.Clone(ctx)
		try.Body = body
	}
}

// maxRefusals is how often a token for which there is no other is shown: a
// single refusal may be sporadic (API §13.6), four over some seconds are not.
const maxRefusals = 4

// judge says whether to try again, why, and after what wait the service asked for.
func (t retrier) judge(ctx context.Context, c *call, resp *http.Response, err error) (again bool, k class, after time.Duration) {
	if ctx.Err() != nil {
		return false, classFinal, 0
	}
	if err != nil {
		switch {
		case finalError(err):
			return false, classFinal, 0
		case notSent(err):
			return true, classTrouble, 0
		}
		c.unclear = true
		return c.idempotent || c.upload != nil, classTrouble, 0
	}
	if resp.StatusCode < 400 {
		return false, classFine, 0
	}
	k, e := classify(c, resp, peek(resp))
	switch k {
	case classAuth, classThrottle:
		return true, k, e.RetryAfter
	case classTrouble:
		c.unclear = true
		return c.idempotent || c.upload != nil, k, e.RetryAfter
	}
	return false, k, 0
}

// backoff is Amazon's rule (API §13.3): after failure r a random time
// between 0 and 2^r seconds, at most 256. The first failure counts 0.
func backoff(r int) time.Duration {
	return time.Duration(rand.Int64N(int64(time.Second<<min(r, 8)) + 1))
}

func sleep(ctx context.Context, d time.Duration) error { return sleepUntil(ctx, d, nil) }

// sleepUntil is sleep that ended ends early.
func sleepUntil(ctx context.Context, d time.Duration, ended <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// repeatBody gives the body for another try, or false when there is none.
func repeatBody(req *http.Request, c *call, refused bool) (io.ReadCloser, bool) {
	switch {
	case c.upload != nil:
		return c.upload.next(refused)
	case req.Body == nil || req.Body == http.NoBody:
		return req.Body, true
	case req.GetBody != nil:
		b, err := req.GetBody()
		return b, err == nil
	}
	return nil, false
}

// pauses lets all pauses between tries be ended at once.
type pauses struct {
	mu sync.Mutex
	ch chan struct{} // closed at the next end
}

func newPauses() *pauses { return &pauses{ch: make(chan struct{})} }

func (p *pauses) ended() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ch
}

func (p *pauses) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.ch)
	p.ch = make(chan struct{})
}
