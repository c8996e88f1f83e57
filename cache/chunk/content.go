package chunk

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// content is what is known of one version: its chunks in memory and whether
// arriving bytes are its own. See doc.go for the reasoning. Guarded by
// Cache.mu.
type content struct {
	Version
	key     string // what ristretto's keys of its chunks begin with
	chunks  map[int64]*chunk
	passed  map[int64]bool // that a window let go of as they came from the disk tier
	readers int
	used    int64 // pool.tick of the last Reader, for forgetting the oldest

	tag     string // the ETag of its bytes, "" unknown
	sure    bool   // a Confirm said that tag is this version's
	plain   bool   // bytes are kept that came without an ETag
	dropped bool   // Drop: keep nothing
	// changed: the service gives other bytes now. Nothing is fetched any
	// more, what is there is still read. changedAt is Cache.changes then, so
	// that a Reader opened later may ask again (see recheck).
	changed   bool
	changedAt int64

	wrong int // how often its bytes were not those of its MD5

	pending    []*fetch // that wait for a Confirm
	confirming bool     // its goroutine runs
}

// contentLocked is the state of v, made when there is none.
func (c *Cache) contentLocked(v Version) *content {
	vs := c.contents[v.ID]
	if vs == nil {
		vs = make(map[int64]*content, 1)
		c.contents[v.ID] = vs
	}
	ct := vs[v.Content]
	if ct != nil && ct.Size != v.Size {
		c.dropContentLocked(ct) // it was told wrongly once: nothing of it fits
		return c.contentLocked(v)
	}
	if ct == nil {
		ct = &content{Version: v, key: v.ID + "/" + strconv.FormatInt(v.Content, 10) + "/", chunks: make(map[int64]*chunk)}
		vs[v.Content] = ct
		c.known++
		c.pruneLocked()
	}
	c.pool.tick++
	ct.used = c.pool.tick
	return ct
}

// maxIdle bounds the contents that are kept only for their ETag: the kernel
// may still hold pages of a file that is closed, and what is fetched for it
// later has to be of the same version.
const maxIdle = 1 << 14

// pruneLocked forgets some idle contents once there are too many.
func (c *Cache) pruneLocked() {
	if c.known <= maxIdle {
		return
	}
	look := 64
	for id, vs := range c.contents {
		for n, ct := range vs {
			if ct.idle() && c.pool.tick-ct.used > maxIdle/2 {
				delete(vs, n)
				c.known--
			}
		}
		if len(vs) == 0 {
			delete(c.contents, id)
		}
		if look--; look == 0 {
			return
		}
	}
}

func (ct *content) idle() bool {
	return ct.readers == 0 && len(ct.chunks) == 0 && len(ct.pending) == 0
}

// trust is what the header of a stream says about its bytes.
type trust int

const (
	trusted     trust = iota // of this version
	unconfirmed              // only a Confirm can tell
	foreign                  // of another one
)

// judgeLocked decides by the ETag. A first ETag is believed when there is
// nothing it could be mixed with, in memory or on disk.
func (c *Cache) judgeLocked(ct *content, etag string) trust {
	switch {
	case etag == "":
		return unconfirmed
	case etag == ct.tag:
		return trusted
	case ct.tag != "":
		return foreign
	}
	for _, f := range ct.pending {
		if f.tag != "" && f.tag != etag {
			return foreign
		}
	}
	if ct.plain || len(ct.pending) > 0 || c.disk.hasVersion(ct.Version) {
		return unconfirmed
	}
	ct.tag = etag
	return trusted
}

// admitLocked decides whether bytes of the disk tier, kept under etag (""
// when they came without or were adopted), may be used beside what is here.
func (ct *content) admitLocked(etag string) bool {
	switch {
	case etag == ct.tag:
	case etag == "":
		if !ct.sure {
			return false
		}
	case ct.tag == "":
		ct.tag, ct.sure = etag, true
	default:
		return false
	}
	if etag == "" {
		ct.plain = true
	}
	return true
}

// peek learns the ETag that bytes of ct in the disk tier were kept under, so
// that what comes beside them need not be confirmed.
func (c *Cache) peek(ct *content) {
	if c.disk == nil {
		return
	}
	c.mu.Lock()
	known := ct.tag != "" || ct.plain || len(ct.pending) > 0
	c.mu.Unlock()
	if known {
		return
	}
	index, ok := c.disk.anyOf(ct.Version)
	if !ok {
		return
	}
	f, err := c.disk.get(ct.Version, index)
	if err != nil {
		return
	}
	c.mu.Lock()
	ct.admitLocked(f.tag)
	c.mu.Unlock()
	c.disk.put(f)
}

// changedLocked: the service has other bytes than this version's now. What
// is running or waits to be confirmed must not be used.
func (c *Cache) changedLocked(ct *content) {
	if ct.changed {
		return
	}
	c.changes++
	ct.changed, ct.changedAt = true, c.changes
	for _, f := range append([]*fetch(nil), c.running...) {
		if f.ct == ct && !f.disk {
			f.err = drive.ErrChanged
			f.cancel()
		}
	}
	for len(ct.pending) > 0 {
		c.settleFetchLocked(ct.pending[0], drive.ErrChanged)
	}
}

// askLocked starts asking the service about what is pending.
func (c *Cache) askLocked(ct *content) {
	if !ct.confirming && !c.closed {
		ct.confirming = true
		c.wg.Go(func() { c.confirm(ct) })
	}
}

