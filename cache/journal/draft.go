package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Draft is the local content of one inode: a sparse file and the knowledge
// which of its bytes are ours. All handles of the inode share it. Its methods
// are safe for concurrent use and touch nothing but the local disk.
//
// Below Limit, bytes that are not in the map belong to the base, the version
// on the drive that the edit began from; whoever reads asks Missing first,
// fetches those, and gives them to Fill. Bytes at and beyond Limit are local
// without being in the map, so a new file and the appended part of an old one
// need no map at all.
type Draft struct {
	j   *Journal
	ino uint64

	// Guarded by Journal.mu.
	refs   int    // handles and snapshots
	file   uint64 // number of the file in use, 0 = the bytes are in memory; changed with mu held as well
	lent   uint64 // number of the small content that the last state named
	orphan bool   // the file has no name and belongs to no entry any more
	kept   bool   // its content was to be recorded, and could not

	dirty atomic.Bool  // written under mu; Journal.Close and Draft.Close look without it
	mtime atomic.Int64 // of the last local change, Unix nanoseconds

	mu        sync.RWMutex
	f         file
	mem       *memFile // f, when the bytes are in memory
	retired   []file   // former files, while a Sync may still use them
	syncing   int
	size      int64
	length    int64 // of the file; more than size after a cut, and never made less then: see Truncate
	local     extents
	base      DraftState  // Limit and the Base fields
	committed *DraftState // last committed generation, never modified; nil = none
	touched   bool        // its bytes were changed since
	before    *undo       // what Abort returns to
	writes    uint64      // changes so far, by Fill too
	syncedAt  uint64      // writes that are on the disk
	state     DraftState  // File, content and sums of the last state that was given out
	stateAt   uint64      // writes at that time
	watchers  []watcher
	sums      granuleSums // of the file
	marked    uint64      // generation up to which the file says that it was overwritten
	longest   int64       // of the states of the file

	syncFailed error // of the file: it counts for all later syncs
}

// watcher is one who reads the draft for sending: Snapshot or Follower. Both
// methods are called with mu held for writing.
type watcher interface {
	touch(off, end int64) // these bytes were changed
	wake()                // the content was changed
}

// watchLocked adds a watcher, which counts as one use of the draft.
func (d *Draft) watchLocked(w watcher) {
	d.j.mu.Lock()
	d.refs++
	d.j.mu.Unlock()
	d.watchers = append(d.watchers, w)
}

// unwatchLocked takes a watcher off; its use still has to be closed.
func (d *Draft) unwatchLocked(w watcher) {
	d.watchers = slices.DeleteFunc(d.watchers, func(o watcher) bool { return o == w })
}

// undo is the state before a Commit.
type undo struct {
	gen       uint64 // that it gave
	idle      bool   // it changed nothing
	committed *DraftState
	touched   bool
	before    *undo // of the Commit before, when that may not be written
}

// OpenDraft opens the draft of an inode. When one is open it is shared, and
// when the entry has one it is continued; base plays no part in either case.
// Otherwise a new one begins: with base, it is as long as base says and all
// bytes below base.Limit are the base's (of base only Size, Limit and the
// Base fields count); without, it is empty and Dirty. A new draft that is
// never committed and recorded leaves no trace.
//
// Errors: ErrDamaged when the entry's file is missing or too short, those of
// the disk. Every Draft must be closed.
func (j *Journal) OpenDraft(ino uint64, base *DraftState) (*Draft, error) {
	if base != nil && (base.Size < 0 || base.Limit < 0 || base.Limit > base.Size) {
		return nil, fmt.Errorf("%w: base of inode %d", ErrInvalid, ino)
	}
	return j.openDraft(ino, func(d *Draft) error { return d.begin(base) })
}

// ContinueDraft is OpenDraft without a beginning: it answers nil when the
// draft is not open and no entry has one.
func (j *Journal) ContinueDraft(ino uint64) (*Draft, error) {
	return j.openDraft(ino, nil)
}

