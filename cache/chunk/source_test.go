package chunk

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errReset = errors.New("connection reset by peer")

// pattern is what all contents are cut from; its length is prime, so that
// bytes at the wrong place never look right.
var pattern = func() []byte {
	p := make([]byte, 1048583)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}()

// pieces are the n bytes that version content of node id has at off, in parts
// of the pattern.
func pieces(n int, id string, content, off int64) iter.Seq[[]byte] {
	at := off + content*65537
	for _, c := range []byte(id) {
		at += int64(c) * 4099
	}
	return func(yield func([]byte) bool) {
		for i := int(at % int64(len(pattern))); n > 0; i = 0 {
			p := pattern[i:min(len(pattern), i+n)]
			if !yield(p) {
				return
			}
			n -= len(p)
		}
	}
}

// fill writes what version content of node id has at off.
func fill(p []byte, id string, content, off int64) {
	for want := range pieces(len(p), id, content, off) {
		p = p[copy(p, want):]
	}
}

// differs finds the first bytes of p that are not what fill would write: n of
// them, from i on; n = 0: there are none.
func differs(p []byte, id string, content, off int64) (i, n int) {
	at := 0
	for want := range pieces(len(p), id, content, off) {
		if got := p[at : at+len(want)]; !bytes.Equal(got, want) {
			for got[i] == want[i] {
				i++
			}
			n = len(want)
			for got[n-1] == want[n-1] {
				n--
			}
			return at + i, n - i
		}
		at += len(want)
	}
	return 0, 0
}

// fault is what goes wrong with one request.
type fault struct {
	err   error // instead of an answer
	after int64 // with one of those below: bytes before it
	short bool  // the body ends
	reset bool  // the body fails
	stall bool  // the body stops for good
}

// service is a Source with real waiting: a version per node, latency, a rate
// a connection. The zero value answers at once.
type service struct {
	latency time.Duration
	rate    int64 // bytes a second and connection, 0 = no limit
	line    int64 // bytes a second of all together, 0 = no limit
	tags    bool  // sends ETags
	fault   func(n int, from, to int64) *fault
	garble  func(n int) bool // whether the bytes of the n-th answer are wrong

	mu       sync.Mutex
	current  map[string]int64 // content version by id, 0 = what was asked for
	requests []request
	confirms int
	bytes    int64
	open     int
	seen     int       // connections, as the service sees them: a cut one for latency longer
	most     int       // of them at once
	next     time.Time // when the line is free
	total    int64     // told instead of the size, 0 = the size
	confirm  error
}

type request struct {
	id       string
	from, to int64
}

func (s *service) overwrite(id string, content int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		s.current = make(map[string]int64)
	}
	s.current[id] = content
}

func (s *service) contentOf(v Version) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.current[v.ID]; n != 0 {
		return n
	}
	return v.Content
}

func (s *service) Fetch(ctx context.Context, v Version, from, to int64) (*Stream, error) {
	if from < 0 || from >= to || to > v.Size {
		panic(fmt.Sprintf("fetch of [%d, %d) of %d", from, to, v.Size))
	}
	s.mu.Lock()
	n := len(s.requests)
	s.requests = append(s.requests, request{v.ID, from, to})
	s.open++
	s.seen++
	s.most = max(s.most, s.seen)
	s.mu.Unlock()
	left := func(cut bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		if !cut {
			s.seen--
			return
		}
		time.AfterFunc(s.latency, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.seen--
		})
	}
	if err := sleep(ctx, s.latency); err != nil {
		left(true)
		return nil, err
	}
	var f *fault
	s.mu.Lock()
	faulty := s.fault
	s.mu.Unlock()
	if faulty != nil {
		f = faulty(n, from, to)
	}
	if f != nil && f.err != nil {
		left(false)
		return nil, f.err
	}
	b := &body{s: s, ctx: ctx, id: v.ID, content: s.contentOf(v), garbled: s.garble != nil && s.garble(n), at: from, to: to, fault: f, left: left}
	st := &Stream{ReadCloser: b, From: from, To: to, Total: v.Size}
	s.mu.Lock()
	if s.total != 0 {
		st.Total = s.total
	}
	s.mu.Unlock()
	if s.tags {
		st.ETag = fmt.Sprintf("%s-%d", v.ID, b.content)
	}
	return st, nil
}

