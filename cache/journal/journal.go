package journal

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of opening a journal.
var (
	// ErrInUse: another process has the state directory.
	ErrInUse = errors.New("journal: in use by another process")
	// ErrNewer: a later drivefs wrote it, and this one would misread it.
	ErrNewer = errors.New("journal: written by a newer version")
)

// Errors of using one.
var (
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("journal: closed")
	// ErrInvalid: the entry cannot be recorded; nothing was changed.
	ErrInvalid = errors.New("journal: invalid entry")
	// ErrSuperseded: the content of that generation is being changed.
	ErrSuperseded = errors.New("journal: content was changed meanwhile")
	// ErrIncomplete: parts of the content are not local.
	ErrIncomplete = errors.New("journal: content is not complete")
	// ErrDamaged: the draft file is missing, or shorter than recorded.
	ErrDamaged = errors.New("journal: draft is damaged")
)

// Options of Open.
type Options struct {
	Dir         string        // state directory, made if missing; see the package comment for what is in it
	Logger      *slog.Logger  // nil discards
	GroupCommit time.Duration // from the first change to the sync that covers it; 0 means 50 ms

	// MakeRoom, if set, is asked to free at least that many bytes on the disk
	// before a write fails for lack of room; it tells whether it freed any. It
	// is called with locks held and must not call the journal.
	MakeRoom func(bytes int64) bool

	// For tests.
	BeforeSync  func()       // called before each fsync, by the goroutine that waits for it; nil = nothing
	BeforeWrite func() error // called before each write; an error is the write's; nil = nothing
	fs          fsys
	bootID      string
	proveAfter  time.Duration
	small       int64 // longest content that is not a file; 0 = smallMax, negative = none
	segment     int64 // bytes of a segment of small contents, and of history before the log is rewritten; 0 = as in use
}

// Journal is the open journal. All methods are safe for concurrent use.
type Journal struct {
	dir   string
	log   *slog.Logger
	group time.Duration
	prove time.Duration
	fs    fsys
	lock  *os.File // of the directory logDir
	boot  string
	room  func(bytes int64) bool // nil = none

	onRollback func(rollback func()) // nil = none; see SetRollback

	problems []string

	mu      sync.RWMutex
	closed  bool
	index   index
	maxIno  uint64
	doneRev uint64 // largest Rev of an entry that is gone
	order   uint64 // largest Order given out
	gen     uint64 // last generation, or number of a file, given out
	account []byte // as SetAccount had it

	older    map[uint64]*DraftState   // inode → newest content of it that is on the disk, when that is not the entry's
	drafts   map[uint64]*Draft        // open ones that still belong to their inode
	opening  map[uint64]chan struct{} // inodes whose draft is being opened or begun
	creating map[uint64]chan struct{} // draft files on their way
	awaiting []awaited                // contents in files that are not on the disk, the oldest first
	stored   []*Entry                 // with small contents that are not on the disk
	rubbish  []rubbish                // files to unlink, in order of after
	touched  map[uint64]struct{}      // for TakeChanged; nil until its first call

	namesSynced uint64 // names of draft files up to this number are on the disk

	// Group write: what was appended waits in queue, in order, until the one
	// who writes takes it.
	appended     uint64                // last number given out by Append
	decided      uint64                // up to here it is known what became of them
	failures     []failure             // of those up to decided
	first        *record               // goes before the next group: what Open found out; nil = written
	queue        []*record             // not taken by a writer yet
	writing      chan struct{}         // nil = nobody writes; closed when the one who does is done
	unwritten    map[uint64]*unwritten // inodes of which the log says something else than index
	maxInoLogged uint64                // inode number up to which the log knows that they are taken
	seq          uint64                // last frame written
	wal          wal
	small        smallStore

	hardened    uint64        // records up to this are on the disk
	hardening   chan struct{} // nil = nobody syncs; closed when the one who does is done
	syncsFailed int           // of the log
	syncsCured  int           // of these, those whose records were written anew

	changed chan struct{}
	kick    chan struct{} // the keeper has something to do
	stop    chan struct{}
	toProve chan struct{} // awaiting is not empty any more

	goroutines sync.WaitGroup
	closing    sync.WaitGroup // files that are being closed

	memory   atomic.Int64 // bytes of open small contents
	smallMax int64        // longest content that is not a file
	history  int64        // bytes of the log before it is rewritten

	// rewriting is held while the log is rewritten or cleaned, unlinking while files are
	// removed. Both before mu.
	rewriting, unlinking sync.Mutex
}