// openDraft gives mu up while the filesystem is at work; meanwhile nobody else
// opens or begins a draft of the inode.
func (j *Journal) openDraft(ino uint64, begin func(*Draft) error) (*Draft, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		if j.closed {
			return nil, ErrClosed
		}
		if d := j.drafts[ino]; d != nil {
			d.refs++
			return d, nil
		}
		if other := j.opening[ino]; other != nil {
			j.mu.Unlock()
			<-other
			j.mu.Lock()
			continue
		}
		var st *DraftState
		if e := j.index.items[ino]; e != nil {
			st = e.Draft
		}
		if st == nil && begin == nil {
			return nil, nil
		}
		d := &Draft{j: j, ino: ino, refs: 1}
		done := make(chan struct{})
		j.opening[ino] = done
		j.mu.Unlock()
		var err error
		if st != nil {
			err = d.resume(st)
		} else {
			err = begin(d)
		}
		j.mu.Lock()
		delete(j.opening, ino)
		close(done)
		switch e := j.index.items[ino]; {
		case st != nil && (contentGen(e) == 0 || e.Draft.File != st.File):
			if err == nil {
				d.endLocked()
			}
			continue // it was changed meanwhile
		case err != nil:
			return nil, err
		}
		j.drafts[ino] = d
		return d, nil
	}
}

// resume opens what a recorded state names.
func (d *Draft) resume(st *DraftState) error {
	f, err := d.j.openSmall(st.File, st.c)
	if err == nil && f == nil {
		d.file = st.File
		f, err = d.j.fs.OpenFile(d.j.draftPath(d.ino, st.File), os.O_RDWR, 0)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: inode %d: %w", ErrDamaged, d.ino, err)
	case err != nil:
		return fmt.Errorf("journal: open draft: %w", err)
	}
	n, err := f.Length()
	if err == nil && n < st.Size {
		err = fmt.Errorf("%w: inode %d has %d of %d bytes", ErrDamaged, d.ino, n, st.Size)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	d.f = f
	if d.mem, _ = f.(*memFile); d.mem != nil {
		d.j.memory.Add(n)
	}
	d.size, d.length, d.local = st.Size, n, slices.Clone(st.Local)
	d.base = DraftState{Limit: st.Limit, BaseID: st.BaseID, BaseGen: st.BaseGen, BaseLen: st.BaseLen, BaseMD5: st.BaseMD5}
	d.j.mu.RLock()
	d.syncFailed = st.c.failed
	d.j.mu.RUnlock()
	d.longest = st.Size
	d.committed, d.state = st, DraftState{File: st.File, Sums: st.Sums, c: st.c}
	if sums := st.c.sums.Load(); sums != nil {
		d.sums.known(*sums, st.Size)
	}
	return nil
}

// begin makes a draft that has no content yet.
func (d *Draft) begin(base *DraftState) error {
	d.mem = &memFile{}
	d.f = d.mem
	if base == nil {
		d.dirty.Store(true)
		return nil
	}
	err := d.grow(base.Size)
	if err == nil {
		err = d.f.Truncate(base.Size)
	}
	if err != nil {
		if d.file != 0 {
			_ = d.j.fs.Remove(d.j.draftPath(d.ino, d.file)) // a leftover is removed at the next Open
		}
		return errors.Join(err, d.f.Close())
	}
	d.size, d.length = base.Size, base.Size
	d.base = DraftState{Limit: base.Limit, BaseID: base.BaseID, BaseGen: base.BaseGen, BaseLen: base.BaseLen, BaseMD5: base.BaseMD5}
	d.completedLocked()
	return nil
}

// memoryMax bounds what all small contents that are open take in memory; what
// comes beyond goes to files.
const memoryMax = 32 << 20

// grow makes sure that the content may become end bytes long: what is too long
// for memory gets a file.
func (d *Draft) grow(end int64) error {
	if d.mem == nil || end <= int64(len(d.mem.b)) {
		return nil
	}
	small := end <= d.j.smallMax
	if small && d.j.memory.Add(end-int64(len(d.mem.b))) <= memoryMax {
		d.mem.grow(end)
		return nil
	}
	if small {
		d.j.memory.Add(int64(len(d.mem.b)) - end)
	}
	f, n, err := d.j.createFile(d.ino)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(d.mem.b, 0); err != nil {
		_ = d.j.fs.Remove(d.j.draftPath(d.ino, n)) // a leftover is removed at the next Open
		return errors.Join(fmt.Errorf("journal: write draft: %w", err), f.Close())
	}
	d.j.memory.Add(-int64(len(d.mem.b)))
	d.sums.wrote(d.mem.b, 0)
	d.f, d.mem, d.length = f, nil, int64(len(d.mem.b))
	d.j.mu.Lock()
	defer d.j.mu.Unlock()
	d.file = n
	if d.orphan {
		d.j.releaseLocked(d.ino, n)
	}
	return nil
}

// endLocked gives up what the draft has open; Journal.mu is held.
func (d *Draft) endLocked() {
	if d.mem != nil {
		d.j.memory.Add(-int64(len(d.mem.b)))
		return
	}
	d.j.shutLocked(d.f)
}

// Ino is the inode the draft belongs to.
func (d *Draft) Ino() uint64 { return d.ino }

// Size is the length of the content in bytes.
func (d *Draft) Size() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.size
}

