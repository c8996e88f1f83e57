package mountd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/changes"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/account"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// pipes is a listener in memory: time in a bubble of package synctest stands
// still while somebody waits for a socket.
type pipes struct {
	conns  chan net.Conn
	closed chan none
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan none)} }

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

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

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

// counting is a way to the service that counts what is sent, and can be cut.
type counting struct {
	*http.Transport
	sent atomic.Int64
	cut  atomic.Bool
}

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	c.sent.Add(1)
	if c.cut.Load() {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	return c.Transport.RoundTrip(r)
}

// In every state of the service a mount makes few requests, with changes
// waiting for it and without: an hour of each, in a time of its own. When the
// trouble is over it is well again soon, and everything is on the drive.
func TestRequestsInAnHour(t *testing.T) {
	all := func(f drivetest.Fault) drivetest.Faults {
		return drivetest.Faults{Rules: []drivetest.Rule{{Fault: f}}}
	}
	for _, test := range []struct {
		name   string
		state  drive.StateKind
		faults drivetest.Faults
		cut    bool // no connections
		revoke bool // the token
		most   int64
		healed time.Duration // after the trouble
	}{
		{name: "online", state: drive.Online, most: 140},
		{name: "throttled", state: drive.Throttled, faults: all(drivetest.Fault{Status: 429}), most: 2500, healed: 9 * time.Minute},
		{name: "throttled for a minute each", state: drive.Throttled, faults: all(drivetest.Fault{Status: 429, RetryAfter: 60}), most: 140, healed: 9 * time.Minute},
		{name: "unavailable", state: drive.Offline, faults: all(drivetest.Fault{Status: 503}), most: 500, healed: 9 * time.Minute},
		{name: "unreachable", state: drive.Offline, cut: true, most: 500, healed: time.Minute},
		{name: "a login is needed", state: drive.AuthRequired, revoke: true, most: 1000, healed: time.Minute},
	} {
		for _, pending := range []int{0, 12} {
			if pending > 0 && test.state == drive.Online {
				continue // they would be on the drive
			}
			t.Run(fmt.Sprintf("%s, %d pending", test.name, pending), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := newBubble(t)
					b.way.cut.Store(test.cut)
					b.drive.SetFaults(test.faults)
					if test.revoke {
						b.drive.ExpireTokens()
					}
					for i := range pending {
						b.create(fmt.Sprintf("file %d", i))
					}
					time.Sleep(5 * time.Minute) // it finds out
					if got := b.client.State(); got.Kind != test.state {
						t.Errorf("%s: %v", got.Kind, got.Err)
					}
					b.way.sent.Store(0)
					time.Sleep(time.Hour)
					n := b.way.sent.Load()
					t.Logf("%d requests in an hour", n)
					if n > test.most {
						t.Errorf("%d requests in an hour, more than %d", n, test.most)
					}
					if n == 0 {
						t.Error("nobody looks whether it is over")
					}
					if got := b.client.State(); got.Kind != test.state {
						t.Errorf("after an hour %s: %v", got.Kind, got.Err)
					}
					if test.healed == 0 {
						return
					}

					b.way.cut.Store(false)
					b.drive.SetFaults(drivetest.Faults{})
					if test.revoke {
						b.login()
					}
					begin := time.Now()
					for b.client.State().Kind != drive.Online || b.store.Queue().Stats().Pending > 0 {
						if time.Since(begin) > test.healed {
							t.Fatalf("after %v it is %s, with %d changes pending", test.healed, b.client.State().Kind, b.store.Queue().Stats().Pending)
						}
						time.Sleep(time.Second)
					}
					t.Logf("well again after %v", time.Since(begin))
					if n := len(b.drive.Else().Children(b.drive.Else().Root())); n != pending {
						t.Errorf("%d files on the drive, want %d", n, pending)
					}
				})
			})
		}
	}
}

// bubble is what a mount runs, but for the kernel's part.
type bubble struct {
	t      *testing.T
	drive  *drivetest.Server
	way    *counting
	token  string
	client *drive.Client
	store  *cache.Store
}

func newBubble(t *testing.T) *bubble {
	t.Helper()
	b := &bubble{t: t, token: filepath.Join(t.TempDir(), "token.json")}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { time.Sleep(time.Minute) }) // the last connections end by themselves
	line := newPipes()
	b.drive = drivetest.New(t, drivetest.Options{Listener: line, TokenLife: 1000 * time.Hour})
	b.way = &counting{Transport: &http.Transport{DialContext: line.dial, MaxIdleConnsPerHost: 50, IdleConnTimeout: 50 * time.Second}}
	b.login()
	// Nobody renews the token: that would be asked of a socket.
	tokens, err := drive.OpenTokenFile(b.token, nil)
	must(err)
	b.client, err = drive.New(drive.Options{Endpoint: b.drive.Endpoint(), Tokens: tokens, Transport: b.way})
	must(err)
	b.store, err = cache.Open(t.Context(), cache.Options{
		StateDir: filepath.Join(t.TempDir(), "state"), Remote: b.client, Memory: 64 << 20, UploadDelay: 3 * time.Second,
	})
	must(err)
	log := slog.New(slog.DiscardHandler)
	poller := changes.New(b.client, b.store.Feed(), changes.Options{Interval: 30 * time.Second})
	heal := &healer{account: &account.Account{Tokens: tokens, Client: b.client}, poller: poller, polls: true, token: b.token, log: log, reach: func(context.Context) error {
		if b.way.cut.Load() {
			return errors.New("connection refused")
		}
		return nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for _, run := range []func(context.Context) error{b.store.Run, poller.Run, heal.run} {
		work.Go(func() { _ = run(ctx) }) // ends with ctx
	}
	t.Cleanup(func() {
		cancel()
		work.Wait()
		if err := b.store.Close(); err != nil {
			t.Error(err)
		}
		b.client.Close()
		tokens.Close()
		b.way.CloseIdleConnections()
	})
	must(poller.Refresh(ctx))
	return b
}

func (b *bubble) login() {
	b.t.Helper()
	if err := b.drive.WriteToken(b.token); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bubble) create(name string) {
	b.t.Helper()
	_, h, err := b.store.Create(b.t.Context(), b.store.Root(), name, unix.O_RDWR, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := h.Write(b.t.Context(), []byte(name), 0); err != nil {
		b.t.Fatal(err)
	}
	if err := h.Flush(); err != nil {
		b.t.Fatal(err)
	}
	h.Release()
}
