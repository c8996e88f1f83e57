package writeback

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a drive, a mirror, a journal, the tree over them, and a write-back that
// runs.
type world struct {
	testing.TB
	srv    *drivetest.Server
	pipes  *pipes // to srv; nil = by TCP
	other  *drivetest.Client
	client *drive.Client
	life   *life
	dir    string
	j      *journal.Journal
	m      *mirror.Mirror
	t      *tree.Tree
	s      *WriteBack
	stop   func()
	opt    Options

	beforeWrite atomic.Pointer[func()] // called before each write of the journal
	// Set before anything runs; nil = nobody wants to know.
	uploading func(ino uint64) // called before content that arrived is noted
	changing  func()           // called when the mirror has taken an answer
	blind     bool             // the mirror was closed

	mu       sync.Mutex        // guards what follows
	events   []string          // what the user was told, "kind: text"
	uploaded map[uint64]string // by inode
	arrived  map[string]bool   // contents of ours that were ever on the drive
	known    map[string]bool   // MD5s that the mirror was ever told
}

var fast = Options{
	MinWait: 200 * time.Millisecond, Look: 5 * time.Millisecond,
	Backoff: 2 * time.Millisecond, Seed: 1, WaitPerGB: time.Millisecond, MissingWait: 50 * time.Millisecond,
}

