package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// asleepFile makes the program under test believe that this machine was
// suspended for as long as the file says.
const asleepFile = "_TEST_ASLEEP"

func asleepByFile(path string) func() time.Duration {
	return func() time.Duration {
		b, _ := os.ReadFile(path)
		d, _ := time.ParseDuration(string(b))
		return d
	}
}

// wire is a way to the drive that can go dead: connections stay, and nothing
// comes through them any more. New ones are taken.
type wire struct {
	net.Listener
	mu   sync.Mutex
	dead chan none // closed when what is open now dies
}

func newWire(t *testing.T) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &wire{Listener: ln, dead: make(chan none)}
}

func (w *wire) serve(t *testing.T, h http.Handler) {
	srv := &http.Server{Handler: h}
	served := make(chan none)
	go func() {
		defer close(served)
		_ = srv.Serve(w) // http.ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.dead)
	w.dead = make(chan none)
}

func (w *wire) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return wireEnd{c, w.dead}, nil
}

// wireEnd swallows both ways when it is dead.
type wireEnd struct {
	net.Conn
	dead <-chan none
}

func (c wireEnd) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !isClosed(c.dead) {
			return n, err
		}
	}
}

func (c wireEnd) Write(p []byte) (int, error) {
	if isClosed(c.dead) {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// After a suspend the timers stand where they stood, and connections lead
// nowhere. A mount looks at once, on new connections.
func TestSuspend(t *testing.T) {
	t.Parallel()
	line := newWire(t)
	w := newWorld(t, drivetest.Options{BaseURL: "http://" + line.Addr().String()})
	line.serve(t, w.drive.Handler())
	if _, err := w.drive.Else().PutPath("before", []byte("x")); err != nil {
		t.Fatal(err)
	}
	slept := filepath.Join(w.home, "slept")
	put(t, slept, "0s")
	w.env = append(w.env, asleepFile+"="+slept)
	w.mount("--poll-interval=10h")
	w.must("refresh")
	if _, err := w.drive.Else().PutPath("meanwhile", []byte("y")); err != nil {
		t.Fatal(err)
	}
	line.cut()
	put(t, slept, "1h")
	w.eventually("the feed was read", func() bool { return exists(w.file("meanwhile")) })
	w.write("written", "z")
	w.must("flush")
	if got := w.onDrive("written"); got != "z" {
		t.Errorf("the drive has %q", got)
	}
	if got := read(t, w.file("meanwhile")); got != "y" {
		t.Errorf("read %q", got)
	}
	w.must("unmount", w.mountpoint)
}

// What was given up is taken up again within seconds: with a new token in
// place, and when the service is back, whatever the back-off has come to.
func TestHealsByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	w.mount("--poll-interval=10h")
	w.must("refresh")
	w.drive.RevokeRefresh()
	w.drive.ExpireTokens()
	w.write("waits", "x")
	w.eventually("a login is needed", func() bool { return w.status().Remote.State == "auth-required" })
	if err := w.drive.WriteToken(w.token()); err != nil {
		t.Fatal(err)
	}
	w.eventually("the new token is used", func() bool { return w.status().Remote.State == "online" })
	w.eventually("what waited is on the drive", func() bool { return w.onDrive("waits") == "x" })
	w.must("unmount", w.mountpoint)
}

func isClosed(c <-chan none) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
