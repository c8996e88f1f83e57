package drivetest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/drivefs/drivefs/drive/local"
)

// Server is a running drive. Its methods may be called from any goroutine.
type Server struct {
	o       Options
	st      *store
	private string // the directory to remove, "" = the caller's
	ln      net.Listener
	http    *http.Server
	base    string // scheme://host:port
	secret  string
	served  chan struct{}
	closing context.Context // done when Close begins: ends every wait
	stop    context.CancelFunc
	closed  sync.Once
	closeEr error

	bytesIn, bytesOut atomic.Int64

	mu      sync.Mutex // guards what follows
	in      injector
	counts  map[string]int
	logged  []Entry // ring
	logNext int
	cursors cursors
	codes   map[string]grant // authorization codes not used yet

	lifeMu  sync.Mutex // guards late, lateSeq, and Add of working against Close
	late    map[int]*lateWork
	lateSeq int
	working sync.WaitGroup // requests and late work
}

// Start opens the drive in o.Dir and serves it. The caller closes it.
func Start(o Options) (*Server, error) {
	if err := o.Faults.validate(); err != nil {
		return nil, err
	}
	if o.TLSCert == "" && o.Listener == nil && o.Listen != "" && !local.Loopback(o.Listen) {
		return nil, fmt.Errorf("listen on %s: %w", o.Listen, ErrPlainListen)
	}
	s := &Server{o: o.withDefaults(), served: make(chan struct{}), counts: map[string]int{}, codes: map[string]grant{},
		late: map[int]*lateWork{}}
	dir := s.o.Dir
	if dir == "" {
		tmp, err := os.MkdirTemp("", "drivetest-")
		if err != nil {
			return nil, err
		}
		dir, s.private = tmp, tmp
	}
	var err error
	if s.st, err = openStore(&s.o, dir, s.private == ""); err != nil {
		return nil, errors.Join(err, s.removePrivate())
	}
	s.closing, s.stop = context.WithCancel(context.Background())
	s.SetFaults(o.Faults)
	if s.secret = rand.Text(); s.private == "" {
		s.secret, err = openSecret(dir)
	}
	if err == nil {
		err = s.listen()
	}
	if err != nil {
		s.stop()
		return nil, errors.Join(err, s.st.close(), s.removePrivate())
	}
	s.http = &http.Server{Handler: http.HandlerFunc(s.front), ReadHeaderTimeout: time.Minute, IdleTimeout: 3 * time.Minute,
		ErrorLog: slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug)}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(s.ln) // http.ErrServerClosed
	}()
	return s, nil
}

// ErrPlainListen: Options.Listen is beyond loopback, and there is no certificate.
var ErrPlainListen = errors.New("listening beyond loopback needs a certificate: tokens and contents would cross the network in the clear")

// listen opens the listener, with TLS where there is a certificate.
func (s *Server) listen() error {
	scheme := "http"
	if s.ln = s.o.Listener; s.ln == nil {
		var conf *tls.Config
		if s.o.TLSCert != "" {
			cert, err := tls.LoadX509KeyPair(s.o.TLSCert, s.o.TLSKey)
			if err != nil {
				return fmt.Errorf("certificate: %w", err)
			}
			conf, scheme = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}, "https"
		}
		ln, err := net.Listen("tcp", s.o.Listen)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		if s.ln = ln; conf != nil {
			s.ln = tls.NewListener(ln, conf)
		}
	}
	if s.base = strings.TrimSuffix(s.o.BaseURL, "/"); s.base == "" {
		s.base = scheme + "://" + reachable(s.ln.Addr())
	}
	return nil
}

// reachable is an address that clients on this machine can use: this machine,
// where the listener takes any.
func reachable(addr net.Addr) string {
	if a, ok := addr.(*net.TCPAddr); ok && a.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(a.Port))
	}
	return addr.String()
}

// Close ends every request, removes a private directory, and gives the
// directory free. Late uploads that have not appeared never will. It may be
// called more than once.
func (s *Server) Close() error {
	s.closed.Do(func() {
		s.lifeMu.Lock()
		s.stop()
		s.lifeMu.Unlock()
		err := s.http.Close()
		<-s.served
		s.dropLate()
		s.working.Wait()
		s.closeEr = errors.Join(err, s.st.close(), s.removePrivate())
	})
	return s.closeEr
}

func (s *Server) removePrivate() error {
	if s.private == "" {
		return nil
	}
	return os.RemoveAll(s.private)
}

// Handler is the service without its listener, for a test's own TLS front.
// Close waits for its requests.
func (s *Server) Handler() http.Handler { return s }

// Endpoint is the discovery base, for --endpoint.
func (s *Server) Endpoint() string { return s.base + "/drive/v1/" }

// AuthURL is where a browser asks for consent (§2.2). It carries the secret:
// it is for the owner of the drive, and for no log.
func (s *Server) AuthURL() string { return s.base + "/ap/oa?secret=" + s.secret }

// TokenURL is the token endpoint (§2.3).
func (s *Server) TokenURL() string { return s.base + "/auth/o2/token" }

// Addr is where the listener is, whatever BaseURL says.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Dir is where contents and records are.
func (s *Server) Dir() string { return s.st.blobs.dir }

