package drive

import (
	"container/heap"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Pacing, in numbers. Unpublished limits (API §13.3) are learned from 429s.
const (
	metadataCalls = 16                     // metadata calls at once
	firstInterval = 50 * time.Millisecond  // between two calls after the first 429
	maxInterval   = 500 * time.Millisecond // below two calls a second, each call's own back-off does the rest
	minInterval   = 5 * time.Millisecond   // below this there is no interval
	calm          = 10 * time.Second       // without a 429 the limit is another one
)

// paceTransport makes every call wait for its turn: for a connection of its
// kind, and for the one budget all calls share. The connection of a download is
// held until its body is closed; of one that was given up a round trip longer,
// since it is open for the service until that hears of it.
type paceTransport struct {
	next                        http.RoundTripper
	pacer                       *pacer
	metadata, upload, downloads *slots
	trip                        atomic.Int64 // from a download's request to its answer, lately
}

func newPace(next http.RoundTripper, uploads, downloads int) *paceTransport {
	return &paceTransport{next: next, pacer: &pacer{}, metadata: newSlots(metadataCalls), upload: newSlots(uploads), downloads: newSlots(downloads)}
}

func (t *paceTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c, ctx := callOf(req), req.Context()
	s := t.metadata
	switch c.shape {
	case shapeUpload:
		s = t.upload
	case shapeDownload:
		s = t.downloads
	}
	// The turn before the connection: the other way round, calls of low
	// priority that wait for their turn would keep the connections from all others.
	for {
		if err := t.pacer.wait(ctx, c.priority); err != nil {
			return nil, err
		}
		if err := s.acquire(ctx, c.priority); err != nil {
			return nil, err
		}
		if !t.pacer.pausing() {
			break
		}
		s.release() // a pause began while this waited for a connection
	}
	started := time.Now()
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		if c.shape == shapeDownload && ctx.Err() != nil {
			t.later(s)
		} else {
			s.release()
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		t.pacer.slow(started, retryAfter(resp.Header, time.Now()))
	} else if resp.StatusCode < 500 {
		t.pacer.good(started)
	}
	if c.shape == shapeDownload {
		t.trip.Store(int64(time.Since(started)))
		resp.Body = &releasingBody{ReadCloser: resp.Body, release: s.release, cut: func() { t.later(s) }}
	} else {
		s.release()
	}
	return resp, nil
}

// later releases a connection that was cut.
func (t *paceTransport) later(s *slots) {
	if d := time.Duration(t.trip.Load()); d > 0 {
		time.AfterFunc(d, s.release)
	} else {
		s.release()
	}
}

type releasingBody struct {
	io.ReadCloser
	once         sync.Once
	ended        atomic.Bool
	release, cut func()
}

func (b *releasingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
	}
	return n, err
}

func (b *releasingBody) Close() error {
	err := b.ReadCloser.Close()
	if b.ended.Load() {
		b.once.Do(b.release)
	} else {
		b.once.Do(b.cut)
	}
	return err
}

// waiter is one call in a queue. go is closed when it may go on.
type waiter struct {
	priority Priority
	seq      uint64
	index    int // in the heap, -1 = out of it
	ready    chan struct{}
}

// queue is a heap: highest priority first, then first come, first served.
type queue struct {
	w   []*waiter
	seq uint64
}

func (q *queue) Len() int { return len(q.w) }
func (q *queue) Less(i, j int) bool {
	a, b := q.w[i], q.w[j]
	if a.priority != b.priority {
		return a.priority > b.priority
	}
	return a.seq < b.seq
}
func (q *queue) Swap(i, j int) {
	q.w[i], q.w[j] = q.w[j], q.w[i]
	q.w[i].index, q.w[j].index = i, j
}
func (q *queue) Push(x any) {
	w := x.(*waiter)
	w.index = len(q.w)
	q.w = append(q.w, w)
}
func (q *queue) Pop() any {
	n := len(q.w) - 1
	w := q.w[n]
	q.w[n] = nil
	q.w = q.w[:n]
	w.index = -1
	return w
}

func (q *queue) add(p Priority) *waiter {
	q.seq++
	w := &waiter{priority: p, seq: q.seq, ready: make(chan struct{})}
	heap.Push(q, w)
	return w
}

// drop takes w out and reports whether it was still waiting.
func (q *queue) drop(w *waiter) bool {
	if w.index < 0 {
		return false
	}
	heap.Remove(q, w.index)
	return true
}

