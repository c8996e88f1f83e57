package drive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"sync"
	"sync/atomic"
	"time"
)

// Body is the content of an upload.
//
// When Reader is an io.Seeker (from its current position on), no Read is
// under way once Upload returns. Otherwise one Read may still be, since a
// reader that waits for an application cannot be interrupted; none begins after it.
type Body struct {
	Reader      io.Reader
	Size        int64  // bytes; -1 = not known, sent chunked
	ContentType string // "" = application/octet-stream
	// AnswerWait is how long the service may take to answer after the last byte
	// of that many of content went out; then the outcome is ErrAmbiguous.
	// nil = as long as the caller waits.
	AnswerWait func(size int64) time.Duration
}

// Upload makes a file. The body is sent once: it is sent again only when the service refused the
// token and Body.Reader is an io.Seeker, or when nothing at all had been
// read yet (no connection).
//
// ErrNameExists (Error.NodeID), also when the service says so before the
// body's end; ErrQuota; ErrBadParent. ErrAmbiguous: the whole body went out
// and no definite answer came, the file may appear within the hour (API
// §13.2). ErrUnavailable or ErrThrottled: it did not go out, and may be sent again. An
// error of Body.Reader is returned as it is, wrapped. Comparing size and MD5
// of the answer is the caller's. API §7.1.
func (c *Client) Upload(ctx context.Context, n NewNode, b Body) (Node, error) {
	meta, err := json.Marshal(c.wire(n, File))
	if err != nil {
		return Node{}, fmt.Errorf("content.upload: %w", err)
	}
	cl := &call{op: "content.upload", ref: "nodes" + query("suppress", "deduplication", "localId", n.LocalID), creates: true}
	made, err := c.sendContent(ctx, cl, http.MethodPost, "", meta, b)
	if err == nil {
		c.learnOwner(made)
		c.clock.made(made)
	}
	return made, err
}

// Overwrite replaces the content of a file; id, name and parents stay. The
// old content is gone for ever. etag "" = whatever the node is now, else
// ErrPrecondition when it changed (where the service honours it, API §5.6).
// Everything else as with Upload. API §7.2.
func (c *Client) Overwrite(ctx context.Context, id, etag string, b Body) (Node, error) {
	cl := &call{op: "content.overwrite", ref: path("nodes", id, "content") + query("suppress", "deduplication")}
	return c.sendContent(ctx, cl, http.MethodPut, etag, nil, b)
}

func (c *Client) sendContent(ctx context.Context, cl *call, method, etag string, meta []byte, b Body) (Node, error) {
	src, err := newUploadSource(ctx, c, meta, b)
	if err != nil {
		return Node{}, &canceled{op: cl.op + ": reading what to send", err: err}
	}
	cl.host, cl.shape, cl.upload = hostContent, shapeUpload, src
	cl.priority = priorityOf(ctx, Uploading)
	req, err := c.request(ctx, cl, method, nil)
	if err != nil {
		return Node{}, err
	}
	req.Header.Set("Content-Type", src.contentType)
	if etag != "" {
		req.Header.Set("If-Match", etag)
	}
	req.Body, _ = src.next(false)
	req.ContentLength = src.length()
	resp, err := c.send(cl, req)
	src.stop()
	if err != nil {
		var e *Error
		if errors.As(err, &e) && e.Kind == ErrProtocol && e.Status/100 == 2 {
			e.Kind = ErrAmbiguous // it worked, but what it made cannot be read
		}
		return Node{}, err
	}
	var n Node
	if err := c.decode(cl, resp, &n); err != nil {
		var e *Error
		if errors.As(err, &e) {
			e.Kind = ErrAmbiguous
		}
		return Node{}, err
	}
	return n, nil
}

// uploadSource is the multipart body of an upload over all its tries. Two
// parts in this order: metadata without, content with a file name (API §7.1).
// Nothing is buffered but the frame.
type uploadSource struct {
	ctx         context.Context
	c           *Client
	r           io.Reader
	seeker      io.Seeker // nil = cannot be rewound
	start       int64     // where the content begins in seeker
	head        []byte    // content read before the first try, to know that there is some
	size        int64     // -1 = unknown
	pre, post   []byte
	contentType string
	answerWait  func(size int64) time.Duration

	cur *uploadBody // of the try under way; only the calling goroutine sets it
	err atomic.Pointer[error]
}

func newUploadSource(ctx context.Context, c *Client, meta []byte, b Body) (*uploadSource, error) {
	s := &uploadSource{ctx: ctx, c: c, r: b.Reader, size: b.Size, answerWait: b.AnswerWait}
	if s.r == nil {
		s.r, s.size = bytes.NewReader(nil), 0
	}
	if sk, ok := s.r.(io.Seeker); ok {
		if at, err := sk.Seek(0, io.SeekCurrent); err == nil {
			s.seeker, s.start = sk, at
		}
	}
	if s.size < 0 {
		// Chunked and empty is refused (API §3.3), so look whether there is anything.
		one := make([]byte, 1)
		switch n, err := io.ReadFull(s.r, one); {
		case n == 1:
			s.head = one
		case err == io.EOF:
			s.size = 0
		default:
			return nil, err
		}
	}
	ct := b.ContentType
	if _, _, err := mime.ParseMediaType(ct); err != nil {
		ct = "application/octet-stream"
	}
	var frame bytes.Buffer
	w := multipart.NewWriter(&frame)
	if meta != nil {
		if p, err := w.CreateFormField("metadata"); err == nil {
			_, _ = p.Write(meta) // a Buffer never fails
		}
	}
	_, _ = w.CreatePart(textproto.MIMEHeader{
		// A file name must be there, and is ignored.
		"Content-Disposition": {`form-data; name="content"; filename="content"`},
		"Content-Type":        {ct},
	})
	cut := frame.Len()
	_ = w.Close()
	s.pre, s.post = frame.Bytes()[:cut:cut], frame.Bytes()[cut:]
	s.contentType = w.FormDataContentType()
	return s, nil
}