func newWorld(t testing.TB, so drivetest.Options, opt Options) *world {
	t.Helper()
	w := &world{
		TB: t, opt: opt, dir: filepath.Join(t.TempDir(), "state"),
		uploaded: map[uint64]string{}, arrived: map[string]bool{}, known: map[string]bool{},
	}
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
	w.open()
	root, err := w.client.Root(w.ctx())
	if err == nil {
		_, err = w.m.SetRoot(root)
	}
	if err == nil {
		err = w.m.FeedEnd(time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	w.srv.ResetRequests()
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

// open opens the state directory.
func (w *world) open() {
	w.Helper()
	w.blind = false
	// No commit comes between the appends, so that a copy of the directory is
	// what a kill leaves.
	var err error
	w.j, err = journal.Open(journal.Options{Dir: w.dir, GroupCommit: time.Hour, BeforeWrite: func() error {
		if fn := w.beforeWrite.Load(); fn != nil {
			(*fn)()
		}
		return nil
	}})
	if err != nil {
		w.Fatal(err)
	}
	for _, p := range w.j.Problems() {
		w.Errorf("journal: %s", p)
	}
	w.m, err = mirror.Open(mirror.Options{
		Path: filepath.Join(w.dir, mirrorFile), Owner: w.client.Owner, NoSync: true,
		Reserve: w.j.ReserveIno, FirstIno: max(w.j.MaxIno()+1, 3),
		Damaged: func(_ string, err error) { w.Errorf("mirror: %v", err) },
	})
	if err != nil {
		w.Fatal(err)
	}
	w.t = tree.New(tree.Options{
		Mirror: w.m, Journal: w.j, Hostname: "HOST", Owner: w.client.Owner,
		UploadDelay: func() time.Duration { return w.opt.UploadDelay },
		Conflict:    func(_ uint64, name string) { w.notify(Event{Kind: "conflict", Text: name}) },
		Rescued:     func(uint64) { w.notify(Event{Kind: "edit", Text: "its folder is made again"}) },
	})
	if err := w.t.Reconcile(); err != nil {
		w.Fatal(err)
	}
}

const mirrorFile = "mirror.db"

// reopen is a restart.
func (w *world) reopen() {
	w.Helper()
	w.halt()
	w.open()
}

func (w *world) notify(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e.Kind+": "+e.Path+": "+e.Text)
}

// notes are the events whose kind is given, "" = all.
func (w *world) notes(kind string) (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.events {
		if strings.HasPrefix(l, kind) {
			out = append(out, l)
		}
	}
	return out
}

// functions are what the write-back asks of the store.
func (w *world) functions(o Options) Options {
	t, m := w.t, w.m
	o.Notify = w.notify
	o.Path = func(ino uint64) (p string) {
		t.Read(func(v tree.View) { p = v.Path(ino, rootIno) })
		return p
	}
	o.Changed = func(cs []mirror.Change) {
		if err := t.Told(cs); err != nil {
			w.Error(err)
		}
		w.mu.Lock()
		for _, c := range cs {
			if r, ok, err := m.Get(c.Ino); err == nil && ok {
				w.known[r.MD5] = true
			}
		}
		w.mu.Unlock()
		if w.changing != nil {
			w.changing()
		}
	}
	if o.Fetch == nil {
		o.Fetch = func(context.Context, chunk.Version, int64, int64, func([]byte, int64) error) (int64, error) {
			return 0, drive.ErrChanged
		}
	}
	o.Uploaded = w.sent
	return o
}

func (w *world) sent(ino uint64, _ drive.Node, d *journal.Draft) {
	if w.uploading != nil {
		w.uploading(ino)
	}
	s, err := d.Snapshot(d.Gen())
	if err != nil {
		return
	}
	defer s.Close()
	b, err := io.ReadAll(s)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.uploaded[ino] = string(b)
	w.arrived[string(b)] = true
}

// run starts settling.
func (w *world) run() *world {
	o := w.opt
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(logTo{w}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	w.s = New(w.t, w.m, w.j, w.client, w.functions(o))
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

// halt stops settling and closes the state directory.
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
		if err := w.m.Close(); err != nil && !w.blind {
			w.Errorf("mirror: %v", err)
		}
		w.j, w.m, w.t = nil, nil, nil
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

// unpause lets work begin, after the queue has seen all that was wanted
// so far; otherwise it might begin with half of it.
func (w *world) unpause() {
	seen := make(chan struct{})
	w.s.tell(func(q *queue) { q.takeChanges(); close(seen) })
	<-seen
	w.s.Pause(false)
}

// told is what somebody hears who waits for an intent from its beginning.
func (w *world) told(intent func() (ino, rev uint64, err error)) error {
	w.Helper()
	w.s.Pause(true)
	ino, rev := must[uint64, uint64](w)(intent())
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

var conflictTime = regexp.MustCompile(` \d{4}-\d\d-\d\d \d\d\.\d\d\.\d\d`)

// wantTree compares the drive with what should be there, names of conflict copies
// without their time.
func (w *world) wantTree(want map[string]string) {
	w.Helper()
	got := map[string]string{}
	for p, content := range w.tree() {
		got[conflictTime.ReplaceAllString(p, "")] = content
	}
	for _, p := range slices.Sorted(maps.Keys(got)) {
		if v, ok := want[p]; !ok {
			w.Errorf("on the drive, not wanted: %s (%s)", p, short(got[p]))
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

// copyDir copies the state directory as it is at one moment: two looks at it that
// see the same saw it between them.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	was := files(t, from)
	for now := files(t, from); !maps.Equal(was, now); now = files(t, from) {
		was = now
	}
	for name, b := range was {
		p := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(b.data), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(p, b.size); err != nil {
			t.Fatal(err)
		}
	}
}

// files are those in a directory and what they hold.
func files(t testing.TB, dir string) map[string]sparse {
	t.Helper()
	out := map[string]sparse{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		b, err := readSparse(p)
		if os.IsNotExist(err) {
			return nil
		}
		rel, _ := filepath.Rel(dir, p) // p is below dir
		out[rel] = b
		return err
	})
	if err != nil {
		t.Errorf("copy: %v", err)
	}
	return out
}

// sparse is a file without the hole at its end: the mirror's is mostly that.
type sparse struct {
	data string
	size int64
}

func readSparse(p string) (b sparse, err error) {
	f, err := os.Open(p)
	if err != nil {
		return b, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return b, err
	}
	b.size = st.Size()
	end := int64(0)
	for at := int64(0); ; at = end {
		if at, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
			break // no data behind
		} else if err == nil {
			end, err = unix.Seek(int(f.Fd()), at, unix.SEEK_HOLE)
		}
		if err != nil {
			return b, err
		}
	}
	data := make([]byte, end)
	n, err := f.ReadAt(data, 0)
	if err == io.EOF {
		err = nil
	}
	b.data = string(data[:n])
	return b, err
}

func ptr[T any](x T) *T { return &x }
