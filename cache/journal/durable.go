package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"
)

// hardenRetry is the pause after the first failed sync; it doubles up to
// hardenRetryMax. A full disk is the usual reason, and nothing is lost
// meanwhile.
const (
	hardenRetry    = time.Second
	hardenRetryMax = 30 * time.Second
)

// keeper puts what was written on the disk, a group at a time, removes what is
// superfluous then, and rewrites the log when most of it is history.
func (j *Journal) keeper() {
	pause := time.Duration(0)
	for {
		select {
		case <-j.kick:
		case <-j.stop:
			return
		}
		if !j.linger(max(j.group, pause)) {
			return
		}
		j.flush()
		if err := errors.Join(j.harden(), j.clean(), j.rewriteIfDue()); err != nil {
			pause = min(max(2*pause, hardenRetry), hardenRetryMax)
			j.log.Error("journal: the log cannot be put on the disk, will be repeated", slog.Any("err", err), slog.Duration("after", pause))
			wake(j.kick)
			continue
		}
		pause = 0
		j.restoreBallast()
	}
}

// linger lets a group gather. It returns false when the journal is closing.
func (j *Journal) linger(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-j.stop:
		return false
	}
}

// Sync returns when everything recorded so far survives a power failure;
// content does when Draft.Sync came before. It ends early with ctx's error, or
// with what kept the log from the disk; then the entries are still safe from
// kill -9, and the journal goes on trying.
func (j *Journal) Sync(ctx context.Context) error {
	j.flush()
	want := j.decidedNow()
	for {
		done, ended, err := j.hardenedUpTo(want)
		switch {
		case done || err != nil:
			return err
		case ended == nil:
			if err := j.harden(); err != nil {
				return err
			}
		default:
			select {
			case <-ended:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

func (j *Journal) decidedNow() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.decided
}

// hardenedUpTo tells whether the records up to want are on the disk; ended is
// closed when the sync that is under way, if any, is over.
func (j *Journal) hardenedUpTo(want uint64) (done bool, ended chan struct{}, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.hardened >= want:
		return true, nil, nil
	case j.closed:
		return false, nil, ErrClosed
	}
	return false, j.hardening, nil
}

// errStale: an earlier sync failed, and what it covered is not written anew
// yet.
var errStale = errors.New("journal: an earlier sync failed")

// harden puts what is written on the disk, first the small contents, then the
// log, and removes what is superfluous then. It may be called from any side;
// one at a time does it.
func (j *Journal) harden() error {
	h := j.beginHarden()
	failed, logFailed, err := h.sync(j)
	if err = j.endHarden(h, failed, logFailed, err); err == nil {
		j.proveAll(h.proofs)
	}
	j.unlink(j.takeRubbish())
	if err != nil {
		return fmt.Errorf("journal: sync: %w", err)
	}
	return nil
}

// hardening is what one sync covers.
type hardening struct {
	mark   uint64   // the records up to here
	proofs []*Entry // whose small contents are in it
	segs   []*smallSeg
	logs   []file
}

// beginHarden waits for its turn and takes what there is to sync.
func (j *Journal) beginHarden() (h hardening) {
	for {
		ended, ok := j.tryHarden(&h)
		if ok {
			return h
		}
		<-ended
	}
}

// tryHarden takes what there is to sync, unless another does it: then ended is
// closed when that is over.
func (j *Journal) tryHarden(h *hardening) (ended chan struct{}, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.hardening != nil {
		return j.hardening, false
	}
	j.hardening = make(chan struct{})
	h.mark, h.proofs = j.decided, j.stored
	j.stored = nil
	for _, s := range j.small.segs {
		if s.dirty {
			h.segs = append(h.segs, s)
			s.dirty = false
		}
	}
	if j.hardened < h.mark || len(h.segs) > 0 {
		h.logs = append(slices.Clone(j.wal.old), j.wal.f)
	}
	return nil, true
}

// sync waits for the disk; failed are the segments that it does not have.
func (h *hardening) sync(j *Journal) (failed []*smallSeg, logFailed bool, err error) {
	var errs []error
	if slices.ContainsFunc(h.segs, func(s *smallSeg) bool { return !s.named }) {
		if err := j.fs.SyncDir(j.wal.dir); err != nil {
			errs, failed = append(errs, err), h.segs
		}
	}
	for _, s := range h.segs {
		if err := s.f.Datasync(); err != nil {
			errs, failed = append(errs, err), append(failed, s)
		}
	}
	for _, f := range h.logs {
		if err := f.Datasync(); err != nil {
			errs, logFailed = append(errs, err), true
		}
	}
	return failed, logFailed, errors.Join(errs...)
}

// endHarden draws the consequences, and lets the next one begin.
func (j *Journal) endHarden(h hardening, failed []*smallSeg, logFailed bool, err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	// The kernel forgets what it could not write, and says so once: only what
	// is written anew counts.
	for _, s := range h.segs {
		s.named = true
	}
	for _, s := range failed {
		s.failed = true
	}
	if logFailed {
		j.syncsFailed++
	}
	if err == nil && j.staleLocked() {
		err = errStale
	}
	if err == nil {
		j.hardenedLocked(h.mark, len(h.logs)-1)
	} else {
		j.stored = append(h.proofs, j.stored...)
		wake(j.kick)
	}
	close(j.hardening)
	j.hardening = nil
	return err
}

// proveAll notes that the small contents of these entries are on the disk, some
// at a time: after a restart they are many.
func (j *Journal) proveAll(proofs []*Entry) {
	for some := range slices.Chunk(proofs, 256) {
		j.mu.Lock()
		for _, e := range some {
			j.provedLocked(e.Ino, e.Draft)
		}
		j.mu.Unlock()
	}
}

// hardenedLocked draws the consequences of a sync that covered the records up
// to mark and n earlier segments.
func (j *Journal) hardenedLocked(mark uint64, n int) {
	j.hardened = max(j.hardened, mark)
	for ; n > 0 && len(j.wal.old) > 0; n-- {
		j.shutLocked(j.wal.old[0])
		j.wal.old = j.wal.old[1:]
	}
}

// staleLocked reports whether what a failed sync covered is not written anew
// yet.
func (j *Journal) staleLocked() bool {
	if j.syncsFailed != j.syncsCured {
		return true
	}
	for _, s := range j.small.segs {
		if s.failed && s.live > 0 {
			return true
		}
	}
	return false
}

// shutLocked closes a file off the caller's path: freeing a large one takes
// long.
func (j *Journal) shutLocked(f file) {
	if j.closed {
		_ = f.Close() // nothing is wanted of it
		return
	}
	j.closing.Go(func() { _ = f.Close() })
}

// Content is synced when it has waited for its upload for long, although
// nobody asked: after a power failure it would have to be proved whole.
const proveAfter = 5 * time.Second

// awaited is a content that waits for being synced.
type awaited struct {
	ino   uint64
	c     *blob
	since time.Time
}

// proof says that a state is on the disk.
type proof struct {
	ino   uint64
	state *DraftState
}

// awaitProofLocked notes that e's content, which is new, has to be synced one
// day: a small one comes with the next sync of the log.
func (j *Journal) awaitProofLocked(e *Entry) {
	c := e.Draft.c
	if c == nil || c.synced {
		return
	}
	if j.small.has(e.Draft.File) {
		j.stored = append(j.stored, e)
		wake(j.kick)
		return
	}
	j.awaiting = append(j.awaiting, awaited{e.Ino, c, time.Now()})
	if len(j.awaiting) == 1 {
		wake(j.toProve)
	}
}

// prover syncs content that has waited for long. It is a goroutine of its own
// because syncing gigabytes takes longer than the log may wait.
func (j *Journal) prover() {
	for {
		select {
		case <-j.toProve:
		case <-j.stop:
			return
		}
		for j.waitingForProof() > 0 {
			if !j.linger(j.prove / 4) {
				return
			}
			for ino := j.dueForProof(); ino != 0; ino = j.dueForProof() {
				select {
				case <-j.stop:
					return
				default:
					j.proveContent(ino)
				}
			}
		}
	}
}

func (j *Journal) waitingForProof() int {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return len(j.awaiting)
}

// dueForProof is an inode whose content has waited long enough, 0 for none.
func (j *Journal) dueForProof() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.awaiting) > 0 {
		a := j.awaiting[0]
		e := j.index.items[a.ino]
		current := contentGen(e) != 0 && e.Draft.c == a.c && !a.c.synced
		if current && time.Since(a.since) < j.prove {
			return 0
		}
		j.awaiting = j.awaiting[1:]
		if current {
			return a.ino
		}
	}
	j.awaiting = nil
	return 0
}

