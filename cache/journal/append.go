package journal

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"sort"
)

// Change is one inode's part of an Append.
type Change struct {
	Ino      uint64
	Entry    *Entry // nil = the entry goes
	Progress bool   // what the write-back learned: Rev does not grow, Changed is not woken
}

// record is one Append on its way into the log. What it has changed in memory
// is taken back when it cannot be written.
type record struct {
	seq     uint64
	changes []applied
	reserve uint64 // inode numbers up to this are taken; 0 = nothing of the kind
	undo    func(error)
}

// applied is a change as it was made in memory.
type applied struct {
	Change
	synced *DraftState // newest content of the inode that is on the disk

	before       *Entry
	beforeSynced *DraftState
}

// unwritten is what the log says of an inode that the memory is ahead of.
type unwritten struct {
	records int // that are not written and concern the inode
	e       *Entry
	synced  *DraftState
}

// failure is a range of records that could not be written.
type failure struct {
	from, to uint64
	err      error
}

// failuresKept bounds what Written can say of the past. A caller asks at once.
const failuresKept = 1024

// Append makes changes, all or none of them, in memory at once and without
// any I/O: whoever looks sees them when it returns. Entries are copied; the
// new Rev and Order are stored into the caller's as well. An entry replaces
// the inode's former one entirely. What follows outside of this machine's
// memory (an answer, an effect, a call to the drive) must wait for Written.
//
// Should the log not take it, it is taken back, after all that was appended
// later, and then undo (may be nil) is called with the error: the journal
// looks as it did before this Append. It must not call Append or Written.
//
// Errors: ErrInvalid, ErrClosed; then nothing is changed.
func (j *Journal) Append(cs []Change, undo func(error)) (seq uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.appendLocked(cs, undo)
}

func (j *Journal) appendLocked(cs []Change, undo func(error)) (uint64, error) {
	if j.closed {
		return 0, ErrClosed
	}
	for i, c := range cs {
		if err := j.checkChangeLocked(cs[:i], c); err != nil {
			return 0, err
		}
	}
	r := &record{changes: make([]applied, len(cs)), undo: undo}
	for i, c := range cs {
		r.changes[i] = j.applyLocked(c)
	}
	return j.queueLocked(r), nil
}

// checkChangeLocked refuses what could not be read back. before is what the
// same Append does first.
func (j *Journal) checkChangeLocked(before []Change, c Change) error {
	if c.Ino == 0 {
		return fmt.Errorf("%w: no inode number", ErrInvalid)
	}
	if c.Entry == nil {
		return nil
	}
	switch e := c.Entry; {
	case e.Ino != c.Ino:
		return fmt.Errorf("%w: the entry of inode %d for inode %d", ErrInvalid, e.Ino, c.Ino)
	case e.Draft != nil && !e.Draft.sane():
		return fmt.Errorf("%w: inode %d: impossible draft state", ErrInvalid, e.Ino)
	}
	if c.Progress {
		has := j.index.items[c.Ino] != nil
		for _, b := range before {
			if b.Ino == c.Ino {
				has = b.Entry != nil
			}
		}
		if !has {
			return fmt.Errorf("%w: progress of inode %d, which has no entry", ErrInvalid, c.Ino)
		}
	}
	return nil
}

func (j *Journal) applyLocked(c Change) applied {
	old := j.index.items[c.Ino]
	a := applied{Change: c, before: old, beforeSynced: j.proven[c.Ino]}
	if u := j.unwritten[c.Ino]; u != nil {
		u.records++
	} else {
		j.unwritten[c.Ino] = &unwritten{1, old, a.beforeSynced}
	}
	if e := c.Entry; e == nil {
		if old != nil {
			j.doneRev = max(j.doneRev, old.Rev)
		}
	} else {
		switch {
		case c.Progress:
			e.Rev, e.Order = old.Rev, old.Order
		case old != nil:
			e.Rev = old.Rev + 1
		default:
			e.Rev = max(e.Rev, j.doneRev) + 1
		}
		if !c.Progress {
			j.order++
			e.Order = j.order
		}
		a.Entry = e.Clone()
		if e.Draft != nil {
			j.gen = max(j.gen, e.Draft.Gen)
		}
	}
	a.synced = j.provenFor(a.Entry)
	j.setLocked(c.Ino, a.Entry, a.synced)
	j.maxIno = max(j.maxIno, c.Ino)
	return a
}

