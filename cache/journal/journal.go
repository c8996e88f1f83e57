package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
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
	GroupCommit time.Duration // from the first change to the commit that covers it; 0 means 50 ms

	// For tests.
	fs         fsys
	bootID     string
	noSync     bool // of the database
	maxDB      int  // bytes the database may have; 0 = no limit
	proveAfter time.Duration
	folded     func() // called after each synced commit, with no lock held
}

// Journal is the open journal. All methods are safe for concurrent use.
type Journal struct {
	dir    string
	log    *slog.Logger
	group  time.Duration
	prove  time.Duration
	fs     fsys
	spares *spares // of fs; nil = none
	db     *bolt.DB
	onFold func()

	onRollback func(rollback func()) // nil = none; see SetRollback

	problems []string

	mu      sync.RWMutex
	closed  bool
	index   index
	maxIno  uint64
	doneRev uint64 // largest Rev of an entry that is gone
	order   uint64 // largest Order given out
	gen     uint64 // last generation given out
	seq     uint64 // last frame written
	inDB    uint64 // last frame the database has
	tail    tail

	// Group write: what was appended waits in queue, in order, until the one
	// who writes takes it.
	appended     uint64                // last number given out by Append
	decided      uint64                // up to here it is known what became of them
	failures     []failure             // of those up to decided
	queue        []*record             // not taken by a writer yet
	writing      chan struct{}         // nil = nobody writes; closed when the one who does is done
	unwritten    map[uint64]*unwritten // inodes of which the log says something else than index
	maxInoLogged uint64                // inode number up to which the log knows that they are taken

	dirty       map[uint64]struct{}    // inodes whose entry the database does not have
	reserved    bool                   // maxIno is not in the database
	proven      map[uint64]*DraftState // inode → last content of it that was synced
	drafts      map[uint64]*Draft      // open ones that still belong to their inode
	files       map[uint64][]uint64    // draft files: inode → births, growing
	making      map[uint64]*making     // inode → its first draft file, on its way
	unproven    map[uint64]time.Time   // inode → since when its content is not synced
	namesSynced uint64                 // names of draft files up to this birth are on the disk
	rubbish     []rubbish              // files to unlink, in order of after
	touched     map[uint64]struct{}    // for TakeChanged; nil until its first call

	// ver counts changes for the committer; folded ones are on the disk.
	ver, foldedVer uint64
	foldErr        error         // of the last attempt
	attempts       uint64        // finished attempts
	folded         chan struct{} // closed and replaced when an attempt ends

	changed chan struct{}
	kick    chan struct{} // the committer has something to do
	now     chan struct{} // … and shall not wait for more
	stop    chan struct{}
	toProve chan struct{} // unproven is not empty any more

	goroutines sync.WaitGroup

	// unlinking is held while a commit removes files. Before mu.
	unlinking sync.Mutex
}

// rubbish is a draft file to unlink once the database has everything up to
// change number after.
type rubbish struct {
	ino, birth uint64
	after      uint64
}

// Problems tells what Open set aside and where, one line each.
func (j *Journal) Problems() []string { return append([]string(nil), j.problems...) }

// Put is Append of these entries, and Written.
func (j *Journal) Put(es ...*Entry) error {
	return j.Edit(func(func(uint64) *Entry) []*Entry { return es })
}

// Edit is Put of what fn returns, with nothing in between: get gives fn a copy
// of an inode's entry or nil. An empty result changes nothing. fn runs under
// the journal's lock and must not call the journal or a draft.
func (j *Journal) Edit(fn func(get func(ino uint64) *Entry) []*Entry) error {
	j.mu.Lock()
	es := fn(func(ino uint64) *Entry { return j.index.items[ino].Clone() })
	cs := make([]Change, len(es))
	for i, e := range es {
		if e == nil {
			j.mu.Unlock()
			return fmt.Errorf("%w: nil", ErrInvalid)
		}
		cs[i] = Change{Ino: e.Ino, Entry: e}
	}
	return j.appendUnlock(cs)
}

// appendUnlock appends under mu, gives mu up, and waits for the log.
func (j *Journal) appendUnlock(cs []Change) error {
	if len(cs) == 0 {
		j.mu.Unlock()
		return nil
	}
	seq, err := j.appendLocked(cs, nil)
	j.mu.Unlock()
	if err != nil {
		return err
	}
	return j.Written(seq)
}

