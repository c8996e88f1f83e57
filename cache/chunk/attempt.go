package chunk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// attempt is one request of a fetch. Nil means that f is complete or must not
// go on; any error, that bytes are missing.
func (c *Cache) attempt(f *fetch) error {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	r := c.call(ctx, cancel, f)
	begun := time.Now()
	watch := time.AfterFunc(c.headerTimeout(), cancel)
	defer watch.Stop()
	st, err := c.source.Fetch(r.ctx, f.ct.Version, r.from, r.to)
	if err != nil {
		err = c.refused(r, f, err)
		f.cut = ctx.Err() != nil
		return err
	}
	defer c.closeBody(st)
	if err := c.header(r, f, st, begun); err != nil {
		return err
	}
	for {
		buf := c.buffer(f)
		if buf == nil {
			return nil
		}
		watch.Reset(c.stallTimeout())
		n, err := st.Read(buf)
		if n > 0 && c.arrived(r, f, n) {
			// Read the end of the body, so that the connection can be used
			// again.
			if f.to == r.to {
				var one [1]byte
				_, _ = st.Read(one[:])
				f.cut = false
			}
			return nil
		}
		if err != nil {
			f.cut = ctx.Err() != nil
			switch {
			case errors.Is(err, io.EOF):
				err = io.ErrUnexpectedEOF
			case r.stalled(f):
				err = errStalled
			}
			return err
		}
	}
}

// call is a request that is under way for a fetch.
type call struct {
	ctx      context.Context // of the call, with its priority
	from, to int64

	told   int64     // up to where the line knows how fast this is
	toldAt time.Time // when that was
	beside int       // bodies that came at once then
}

// stalled tells whether the request was given up for bringing nothing.
func (r *call) stalled(f *fetch) bool { return r.ctx.Err() != nil && f.ctx.Err() == nil }

// call begins a request of f, which giveUp ends.
func (c *Cache) call(ctx context.Context, giveUp func(), f *fetch) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.headed, f.giveUp, f.cut = false, giveUp, true
	f.attempts++
	f.low = len(f.waiters) == 0
	return &call{ctx: requestContext(ctx, f), from: f.at, to: f.to}
}

// refused is the error of a request that brought no body, for what it is.
func (c *Cache) refused(r *call, f *fetch, err error) error {
	switch {
	case errors.Is(err, drive.ErrRange):
		// What lies before the end we know of cannot be asked for: the
		// content is another one, or the answer was a mistake.
		if cerr := c.source.Confirm(r.ctx, f.ct.Version); cerr != nil {
			err = cerr
		} else {
			err = fmt.Errorf("%w: %w", drive.ErrUnavailable, err)
		}
	case r.stalled(f):
		err = errStalled
	}
	if isChanged(err) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changedLocked(f.ct)
	}
	return err
}

// header takes the header of a body; an error of it says that the body is of no
// use.
func (c *Cache) header(r *call, f *fetch, st *Stream, begun time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.headed, f.headedAt = true, time.Now()
	c.bodies++
	c.line.header(f.headedAt.Sub(begun))
	r.told, r.toldAt, r.beside = r.from, f.headedAt, c.bodies
	return c.headLocked(f, st, r.from)
}

// closeBody closes one that header took.
func (c *Cache) closeBody(st *Stream) {
	_ = st.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bodies--
}

func (c *Cache) buffer(f *fetch) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bufferLocked(f)
}

// arrived takes n bytes that were read into the buffer, and tells whether they
// were the last.
func (c *Cache) arrived(r *call, f *fetch, n int) (done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrivedLocked(f, n)
	if f.at-r.told >= look {
		c.line.body(f.moved, f.at-r.told, f.moved.Sub(r.toldAt), float64(r.beside+c.bodies)/2)
		r.told, r.toldAt, r.beside = f.at, f.moved, c.bodies
	}
	return f.at >= f.to
}

// requestContext is ctx with the priority of f now. Values of a caller of
// ReadInto come first, so that the caller may set the priority itself.
func requestContext(ctx context.Context, f *fetch) context.Context {
	switch {
	case f.values != nil:
		return under{drive.WithPriority(ctx, drive.Background), f.values}
	case len(f.waiters) > 0:
		return drive.WithPriority(ctx, drive.Foreground)
	default:
		return drive.WithPriority(ctx, drive.ReadAhead)
	}
}