// slots are n connections of one kind, given by priority. The last of
// several is kept for the foreground, so that a read never waits for the
// read-ahead of others to finish.
type slots struct {
	mu    sync.Mutex
	n     int
	taken int
	queue queue
}

func newSlots(n int) *slots { return &slots{n: n} }

func (s *slots) freeLocked(p Priority) bool {
	n := s.n
	if p < Foreground && n > 1 {
		n--
	}
	return s.taken < n
}

func (s *slots) acquire(ctx context.Context, p Priority) error {
	s.mu.Lock()
	if s.freeLocked(p) && (s.queue.Len() == 0 || s.queue.w[0].priority < p) {
		s.taken++
		s.mu.Unlock()
		return nil
	}
	w := s.queue.add(p)
	s.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		waiting := s.queue.drop(w)
		s.mu.Unlock()
		if !waiting {
			s.release() // it came in the same moment
		}
		return ctx.Err()
	}
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	for s.queue.Len() > 0 && s.freeLocked(s.queue.w[0].priority) {
		s.taken++
		close(heap.Pop(&s.queue).(*waiter).ready)
	}
}

// pacer is the one budget. As long as the service never throttles there is
// no interval between calls. A 429 sets one, each later one doubles it (once
// for all calls that were under way together). Good answers shrink it: by an
// eighth each down to where the last 429 came, by less from there on, since
// that is where the limit is; and quickly again when none came for a while.
// So it stays close to a fixed limit, and random 429s do not stop everything.
// Retry-After stops everything until then.
type pacer struct {
	mu       sync.Mutex
	interval time.Duration
	next     time.Time     // no call starts before
	paused   time.Time     // end of the last Retry-After
	limit    time.Duration // the interval at which the last 429 came
	slowed   time.Time     // when the interval last grew
	queue    queue
	timer    *time.Timer // runs while somebody waits
}

// pausing reports whether the service has asked for a pause that is not over.
func (p *pacer) pausing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.paused)
}

// wait returns when this call may start. When the service asked for a pause
// beyond the context's deadline, it fails at once.
func (p *pacer) wait(ctx context.Context, prio Priority) error {
	p.mu.Lock()
	now := time.Now()
	if d, ok := ctx.Deadline(); ok && p.paused.After(d) {
		left := p.paused.Sub(now)
		p.mu.Unlock()
		return &Error{Kind: ErrThrottled, RetryAfter: left, Message: "the service asked for a pause"}
	}
	if p.queue.Len() == 0 && !now.Before(p.next) {
		p.next = now.Add(p.interval)
		p.mu.Unlock()
		return nil
	}
	w := p.queue.add(prio)
	p.armLocked()
	p.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		p.queue.drop(w) // a turn that came in the same moment is lost, which is only polite
		p.mu.Unlock()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &Error{Kind: ErrThrottled, Err: ctx.Err()}
		}
		return ctx.Err()
	}
}

// armLocked sees to it that the queue's head is woken when its time has come.
func (p *pacer) armLocked() {
	if p.queue.Len() == 0 {
		return
	}
	d := max(time.Until(p.next), 0)
	if p.timer == nil {
		p.timer = time.AfterFunc(d, p.wake)
	} else {
		p.timer.Reset(d)
	}
}

func (p *pacer) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.queue.Len() > 0 {
		now := time.Now()
		if now.Before(p.next) {
			break
		}
		p.next = now.Add(p.interval)
		close(heap.Pop(&p.queue).(*waiter).ready)
	}
	p.armLocked()
}

// slow notes a 429 to a call started then.
func (p *pacer) slow(started time.Time, after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if started.After(p.slowed) || p.interval == 0 {
		p.limit = p.interval
		p.interval = min(max(2*p.interval, firstInterval), maxInterval)
		p.slowed = now
	}
	until := now.Add(p.interval)
	if after > 0 {
		until = now.Add(after)
		if until.After(p.paused) {
			p.paused = until
		}
	}
	if until.After(p.next) {
		p.next = until
	}
	p.armLocked()
}

// good notes an answer other than 429 to a call started then.
func (p *pacer) good(started time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.interval == 0 || !started.After(p.slowed) {
		return
	}
	if p.interval > p.limit+p.limit/4 || time.Since(p.slowed) > calm {
		p.interval -= p.interval / 8
	} else {
		p.interval -= p.interval / 32
	}
	if p.interval < minInterval {
		p.interval = 0
	}
}
