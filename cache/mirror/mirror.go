package mirror

import (
	"cmp"
	"encoding/binary"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/drivefs/drivefs/drive"
)

// Options configures Open. Path is required.
type Options struct {
	Path string
	// Owner is the owner of our own properties, "" = unknown yet. Called
	// inside write transactions: it must not call the mirror. Nil = unknown.
	Owner  func() string
	Logger *slog.Logger // nil = discard
	// NamesExact makes Lookup find the exact spelling only. The index is the
	// same: names differing in case only are one name to the drive.
	NamesExact bool
	NoSync     bool // never fsync; for tests
	// BeforeSync is called before each fsync, by the goroutine that waits for it;
	// for tests. Nil = nothing.
	BeforeSync func()
	// Reserve is told, before it happens, that inode numbers below upTo will
	// be handed out, so that they are not handed out again when the mirror is
	// lost. An error stops the write. It is called inside write transactions:
	// it must not call the mirror, and nobody may hold what it needs while
	// calling the mirror. Nil = the mirror alone remembers.
	Reserve func(upTo Ino) error
	// FirstIno: numbers are handed out at or above this.
	FirstIno Ino
	// OwnContent reports whether these bytes of the node with this id are
	// ours, on their way or just sent, so that the feed's echo does not count
	// as a foreign change when it comes before the upload's own answer. Called
	// inside write transactions: it must not call the mirror. Nil = never.
	OwnContent func(id string, size int64, md5 string) bool
	// Damaged is told when the file was found damaged, at Open or while it is
	// used, and begun anew: it was set aside under that name. What is known are
	// the numbers that could still be read. Called by a goroutine that holds the
	// writer's lock: it must not call the mirror. Nil = only the log is told.
	Damaged func(aside string, err error)
	// Skipped is told, once, of a node that cannot be kept. Nil = only the log is.
	Skipped func(id, why string)
}

// Mirror is one account's metadata. All methods may be called concurrently;
// reads never wait for writes.
type Mirror struct {
	o   Options
	log *slog.Logger
	cur atomic.Pointer[file]

	healing sync.WaitGroup

	group group // small writes that wait for wmu together

	// wmu is held by the one writer, from before its transaction until its
	// result is published. It guards the fields up to left. Lock order: wmu,
	// bbolt's own locks, then the others, which are leaves.
	wmu     sync.Mutex
	recent  map[Ino]time.Time // told by answers lately: a full answer may not know them yet
	cleared time.Time         // when recent was last relieved of older ones
	full    *full             // nil = none is being taken
	root    *entry            // as last committed, nil = unknown
	closed  bool
	pruned  time.Time // last look for old tombstones, to its end
	pruneAt Ino       // where the next one begins

	firstGen uint64 // of nodes that are new

	left struct {
		mu  sync.Mutex
		n   int64
		ids map[string]bool // told already
	}
	inos struct {
		mu    sync.Mutex
		next  Ino
		limit Ino // numbers below it may be handed out
	}
	state struct {
		mu         sync.Mutex
		checkpoint string
		confirmed  time.Time
		refreshed  time.Time
		complete   bool
		nodes      int64
	}
}

const (
	// inoBlock is how many numbers are reserved at a time; a crash wastes at
	// most so many of 2^64.
	inoBlock = 1 << 16
	// recentFor is how long our own changes may take to come back in the feed
	// (API §9.3: "seconds, at times minutes").
	recentFor = 20 * time.Minute
	recentMax = 100_000
	// tombFor is how long a node that is gone is remembered against listings
	// that still show it; pruneEvery how often older ones are looked for.
	tombFor    = 48 * time.Hour
	pruneEvery = time.Hour
	pruneMax   = 20_000 // inodes looked at after each poll
)