// confirm asks the service until nothing is pending. One answer settles
// every stream whose header had come before the question was asked.
func (c *Cache) confirm(ct *content) {
	wait := 100 * time.Millisecond
	for {
		c.mu.Lock()
		batch := append([]*fetch(nil), ct.pending...)
		if len(batch) == 0 || c.closed {
			ct.confirming = false
			for len(ct.pending) > 0 {
				c.settleFetchLocked(ct.pending[0], errClosed)
			}
			c.mu.Unlock()
			return
		}
		v := ct.Version
		c.mu.Unlock()

		ctx, cancel := context.WithTimeout(drive.WithPriority(c.ctx, drive.Foreground), c.readTimeout)
		err := c.source.Confirm(ctx, v)
		cancel()

		c.mu.Lock()
		switch {
		case err == nil:
			wait = 100 * time.Millisecond
			c.confirmedLocked(ct, batch)
		case isChanged(err):
			c.changedLocked(ct)
		case isFinal(err) || ct.readers == 0:
			for _, f := range batch {
				if f.pending {
					c.settleFetchLocked(f, err)
				}
			}
		default:
			// Nobody knows. The bytes stay where they are, readable by whom
			// they were readable, until the service answers or nobody has
			// the version open any more.
			c.mu.Unlock()
			select {
			case <-time.After(wait):
			case <-c.ctx.Done():
			}
			wait = min(2*wait, 5*time.Second)
			c.mu.Lock()
		}
		c.mu.Unlock()
	}
}

// confirmedLocked: v was current after the headers of batch had come, so
// their bytes are v's: a content only grows newer, and v was known before.
func (c *Cache) confirmedLocked(ct *content, batch []*fetch) {
	for _, f := range batch {
		if !f.pending {
			continue
		}
		if f.byMD5 && f.at == ct.Size && !f.running {
			ct.plain = ct.plain || f.tag == ""
			c.wrongLocked(f)
			continue
		}
		if f.tag != "" {
			if ct.tag != "" && ct.tag != f.tag {
				c.changedLocked(ct)
				return
			}
			ct.tag = f.tag
		} else {
			ct.plain = true
		}
		c.settleFetchLocked(f, nil)
	}
	ct.sure = true
	for _, f := range append([]*fetch(nil), ct.pending...) {
		if f.tag != "" && f.tag == ct.tag {
			c.settleFetchLocked(f, nil)
		}
	}
}

// wholeMatches reports whether f brought the whole content without an ETag
// and the MD5 is the version's: as good as a Confirm, and free.
func (c *Cache) wholeMatches(f *fetch) bool {
	c.mu.Lock()
	if !f.byMD5 || !f.pending || f.at != f.ct.Size {
		c.mu.Unlock()
		return false
	}
	blocks := append([]*block(nil), f.kept...)
	for _, b := range blocks {
		c.pinLocked(b)
	}
	c.mu.Unlock()

	h := md5.New()
	left := f.ct.Size
	for _, b := range blocks {
		n := min(left, blockSize)
		h.Write(b.buf[:n])
		left -= n
	}
	c.mu.Lock()
	for _, b := range blocks {
		c.unpinLocked(b)
	}
	c.mu.Unlock()
	return left == 0 && hex.EncodeToString(h.Sum(nil)) == f.ct.MD5
}

// recheck lets a Reader that was opened after the change was noticed ask
// whether its version is the current one all the same (the service may have
// changed its ETags, or answered one request wrongly). Then what was kept is
// as doubtful as what came: the version starts over with nothing.
func (r *Reader) recheck(ctx context.Context) error {
	c := r.c
	c.mu.Lock()
	old := r.ct
	if r.denied || r.born < old.changedAt {
		c.mu.Unlock()
		return drive.ErrChanged
	}
	c.mu.Unlock()
	within, cancel := context.WithTimeout(drive.WithPriority(ctx, drive.Foreground), c.readTimeout)
	defer cancel()
	if err := c.source.Confirm(within, r.v); err != nil {
		switch {
		case isChanged(err):
			c.mu.Lock()
			r.denied = true
			c.mu.Unlock()
		case within.Err() != nil && ctx.Err() == nil:
			err = &drive.Error{Op: "content.read", Kind: drive.ErrUnavailable, Err: err}
		}
		return err
	}
	c.mu.Lock()
	c.dropContentLocked(old) // first, so that no more of it is written
	c.mu.Unlock()
	c.disk.dropVersion(r.v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.ct != old || r.closed {
		return nil
	}
	if r.served {
		// What it was given may be of other bytes than what would follow.
		r.denied = true
		return drive.ErrChanged
	}
	for _, s := range r.streams {
		c.endStreamLocked(s)
	}
	r.streams, r.last = nil, nil
	old.readers--
	r.ct = c.contentLocked(r.v)
	r.ct.readers++
	return nil
}

// dropContentLocked forgets ct: who has it open goes on with it alone, and
// nothing more of it is kept.
func (c *Cache) dropContentLocked(ct *content) {
	ct.dropped = true
	for _, ch := range ct.chunks {
		if ch.cached > 0 {
			c.policyLocked(ch)
		}
	}
	vs := c.contents[ct.ID]
	if vs[ct.Content] != ct {
		return
	}
	delete(vs, ct.Content)
	c.known--
	if len(vs) == 0 {
		delete(c.contents, ct.ID)
	}
}

// isChanged and isFinal classify what the Source said.
func isChanged(err error) bool { return errors.Is(err, drive.ErrChanged) }

// isFinal reports whether asking again soon cannot help.
func isFinal(err error) bool {
	for _, e := range []error{drive.ErrChanged, drive.ErrAuth, drive.ErrForbidden, drive.ErrNotFound, drive.ErrInvalid, drive.ErrNoAccount, errClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