// length is the Content-Length, -1 = chunked.
func (s *uploadSource) length() int64 {
	if s.size < 0 {
		return -1
	}
	return int64(len(s.pre)) + s.size + int64(len(s.post))
}

// next gives the body for a try: the first; another one when not a byte of
// the last was read; and after a refused token when the source can be
// rewound. It is called while no other try is under way.
func (s *uploadSource) next(refused bool) (io.ReadCloser, bool) {
	if last := s.cur; last != nil {
		last.Close()
		if !last.touched.Load() {
			last.settle() // a first Read may just have slipped in; it hands out the frame and returns
		}
		if last.touched.Load() {
			if !refused || s.seeker == nil || s.sourceErr() != nil {
				return nil, false
			}
			last.settle()
			if _, err := s.seeker.Seek(s.start+int64(len(s.head)), io.SeekStart); err != nil {
				return nil, false
			}
		}
	}
	b := &uploadBody{s: s}
	b.content = s.r
	if len(s.head) > 0 {
		b.content = io.MultiReader(bytes.NewReader(s.head), s.r)
	}
	s.cur = b
	return b, true
}

// whole reports whether the last byte of the last try was handed out.
func (s *uploadSource) whole() bool { return s.cur != nil && s.cur.done.Load() }

func (s *uploadSource) sourceErr() error {
	if p := s.err.Load(); p != nil {
		return *p
	}
	return nil
}

// stop ends all reading; see Body.
func (s *uploadSource) stop() {
	if s.cur == nil {
		return
	}
	s.cur.Close()
	if s.seeker != nil {
		s.cur.settle()
	}
}

// errBodyClosed is what a transport gets that goes on reading after the end.
var errBodyClosed = errors.New("the upload is over")

// uploadBody is the body of one try. The transport reads and closes it from
// goroutines of its own.
type uploadBody struct {
	s       *uploadSource
	touched atomic.Bool // a byte was handed out
	done    atomic.Bool // the last byte was handed out
	closed  atomic.Bool

	mu      sync.Mutex // held during Read, guards the rest
	content io.Reader
	sent    int64 // of pre, then of content, then of post
	bytes   int64 // of content
	part    int   // 0 pre, 1 content, 2 post
	idle    time.Duration
	timer   *time.Timer // runs while the wire has the turn; nil = not watched
}

// watch calls giveUp when the transport does not come for more for idle, or
// when nobody calls answered for the time that Body.AnswerWait gives after the
// last byte. It is called before the first Read.
func (b *uploadBody) watch(idle time.Duration, giveUp func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle, b.timer = idle, time.AfterFunc(idle, giveUp)
	b.timer.Stop() // it starts with the first Read: before it there is a time limit of the dialer
}

// answered ends the wait for the answer. After watch it may be called anytime.
func (b *uploadBody) answered() {
	if b.done.Load() { // else the body goes on being watched
		b.timer.Stop()
	}
}

// settle waits until no Read is under way.
func (b *uploadBody) settle() {
	b.mu.Lock()
	//lint:ignore SA2001 waiting is all
	b.mu.Unlock()
}

// Close makes further Reads fail; it does not wait for one under way.
func (b *uploadBody) Close() error {
	b.closed.Store(true)
	return nil
}

func (b *uploadBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
	}
	if b.closed.Load() {
		return 0, errBodyClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	b.touched.Store(true)
	n, err := b.readLocked(p)
	switch {
	case b.timer == nil || b.closed.Load():
	case err == nil:
		b.timer.Reset(b.idle)
	case b.done.Load() && b.s.answerWait != nil:
		b.timer.Reset(b.s.answerWait(b.bytes))
	}
	return n, err
}

func (b *uploadBody) readLocked(p []byte) (int, error) {
	s := b.s
	if b.part == 0 {
		n := copy(p, s.pre[b.sent:])
		if b.sent += int64(n); b.sent == int64(len(s.pre)) {
			b.part, b.sent = 1, 0
		}
		return n, nil
	}
	if b.part == 1 {
		n, err := b.contentLocked(p)
		if n > 0 || err != nil {
			return n, err
		}
		b.part, b.sent = 2, 0
	}
	n := copy(p, s.post[b.sent:])
	if b.sent += int64(n); b.sent == int64(len(s.post)) {
		b.done.Store(true)
		return n, io.EOF
	}
	return n, nil
}

// contentLocked gives content, or (0, nil) at its end.
func (b *uploadBody) contentLocked(p []byte) (int, error) {
	s := b.s
	if s.size >= 0 {
		left := s.size - b.sent
		if left == 0 {
			return 0, nil
		}
		p = p[:min(int64(len(p)), left)]
	}
	p = p[:min(len(p), s.c.up.most())]
	for empty := 0; ; empty++ {
		n, err := b.content.Read(p)
		switch {
		case n > 0:
			b.sent += int64(n)
			b.bytes = b.sent
			s.c.uploaded.Add(int64(n))
			// An error that came along comes again with the next Read.
			return n, s.c.up.wait(s.ctx, n)
		case err == io.EOF && s.size < 0:
			return 0, nil
		case err == io.EOF:
			err = fmt.Errorf("%d of %d bytes: %w", b.sent, s.size, io.ErrUnexpectedEOF)
		case err == nil && empty < 100:
			continue
		case err == nil:
			err = io.ErrNoProgress
		}
		s.err.Store(&err)
		return 0, err
	}
}
