package writeback

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// ErrNotEmpty is why the removal of a folder is undone that holds something
// on the drive which was not removed here. Every other reason of an undone
// change and of Wait is one of package drive's errors.
var ErrNotEmpty = errors.New("something that was not seen here is in the folder")

// ErrPaused is why a Flush does not wait for contents that PauseContents holds
// back.
var ErrPaused = errors.New("uploads are paused")

// Event is something that the user should know of.
type Event struct {
	Kind string // "conflict", "edit", "undone", "quarantine" or "notice"
	Path string // as Options.Path gives it
	Text string
}

// Options configures New. The functions that are its first fields are required;
// they are called with no lock held, by several goroutines at once.
type Options struct {
	// Notify is told of what the user should know.
	Notify func(Event)
	// Path is where the user sees an inode, or wants it gone from.
	Path func(ino uint64) string
	// Changed is told what an answer of the service changed in the mirror, perhaps
	// nothing; the tree must know it when it returns (tree.Told).
	Changed func([]mirror.Change)
	// Fetch hands the bytes [off, end) of a version to write, in order, and returns
	// how many there were. drive.ErrChanged or drive.ErrNotFound when the version
	// cannot be had any more.
	Fetch func(ctx context.Context, v chunk.Version, off, end int64, write func(p []byte, off int64) error) (int64, error)
	// Uploaded is told, before the journal, that the content of ino is on the
	// drive as n, whole and verified, and where its bytes are: those of the
	// generation Entry.Sent, since somebody may be writing.
	Uploaded func(ino uint64, n drive.Node, d *journal.Draft)

	Uploads     int           // most contents sent at once, 0 = 16
	Calls       int           // most metadata intents settled at once, 0 = 8
	UploadDelay time.Duration // how long removals wait for each other, and Entry.Due gives closed files; 0 = not at all
	WaitPerGB   time.Duration // how long to look for an upload of unknown outcome, per GiB, 0 = 3 min (API §13.2)
	MinWait     time.Duration // … at least, 0 = 30 s
	AnswerWait  time.Duration // how long an answer may take after the last byte, and a third of WaitPerGB more; then it is looked for; 0 = 20 s
	Look        time.Duration // between the first two looks, 0 = 2 s; grows to 60 s
	Backoff     time.Duration // unit of all back-off, 0 = 1 s (API §13.3)
	MissingWait time.Duration // how long a 404 for a node that was there is in question when no poll comes, 0 = 2 min
	StreamIdle  time.Duration // how long an upload waits for the writer of a file that is open, 0 = 30 s
	Seed        uint64        // of the randomness in back-off, 0 = random
	Device      string        // tells this state directory from every other; "" = nothing does
	Logger      *slog.Logger  // nil = discard
}

const (
	smallFile = 1 << 20 // below, a file takes the fast lane and is sent from memory
	bigFile   = 8 << 20 // from here on the name is looked up before the body goes out (API §7.1)
	maxLook   = 60 * time.Second
	callTime  = 60 * time.Second // of one metadata call, its retries included
	listTime  = 15 * time.Minute // of one listing, which may have hundreds of pages (API §13.4)
)

