package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/oauth2"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a Store over a drive, with nothing between them but HTTP.
type world struct {
	*testing.T
	srv   *drivetest.Server
	other *drivetest.Client
	o     Options
	s     *Store
	stop  func()
	// deaf: nobody hears the feed until poll is called.
	deaf bool
	// transport, if set, takes the place of sockets.
	transport http.RoundTripper
	// full: the journal of a newBubbleWorld cannot be written.
	full atomic.Bool

	mu      sync.Mutex
	effects []Effect
}

func newWorld(t *testing.T, set ...func(*Options)) *world {
	t.Helper()
	return newWorldOn(t, drivetest.Options{}, set...)
}

func newWorldOn(t *testing.T, so drivetest.Options, set ...func(*Options)) *world {
	t.Helper()
	w := &world{T: t, srv: drivetest.New(t, so)}
	w.other = w.srv.Else()
	w.o = Options{
		StateDir: t.TempDir(), CacheDir: t.TempDir(), Memory: 64 << 20, Disk: 256 << 20,
		UploadDelay: 5 * time.Millisecond, Hostname: "here",
	}
	if testing.Verbose() {
		w.o.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for _, f := range set {
		f(&w.o)
	}
	w.open()
	t.Cleanup(func() {
		w.close()
	})
	return w
}

// newBubbleWorld is for a synctest bubble: there is no socket in it.
func newBubbleWorld(t *testing.T, fill func(*drivetest.Server), deaf bool) *world {
	t.Helper()
	ln := &silent{done: make(chan struct{})}
	w := &world{T: t, srv: drivetest.New(t, drivetest.Options{Listener: ln, TokenLife: 1000 * time.Hour}), deaf: deaf}
	w.transport = inProcess{w.srv.Handler()}
	w.other = w.srv.Else()
	w.o = Options{StateDir: t.TempDir(), Memory: 16 << 20, Hostname: "here", BeforeWrite: func() error {
		if w.full.Load() {
			return unix.ENOSPC
		}
		return nil
	}}
	fill(w.srv)
	w.open()
	t.Cleanup(w.close)
	return w
}

// silent is a listener to which nobody connects.
type silent struct {
	done chan struct{}
	once sync.Once
}

func (l *silent) Accept() (net.Conn, error) {
	<-l.done
	return nil, net.ErrClosed
}

func (l *silent) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *silent) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// inProcess answers requests by a handler.
type inProcess struct{ h http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if p := recover(); p == http.ErrAbortHandler {
			err = errors.Join(io.ErrUnexpectedEOF, r.Context().Err())
		} else if p != nil {
			panic(p)
		}
	}()
	rec := httptest.NewRecorder()
	in := r.Clone(r.Context())
	in.Host = r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	} else {
		defer r.Body.Close()
	}
	t.h.ServeHTTP(rec, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp = rec.Result()
	resp.Request = r
	return resp, nil
}

func (w *world) open() {
	w.Helper()
	tok := w.srv.Token()
	c, err := drive.New(drive.Options{
		Endpoint: w.srv.Endpoint(),
		Tokens:   oauth2.StaticTokenSource(&oauth2.Token{AccessToken: tok.AccessToken}), Transport: w.transport,
	})
	if err != nil {
		w.Fatal(err)
	}
	w.o.Remote = c
	s, err := Open(w.Context(), w.o)
	if err != nil {
		c.Close()
		w.Fatal(err)
	}
	s.OnEffects(func(es []Effect) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.effects = append(w.effects, es...)
	})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	w.s = s
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil && !errors.Is(err, context.Canceled) {
			w.Error("run:", err)
		}
		if err := s.Close(); err != nil {
			w.Error("close:", err)
		}
		c.Close()
	})
	if !w.deaf {
		w.poll()
	}
}

func (w *world) close() {
	w.Helper()
	for _, err := range w.s.CheckLocal() {
		w.Error("check:", err)
	}
	w.stop()
}