// Update edits an entry without making Rev grow: what the write-back learned.
// fn runs under the journal's lock on a copy; returning false leaves the entry
// as it was. Without an entry fn is not called and the result is nil. The
// change is as durable as one by Put, and does not wake Changed.
func (j *Journal) Update(ino uint64, fn func(*Entry) bool) error {
	j.mu.Lock()
	e := j.index.items[ino].Clone()
	if e == nil || !fn(e) {
		j.mu.Unlock()
		return nil
	}
	e.Ino = ino
	return j.appendUnlock([]Change{{Ino: ino, Entry: e, Progress: true}})
}

// Done removes the entry when its Rev is still rev; ok is false when it is
// not, or there is none. The draft file goes with it unless a handle has it
// open; then it stays until the last handle is closed, because what is
// written meanwhile may be wished for again. Of an inode that is Removed it
// goes at once, and its handles read and write a file without a name.
func (j *Journal) Done(ino, rev uint64) (ok bool, err error) {
	j.mu.Lock()
	e := j.index.items[ino]
	if e == nil || e.Rev != rev {
		j.mu.Unlock()
		return false, nil
	}
	if err := j.appendUnlock([]Change{{Ino: ino, Progress: true}}); err != nil {
		return false, err
	}
	return true, nil
}

// provenFor is the newest content of e's inode that is on the disk, nil for
// none: e's own, or the one before, whose file is kept as long. A cut within
// the same file is the user's word on both.
func (j *Journal) provenFor(e *Entry) *DraftState {
	if e == nil || e.Draft == nil {
		return nil
	}
	if d := j.drafts[e.Ino]; d != nil && d.synced.Load() == e.Draft.Gen {
		return e.Draft
	}
	p := j.proven[e.Ino]
	if p == nil || p.Gen == e.Draft.Gen || p.Size <= e.Draft.Size {
		return p
	}
	before, _ := j.birthLocked(e.Ino, p.Gen)
	if now, _ := j.birthLocked(e.Ino, e.Draft.Gen); before != now {
		return p
	}
	c := *p
	c.Size, c.Limit = e.Draft.Size, min(p.Limit, e.Draft.Size)
	c.Local = slices.Clone(p.Local)
	(*extents)(&c.Local).cut(c.Limit)
	return &c
}

// bumpLocked says that memory is ahead of the database.
func (j *Journal) bumpLocked() {
	j.ver++
	wake(j.kick)
}

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

// Peek calls fn with the inode's entry, which fn must not modify, if it has
// one.
func (j *Journal) Peek(ino uint64, fn func(*Entry)) bool {
	e, ok := j.Get(ino)
	if ok {
		fn(e)
	}
	return ok
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

// Sync returns when everything recorded so far survives a power failure;
// content does when Draft.Sync came before. It ends early with ctx's error, or with what kept the commit from the disk;
// then the entries are still safe from kill -9, and the journal goes on
// trying.
func (j *Journal) Sync(ctx context.Context) error {
	j.flush()
	j.mu.Lock()
	want, seen := j.ver, j.attempts
	for {
		switch {
		case j.foldedVer >= want:
			j.mu.Unlock()
			return nil
		case j.foldErr != nil && j.attempts >= seen+2:
			// One attempt may have begun before the call, the second did not.
			err := j.foldErr
			j.mu.Unlock()
			return err
		case j.closed:
			j.mu.Unlock()
			return ErrClosed
		}
		ended := j.folded
		j.mu.Unlock()
		wake(j.now)
		select {
		case <-ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		j.mu.Lock()
	}
}

// Close commits what is not committed and closes the files. Drafts that are
// still open may be read and written on, but not kept. When the commit fails
// the entries are in the tail, and the next Open has them.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	for len(j.making) > 0 {
		for _, m := range j.making {
			j.mu.Unlock()
			<-m.done // after Close the directory may be another process's
			j.mu.Lock()
			break
		}
	}
	j.mu.Unlock()
	j.flush()
	close(j.stop)
	j.goroutines.Wait()
	err := j.fold()
	j.mu.Lock()
	defer j.mu.Unlock()
	for ino, d := range j.drafts {
		if d.refs == 0 {
			delete(j.drafts, ino)
			err = errors.Join(err, d.f.Close())
		}
	}
	return errors.Join(err, j.closeFiles())
}

// closeFiles closes what Open opened, as far as it came.
func (j *Journal) closeFiles() (err error) {
	if j.spares != nil {
		j.spares.close()
	}
	if j.db != nil {
		err = errors.Join(j.tail.close(), j.db.Close())
	}
	return err
}

func (j *Journal) path(elem ...string) string {
	return filepath.Join(append([]string{j.dir}, elem...)...)
}