// Problems tells what Open set aside and where, one line each.
func (j *Journal) Problems() []string { return append([]string(nil), j.problems...) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Get returns the inode's entry. It is shared and must not be modified; see
// Clone.
func (j *Journal) Get(ino uint64) (*Entry, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	e := j.index.items[ino]
	return e, e != nil
}

// Has reports whether the inode has an entry.
func (j *Journal) Has(ino uint64) bool {
	_, ok := j.Get(ino)
	return ok
}

// Clone returns a copy of the inode's entry, to be changed and appended.
func (j *Journal) Clone(ino uint64) (*Entry, bool) {
	e, ok := j.Get(ino)
	return e.Clone(), ok
}

// Child returns the live (not Removed) entry that dir shows under a name whose
// drive.Fold is folded; it is shared and must not be modified. When there are
// two for a moment, the one whose intent was recorded last.
func (j *Journal) Child(dir uint64, folded string) (*Entry, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	d := j.index.dirs[dir]
	if d == nil {
		return nil, false
	}
	ino, ok := d.names.get(folded)
	return j.index.items[ino], ok
}

// Vacator returns the Removed entry that vacated the place last: its node may
// be taken over by what comes to that place. folded is the name as drive.Fold
// gives it. The entry is shared and must not be modified.
func (j *Journal) Vacator(dir uint64, folded string) (*Entry, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	ino, ok := j.index.vacated.get(Vacated{dir, folded})
	return j.index.items[ino], ok
}

// Children calls fn for the live entries shown in dir, in inode order, until
// it returns false. fn must not keep or modify the entry, and must not call
// the journal.
func (j *Journal) Children(dir uint64, fn func(*Entry) bool) {
	j.ChildrenAfter(dir, 0, fn)
}

// ChildrenAfter is Children beginning above inode number after, so that a
// large directory can be listed in parts.
func (j *Journal) ChildrenAfter(dir, after uint64, fn func(*Entry) bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if d := j.index.dirs[dir]; d != nil {
		d.inos.after(after, func(ino uint64) bool { return fn(j.index.items[ino]) })
	}
}

// HasChildren reports whether Children would find any.
func (j *Journal) HasChildren(dir uint64) bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.index.dirs[dir] != nil
}

// ByNode returns the entry whose inode the node stands for; it is shared and
// must not be modified.
func (j *Journal) ByNode(id string) (*Entry, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	ino, ok := j.index.nodes.get(id)
	return j.index.items[ino], ok
}

// Inos returns the inode numbers of all entries, in order.
func (j *Journal) Inos() []uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.index.inos.all()
}

// Len is the number of entries.
func (j *Journal) Len() int {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return len(j.index.items)
}

// PendingBytes is the size of all content that should go to the drive.
func (j *Journal) PendingBytes() int64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.index.bytes
}

// MaxIno is the largest inode number that was ever in the journal or
// reserved.
func (j *Journal) MaxIno() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.maxIno
}

// ReserveIno records that inode numbers up to upTo are taken, as durably as
// Put. It never lowers the mark.
func (j *Journal) ReserveIno(upTo uint64) error {
	j.mu.Lock()
	if upTo <= j.maxInoLogged {
		j.mu.Unlock()
		return nil
	}
	if j.closed {
		j.mu.Unlock()
		return ErrClosed
	}
	j.maxIno = max(j.maxIno, upTo)
	seq := j.queueLocked(&record{reserve: upTo})
	j.mu.Unlock()
	return j.Written(seq)
}

// Changed has one slot: a value in it means "look again", and was put there
// after the last receive: the log has an intent that it had not.
func (j *Journal) Changed() <-chan struct{} { return j.changed }

// TakeChanged returns the inodes whose intent changed since the last call, in no
// order; the first call returns those of all entries. It is for one consumer,
// which so need not look at everything each time it is woken.
func (j *Journal) TakeChanged() []uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []uint64
	if j.touched == nil {
		out = slices.DeleteFunc(j.index.inos.all(), func(ino uint64) bool {
			u := j.unwritten[ino]
			return u != nil && u.e == nil // it is told when the log has it
		})
	}
	for ino := range j.touched {
		out = append(out, ino)
	}
	j.touched = make(map[uint64]struct{})
	return out
}

// Close puts what is written on the disk and closes the files. Drafts that are
// still open may be read and written on, but not kept.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	for _, m := range []map[uint64]chan struct{}{j.opening, j.creating} {
		for len(m) > 0 {
			for _, done := range m {
				j.mu.Unlock()
				<-done // after Close the directory may be another process's
				j.mu.Lock()
				break
			}
		}
	}
	j.mu.Unlock()
	close(j.stop)
	j.goroutines.Wait()
	j.flush()
	err := j.harden()
	j.closing.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	for ino, d := range j.drafts {
		if d.refs == 0 {
			delete(j.drafts, ino)
			d.endLocked()
		}
	}
	return errors.Join(err, j.closeFiles())
}

// closeFiles closes what Open opened, as far as it came.
func (j *Journal) closeFiles() error {
	err := errors.Join(j.wal.close(), j.small.close())
	if j.lock != nil {
		err = errors.Join(err, j.lock.Close())
	}
	return err
}

func (j *Journal) path(elem ...string) string {
	return filepath.Join(append([]string{j.dir}, elem...)...)
}
