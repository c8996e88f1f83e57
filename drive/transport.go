package drive

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The longest silences that are borne, API §13.2, §13.5 (60 s in the clients
// of the service) and §9 (minutes before the first byte of a full sync).
const (
	defaultSilence = 60 * time.Second
	changesWait    = 15 * time.Minute
	changesSilence = 5 * time.Minute
)

// maxAnswer is the most that is read of a small answer: a page has 200 nodes, and a
// node with all its media properties some KiB.
const maxAnswer = 32 << 20

// errSilent is the cause when a connection was given up.
var errSilent error = silentError{}

type silentError struct{}

func (silentError) Error() string   { return "no byte for too long" }
func (silentError) Timeout() bool   { return true }
func (silentError) Temporary() bool { return true }

// newBase is the tuned transport, and the connections it has open: HTTP/1.1
// only (one connection of HTTP/2 carries one stream's bandwidth, and costs
// twice the processor), as many idle connections as may be busy, certificates
// verified, no compression behind our back. Header timeouts are
// stallTransport's, since they differ by call.
func newBase(conns int) (*http.Transport, *connections) {
	open := &connections{open: map[*lingerConn]bool{}}
	d := &net.Dialer{
		Timeout:         10 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 4},
		Control:         userTimeout,
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return open.add(&lingerConn{Conn: c, heard: make(chan struct{}), of: open}), nil
		},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConns:           3 * conns,
		MaxIdleConnsPerHost:    conns,
		IdleConnTimeout:        50 * time.Second, // before the usual 60 s of the other side
		MaxResponseHeaderBytes: 256 << 10,
		WriteBufferSize:        64 << 10,
		DisableCompression:     true,
	}, open
}

// connections are those that are open.
type connections struct {
	mu   sync.Mutex
	open map[*lingerConn]bool
}

func (s *connections) add(c *lingerConn) *lingerConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = true
	return c
}

func (s *connections) drop(c *lingerConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// close cuts all of them; the calls under way on them fail.
func (s *connections) close() {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, c := range all {
		_ = c.Close() // what matters is that nobody waits for it any more
	}
}

// userTimeout lets the kernel give up a connection whose bytes nobody
// acknowledges: after a suspend or a change of network, waiting for the end of
// an upload would otherwise take a quarter of an hour.
func userTimeout(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		// Best effort: without it things only take longer.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(defaultSilence.Milliseconds()))
	})
}

// lingerConn lets the service have the last word. When it refuses an upload
// early (409, 401) it answers and closes; the next write then fails, and
// http.Transport would report the broken pipe and never look at the answer
// that has already arrived. So a failed write waits until the reading side is
// through, for a moment at most.
type lingerConn struct {
	net.Conn
	once  sync.Once
	heard chan struct{} // closed when reading ended or the connection was closed
	of    *connections
}

const lingerTime = 3 * time.Second

func (c *lingerConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.once.Do(func() { close(c.heard) })
	}
	return n, err
}

func (c *lingerConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		t := time.NewTimer(lingerTime)
		defer t.Stop()
		select {
		case <-c.heard:
		case <-t.C:
		}
	}
	return n, err
}

func (c *lingerConn) Close() error {
	c.once.Do(func() { close(c.heard) })
	c.of.drop(c)
	return c.Conn.Close()
}

// decoded is the body without its gzip encoding. We ask for gzip by hand, so
// that any base transport will do.
func decoded(resp *http.Response) (io.Reader, error) {
	if resp.Header.Get("Content-Encoding") != "gzip" {
		return resp.Body, nil
	}
	return gzip.NewReader(resp.Body)
}

// slurpTransport reads the answers that are small: all of an error's as far
// as it counts, all of a JSON document's. A connection that breaks in
// mid-answer (API §13.4) is thereby a failed try like any other.
type slurpTransport struct{ next http.RoundTripper }

func (t slurpTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := callOf(req)
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	fine := resp.StatusCode >= 200 && resp.StatusCode < 300
	switch {
	case !fine:
		peek(resp)
	case c.shape == shapeJSON || c.shape == shapeUpload:
		r, err := decoded(resp)
		var data []byte
		if err == nil {
			data, err = io.ReadAll(io.LimitReader(r, maxAnswer+1))
		}
		resp.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
		if len(data) > maxAnswer {
			return nil, &Error{Op: c.op, Kind: ErrProtocol, Status: resp.StatusCode, Message: "the answer is too long"}
		}
		hold(resp, data)
		resp.Header.Del("Content-Encoding")
	}
	return resp, nil
}

// stallTransport gives up on a connection that stays silent: before the
// header, within an answer, or within the body of an upload. After the last
// byte of an upload it waits as long as the caller wants (API §13.2), and the
// body of a download is the caller's to watch.
type stallTransport struct {
	next http.RoundTripper
	idle time.Duration // of uploads
}

func (t stallTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := callOf(req)
	ctx, cancel := context.WithCancelCause(req.Context())
	wait, silence := c.wait, c.silence
	if wait == 0 {
		wait = defaultSilence
	}
	if silence == 0 {
		silence = defaultSilence
	}
	giveUp := func() { cancel(errSilent) }
	var timer *time.Timer
	if c.shape == shapeUpload {
		if b, ok := req.Body.(*uploadBody); ok {
			b.watch(t.idle, giveUp)
			defer b.answered()
		}
		timer = time.AfterFunc(silence, giveUp)
		timer.Stop()
	} else {
		timer = time.AfterFunc(wait, giveUp)
	}
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		timer.Stop()
		if errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
		cancel(nil)
		return nil, err
	}
	b := &watchedBody{ReadCloser: resp.Body, ctx: ctx, timer: timer, silence: silence, cancel: cancel}
	if c.shape == shapeDownload && resp.StatusCode < 300 {
		timer.Stop()
		b.timer = nil
	} else {
		timer.Reset(silence)
	}
	resp.Body = b
	return resp, nil
}

type watchedBody struct {
	io.ReadCloser
	ctx     context.Context
	timer   *time.Timer // nil = not watched
	silence time.Duration
	cancel  context.CancelCauseFunc
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.timer != nil {
		b.timer.Reset(b.silence)
		if err != nil && err != io.EOF && errors.Is(context.Cause(b.ctx), errSilent) {
			err = errSilent
		}
	}
	return n, err
}

func (b *watchedBody) Close() error {
	if b.timer != nil {
		b.timer.Stop()
	}
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
