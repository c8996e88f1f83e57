package settle

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a drive, a journal, a host and a settler that runs.
type world struct {
	testing.TB
	srv    *drivetest.Server
	pipes  *pipes // to srv; nil = by TCP
	other  *drivetest.Client
	client *drive.Client
	life   *life
	dir    string
	j      *journal.Journal
	h      *memHost
	s      *Settler
	stop   func()
	opt    Options
}

var fast = Options{
	MinWait: 200 * time.Millisecond, Look: 5 * time.Millisecond,
	Backoff: 2 * time.Millisecond, Seed: 1, WaitPerGB: time.Millisecond, MissingWait: 50 * time.Millisecond,
}

func newWorld(t testing.TB, so drivetest.Options, opt Options) *world {
	t.Helper()
	w := &world{TB: t, opt: opt, dir: filepath.Join(t.TempDir(), "state")}
	if _, ok := t.(*testing.T); ok { // benchmarks take real time, and sockets
		t.Cleanup(func() { time.Sleep(time.Second) }) // the last connections of the server end by themselves
		w.pipes = newPipes()
		so.Listener = w.pipes
	}
	w.srv = drivetest.New(t, so)
	w.other = w.srv.Else()
	w.connect()
	t.Cleanup(func() {
		w.halt()
		w.disconnect()
	})
	w.openJournal()
	w.h = newMemHost(w.j, w.other.Root())
	w.h.delay = opt.UploadDelay
	return w
}

func (w *world) connect() {
	w.Helper()
	w.life = &life{base: http.DefaultTransport.(*http.Transport).Clone()}
	if w.pipes != nil {
		w.life.base.DialContext, w.life.base.Proxy = w.pipes.dial, nil
	}
	c, err := drive.New(drive.Options{
		Endpoint: w.srv.Endpoint(), Tokens: drive.StaticTokenSource(w.srv.Token().AccessToken), Tries: 1, Transport: w.life,
	})
	if err != nil {
		w.Fatal(err)
	}
	if _, err := c.Discover(w.ctx()); err != nil {
		w.Fatal(err)
	}
	w.client = c
}

// life is a transport that dies with its process: from then on nothing is
// sent, and bodies under way break off.
type life struct {
	base *http.Transport
	dead atomic.Bool
}

func (l *life) end() { l.dead.Store(true) }

func (l *life) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r = r.Clone(r.Context())
		r.Body = mortalBody{r.Body, l}
	}
	return l.base.RoundTrip(r)
}

type mortalBody struct {
	io.ReadCloser
	l *life
}

func (b mortalBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.l.dead.Load() {
		return 0, io.ErrClosedPipe
	}
	return n, err
}

func (w *world) disconnect() {
	w.client.Close()
	w.life.base.CloseIdleConnections()
}

func (w *world) openJournal() {
	w.Helper()
	// No commit comes between the appends, so that a copy of the directory is
	// what a kill leaves.
	j, err := journal.Open(journal.Options{Dir: w.dir, GroupCommit: time.Hour})
	if err != nil {
		w.Fatal(err)
	}
	for _, p := range j.Problems() {
		w.Errorf("journal: %s", p)
	}
	w.j = j
}

// run starts settling.
func (w *world) run() *world {
	o := w.opt
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(logTo{w}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	w.s = New(w.j, w.client, w.h, o)
	w.start()
	return w
}

func (w *world) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.s.Run(ctx) // ctx's error
	}()
	w.stop = func() { cancel(); <-done }
}

type logTo struct{ w *world }

func (l logTo) Write(p []byte) (int, error) {
	l.w.Logf("%s", strings.TrimSpace(string(p)))
	return len(p), nil
}

// halt stops settling and closes the journal.
func (w *world) halt() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
	if w.j != nil {
		if errs := w.j.Check(); len(errs) > 0 {
			w.Errorf("journal: %v", errs)
		}
		if err := w.j.Close(); err != nil {
			w.Errorf("journal: %v", err)
		}
		w.j = nil
	}
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	w.Cleanup(cancel)
	return ctx
}