// Mtime is when the content was last changed through this Draft; zero when it
// was not since it was opened.
func (d *Draft) Mtime() time.Time {
	ns := d.mtime.Load()
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// ReadAt reads the file as it is, with zeros where nothing was written; the
// caller asked Missing first. Like io.ReaderAt, it answers io.EOF at the end.
func (d *Draft) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if off < 0 {
		return 0, fmt.Errorf("%w: read at %d", ErrInvalid, off)
	}
	rest := d.size - off
	if rest <= 0 {
		return 0, io.EOF
	}
	if int64(len(p)) <= rest {
		return d.f.ReadAt(p, off)
	}
	n, err := d.f.ReadAt(p[:rest], off)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// Missing lists the parts of [off, off+n) that are the base's and not local.
func (d *Draft) Missing(off, n int64) []Extent {
	d.mu.RLock()
	defer d.mu.RUnlock()
	end := min(off+n, d.base.Limit)
	if off+n < off { // n was "to the end"
		end = d.base.Limit
	}
	if off >= end {
		return nil
	}
	return d.local.missing(off, end)
}

// Base tells whose bytes Missing speaks of: the node, its content version and
// MD5, and the size of that version. The id is "" when all is local.
func (d *Draft) Base() (id string, content, size int64, md5 string) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.base.BaseID, d.base.BaseGen, d.base.BaseLen, d.base.BaseMD5
}

// WriteAt writes the user's bytes. When the disk is full, also after what is
// not needed any more was removed, it returns how much it could write with the
// error; nothing else was changed.
func (d *Draft) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%w: write at %d", ErrInvalid, off)
	}
	if len(p) == 0 {
		return 0, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.writeLocked(p, off)
	if isFull(err) && d.j.makeRoom(int64(len(p)-n)) {
		var more int
		more, err = d.writeLocked(p[n:], off+int64(n))
		n += more
	}
	if n > 0 {
		d.touchLocked(off, off+int64(n))
		d.wroteLocked(off, off+int64(n))
	}
	if err != nil {
		return n, fmt.Errorf("journal: write draft: %w", err)
	}
	return n, nil
}

func (d *Draft) writeLocked(p []byte, off int64) (int, error) {
	if err := d.grow(off + int64(len(p))); err != nil {
		return 0, err
	}
	if err := d.clearLocked(off); err != nil {
		return 0, err
	}
	d.markLocked(off)
	n, err := d.f.WriteAt(p, off)
	d.summedLocked(p[:n], off)
	return n, err
}

func (d *Draft) summedLocked(p []byte, off int64) {
	if d.mem == nil {
		d.sums.wrote(p, off)
	}
}