// reopen is a new mount over the same state.
func (w *world) reopen() {
	w.Helper()
	w.close()
	w.open()
}

// poll hears the feed to its end.
func (w *world) poll() {
	w.Helper()
	apply, from, first := w.s.Feed().Apply, w.s.Feed().Checkpoint(), false
	if first = from == ""; first {
		apply = w.s.Feed().ApplyRefresh
		var err error
		if from, err = w.s.Feed().BeginRefresh(w.Context()); err != nil {
			w.Fatal(err)
		}
	}
	for b, err := range w.o.Remote.Changes(w.Context(), drive.ChangesRequest{Checkpoint: from, IncludePurged: true}) {
		if err != nil {
			w.Fatal("feed:", err)
		}
		if err := apply(w.Context(), b); err != nil {
			w.Fatal("apply:", err)
		}
	}
	if first {
		if err := w.s.Feed().EndRefresh(w.Context()); err != nil {
			w.Fatal(err)
		}
	}
	if err := w.s.Feed().FeedEnd(w.Context()); err != nil {
		w.Fatal(err)
	}
}

func (w *world) flush() {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 2*time.Minute)
	defer cancel()
	failed, err := w.s.Queue().Flush(ctx)
	if err != nil || len(failed) > 0 {
		w.Fatal("flush:", err, failed)
	}
}

func (w *world) takeEffects() []Effect {
	w.mu.Lock()
	defer w.mu.Unlock()
	es := w.effects
	w.effects = nil
	return es
}

// dir resolves the folder of p and gives its inode and p's last name.
func (w *world) dir(p string) (uint64, string) {
	w.Helper()
	e, err := w.s.Resolve(w.Context(), path.Dir(p))
	if err != nil {
		w.Fatal("resolve", path.Dir(p), err)
	}
	return e.Ino, path.Base(p)
}