func (o Options) withDefaults() Options {
	o.Uploads = cmp.Or(o.Uploads, 16)
	o.Calls = cmp.Or(o.Calls, 8)
	o.WaitPerGB = cmp.Or(o.WaitPerGB, 3*time.Minute)
	o.MinWait = cmp.Or(o.MinWait, 30*time.Second)
	o.AnswerWait = cmp.Or(o.AnswerWait, 20*time.Second)
	o.Look = cmp.Or(o.Look, 2*time.Second)
	o.Backoff = cmp.Or(o.Backoff, time.Second)
	o.MissingWait = cmp.Or(o.MissingWait, 2*time.Minute)
	o.StreamIdle = cmp.Or(o.StreamIdle, 30*time.Second)
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// WriteBack brings the drive to what the journal wants. All methods are
// safe for concurrent use; nothing happens until Run.
type WriteBack struct {
	tree   *tree.Tree
	mirror *mirror.Mirror
	j      *journal.Journal
	r      *drive.Client
	o      Options
	log    *slog.Logger

	noStream atomic.Bool // the service takes no body of unknown length

	started time.Time     // what was Sent before is of an earlier life
	signal  chan struct{} // one slot: asks has something

	// What this life has learned of the service and properties (API §11).
	bare        atomic.Bool // it takes nodes, but not with their properties
	fileKeeps   atomic.Bool // it keeps those that come with a new file
	folderKeeps atomic.Bool // … with a new folder
	setKeeps    atomic.Bool // … that are set on their own
	noProps     atomic.Bool // it keeps none
	asked       atomic.Bool // for the owner name
	held        atomic.Bool // see PauseContents

	mu      sync.Mutex // guards what follows
	rnd     *rand.Rand
	asks    []func(*queue) // for Run's goroutine, in order
	waiters map[uint64][]*Waiter
	refused map[uint64]refusal
	active  map[uint64]*task
	failed  int
	makes   bool               // as creating found it last,
	madeAt  time.Time          // then
	polls   int                // see Polled
	absent  map[string]absence // by node id
	limit   int
	paused  bool
}

// refusal is kept for a moment, for a Wait that comes after the Undo.
type refusal struct {
	rev  uint64
	err  error
	when time.Time
}

// gone stands for every intent about an inode.
const gone = ^uint64(0)

const refusalLife = 5 * time.Second

// New prepares a write-back over a tree and the mirror and journal that it shows;
// it starts no goroutine.
func New(t *tree.Tree, m *mirror.Mirror, j *journal.Journal, r *drive.Client, o Options) *WriteBack {
	o = o.withDefaults()
	return &WriteBack{
		tree: t, mirror: m, j: j, r: r, o: o, log: o.Logger,
		started: time.Now(),
		signal:  make(chan struct{}, 1),
		rnd:     rand.New(rand.NewPCG(o.Seed, 0x5e771e)),
		waiters: map[uint64][]*Waiter{},
		refused: map[uint64]refusal{},
		active:  map[uint64]*task{},
		absent:  map[string]absence{},
	}
}

// tell runs fn on the goroutine that owns the queue, as soon as Run is there.
func (s *WriteBack) tell(fn func(*queue)) {
	s.mu.Lock()
	s.asks = append(s.asks, fn)
	s.mu.Unlock()
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// Kick looks at the inode now: neither its settling time nor its back-off
// are waited for, this once.
func (s *WriteBack) Kick(ino uint64) {
	s.tell(func(q *queue) { q.press(ino) })
}

// Waiter is somebody who waits for what becomes of an intent. Its methods are for
// one goroutine.
type Waiter struct {
	s     *WriteBack
	ino   uint64
	after uint64      // the intent comes after this one
	rev   uint64      // guarded by s.mu; 0 = the intent is not there yet
	done  chan answer // one slot
	// promised, guarded by s.mu: the intent is being taken back, and this one is
	// told of it however late it is; freed: it is not after all.
	promised bool
	freed    chan struct{} // one slot
}

type answer struct {
	rev uint64
	err error
}

// Expect begins to wait for an intent about ino that the caller is about to put
// into the journal: the write-back may be done with it before the caller can
// ask. It must be left.
func (s *WriteBack) Expect(ino uint64) *Waiter {
	after := uint64(0)
	if e, ok := s.j.Get(ino); ok {
		after = e.Rev
	}
	return s.expect(ino, after)
}

func (s *WriteBack) expect(ino, after uint64) *Waiter {
	w := &Waiter{s: s, ino: ino, after: after, done: make(chan answer, 1), freed: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters[ino] = append(s.waiters[ino], w)
	return w
}

// Wait is Expect for an intent that is in the journal.
func (s *WriteBack) Wait(ctx context.Context, ino, rev uint64) error {
	w := s.expect(ino, 0)
	defer w.Leave()
	return w.Wait(ctx, rev)
}

// Wait returns nil when the intent rev, or a later one that took its place, is
// fulfilled; the drive's refusal (drive.ErrNameExists, drive.ErrForbidden,
// ErrNotEmpty …) when it was undone; ctx's error when it is still pending then.
// While somebody waits, a refused intent about a name is undone instead of
// settled by a conflict name.
func (w *Waiter) Wait(ctx context.Context, rev uint64) error {
	s := w.s
	s.expected(w, rev)
	if !s.j.Has(w.ino) {
		select {
		case a := <-w.done:
			if a.rev >= rev {
				return a.err
			}
		default:
		}
		return s.refusal(w.ino, rev)
	}
	s.tell(func(q *queue) { q.look(w.ino) })
	over := ctx.Done()
	for {
		select {
		case a := <-w.done:
			if a.rev >= rev {
				return a.err
			}
		case <-w.freed:
			over = ctx.Done()
		case <-over:
			if s.giveUp(w) {
				return ctx.Err()
			}
			over = nil // the answer waits for nothing but the local disk now
		}
	}
}

// giveUp ends that w counts as waiting, unless an answer was promised to it.
func (s *WriteBack) giveUp(w *Waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.promised {
		return false
	}
	w.removeLocked()
	return true
}

func (s *WriteBack) expected(w *Waiter, rev uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.rev = rev
}

// refusal is why an intent that is gone was refused, nil when it was not.
func (s *WriteBack) refusal(ino, rev uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.refused[ino]; ok && r.rev >= rev {
		return r.err
	}
	return nil
}

// Leave ends the waiting.
func (w *Waiter) Leave() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.removeLocked()
}

func (w *Waiter) removeLocked() {
	ws := slices.DeleteFunc(w.s.waiters[w.ino], func(x *Waiter) bool { return x == w })
	if len(ws) == 0 {
		delete(w.s.waiters, w.ino)
		return
	}
	w.s.waiters[w.ino] = ws
}

// working reports whether a task of ino runs.
func (s *WriteBack) working(ino uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active[ino] != nil
}

// awaited reports whether somebody waits for the intent (ino, rev).
func (s *WriteBack) awaited(ino, rev uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.waiters[ino], func(w *Waiter) bool { return w.awaits(rev) })
}

// promise binds those who wait for the intent (ino, rev) to hear of its refusal,
// which must follow. false: nobody waits any more.
func (s *WriteBack) promise(ino, rev uint64) (waits bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.waiters[ino] {
		if w.awaits(rev) {
			w.promised, waits = true, true
		}
	}
	return waits
}

// freeLocked takes a promise back.
func (s *WriteBack) freeLocked(ino uint64) {
	for _, w := range s.waiters[ino] {
		if !w.promised {
			continue
		}
		w.promised = false
		select {
		case w.freed <- struct{}{}:
		default:
		}
	}
}

// awaits reports whether w waits for the intent rev; under s.mu.
func (w *Waiter) awaits(rev uint64) bool { return w.after < rev && w.rev <= rev }

// fulfilled answers those who wait for (ino, rev) or an earlier intent.
func (s *WriteBack) fulfilled(ino, rev uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refused, ino)
	s.answerLocked(ino, rev, nil)
}