// setLocked makes e the entry of ino in memory, nil for none.
func (j *Journal) setLocked(ino uint64, e *Entry, synced *DraftState) {
	if synced != nil {
		j.proven[ino] = synced
	} else {
		delete(j.proven, ino)
	}
	j.index.set(ino, e)
	if e == nil {
		delete(j.unproven, ino)
	} else {
		j.noteUnprovenLocked(e)
	}
}

func (j *Journal) queueLocked(r *record) uint64 {
	j.appended++
	r.seq = j.appended
	j.queue = append(j.queue, r)
	return r.seq
}

// Written returns when kill -9 cannot lose what Append gave that number, or
// the error that kept it from the log: then it was taken back. One write(2)
// takes all that has gathered; the first caller does it for the others. No
// lock that SetRollback's hook takes may be held.
func (j *Journal) Written(seq uint64) error {
	j.mu.Lock()
	for {
		switch {
		case seq <= j.decided || seq > j.appended:
			err := j.failureLocked(seq)
			j.mu.Unlock()
			return err
		case j.writing == nil:
			j.writeLocked()
		default:
			j.awaitWriterLocked()
		}
	}
}

// SetRollback sets what holds the lock under which Append is called while its
// changes are taken back: hook must call rollback once, before it returns.
// The journal calls it with no lock of its own held. It is set before the
// first Append.
func (j *Journal) SetRollback(hook func(rollback func())) { j.onRollback = hook }

// awaitWriterLocked gives mu up until the one who is writing is done.
func (j *Journal) awaitWriterLocked() {
	done := j.writing
	j.mu.Unlock()
	<-done
	j.mu.Lock()
}

// becomeWriterLocked makes the caller the one who writes; it must end with
// endWriteLocked.
func (j *Journal) becomeWriterLocked() {
	for j.writing != nil {
		j.awaitWriterLocked()
	}
	j.writing = make(chan struct{})
}

func (j *Journal) endWriteLocked() {
	close(j.writing)
	j.writing = nil
}

// flush returns when it is known what became of all that was appended so far.
func (j *Journal) flush() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for seq := j.appended; j.decided < seq; {
		j.writeLocked()
	}
}

// writeLocked writes what has gathered, giving mu up meanwhile.
func (j *Journal) writeLocked() {
	j.becomeWriterLocked()
	group := j.queue
	j.queue = nil
	if len(group) == 0 {
		j.endWriteLocked()
		return
	}
	seq, inDB := j.seq, j.inDB
	j.mu.Unlock()
	whole, err := j.tail.write(group, seq, inDB)
	j.mu.Lock()
	for _, r := range group[:whole] {
		j.writtenLocked(r)
	}
	if err == nil {
		j.endWriteLocked()
		return
	}
	j.mu.Unlock()
	j.log.Error("journal: changes cannot be written and are taken back", slog.Int("changes", len(group)-whole), slog.Any("err", err))
	j.rollback(group[whole:], err)
	j.mu.Lock()
	j.endWriteLocked()
}

// writtenLocked draws the consequences of a record that the log has.
func (j *Journal) writtenLocked(r *record) {
	j.seq++
	j.decided = r.seq
	j.maxInoLogged = max(j.maxInoLogged, r.reserve)
	j.reserved = j.reserved || r.reserve != 0
	j.bumpLocked()
	for i := range r.changes {
		c := &r.changes[i]
		j.dirty[c.Ino] = struct{}{}
		j.maxInoLogged = max(j.maxInoLogged, c.Ino)
		u := j.unwritten[c.Ino]
		u.e, u.synced = c.Entry, c.synced
		if u.records--; u.records == 0 {
			delete(j.unwritten, c.Ino)
		}
		if d := j.drafts[c.Ino]; d != nil && c.Entry == nil {
			d.kept = false
		}
		if c.Entry == nil && c.before != nil && c.before.Removed && j.index.items[c.Ino] == nil {
			j.orphanLocked(c.Ino)
		}
		if !c.Progress {
			j.touchLocked(c.Ino)
		}
	}
	for i := range r.changes {
		j.tidyLocked(r.changes[i].Ino)
	}
}