func (j *Journal) proveContent(ino uint64) {
	d, err := j.ContinueDraft(ino)
	if (d == nil && err == nil) || errors.Is(err, ErrClosed) {
		return
	}
	if err == nil {
		if err = d.Sync(); err != nil {
			j.log.Warn("journal: cannot sync a draft", slog.Uint64("ino", ino), slog.Any("err", err))
			err = d.rescue()
		}
		err = errors.Join(err, d.Close())
	}
	if err != nil {
		j.log.Error("journal: content is not safe from a power failure", slog.Uint64("ino", ino), slog.Any("err", err))
	}
}

// provedLocked notes that st's bytes are on the disk.
func (j *Journal) provedLocked(ino uint64, st *DraftState) {
	st.c.synced = true
	if u := j.unwritten[ino]; u != nil && contentGen(u.e) >= st.Gen {
		u.synced = st
	}
	e, before := j.index.items[ino], j.older[ino]
	switch {
	case contentGen(e) == 0:
		return
	case e.Draft.same(st):
		delete(j.older, ino)
	case e.Draft.Gen > st.Gen && (before == nil || before.Gen < st.Gen):
		j.older[ino] = st
		j.older[ino] = j.provenFor(e)
	default:
		return
	}
	if before != nil {
		j.releaseLocked(ino, before.File)
	}
}