func (w *world) write(p, content string) {
	w.Helper()
	w.writeAt(p, content, 0, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
}

func (w *world) writeAt(p, content string, off int64, flags uint32) {
	w.Helper()
	h := w.create(p, flags)
	w.writeTo(h, content, off)
	w.shut(h)
}

// writeTo writes through an open file.
func (w *world) writeTo(h *Handle, content string, off int64) {
	w.Helper()
	if _, err := h.Write(w.Context(), []byte(content), off); err != nil {
		w.Fatal("write", err)
	}
}

// shut is close(2) and the release after it.
func (w *world) shut(h *Handle) {
	w.Helper()
	defer h.Release()
	if err := h.Flush(); err != nil {
		w.Fatal("flush", err)
	}
}

func (w *world) setattr(p string, a SetAttr) Attr {
	w.Helper()
	e, err := w.s.Resolve(w.Context(), p)
	if err != nil {
		w.Fatal("resolve", p, err)
	}
	now, err := w.s.Setattr(w.Context(), e.Ino, e.Gen, nil, a)
	if err != nil {
		w.Fatal("setattr", p, err)
	}
	return now
}

func (w *world) create(p string, flags uint32) *Handle {
	w.Helper()
	dir, name := w.dir(p)
	_, h, err := w.s.Create(w.Context(), dir, name, flags, ModeSet|0o644)
	if err != nil {
		w.Fatal("create", p, err)
	}
	return h
}

func (w *world) read(p string) string {
	w.Helper()
	e, err := w.s.Resolve(w.Context(), p)
	if err != nil {
		w.Fatal("resolve", p, err)
	}
	h, err := w.s.Open(w.Context(), e.Ino, e.Gen, unix.O_RDONLY)
	if err != nil {
		w.Fatal("open", p, err)
	}
	defer h.Release()
	s, err := w.readHandle(h)
	if err != nil {
		w.Fatal("read", p, err)
	}
	return s
}

func (w *world) readHandle(h *Handle) (string, error) {
	var b bytes.Buffer
	for {
		v, err := h.Read(w.Context(), int64(b.Len()), 128<<10)
		if err != nil {
			return "", err
		}
		n := v.Len()
		for _, s := range v.Slices() {
			b.Write(s)
		}
		v.Release()
		if n == 0 {
			return b.String(), nil
		}
	}
}

func (w *world) mkdir(p string) {
	w.Helper()
	dir, name := w.dir(p)
	if _, err := w.s.Mkdir(w.Context(), dir, name, 0); err != nil {
		w.Fatal("mkdir", p, err)
	}
}

func (w *world) rename(from, to string) {
	w.Helper()
	if err := w.tryRename(from, to); err != nil {
		w.Fatal("rename", from, to, err)
	}
}

func (w *world) tryRename(from, to string) error {
	w.Helper()
	odir, oname := w.dir(from)
	ndir, nname := w.dir(to)
	return w.s.Rename(w.Context(), odir, oname, ndir, nname, false)
}

func (w *world) unlink(p string) {
	w.Helper()
	dir, name := w.dir(p)
	if err := w.s.Unlink(w.Context(), dir, name); err != nil {
		w.Fatal("unlink", p, err)
	}
}

func (w *world) rmdir(p string) error {
	w.Helper()
	dir, name := w.dir(p)
	return w.s.Rmdir(w.Context(), dir, name)
}

// entries is the listing of a folder, a few lines at a time.
func (w *world) entries(p string) (all []Entry) {
	w.Helper()
	e, err := w.s.Resolve(w.Context(), p)
	if err != nil {
		w.Fatal("resolve", p, err)
	}
	d, err := w.s.OpenDir(w.Context(), e.Ino)
	if err != nil {
		w.Fatal("opendir", p, err)
	}
	var after uint64
	for {
		es, err := d.Read(w.Context(), after, 3)
		if err != nil {
			w.Fatal("readdir", p, err)
		}
		all = append(all, es...)
		if len(es) < 3 {
			return all
		}
		after = es[len(es)-1].Ino
	}
}

// ls are the names in a folder, sorted by nothing but the cookies.
func (w *world) ls(p string) string {
	w.Helper()
	var names []string
	for _, e := range w.entries(p) {
		names = append(names, e.Name)
	}
	return strings.Join(names, " ")
}

// put is somebody else writing a file.
func (w *world) put(p, content string) drivetest.Node {
	w.Helper()
	n, err := w.other.PutPath(p, []byte(content))
	if err != nil {
		w.Fatal("put", p, err)
	}
	return n
}

// addParent is somebody else giving a node a second folder.
func (w *world) addParent(id, dir string) {
	w.Helper()
	d, err := w.other.MkdirAll(dir)
	if err == nil {
		_, err = w.other.AddParent(id, d.ID)
	}
	if err != nil {
		w.Fatal("addparent", dir, err)
	}
}

// drive is what the drive has at p.
func (w *world) drive(p string) string {
	w.Helper()
	b, err := w.other.ReadFile(p)
	if err != nil {
		w.Fatalf("the drive's %s: %v; it has %v", p, err, w.paths())
	}
	return string(b)
}

func (w *world) paths() []string {
	var ps []string
	for p := range w.other.Tree() {
		ps = append(ps, p)
	}
	return ps
}

func (w *world) id(p string) string {
	w.Helper()
	n, err := w.other.Lookup(p)
	if err != nil {
		w.Fatalf("the drive's %s: %v; it has %v", p, err, w.paths())
	}
	return n.ID
}

func (w *world) want(got, want string) {
	w.Helper()
	if got != want {
		w.Errorf("got %q, want %q", got, want)
	}
}

func reader(s string) io.Reader { return strings.NewReader(s) }

// answered is what the write-back does with the answer to a call of its own.
func (w *world) answered(ino uint64, n drive.Node) error {
	changes, err := w.s.mirror.Answer(n, true, ino)
	if err == nil {
		w.s.intake.answered(changes)
	}
	return err
}