// refuse takes an intent back and then tells those who wait. The refusal is noted
// before, so that whoever finds the intent gone meanwhile learns why; it is told
// after, so that whoever hears of it finds it undone. When another intent has
// taken its place, those who wait are told what becomes of that.
func (s *WriteBack) refuse(ino, rev uint64, why error) error {
	s.noteRefusal(ino, rev, why)
	path := s.o.Path(ino)
	undone, err := s.tree.Undo(ino, rev)
	if undone {
		s.log.Warn("the drive refused a change; it is undone here", "path", path, "why", why)
		s.o.Notify(Event{"undone", path, why.Error()})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if undone {
		s.answerLocked(ino, rev, why)
	} else {
		delete(s.refused, ino)
		s.freeLocked(ino)
	}
	return err
}

func (s *WriteBack) noteRefusal(ino, rev uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for i, r := range s.refused {
		if now.Sub(r.when) > refusalLife {
			delete(s.refused, i)
		}
	}
	s.refused[ino] = refusal{rev, err, now}
}

// vanished answers those who wait for an inode that left the journal by
// itself: there was nothing left to want.
func (s *WriteBack) vanished(ino uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.refused[ino]; ok {
		s.answerLocked(ino, r.rev, r.err)
	}
	s.answerLocked(ino, gone, nil)
}

func (s *WriteBack) answerLocked(ino, rev uint64, err error) {
	for _, w := range s.waiters[ino] {
		if w.awaits(rev) {
			w.answerLocked(answer{rev, err})
		}
	}
}

// answerLocked keeps the first answer; of those from before the intent was there,
// the last.
func (w *Waiter) answerLocked(a answer) {
	if w.rev == 0 {
		if a.rev == gone {
			return // what is gone is an earlier intent, or Wait finds none
		}
		select {
		case <-w.done:
		default:
		}
	}
	select {
	case w.done <- a:
	default:
	}
}

// Failure is an intent that could not be fulfilled.
type Failure struct {
	Ino uint64
	Err error
}

// Flush starts everything that is in the journal at once, also what is
// settling or backing off, and returns when nothing of it is pending but
// failures. Files that were never closed, or that are being changed, are not
// meant. When ctx ends first,
// its error is returned with what failed until then.
func (s *WriteBack) Flush(ctx context.Context) (failed []Failure, err error) {
	f := &flush{done: make(chan struct{})}
	s.tell(func(q *queue) { q.flush(f) })
	select {
	case <-f.done:
	case <-ctx.Done():
		err = ctx.Err()
		s.tell(func(q *queue) { q.unflush(f) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(f.failed), err
}

// Pause stops (or lets go on) the start of new work; what is in flight ends.
func (s *WriteBack) Pause(on bool) {
	s.mu.Lock()
	s.paused = on
	s.mu.Unlock()
	s.tell(func(*queue) {})
}

// PauseContents holds back the contents of files, or lets them go on; names
// and places go on meanwhile, and what is in flight ends. A Flush does not
// wait for what is held back, and lists it with ErrPaused.
func (s *WriteBack) PauseContents(on bool) {
	s.held.Store(on)
	s.tell(func(q *queue) {
		for _, it := range q.items {
			q.holdBack(it)
		}
	})
}

// Progress is one piece of work in flight.
type Progress struct {
	Ino     uint64
	Op      string // "upload", "overwrite", "rename" …
	Sent    int64  // bytes of the body handed to the connection
	Size    int64  // bytes of the body, 0 for calls without
	Rate    float64
	Started time.Time
}

// Active lists what is in flight, the oldest first.
func (s *WriteBack) Active() []Progress {
	now := time.Now()
	s.mu.Lock()
	ps := make([]Progress, 0, len(s.active))
	for _, t := range s.active {
		ps = append(ps, t.progress(now))
	}
	s.mu.Unlock()
	slices.SortFunc(ps, func(a, b Progress) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.Ino, b.Ino))
	})
	return ps
}

// Stats are numbers for status.
type Stats struct {
	Pending      int   // entries in the journal
	PendingBytes int64 // content bytes that the drive lacks
	Active       int   // pieces of work in flight
	Failed       int   // entries whose last try failed
	Uploads      int   // contents that may be sent at once now; falls when the service throttles
}

// Stats tells how much is left.
func (s *WriteBack) Stats() Stats {
	st := Stats{Pending: s.j.Len(), PendingBytes: s.j.PendingBytes()}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Active, st.Failed, st.Uploads = len(s.active), s.failed, s.limit
	return st
}

// random is a factor in [0.5, 1.5), so that many that failed together do not
// come back together.
func (s *WriteBack) random() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return 0.5 + s.rnd.Float64()
}

// after is when to try again after the n-th failure in a row (from 1).
func (s *WriteBack) after(n int) time.Duration {
	d := s.o.Backoff << min(max(n-1, 0), 7)
	return time.Duration(float64(d) * s.random())
}

// slow is when to try again what will hardly change by itself.
func (s *WriteBack) slow() time.Duration {
	return time.Duration(float64(300*s.o.Backoff) * s.random())
}