// syncedLocked is the newest content of e's inode that is on the disk, nil for
// none: its own, or the one before, whose file is kept as long.
func (j *Journal) syncedLocked(e *Entry) *DraftState {
	switch {
	case contentGen(e) == 0:
		return nil
	case e.Draft.c != nil && e.Draft.c.synced:
		return e.Draft
	}
	return j.older[e.Ino]
}

// provenFor is syncedLocked for e as it will be. A cut within the same file is
// the user's word on both contents.
func (j *Journal) provenFor(e *Entry) *DraftState {
	if contentGen(e) == 0 {
		return nil
	}
	if e.Draft.c != nil && e.Draft.c.synced {
		return e.Draft
	}
	p := j.older[e.Ino]
	if old := j.index.items[e.Ino]; contentGen(old) != 0 && old.Draft.c != nil && old.Draft.c.synced {
		p = old.Draft
	}
	if p == nil || p.same(e.Draft) || p.Size <= e.Draft.Size || p.File != e.Draft.File {
		return p
	}
	c := *p
	c.Size, c.Limit = e.Draft.Size, min(p.Limit, e.Draft.Size)
	c.Sums, c.c = 0, &blob{synced: true} // the sums were of more
	c.Local = slices.Clone(p.Local)
	(*extents)(&c.Local).cut(c.Limit)
	return &c
}

// rubbish is a draft file to unlink, or a small content to forget, once the
// disk has everything up to record after.
type rubbish struct {
	ino, file uint64
	after     uint64
}

func (j *Journal) takeRubbish() []rubbish {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.takeRubbishLocked()
}

// takeRubbishLocked takes the files that may be unlinked now.
func (j *Journal) takeRubbishLocked() (files []rubbish) {
	n := 0
	for ; n < len(j.rubbish) && j.rubbish[n].after <= j.hardened; n++ {
		r := j.rubbish[n]
		if !j.neededLocked(r.ino, r.file) && !j.small.dropLocked(r.file) {
			files = append(files, r)
		}
	}
	if j.rubbish = j.rubbish[n:]; len(j.rubbish) == 0 {
		j.rubbish = nil
	}
	return files
}

func (j *Journal) unlink(rs []rubbish) {
	if len(rs) == 0 {
		return
	}
	j.unlinking.Lock()
	defer j.unlinking.Unlock()
	for _, r := range rs {
		if err := j.fs.Remove(j.draftPath(r.ino, r.file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			j.log.Warn("journal: cannot remove a draft that is not needed", slog.Uint64("ino", r.ino), slog.Any("err", err))
		}
	}
}