// flush waits until the drive has everything.
func (w *world) flush() {
	w.Helper()
	failed, err := w.s.Flush(w.ctx())
	if err != nil || len(failed) > 0 {
		w.dump()
		w.Fatalf("flush: %v, failed: %v", err, failed)
	}
}

// unpause lets work begin, after the queue has seen all that was wished for
// so far; otherwise it might begin with half of it.
func (w *world) unpause() {
	seen := make(chan struct{})
	w.s.tell(func(q *queue) { q.takeChanges(); close(seen) })
	<-seen
	w.s.Pause(false)
}

// told is what somebody hears who waits for a wish from its beginning.
func (w *world) told(wish func() (ino, rev uint64, err error)) error {
	w.Helper()
	w.s.Pause(true)
	ino, rev := must[uint64, uint64](w)(wish())
	told := make(chan error)
	go func() { told <- w.s.Wait(w.ctx(), ino, rev) }()
	synctest.Wait()
	w.s.Pause(false)
	return <-told
}

func (w *world) dump() {
	for _, ino := range w.j.Inos() {
		e, _ := w.j.Clone(ino)
		if e != nil {
			w.Logf("entry %d: node=%q removed=%v place=%v base=%+v sent=%+v failed=%q", ino, e.NodeID, e.Removed, e.Place, e.Base, e.Sent, e.Failed)
		}
	}
}

func (w *world) mkdir(p string) { w.Helper(); must[uint64, uint64](w)(w.h.mkdir(p)) }
func (w *world) write(p string, data string) {
	w.Helper()
	must[uint64, uint64](w)(w.h.write(p, []byte(data), nil))
}
func (w *world) remove(p string)    { w.Helper(); must[uint64, uint64](w)(w.h.remove(p)) }
func (w *world) rename(p, q string) { w.Helper(); must[uint64, uint64](w)(w.h.rename(p, q)) }

// tree is what is on the drive: path → content, "/" for folders.
func (w *world) tree() map[string]string {
	w.Helper()
	out := map[string]string{}
	for p, n := range w.other.Tree() {
		switch {
		case p == "" || n.Status != drivetest.StatusAvailable:
		case n.Kind == drivetest.KindFolder:
			out[p] = "/"
		default:
			r, err := w.other.Open(n.ID)
			if err != nil {
				w.Fatal(err)
			}
			b, err := io.ReadAll(r)
			r.Close()
			if err != nil {
				w.Fatal(err)
			}
			out[p] = string(b)
		}
	}
	return out
}

func (w *world) wantTree(want map[string]string) {
	w.Helper()
	got := w.tree()
	for _, p := range slices.Sorted(maps.Keys(got)) {
		if v, ok := want[p]; !ok {
			w.Errorf("on the drive, not wished for: %s (%s)", p, short(got[p]))
		} else if v != got[p] {
			w.Errorf("%s holds %s, want %s", p, short(got[p]), short(v))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if _, ok := got[p]; !ok {
			w.Errorf("not on the drive: %s", p)
		}
	}
	if w.j != nil && w.j.Len() > 0 && !w.Failed() {
		w.dump()
		w.Errorf("%d entries left", w.j.Len())
	}
}

func (w *world) wantTrash(names ...string) {
	w.Helper()
	var got []string
	for _, n := range w.other.TrashList() {
		got = append(got, n.Name)
	}
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		w.Errorf("trash holds %q, want %q", got, names)
	}
}

// wantCalls compares the requests since the last reset; operations not named
// must not have been asked.
func (w *world) wantCalls(want map[string]int) {
	w.Helper()
	got := w.srv.Requests()
	for op, n := range got {
		if strings.HasPrefix(op, "account.") {
			continue
		}
		if want[op] != n {
			w.Errorf("%s: %d calls, want %d", op, n, want[op])
		}
	}
	for op, n := range want {
		if got[op] == 0 && n != 0 {
			w.Errorf("%s: no calls, want %d", op, n)
		}
	}
}

func short(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// copyDir copies the state directory as it is this moment.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, p) // p is below from
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(p)
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil && !os.IsNotExist(err) {
		t.Errorf("copy: %v", err)
	}
}
