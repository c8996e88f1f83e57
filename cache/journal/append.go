package journal

import (
	"fmt"
	"log/slog"
	"slices"
	"sort"
)

// Change is one inode's part of an Append. The draft file of an entry that goes
// goes with it unless a handle has it open; then it stays until the last handle is
// closed, because what is written meanwhile may be wanted again. Of an inode that
// was Removed it goes at once, and its handles read and write a file without a
// name.
type Change struct {
	Ino      uint64
	Entry    *Entry // nil = the entry goes
	Progress bool   // what the write-back learned: Rev does not grow, Changed is not woken
}

// record is one frame on its way into the log: an Append, or what belongs to
// no entry. What an Append has changed in memory is taken back when it cannot
// be written.
type record struct {
	seq     uint64
	changes []applied
	reserve uint64 // inode numbers up to this are taken; 0 = nothing of the kind
	meta    *meta
	proof   *proof
	small   []*smallWrite // contents that come with it, or are moved by it
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
	records  int // that are not written and concern the inode
	e        *Entry
	synced   *DraftState
	released []uint64 // files to look at when all is decided
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
	a := applied{Change: c, before: old, beforeSynced: j.syncedLocked(old)}
	if u := j.unwritten[c.Ino]; u != nil {
		u.records++
	} else {
		j.unwritten[c.Ino] = &unwritten{records: 1, e: old, synced: a.beforeSynced}
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
		if contentGen(old) != 0 && contentGen(old) == contentGen(e) && e.Draft.File < old.Draft.File {
			e.Draft = old.Draft // the same bytes were copied meanwhile
		}
		e.nameSent(old)
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

// nameSent notes in which file the content is that was sent: the one that e
// wants, or old already knew.
func (e *Entry) nameSent(old *Entry) {
	switch s := e.Sent; {
	case s == nil || s.File != 0 || s.Gen == 0:
	case contentGen(e) == s.Gen:
		s.File = e.Draft.File
	case old != nil && old.Sent != nil && old.Sent.Gen == s.Gen:
		s.File = old.Sent.File
	case contentGen(old) == s.Gen:
		s.File = old.Draft.File
	}
}

// setLocked makes e the entry of ino in memory, nil for none.
func (j *Journal) setLocked(ino uint64, e *Entry, synced *DraftState) {
	if synced != nil && e != nil && !synced.same(e.Draft) {
		j.older[ino] = synced
	} else {
		delete(j.older, ino)
	}
	j.index.set(ino, e)
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
		case seq <= j.decided || seq > j.appended: // the latter is no number of ours
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
	defer j.endWriteLocked()
	group := j.queue
	j.queue = nil
	first := 0
	if j.first != nil {
		group, first = append([]*record{j.first}, group...), 1
	}
	if len(group) == 0 {
		return
	}
	small := collectSmall(group)
	seq := j.seq
	j.mu.Unlock()
	begun, whole, err := j.writeGroup(group, small, seq)
	j.nameFiles(group[:whole])
	j.mu.Lock()
	if begun != nil {
		j.small.segs[begun.n] = begun
	}
	for i, r := range group {
		if i < first && whole > 0 {
			j.first = nil
		}
		if i < whole {
			j.writtenLocked(r)
		}
	}
	for _, w := range small {
		if w.of != nil {
			w.of.taken = false
		}
	}
	j.wal.since += int64(len(j.wal.buf))
	if whole > 0 {
		wake(j.kick)
	}
	if whole = max(whole, first); err == nil || whole == len(group) {
		return
	}
	j.mu.Unlock()
	j.log.Error("journal: changes cannot be written and are taken back", slog.Int("changes", len(group)-whole), slog.Any("err", err))
	j.rollback(group[whole:], err)
	j.mu.Lock()
}

// writeGroup writes contents, then frames, and tries a second time when the
// disk is full and there may be room now. begun is a new segment of contents.
func (j *Journal) writeGroup(group []*record, small []*smallWrite, seq uint64) (begun *smallSeg, whole int, err error) {
	for again := false; ; again = true {
		var seg *smallSeg
		if seg, err = j.small.write(small); seg != nil {
			begun = seg
		}
		if err == nil {
			small = nil
			var n int
			n, err = j.wal.write(group[whole:], seq+uint64(whole))
			whole += n
		}
		if err == nil || again || !isFull(err) || !j.makeRoomForLog() {
			return begun, whole, err
		}
	}
}

// collectSmall finds the contents that must be stored before the group is
// written.
func collectSmall(group []*record) (all []*smallWrite) {
	for _, r := range group {
		for i := range r.changes {
			e := r.changes[i].Entry
			if contentGen(e) == 0 || e.Draft.c == nil || e.Draft.c.data == nil || e.Draft.c.taken {
				continue
			}
			c := e.Draft.c
			c.taken = true
			r.small = append(r.small, &smallWrite{id: e.Draft.File, ino: e.Ino, name: e.Place.Shown, data: c.data, of: c})
		}
		all = append(all, r.small...)
	}
	return all
}

// writtenLocked draws the consequences of a record that the log has.
func (j *Journal) writtenLocked(r *record) {
	j.seq++
	j.decided = max(j.decided, r.seq)
	j.maxInoLogged = max(j.maxInoLogged, r.reserve)
	for _, w := range r.small {
		j.storedLocked(w)
	}
	for i := range r.changes {
		c := &r.changes[i]
		j.maxInoLogged = max(j.maxInoLogged, c.Ino)
		u := j.unwritten[c.Ino]
		u.e, u.synced = c.Entry, c.synced
		j.decideLocked(c.Ino, u, filesOf(c.before, c.beforeSynced))
		if contentGen(c.Entry) != 0 && (c.before == nil || !c.Entry.Draft.same(c.before.Draft)) {
			j.awaitProofLocked(c.Entry)
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

// decideLocked is told that one record of an inode is written or taken back,
// and which files may be superfluous by that.
func (j *Journal) decideLocked(ino uint64, u *unwritten, files []uint64) {
	u.records--
	u.released = append(u.released, files...)
	if u.records == 0 {
		delete(j.unwritten, ino)
		j.releaseLocked(ino, u.released...)
	}
}

// storedLocked notes where a small content lies.
func (j *Journal) storedLocked(w *smallWrite) {
	seg := j.small.segs[w.at.seg]
	seg.dirty = true
	switch {
	case w.of == nil && j.small.at[w.id] != w.from: // superfluous meanwhile
	case w.of != nil && w.of.data == nil: // stored already
	default:
		j.small.putLocked(w.id, w.at)
	}
	if w.of != nil {
		w.of.data = nil
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
	if p := r.proof; p != nil {
		p.state.c.synced = false
	}
	for _, c := range slices.Backward(r.changes) {
		u := j.unwritten[c.Ino]
		if u.records == 1 {
			c.beforeSynced = u.synced // what was synced meanwhile included
		}
		j.setLocked(c.Ino, c.before, c.beforeSynced)
		if d := j.drafts[c.Ino]; d != nil && contentGen(c.Entry) != 0 && contentGen(c.Entry) != contentGen(c.before) {
			// Only this Draft knows what is in its file.
			d.kept = true
			d.dirty.Store(true)
		}
		j.decideLocked(c.Ino, u, filesOf(c.Entry, c.synced))
		j.touchLocked(c.Ino) // whoever looked meanwhile looks again
	}
}

// contentGen is the generation of the content that e wants, 0 for none.
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
	if r.meta != nil {
		b = appendPayload(b, opMeta, r.meta.append)
	}
	if r.reserve != 0 {
		b = appendOp(b, opReserve, r.reserve)
	}
	for _, w := range r.small {
		b = appendPayload(b, opSmall, func(b []byte) []byte { return appendSmallAt(b, w.id, w.at) })
	}
	for i := range r.changes {
		b = appendEntryOp(b, r.changes[i].Ino, r.changes[i].Entry, r.changes[i].synced)
	}
	if p := r.proof; p != nil {
		b = appendPayload(b, opSynced, func(b []byte) []byte { return appendDraft(putUint(b, fProofIno, p.ino), p.state) })
	}
	return b
}

func appendEntryOp(b []byte, ino uint64, e *Entry, synced *DraftState) []byte {
	if e == nil {
		return appendOp(b, opDelete, ino)
	}
	return appendPayload(b, opRecord, func(b []byte) []byte { return appendRecord(b, e, synced) })
}