// touchLocked tells who waits for changes of one.
func (j *Journal) touchLocked(ino uint64) {
	if j.touched != nil {
		j.touched[ino] = struct{}{}
	}
	wake(j.changed)
}

// rollback takes back what was not written: group, and all that was appended
// since, which builds on it. Only the writer calls it, with no lock held.
func (j *Journal) rollback(group []*record, err error) {
	hook := j.onRollback
	if hook == nil {
		hook = func(rollback func()) { rollback() }
	}
	hook(func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		group = append(group, j.queue...)
		j.queue = nil
		for _, r := range slices.Backward(group) {
			j.undoLocked(r)
			if r.undo != nil {
				j.mu.Unlock()
				r.undo(err)
				j.mu.Lock()
			}
		}
		for _, r := range group {
			for _, c := range r.changes {
				j.tidyLocked(c.Ino)
			}
		}
		j.failedLocked(failure{group[0].seq, group[len(group)-1].seq, err})
	})
}

func (j *Journal) undoLocked(r *record) {
	for _, c := range slices.Backward(r.changes) {
		u := j.unwritten[c.Ino]
		if u.records--; u.records == 0 {
			delete(j.unwritten, c.Ino)
			c.beforeSynced = u.synced // what was synced meanwhile included
		}
		j.setLocked(c.Ino, c.before, c.beforeSynced)
		if d := j.drafts[c.Ino]; d != nil && contentGen(c.Entry) != 0 && contentGen(c.Entry) != contentGen(c.before) {
			// Only this Draft knows what is in its file.
			d.kept = true
			d.dirty.Store(true)
		}
		j.touchLocked(c.Ino) // whoever looked meanwhile looks again
	}
}

// contentGen is the generation of the content that e wishes for, 0 for none.
func contentGen(e *Entry) uint64 {
	if e == nil || e.Draft == nil {
		return 0
	}
	return e.Draft.Gen
}

// failedLocked notes that no record up to f.to will be written any more.
func (j *Journal) failedLocked(f failure) {
	j.decided = f.to
	if n := len(j.failures); n > 0 && j.failures[n-1].to+1 == f.from {
		j.failures[n-1].to, j.failures[n-1].err = f.to, f.err
		return
	}
	if len(j.failures) >= failuresKept {
		j.failures = slices.Delete(j.failures, 0, 1)
	}
	j.failures = append(j.failures, f)
}

// failureLocked is why the record was not written, nil when it was.
func (j *Journal) failureLocked(seq uint64) error {
	i := sort.Search(len(j.failures), func(i int) bool { return j.failures[i].to >= seq })
	if i < len(j.failures) && j.failures[i].from <= seq {
		return j.failures[i].err
	}
	return nil
}

// appendOps appends what the record says, as ops of a frame.
func (r *record) appendOps(b []byte) []byte {
	if r.reserve != 0 {
		b = appendOp(b, opReserve, r.reserve)
	}
	for i := range r.changes {
		c := &r.changes[i]
		if c.Entry == nil {
			b = appendOp(b, opDelete, c.Ino)
			continue
		}
		// The record's length goes before it; nearly always it takes 2 bytes.
		at := len(b) + 1
		b = append(b, opRecord, 0, 0)
		b = appendRecord(b, c.Entry, c.synced)
		n := len(b) - at - 2
		var length [binary.MaxVarintLen64]byte
		k := binary.PutUvarint(length[:], uint64(n))
		b = slices.Replace(b, at, at+2, length[:k]...)
	}
	return b
}