// touchLocked tells those who are sending that bytes [off, end) were changed.
// They cannot have looked yet, since they read under mu.
func (d *Draft) touchLocked(off, end int64) {
	if off >= end {
		return
	}
	if d.committed != nil && off < d.committed.Size {
		d.touched = true
	}
	for _, w := range d.watchers {
		w.touch(off, end)
	}
}

// wroteLocked takes [off, end) as the user's.
func (d *Draft) wroteLocked(off, end int64) {
	d.size = max(d.size, end)
	d.length = max(d.length, end)
	d.changedLocked()
	if off < d.base.Limit {
		d.local.add(off, min(end, d.base.Limit))
		d.completedLocked()
	}
}

func (d *Draft) changedLocked() {
	d.writes++
	d.dirty.Store(true)
	d.mtime.Store(time.Now().UnixNano())
	for _, w := range d.watchers {
		w.wake()
	}
}

// completedLocked drops the base once nothing of it is missing.
func (d *Draft) completedLocked() {
	if d.base.Limit == 0 || (len(d.local) == 1 && d.local[0] == Extent{0, d.base.Limit}) {
		d.base = DraftState{}
		d.local = nil
	}
}

// Fill adds bytes of the base. Those that became local meanwhile, or lie
// beyond Limit by now, are left out. It does not make the draft dirty.
func (d *Draft) Fill(p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	end := min(off+int64(len(p)), d.base.Limit)
	if off < 0 || off >= end {
		return nil
	}
	for _, x := range d.local.missing(off, end) {
		n, err := d.f.WriteAt(p[x.Off-off:x.End-off], x.Off)
		d.summedLocked(p[x.Off-off:][:n], x.Off)
		if n > 0 {
			d.writes++
			d.local.add(x.Off, x.Off+int64(n))
		}
		if err != nil {
			d.completedLocked()
			return fmt.Errorf("journal: fill draft: %w", err)
		}
	}
	d.completedLocked()
	return nil
}

// Truncate sets the size. What is cut off is gone; what is added reads as
// zero and is local.
//
// An entry's content stays whole until the new content is Put, so that a
// crash in between does not lose a file that was closed: cutting to nothing,
// as opening with O_TRUNC does, begins a new file, and another cut leaves the
// file as long as it was, since the database may still have the longer
// content. (What is overwritten in place is overwritten.)
func (d *Draft) Truncate(size int64) error {
	if size < 0 {
		return fmt.Errorf("%w: truncate to %d", ErrInvalid, size)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if size == d.size {
		return nil
	}
	if size == 0 {
		d.renewLocked()
	}
	if err := d.grow(size); err != nil {
		return err
	}
	if err := d.clearLocked(size); err != nil {
		return err
	}
	if size > d.length || d.committed == nil || d.mem != nil {
		if d.mem != nil {
			d.j.memory.Add(size - int64(len(d.mem.b)))
		}
		if err := d.f.Truncate(size); err != nil {
			return fmt.Errorf("journal: truncate draft: %w", err)
		}
		d.length = size
	}
	d.touchLocked(size, d.size)
	d.sums.spoil(size, d.size)
	d.cutLocked(size)
	return nil
}

// clearLocked makes what the file has between the content's end and end zero,
// before the content grows over it.
func (d *Draft) clearLocked(end int64) error {
	end = min(end, d.length)
	if d.size >= end {
		return nil
	}
	d.markLocked(d.size)
	d.sums.spoil(d.size, end)
	if n := end - d.size; n > int64(len(zeros)) {
		err := d.f.Allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, d.size, n)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("journal: clear draft: %w", err)
		}
	}
	for at := d.size; at < end; {
		n, err := d.f.WriteAt(zeros[:min(end-at, int64(len(zeros)))], at)
		if err != nil {
			return fmt.Errorf("journal: clear draft: %w", err)
		}
		at += int64(n)
	}
	return nil
}

var zeros [64 << 10]byte

func (d *Draft) cutLocked(size int64) {
	d.size = size
	d.changedLocked()
	if size < d.base.Limit {
		d.base.Limit = size
		d.local.cut(size)
		d.completedLocked()
	}
}