// SetFaults replaces the faults in force and starts their counts anew. Faults
// that [Faults.UnmarshalJSON] would refuse match nothing or do nothing.
func (s *Server) SetFaults(f Faults) {
	s.mu.Lock()
	s.in.set(f, s.o.Clock())
	s.mu.Unlock()
	s.st.modes.Store(&f.Modes)
	keep := max(s.o.ListingLag, f.ListingLag)
	for _, r := range f.Rules {
		if r.Fault.Do == DoStale {
			keep = max(keep, staleAge(&r.Fault))
		}
	}
	s.KeepHistory(keep)
}

// KeepHistory makes the drive remember for so long how nodes were before a
// change, which a hook that answers with DoStale needs. SetFaults does it for
// its own rules.
func (s *Server) KeepHistory(d time.Duration) {
	s.st.mu.Lock()
	s.st.keepLag = d
	s.st.mu.Unlock()
}

// Faults are those in force.
func (s *Server) Faults() Faults {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.in.f
	f.Rules = append([]Rule(nil), f.Rules...)
	return f
}

// Hook sets the one fault hook, asked for each request before the rules; nil
// removes it. It is called from the request's goroutine, without locks; what
// it blocks on, the client waits for.
func (s *Server) Hook(h func(Op) *Fault) {
	s.mu.Lock()
	s.in.hook = h
	s.mu.Unlock()
}

// Entry is one request in the log.
type Entry struct {
	Time          time.Time
	Op            string // "" = no such operation
	Method        string
	Path, Query   string
	Range         string
	NodeID, Name  string
	RequestID     string
	UserAgent     string
	Authorization bool // the request carried the header
	Status        int  // 0 = the connection was reset
	Fault         string
	In, Out       int64 // content bytes
}

const logSize = 10_000

// Requests counts the requests by operation since the start or the last
// ResetRequests.
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]int, len(s.counts))
	for k, v := range s.counts {
		out[k] = v
	}
	return out
}

// ResetRequests empties counts, log and byte counters.
func (s *Server) ResetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts, s.logged, s.logNext = map[string]int{}, nil, 0
	s.bytesIn.Store(0)
	s.bytesOut.Store(0)
}

// RequestLog is the last 10,000 finished requests, oldest first.
func (s *Server) RequestLog() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(append([]Entry(nil), s.logged[s.logNext:]...), s.logged[:s.logNext]...)
}

// BytesServed counts content bytes of downloads, without headers and JSON.
func (s *Server) BytesServed() int64 { return s.bytesOut.Load() }

// BytesReceived counts content bytes of uploads and overwrites.
func (s *Server) BytesReceived() int64 { return s.bytesIn.Load() }

func (s *Server) record(e Entry) {
	s.mu.Lock()
	if len(s.logged) < logSize {
		s.logged = append(s.logged, e)
	} else {
		s.logged[s.logNext] = e
		s.logNext = (s.logNext + 1) % logSize
	}
	s.mu.Unlock()
	path := e.Path
	if e.Op == "content.templink" || e.Op == "content.signed" {
		path = "" // the address is the permission
	}
	s.o.Logger.Debug("request", "op", e.Op, "method", e.Method, "path", path, "status", e.Status, "fault", e.Fault, "in", e.In, "out", e.Out, "request_id", e.RequestID)
}

// sleep waits, unless the request or the server ends first.
func (s *Server) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-s.closing.Done():
	}
	return false
}

// lateWork is an upload whose answer was a fault and which takes effect later.
type lateWork struct {
	timer *time.Timer
	do    func()
	drop  func()
}

// later runs do after d, at Settle, or never when the server closes first;
// then drop runs instead.
func (s *Server) later(d time.Duration, do, drop func()) {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if s.closing.Err() != nil {
		drop()
		return
	}
	s.lateSeq++
	id := s.lateSeq
	w := &lateWork{do: do, drop: drop}
	s.late[id] = w
	if d >= 0 {
		w.timer = time.AfterFunc(d, func() { s.runLate(id) })
	}
}

func (s *Server) takeLate(id int) *lateWork {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	w := s.late[id]
	if w != nil {
		delete(s.late, id)
		s.working.Add(1)
		if w.timer != nil {
			w.timer.Stop()
		}
	}
	return w
}

func (s *Server) runLate(id int) {
	if w := s.takeLate(id); w != nil {
		defer s.working.Done()
		w.do()
	}
}

func (s *Server) lateIDs() []int {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	ids := make([]int, 0, len(s.late))
	for id := range s.late {
		ids = append(ids, id)
	}
	return ids
}

// Settle makes every late upload appear now.
func (s *Server) Settle() {
	for _, id := range s.lateIDs() {
		s.runLate(id)
	}
}

// Late counts uploads that have yet to appear.
func (s *Server) Late() int { return len(s.lateIDs()) }

func (s *Server) dropLate() {
	for _, id := range s.lateIDs() {
		if w := s.takeLate(id); w != nil {
			w.drop()
			s.working.Done()
		}
	}
}

func newRequestID() string { return uuid.NewString() }

// enter counts a request as running; false = the server is closing.
func (s *Server) enter() bool {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if s.closing.Err() != nil {
		return false
	}
	s.working.Add(1)
	return true
}
