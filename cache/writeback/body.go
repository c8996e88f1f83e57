package writeback

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"path"
	"sync"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// body is content on its way: a reader that knows how far it was read, what
// the bytes sum up to, and when the last one is about to leave.
type body struct {
	src  io.Reader
	size int64
	sum  string // MD5, "" until it is known
	// last is called before the last byte is handed out, once: from there on
	// the service may have it all. Nil for a sum that is known beforehand.
	last func(sum string) error
	task *task

	mu     sync.Mutex // guards what follows; the transport reads from its own goroutine
	hash   hash.Hash
	off    int64
	passed bool // last was called
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.src.Read(p)
	b.off += int64(n)
	b.task.sent.Store(b.off)
	if b.hash == nil {
		return n, err
	}
	b.hash.Write(p[:n])
	if b.off >= b.size && !b.passed && (err == nil || err == io.EOF) {
		b.sum = hex.EncodeToString(b.hash.Sum(nil))
		if b.last != nil {
			if lerr := b.last(b.sum); lerr != nil {
				return 0, lerr
			}
		}
		b.passed = true
	}
	return n, err
}

// rewindable is a body whose source can be read again, as the client does
// when a token was refused.
type rewindable struct {
	*body
	seek io.Seeker
}

// Seek goes to the beginning, the only place the sum can start from, or tells
// where it is.
func (r rewindable) Seek(offset int64, whence int) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if whence == io.SeekCurrent && offset == 0 {
		return r.off, nil
	}
	if whence != io.SeekStart || offset != 0 {
		return 0, errNoSeek
	}
	if _, err := r.seek.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	r.off = 0
	if r.hash != nil {
		r.hash.Reset()
	}
	return 0, nil
}

var errNoSeek = errors.New("a body can only be read again from its beginning")

// content is an open draft generation.
type content struct {
	draft *journal.Draft
	snap  *journal.Snapshot
	gen   uint64
	size  int64
	sum   string // "" unless data is there
	data  []byte // all of it, when it is small
}

func (c *content) close() {
	if c.snap != nil {
		c.snap.Close()
	}
	c.draft.Close()
}

// open opens the content that e wants, complete. Small content is read
// at once: then its sum is known before it is sent, and later writes do not
// disturb it.
func (t *task) open(e *journal.Entry) (*content, error) {
	if e.Draft == nil {
		return nil, errNoContent
	}
	d, err := t.s.j.OpenDraft(t.ino, nil)
	if err != nil {
		return nil, err
	}
	c := &content{draft: d, gen: e.Draft.Gen, size: e.Draft.Size}
	if err := t.load(c); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (t *task) load(c *content) (err error) {
	d := c.draft
	if len(d.Missing(0, c.size)) > 0 {
		op := "complete"
		t.op.Store(&op)
		if err := t.s.Complete(drive.WithPriority(t.ctx, drive.Uploading), t.ino, d); err != nil {
			return t.baseLost(c, err)
		}
	}
	if c.snap, err = d.Snapshot(c.gen); err != nil {
		return err
	}
	c.size = c.snap.Size()
	if c.size >= smallFile {
		return nil
	}
	c.data = make([]byte, c.size)
	if _, err := io.ReadFull(c.snap, c.data); err != nil {
		return err
	}
	err = c.snap.Close()
	c.snap = nil
	s := md5.Sum(c.data)
	c.sum = hex.EncodeToString(s[:])
	return err
}

// baseLost is for content whose base could not be fetched. That it changed is
// believed when the node says so: tags of answers also change with metadata.
func (t *task) baseLost(c *content, cause error) error {
	if !errors.Is(cause, drive.ErrChanged) && !errors.Is(cause, drive.ErrNotFound) {
		return cause
	}
	id, version, size, sum := c.draft.Base()
	n, err := t.get(id)
	if errors.Is(err, drive.ErrNotFound) {
		n, err = drive.Node{}, nil
	}
	if err != nil {
		return err
	}
	base := journal.Base{Content: version, Size: size, MD5: sum}
	if n.Live() && n.Content != nil && !changedContent(&base, n) {
		return fmt.Errorf("%w: the version that was changed here is there, and cannot be read: %w", drive.ErrUnavailable, cause)
	}
	if n.ID != "" {
		if err := t.s.noteNode(n); err != nil {
			return err
		}
	}
	return t.s.baseLost(t.ctx, t.ino, c.draft, n)
}

var errNoContent = errors.New("the entry has neither a node nor content")

// prefixSum is the MD5 of the first n bytes.
func (t *task) prefixSum(c *content, n int64) (string, error) {
	if c.data != nil || c.size == 0 {
		s := md5.Sum(c.data[:n])
		return hex.EncodeToString(s[:]), nil
	}
	op := "sum"
	t.op.Store(&op)
	if _, err := c.snap.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	sum, err := t.sum(c.snap, n)
	if err != nil {
		return "", err
	}
	_, err = c.snap.Seek(0, io.SeekStart)
	return sum, err
}

// sum is the MD5 of the next n bytes of r.
func (t *task) sum(r io.Reader, n int64) (string, error) {
	h := md5.New()
	buf := make([]byte, 256<<10)
	for n > 0 {
		if err := t.ctx.Err(); err != nil {
			return "", err
		}
		k, err := r.Read(buf[:min(n, int64(len(buf)))])
		h.Write(buf[:k])
		if n -= int64(k); n > 0 && err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// body makes the source of an upload. last is asked only for content whose
// sum is not known yet.
func (t *task) body(c *content, last func(sum string) error) (*body, drive.Body) {
	b := &body{size: c.size, sum: c.sum, task: t}
	t.sent.Store(0)
	t.size.Store(c.size)
	var seek io.ReadSeeker
	if c.snap == nil {
		seek = bytes.NewReader(c.data)
	} else {
		seek = c.snap
		b.hash, b.last, b.sum = md5.New(), last, ""
	}
	b.src = seek
	return b, drive.Body{Reader: rewindable{b, seek}, Size: c.size, AnswerWait: t.s.answerWait}
}

// sumOf is the MD5 of what went out.
func (b *body) sumOf() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sum
}

func contentType(name string) string {
	return mime.TypeByExtension(path.Ext(name)) // "" = the client's default
}