// renewLocked makes the draft begin anew, in memory. Its file stays as it is:
// it may hold what the entry wants, or did, since the log may not have
// told the disk yet that it is gone.
func (d *Draft) renewLocked() {
	j := d.j
	j.mu.Lock()
	defer j.mu.Unlock()
	if d.mem != nil || d.orphan || j.closed {
		return
	}
	d.touchLocked(0, d.size)
	d.retired = append(d.retired, d.f)
	old := d.file
	d.mem = &memFile{}
	d.f, d.file, d.length, d.sums, d.longest = d.mem, 0, 0, nil, 0
	d.syncFailed = nil
	d.retireLocked()
	j.releaseLocked(d.ino, old)
}

// retireLocked closes former files once nobody is syncing them; Journal.mu is
// held as well.
func (d *Draft) retireLocked() {
	if d.syncing > 0 {
		return
	}
	for _, f := range d.retired {
		d.j.shutLocked(f)
	}
	d.retired = nil
}

// Allocate reserves room for [off, off+n), as fallocate(2) does. Unless
// keepSize, the content grows to at least off+n.
func (d *Draft) Allocate(off, n int64, keepSize bool) error {
	if off < 0 || n <= 0 || off+n < off {
		return fmt.Errorf("%w: allocate %d at %d", ErrInvalid, n, off)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.grow(off + n); err != nil {
		return err
	}
	// The file's own size changes only below, when all went well.
	if err := d.f.Allocate(unix.FALLOC_FL_KEEP_SIZE, off, n); err != nil {
		return fmt.Errorf("journal: allocate: %w", err)
	}
	if keepSize || off+n <= d.size {
		return nil
	}
	if err := d.clearLocked(off + n); err != nil {
		return err
	}
	if off+n > d.length {
		if err := d.f.Truncate(off + n); err != nil {
			return fmt.Errorf("journal: allocate: %w", err)
		}
		d.length = off + n
	}
	d.cutLocked(off + n)
	return nil
}

// Dirty reports whether the content was changed since the last Commit.
func (d *Draft) Dirty() bool { return d.dirty.Load() }

// Gen is the last committed generation; 0 when there is none.
func (d *Draft) Gen() uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.genLocked()
}

func (d *Draft) genLocked() uint64 {
	if d.committed == nil {
		return 0
	}
	return d.committed.Gen
}

// Commit returns what belongs into the entry, with a new generation when the
// draft is dirty; it is not dirty then. If it is not dirty, Gen stays (0, and
// not to be recorded, for a draft with a base that nobody changed), and what
// Fill added is in the map.
func (d *Draft) Commit() DraftState {
	d.mu.Lock()
	defer d.mu.Unlock()
	dirty := d.dirty.Load()
	gen, unwritten := d.j.nextGen(d.ino, dirty)
	if !unwritten {
		d.before = nil // what was committed before is written
	}
	if !dirty {
		st := d.stateLocked(d.genLocked())
		d.before = &undo{gen: st.Gen, idle: true, before: d.before}
		return st
	}
	st := d.stateLocked(gen)
	d.before = &undo{st.Gen, false, d.committed, d.touched, d.before}
	d.committed, d.touched = &st, false
	d.longest = max(d.longest, st.Size)
	d.dirty.Store(false)
	return st
}

// State returns the last committed state with what Fill added since. ok is
// false when the content was changed since, or never committed.
func (d *Draft) State() (st DraftState, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dirty.Load() || d.committed == nil {
		return DraftState{}, false
	}
	return d.stateLocked(d.committed.Gen), true
}