func (s *service) Confirm(ctx context.Context, v Version) error {
	s.mu.Lock()
	s.confirms++
	err := s.confirm
	s.mu.Unlock()
	if err := sleep(ctx, s.latency); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if s.contentOf(v) != v.Content {
		return drive.ErrChanged
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type body struct {
	s       *service
	ctx     context.Context
	id      string
	content int64
	at, to  int64
	sent    int64
	due     time.Time
	garbled bool
	fault   *fault
	once    sync.Once
	left    func(cut bool)
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if f := b.fault; f != nil && b.sent >= f.after {
		switch {
		case f.short:
			return 0, io.EOF
		case f.reset:
			return 0, errReset
		case f.stall:
			<-b.ctx.Done()
			return 0, b.ctx.Err()
		}
	}
	if b.at >= b.to {
		return 0, io.EOF
	}
	n := min(int64(len(p)), b.to-b.at)
	if b.s.rate > 0 || b.s.line > 0 {
		n = min(n, 64<<10)
	}
	if b.s.rate > 0 {
		n = min(n, max(b.s.rate/20, 1))
	}
	if f := b.fault; f != nil && (f.short || f.reset || f.stall) {
		n = min(n, f.after-b.sent)
	}
	if err := b.pace(n); err != nil {
		return 0, err
	}
	fill(p[:n], b.id, b.content, b.at)
	if b.garbled && n > 0 {
		p[n/2] ^= 1
	}
	b.at += n
	b.sent += n
	b.s.mu.Lock()
	b.s.bytes += n
	b.s.mu.Unlock()
	return int(n), nil
}

// pace waits until n bytes have come at the connection's and the line's rate.
func (b *body) pace(n int64) error {
	now := time.Now()
	if b.due.Before(now.Add(-10 * time.Millisecond)) {
		b.due = now
	}
	if b.s.rate > 0 {
		b.due = b.due.Add(time.Duration(n * int64(time.Second) / b.s.rate))
	}
	until := b.due
	if b.s.line > 0 {
		b.s.mu.Lock()
		if b.s.next.Before(now) {
			b.s.next = now
		}
		b.s.next = b.s.next.Add(time.Duration(n * int64(time.Second) / b.s.line))
		if b.s.next.After(until) {
			until = b.s.next
		}
		b.s.mu.Unlock()
	}
	return sleep(b.ctx, time.Until(until))
}

func (b *body) Close() error {
	b.once.Do(func() { b.left(b.at < b.to && b.ctx.Err() != nil) })
	return nil
}

func (s *service) downloaded() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

func (s *service) questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.confirms
}

func (s *service) asked() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.requests...)
}

// open makes a cache that is closed at the end, after which its books must
// balance.
func open(t testing.TB, o Options) *Cache {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, c) })
	return c
}

func shut(t testing.TB, c *Cache) {
	t.Helper()
	c.mu.Lock()
	was := c.closed
	c.mu.Unlock()
	if was {
		return
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pool.pinned != 0 || c.pool.promised != 0 || c.conns != 0 || len(c.running) != 0 {
		t.Errorf("after Close: %d blocks pinned, %d promised, %d connections, %d running",
			c.pool.pinned, c.pool.promised, c.conns, len(c.running))
	}
}

// check verifies the books of a running cache: what is counted is what is.
func check(t testing.TB, c *Cache) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	pinned, unread, owned := 0, 0, 0
	for _, b := range c.pool.blocks {
		if b.pins > 0 {
			pinned++
		} else if b.unread {
			unread++
		}
		if b.unread && (b.ch == nil || b.ch.windows == 0 && len(b.ch.fetches) == 0) {
			t.Error("a block waits to be read that no window has")
		}
		if b.ch != nil {
			owned++
			if b.ch.blocks[b.idx] != b {
				t.Error("a block does not belong where it thinks")
			}
		}
	}
	if pinned != c.pool.pinned || unread != c.pool.unread {
		t.Errorf("pinned %d counted %d, unread %d counted %d", pinned, c.pool.pinned, unread, c.pool.unread)
	}
	for _, vs := range c.contents {
		for _, ct := range vs {
			for _, ch := range ct.chunks {
				if ch.holds <= 0 {
					t.Errorf("chunk %d of %s is in the table with %d holds", ch.index, ct.ID, ch.holds)
				}
				for i, b := range ch.blocks {
					if b == nil && ch.have&blockMask(i) != 0 {
						t.Errorf("chunk %d of %s has granules without a block", ch.index, ct.ID)
					}
				}
			}
		}
	}
	if len(c.pool.blocks) > c.pool.max {
		t.Errorf("%d blocks, at most %d allowed", len(c.pool.blocks), c.pool.max)
	}
}

// readAt reads and verifies, and returns the error.
func readAt(ctx context.Context, r *Reader, off int64, n int) error {
	v, err := r.ReadAt(ctx, off, n)
	if err != nil {
		return err
	}
	defer v.Release()
	want := int(max(0, min(int64(n), r.v.Size-off)))
	if v.Len() != want {
		return fmt.Errorf("read of %d at %d gave %d bytes, want %d", n, off, v.Len(), want)
	}
	at := off
	for _, s := range v.Slices() {
		if i, k := differs(s, r.v.ID, r.v.Content, at); k > 0 {
			return fmt.Errorf("wrong bytes in %d at %d of %s: from %d, %d of them", n, off, r.v.ID, at+int64(i), k)
		}
		at += int64(len(s))
	}
	if lacks := off + int64(want) - at; lacks != 0 {
		return fmt.Errorf("slices lack %d bytes", lacks)
	}
	return nil
}

func mustRead(t testing.TB, r *Reader, off int64, n int) {
	t.Helper()
	if err := readAt(t.Context(), r, off, n); err != nil {
		t.Fatal(err)
	}
}

// play reads all of v in steps.
func play(t testing.TB, c *Cache, v Version, step int) {
	t.Helper()
	r := c.Reader(v)
	defer r.Close()
	for off := int64(0); off < v.Size; off += int64(step) {
		mustRead(t, r, off, step)
	}
}

func film(id string, size int64) Version {
	return Version{ID: id, Content: 1, Size: size, Name: id + ".mkv"}
}

// bubble runs f where time passes only when everybody waits.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func md5Of(id string, size int64) string {
	p := make([]byte, size)
	fill(p, id, 1, 0)
	return fmt.Sprintf("%x", md5.Sum(p))
}
