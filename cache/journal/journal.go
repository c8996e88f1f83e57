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

	problems []string

	mu          sync.RWMutex
	closed      bool
	index       index
	maxIno      uint64
	doneRev     uint64 // largest Rev of an entry that is gone
	gen         uint64 // last generation given out
	seq         uint64 // last frame written
	inDB        uint64 // last frame the database has
	tail        tail
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

// Put records wishes, atomically together. The Rev of each grows by one and
// is stored into the caller's entry as well; the rest is copied. On return
// kill -9 cannot lose them; for power failure see Sync. The wish replaces the
// inode's former entry entirely: whoever derives it from the former one while
// others may Update it uses Edit. Wakes Changed.
//
// After an error (ENOSPC, ErrInvalid, ErrClosed) nothing is recorded.
func (j *Journal) Put(es ...*Entry) error {
	return j.Edit(func(func(uint64) *Entry) []*Entry { return es })
}

// Edit is Put of what fn returns, with nothing in between: get gives fn a copy
// of an inode's entry or nil. An empty result changes nothing. fn runs under
// the journal's lock and must not call the journal or a draft.
func (j *Journal) Edit(fn func(get func(ino uint64) *Entry) []*Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	es := fn(func(ino uint64) *Entry { return j.index.items[ino].Clone() })
	if len(es) == 0 {
		return nil
	}
	cs := make([]change, len(es))
	for i, e := range es {
		if err := e.check(); err != nil {
			return err
		}
		c := e.Clone()
		last := max(e.Rev, j.doneRev)
		if old := j.index.items[e.Ino]; old != nil {
			last = old.Rev
		}
		c.Rev = last + 1
		for k := range i { // the same inode twice in one Put
			if cs[k].ino == c.Ino {
				c.Rev = max(c.Rev, cs[k].e.Rev+1)
			}
		}
		cs[i] = change{c.Ino, c}
	}
	if err := j.writeLocked(cs); err != nil {
		return err
	}
	for i, e := range es {
		e.Rev = cs[i].e.Rev
		if j.touched != nil {
			j.touched[e.Ino] = struct{}{}
		}
	}
	wake(j.changed)
	return nil
}

// check refuses what could not be read back.
func (e *Entry) check() error {
	switch {
	case e == nil:
		return fmt.Errorf("%w: nil", ErrInvalid)
	case e.Ino == 0:
		return fmt.Errorf("%w: no inode number", ErrInvalid)
	case e.Draft != nil && !e.Draft.sane():
		return fmt.Errorf("%w: inode %d: impossible draft state", ErrInvalid, e.Ino)
	}
	return nil
}

// Update edits an entry without making Rev grow: what settling learned. fn
// runs under the journal's lock on a copy; returning false leaves the entry
// as it was. Without an entry fn is not called and the result is nil. The
// change is as durable as one by Put, and does not wake Changed.
func (j *Journal) Update(ino uint64, fn func(*Entry) bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	old := j.index.items[ino]
	if old == nil {
		return nil
	}
	e := old.Clone()
	if !fn(e) {
		return nil
	}
	e.Ino, e.Rev = old.Ino, old.Rev
	if err := e.check(); err != nil {
		return err
	}
	return j.writeLocked([]change{{ino, e.Clone()}})
}

// Done removes the entry when its Rev is still rev; ok is false when it is
// not, or there is none. The draft file goes with it unless a handle has it
// open; then it stays until the last handle is closed, because what is
// written meanwhile may be wished for again. Of an inode that is Removed it
// goes at once, and its handles read and write a file without a name.
func (j *Journal) Done(ino, rev uint64) (ok bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.index.items[ino]
	if e == nil || e.Rev != rev {
		return false, nil
	}
	if err := j.writeLocked([]change{{ino, nil}}); err != nil {
		return false, err
	}
	return true, nil
}

// change is one inode's new entry, nil for none. The entry belongs to the
// journal and is never modified again.
type change struct {
	ino uint64
	e   *Entry
}

// writeLocked makes changes durable against kill -9, then visible.
func (j *Journal) writeLocked(cs []change) error {
	if j.closed {
		return ErrClosed
	}
	b := j.tail.frame()
	for _, c := range cs {
		if c.e == nil {
			b = appendOp(b, opDelete, c.ino)
			continue
		}
		b = appendRecordOp(b, appendRecord(nil, c.e, j.provenFor(c.e)))
	}
	if err := j.tail.write(b, j.seq+1, j.inDB); err != nil {
		return err
	}
	j.seq++
	for _, c := range cs {
		removed := false
		if old := j.index.items[c.ino]; c.e == nil && old != nil {
			j.doneRev = max(j.doneRev, old.Rev)
			removed = old.Removed
		}
		if p := j.provenFor(c.e); p != nil {
			j.proven[c.ino] = p
		} else {
			delete(j.proven, c.ino)
		}
		j.index.set(c.ino, c.e)
		if c.e == nil {
			delete(j.unproven, c.ino)
		} else {
			j.noteUnprovenLocked(c.e)
		}
		j.maxIno = max(j.maxIno, c.ino)
		if c.e != nil && c.e.Draft != nil {
			j.gen = max(j.gen, c.e.Draft.Gen)
		}
		j.dirty[c.ino] = struct{}{}
		if removed {
			j.orphanLocked(c.ino)
		}
	}
	j.bumpLocked()
	for _, c := range cs {
		j.tidyLocked(c.ino)
	}
	return nil
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

// Get returns a copy of the inode's entry.
func (j *Journal) Get(ino uint64) (*Entry, bool) {
	j.mu.RLock()
	e := j.index.items[ino]
	j.mu.RUnlock()
	return e.Clone(), e != nil // entries in the index are never modified
}

// Peek shows the inode's entry to fn without copying it. fn must not keep or
// modify it, and must not call the journal.
func (j *Journal) Peek(ino uint64, fn func(*Entry)) bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	e := j.index.items[ino]
	if e != nil {
		fn(e)
	}
	return e != nil
}

// Child returns a copy of the live (not Removed) entry that dir shows under a
// name whose drive.Fold is folded. When there are two for a moment, the one
// put last.
func (j *Journal) Child(dir uint64, folded string) (*Entry, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	d := j.index.dirs[dir]
	if d == nil {
		return nil, false
	}
	ino, ok := d.names.get(folded)
	if !ok {
		return nil, false
	}
	return j.index.items[ino].Clone(), true
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

// ByNode returns a copy of the entry whose inode the node stands for.
func (j *Journal) ByNode(id string) (*Entry, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	ino, ok := j.index.nodes.get(id)
	if !ok {
		return nil, false
	}
	return j.index.items[ino].Clone(), true
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
	defer j.mu.Unlock()
	if upTo <= j.maxIno {
		return nil
	}
	if j.closed {
		return ErrClosed
	}
	if err := j.tail.write(appendOp(j.tail.frame(), opReserve, upTo), j.seq+1, j.inDB); err != nil {
		return err
	}
	j.seq++
	j.maxIno, j.reserved = upTo, true
	j.bumpLocked()
	return nil
}

// Changed has one slot: a value in it means "look again", and was put there
// by Put or Edit after the last receive.
func (j *Journal) Changed() <-chan struct{} { return j.changed }

// TakeChanged returns the inodes that were Put since the last call, in no
// order; the first call returns those of all entries. It is for one consumer,
// which so need not look at everything each time it is woken.
func (j *Journal) TakeChanged() []uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []uint64
	if j.touched == nil {
		out = j.index.inos.all()
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