// stateLocked is the present state. Bytes in memory are copied, unless the
// last state has them.
func (d *Draft) stateLocked(gen uint64) DraftState {
	if d.state.c == nil || d.stateAt != d.writes {
		d.state = DraftState{File: d.file, c: &blob{synced: d.mem == nil && d.syncedAt == d.writes && d.writes > 0}}
		if d.mem != nil {
			d.state.File = d.j.lend(d)
			d.state.c.data = append(make([]byte, 0, d.size), d.mem.b[:d.size]...)
		} else if sums := d.sums.total(d.f, d.size); sums != nil && d.base.Limit == 0 {
			d.state.c.sums.Store(&sums)
			d.state.Sums = digest(sums)
		}
		d.stateAt = d.writes
	}
	st := d.base
	st.Gen, st.Size, st.Local = gen, d.size, slices.Clone([]Extent(d.local))
	st.File, st.Sums, st.c = d.state.File, d.state.Sums, d.state.c
	return st
}

// Abort takes a Commit back whose state could not be appended or written: the
// draft is dirty again, and the generation before is the one that can be sent.
// Of several, the newest is taken back first; it does nothing when another
// Commit came after.
func (d *Draft) Abort(st DraftState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.before
	if u == nil || u.gen != st.Gen || st.Gen != d.genLocked() {
		return
	}
	d.before = u.before
	if u.idle {
		return
	}
	// What changed below the later size may have changed below the earlier.
	d.committed, d.touched = u.committed, u.touched || d.touched
	d.dirty.Store(true)
}

// Sync puts the bytes, and the file's name, on the disk; those of a small
// content go there with Journal.Sync. For an fsync that survives power failure
// also beside concurrent writers: Commit and record, then Sync, then
// Journal.Sync. The content so synced is kept through all later changes of the
// file until newer content is synced or on the drive.
//
// A sync that failed is final for the file: the kernel forgets what it could
// not write, so every later one fails, until the content begins anew.
func (d *Draft) Sync() error {
	d.mu.Lock()
	if d.mem != nil || d.syncFailed != nil {
		defer d.mu.Unlock()
		return d.syncFailed
	}
	f, n, st, writes := d.f, d.file, d.committed, d.writes
	d.syncing++
	d.mu.Unlock()

	err := f.Datasync()
	if err == nil {
		err = d.j.syncNames(n)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncing--
	d.j.mu.Lock()
	defer d.j.mu.Unlock()
	d.retireLocked()
	if err != nil {
		err = fmt.Errorf("journal: sync draft: %w", err)
	}
	if f != d.f {
		return err // truncated to nothing meanwhile: what is new is for the next Sync
	}
	if err != nil {
		d.syncFailed = err
		if st != nil && st.c != nil && st.File == n {
			st.c.failed = err
		}
		return err
	}
	d.syncedAt = writes
	if st != nil && st.c != nil && st.File == n {
		d.j.proveLocked(d, st)
	}
	return nil
}

// proveLocked notes in the log that st, a state of d's present file, is on the
// disk.
func (j *Journal) proveLocked(d *Draft, st *DraftState) {
	if e := j.index.items[d.ino]; !st.c.synced && j.drafts[d.ino] == d && contentGen(e) >= st.Gen {
		// Before provedLocked: what is superfluous then goes after this is on the disk.
		j.queueLocked(&record{proof: &proof{d.ino, st}})
		wake(j.kick)
	}
	j.provedLocked(d.ino, st)
}

// Close ends one use of the draft. With the last one the file is closed, and
// removed when no entry wants its content.
func (d *Draft) Close() error {
	j := d.j
	j.mu.Lock()
	var gone []rubbish
	defer func() {
		j.mu.Unlock()
		j.unlink(gone)
	}()
	if d.refs--; d.refs > 0 {
		return nil
	}
	if d.refs < 0 {
		return fmt.Errorf("journal: draft of inode %d closed twice: %w", d.ino, os.ErrClosed)
	}
	if d.orphan {
		d.endLocked()
		return nil
	}
	j.tidyLocked(d.ino)
	gone = j.takeRubbishLocked()
	return nil
}

// neededBy reports whether the Draft must be kept open without a handle: its
// bytes were changed without a Commit that reached the journal, so only this
// Draft knows which, and e wants its file or nothing but the log was at
// fault.
func (d *Draft) neededBy(e *Entry) bool {
	return d.dirty.Load() && (d.kept || contentGen(e) != 0) && !d.j.closed
}
