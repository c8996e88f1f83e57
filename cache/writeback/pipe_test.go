package writeback

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
)

// Tests run in a bubble of package synctest, where time passes only while
// nothing else is to be done: so no wait is too short on a slow machine. The
// service must be in the bubble, too, and therefore reachable without sockets.

// bubble runs fn as a subtest, with a time of its own.
func bubble(t *testing.T, name string, fn func(t *testing.T)) bool {
	return t.Run(name, func(t *testing.T) { synctest.Test(t, fn) })
}

// bubbles is bubble beside others.
func bubbles(t *testing.T, name string, fn func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, fn)
	})
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return pipesAddr{} }

// dial is for http.Transport.
func (l *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// pipesAddr is a loopback address, or the client would insist on https.
type pipesAddr struct{}

func (pipesAddr) Network() string { return "pipe" }
func (pipesAddr) String() string  { return "127.0.0.1:1" }