// Open opens or makes the mirror at o.Path. A damaged file is set aside and
// begun anew (see Options.Damaged), of one with an older format the numbers are
// taken over. ErrNewer and ErrInUse refuse it.
func Open(o Options) (*Mirror, error) {
	m := &Mirror{o: o, log: o.Logger, recent: map[Ino]time.Time{}, group: group{lead: make(chan struct{}, 1)}}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	f, err := m.openFile()
	if err != nil {
		return nil, err
	}
	m.cur.Store(f)
	err = m.loadState()
	if errors.Is(err, ErrDamaged) {
		m.healing.Wait()
		f, err = m.cur.Load(), m.loadState()
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	// The first write reserves numbers.
	if _, err := m.write(sourceAnswer, false, func(*wtx) error { return nil }); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return m, nil
}

func (m *Mirror) loadState() error {
	return m.view(func(v *view) error {
		meta := v.tx.Bucket(bMeta)
		m.raiseInos(getNumber(meta, keyInoLimit))
		m.firstGen = getNumber(meta, keyGen)
		var root entry
		if ok, err := v.entry(RootIno, &root); err != nil {
			return err
		} else if ok {
			m.root = &root
		}
		m.state.mu.Lock()
		defer m.state.mu.Unlock()
		m.state.checkpoint = string(meta.Get([]byte(keyCheckpoint)))
		m.state.confirmed = stamp(meta, keyConfirmed)
		m.state.refreshed = stamp(meta, keyRefreshed)
		m.state.complete = len(meta.Get([]byte(keyComplete))) > 0
		m.state.nodes = int64(getNumber(meta, keyNodes))
		return nil
	})
}

// stamp is a time kept in the meta bucket, zero = none.
func stamp(meta *bolt.Bucket, key string) time.Time {
	if n := getNumber(meta, key); n != 0 {
		return time.UnixMilli(int64(n))
	}
	return time.Time{}
}

// Refreshed is when the service last told all there is, zero = never yet.
func (m *Mirror) Refreshed() time.Time {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	return m.state.refreshed
}

// Close closes the file; a first sync goes on at the next start. Reads under
// way are waited for; later calls fail.
func (m *Mirror) Close() error {
	err := m.end()
	m.healing.Wait()
	return errors.Join(err, m.cur.Load().close())
}

func (m *Mirror) end() error {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	m.closed = true
	if m.full != nil {
		return m.full.closeLocked()
	}
	return nil
}

// view runs fn in a read transaction.
func (m *Mirror) view(fn func(v *view) error) error {
	for {
		f := m.cur.Load()
		err := guard(func() error {
			return f.bolt.View(func(tx *bolt.Tx) error {
				v := newView(tx)
				return fn(&v)
			})
		})
		if errors.Is(err, berrors.ErrDatabaseNotOpen) && m.cur.Load() != f {
			continue // another took its place in this moment
		}
		m.noteDamage(f, err)
		return err
	}
}

// NewIno hands out an inode number that was never used and never will be
// again. It waits for a write under way only when a block is used up.
func (m *Mirror) NewIno() (Ino, error) {
	for {
		if ino, ok := m.tryIno(); ok {
			return ino, nil
		}
		if _, err := m.write(sourceAnswer, false, func(*wtx) error { return nil }); err != nil {
			return 0, err
		}
	}
}

// raiseInos has new numbers begin at limit at least: those below may be taken.
func (m *Mirror) raiseInos(limit Ino) {
	m.inos.mu.Lock()
	defer m.inos.mu.Unlock()
	m.inos.limit = max(m.inos.limit, limit, m.o.FirstIno, RootIno+1)
	m.inos.next = m.inos.limit
}

func (m *Mirror) tryIno() (Ino, bool) {
	m.inos.mu.Lock()
	defer m.inos.mu.Unlock()
	if m.inos.next >= m.inos.limit {
		return 0, false
	}
	m.inos.next++
	return m.inos.next - 1, true
}

// Checkpoint is where the feed goes on, "" = from the start, and the time at
// which the feed last confirmed what is here, zero = never.
func (m *Mirror) Checkpoint() (string, time.Time) {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	return m.state.checkpoint, m.state.confirmed
}

// Complete reports whether the feed was once read to its end: what is not
// here is not on the drive, but for the lag.
func (m *Mirror) Complete() bool {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	return m.state.complete
}

// Nodes is the number of live nodes.
func (m *Mirror) Nodes() int64 {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	return m.state.nodes
}

// Skipped is how many nodes could not be kept since Open.
func (m *Mirror) Skipped() int64 {
	m.left.mu.Lock()
	defer m.left.mu.Unlock()
	return m.left.n
}

// FeedEnd tells that an answer of the feed reached its end at that time: without
// a refresh under way, all there is has been told.
func (m *Mirror) FeedEnd(at time.Time) error {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	first := !m.Complete() && m.full == nil
	_, last := m.Checkpoint()
	m.confirm(at, "")
	if first || at.Sub(last) > pruneEvery {
		// With the next checkpoint it is written anyway; a quiet account
		// writes once an hour.
		_, err := m.writeLocked(sourceAnswer, false, func(w *wtx) error {
			for _, key := range []string{keyConfirmed, keyRefreshed, keyComplete}[:1+2*b2i(first)] {
				if err := w.meta.Put([]byte(key), be(uint64(at.UnixMilli()))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if first {
		m.state.mu.Lock()
		m.state.complete, m.state.refreshed = true, at
		m.state.mu.Unlock()
	}
	if m.pruneAt == 0 && at.Sub(m.pruned) <= pruneEvery {
		return nil
	}
	_, err := m.writeLocked(sourceAnswer, false, func(w *wtx) (err error) {
		m.pruneAt, err = w.prune(m.pruneAt, at.Add(-tombFor))
		return err
	})
	if m.pruneAt == 0 {
		m.pruned = at
	}
	return err
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Meta is a small value kept for the caller, "" = none or unreadable.
func (m *Mirror) Meta(key string) (value string) {
	err := m.view(func(v *view) error {
		value = string(v.tx.Bucket(bMeta).Get([]byte(userPrefix + key)))
		return nil
	})
	m.logError(err)
	return value
}

// SetMeta keeps a small value; "" removes it.
func (m *Mirror) SetMeta(key, value string) error {
	_, err := m.write(sourceAnswer, false, func(w *wtx) error {
		if value == "" {
			return w.meta.Delete([]byte(userPrefix + key))
		}
		return w.meta.Put([]byte(userPrefix+key), []byte(value))
	})
	return err
}

func (m *Mirror) owner() string {
	if m.o.Owner == nil {
		return ""
	}
	return m.o.Owner()
}

// older orders nodes for the question who keeps a name: by time of creation,
// then by id.
func older(aCreated time.Time, aID string, bCreated time.Time, bID string) int {
	return cmp.Or(aCreated.Compare(bCreated), strings.Compare(aID, bID))
}

// source is where a node was told, which decides between equal versions.
type source uint8

const (
	sourceFeed    source = iota
	sourceAnswer         // a call for this id: always fresh (API §13.1)
	sourceListing        // may lag
	sourceRepair         // as sourceAnswer, and what is known is known to be wrong
)

// stateAs is the state of a node as told.
func stateAs(n *drive.Node) state {
	switch {
	case n.Status == drive.Purged:
		return statePurged
	case n.Status == drive.Trashed:
		return stateTrash
	case n.Live():
		return stateLive
	}
	return statePending
}

func number(v []byte) (uint64, bool) {
	n, k := binary.Uvarint(v)
	return n, k > 0
}

// errStop ends a walk that has enough.
var errStop = errors.New("enough")

func (m *Mirror) beforeSync() {
	if m.o.BeforeSync != nil {
		m.o.BeforeSync()
	}
}
