package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	groupCommit = 50 * time.Millisecond
	lockTimeout = time.Second // for another process to let go of the directory
)

// Open opens the journal in o.Dir, making it if there is none. Damage does not
// make it fail: what cannot be used is moved to the directory aside and told
// by Problems. It fails with ErrInUse, ErrNewer, or an error of the disk.
func Open(o Options) (*Journal, error) {
	o.setDefaults()
	segment, history := int64(smallSegment), int64(rewriteLeast)
	if o.segment != 0 {
		segment, history = o.segment, o.segment
	}
	j := &Journal{
		dir:       o.Dir,
		log:       o.Logger,
		group:     o.GroupCommit,
		prove:     o.proveAfter,
		fs:        o.fs,
		room:      o.MakeRoom,
		boot:      o.bootID,
		smallMax:  o.small,
		history:   history,
		index:     newIndex(),
		older:     make(map[uint64]*DraftState),
		drafts:    make(map[uint64]*Draft),
		opening:   make(map[uint64]chan struct{}),
		creating:  make(map[uint64]chan struct{}),
		unwritten: make(map[uint64]*unwritten),
		changed:   make(chan struct{}, 1),
		kick:      make(chan struct{}, 1),
		toProve:   make(chan struct{}, 1),
		stop:      make(chan struct{}),
	}
	j.wal = wal{fs: o.fs, dir: j.path(logDir)}
	j.small = smallStore{fs: o.fs, dir: j.path(logDir), segment: segment, at: make(map[uint64]smallAt), segs: make(map[uint32]*smallSeg)}
	r := recovery{j: j, doubt: make(map[uint64]bool), seen: make(map[uint64]bool), former: make(map[uint64]smallAt)}
	if err := r.run(); err != nil {
		return nil, errors.Join(err, j.closeFiles())
	}
	if j.index.inos.len() > 0 {
		wake(j.changed)
	}
	j.restoreBallast()
	j.goroutines.Go(j.keeper)
	j.goroutines.Go(j.prover)
	return j, nil
}

// setDefaults gives what was left out its value.
func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.GroupCommit == 0 {
		o.GroupCommit = groupCommit
	}
	if o.fs == nil {
		o.fs = osFS{}
	}
	if o.BeforeSync != nil || o.BeforeWrite != nil {
		o.fs = hooked{o.fs, o.BeforeSync, o.BeforeWrite}
	}
	if o.proveAfter == 0 {
		o.proveAfter = proveAfter
	}
	if o.small == 0 {
		o.small = smallMax
	}
	if o.bootID == "" {
		o.bootID = bootID()
	}
}

// bootID is the kernel's id of this boot; "" when it does not tell.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// recovery brings memory, log and drafts to agreement. It changes the disk in
// an order that may be cut anywhere: drafts go aside before their entry is
// dropped, and superfluous ones are removed after.
type recovery struct {
	j *Journal

	logFiles []string // names in the directory of the log
	fresh    bool     // there was no log
	legacy   bool     // what there was is the database of an earlier version
	guarded  bool     // earlier versions refuse the directory
	broken   bool     // the log has to be rewritten

	last     meta
	next     uint64 // number of the next frame; 0 = not known
	lost     uint64 // frames missing
	rebooted bool   // what was not synced may not be there
	doubt    map[uint64]bool
	doubtAll bool               // entries were lost: drafts are not rubbish
	baseGen  uint64             // contents up to this id are in the base or superfluous
	seen     map[uint64]bool    // small contents that segments speak of
	former   map[uint64]smallAt // where small contents lay that were moved
	changes  []applied          // what the log has to be told
}

func (r *recovery) run() error {
	j := r.j
	for _, dir := range []string{j.path(draftsDir), j.wal.dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	if err := r.acquire(); err != nil {
		return err
	}
	if err := r.load(); err != nil {
		return err
	}
	j.maxIno, j.doneRev, j.order = max(j.maxIno, r.last.maxIno), max(j.doneRev, r.last.doneRev), max(j.order, r.last.order)
	j.account = r.last.account
	r.rebooted = r.rebooted || !r.fresh && (j.boot == "" || r.last.boot != j.boot)
	j.gen = max(j.gen, r.last.gen)
	unused, err := r.openContents()
	if err != nil {
		return err
	}
	orphans, err := r.scanDrafts()
	if err != nil {
		return err
	}
	r.checkDrafts()
	j.maxInoLogged = j.maxIno
	if err := r.begin(); err != nil {
		return err
	}
	for _, ino := range j.index.inos.all() {
		if e := j.index.items[ino]; contentGen(e) != 0 {
			j.awaitProofLocked(e)
		}
	}
	j.unlink(orphans)
	r.pruneAside()
	for _, name := range unused {
		_ = j.fs.Remove(filepath.Join(j.wal.dir, name)) // tried again by the next Open
	}
	return nil
}

// acquire makes sure that no other process uses the directory.
func (r *recovery) acquire() error {
	f, err := os.Open(r.j.wal.dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	r.j.lock = f
	for end := time.Now().Add(lockTimeout); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("journal: lock the directory: %w", err)
		case time.Now().After(end):
			return ErrInUse
		}
	}
}

// load reads the log, or what an earlier version left.
func (r *recovery) load() error {
	entries, err := os.ReadDir(r.j.wal.dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	hasLog := false
	for _, e := range entries {
		if _, base, ok := parseSegment(e.Name()); ok {
			fi, err := e.Info()
			hasLog = hasLog || base || err != nil || fi.Size() > 0 // an empty one alone was being made
		}
		r.logFiles = append(r.logFiles, e.Name())
	}
	state, err := r.readGuard()
	if err != nil {
		return err
	}
	switch {
	case state == guardLegacy:
		// Until the guard said otherwise, a log was only on its way.
		r.legacy = true
		return r.takeOver()
	case hasLog:
		r.guarded = state == guardOurs
		return r.replay()
	}
	r.guarded = state == guardOurs
	r.fresh, r.doubtAll = true, true // drafts without a log: something removed it
	if state == guardNone {
		return r.takeTails(0) // of an earlier version, whose database is damaged
	}
	return nil
}

// problem reports something that was not as it should be.
func (r *recovery) problem(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	r.j.problems = append(r.j.problems, s)
	r.j.log.Warn("journal: " + s)
}

// replay reads the newest base and the segments after it.
func (r *recovery) replay() error {
	var bases, segments []uint64
	for _, name := range r.logFiles {
		switch n, base, ok := parseSegment(name); {
		case ok && base:
			bases = append(bases, n)
		case ok:
			segments = append(segments, n)
		}
	}
	slices.Sort(bases)
	slices.Sort(segments)
	first := uint64(0)
	if len(bases) > 0 {
		first = bases[len(bases)-1]
		if err := r.readBase(first); err != nil {
			return err
		}
	}
	switch {
	case len(bases) == 0:
		r.damage("its base is missing")
	case !slices.Contains(segments, first):
		r.damage("a segment is missing")
	}
	for _, n := range segments {
		if n < first {
			continue
		}
		end, err := r.readSegment(n)
		if err != nil {
			return err
		}
		r.j.wal.n, r.j.wal.off = n, int64(end)
	}
	if len(segments) > 0 {
		r.j.wal.n = max(r.j.wal.n, segments[len(segments)-1])
		r.checkEnd()
	}
	r.j.seq = max(r.next, 1) - 1
	if r.lost > 0 {
		r.damage(fmt.Sprintf("%d records before its end cannot be read", r.lost))
	}
	return nil
}

// checkEnd looks at what follows the last whole frame of the log: the beginning
// of one that was never finished, or, after a power failure, anything.
func (r *recovery) checkEnd() {
	f, err := os.Open(r.j.wal.path(r.j.wal.n))
	if err != nil {
		return // said before
	}
	defer f.Close()
	b := make([]byte, len(walMagic))
	n, _ := f.ReadAt(b, r.j.wal.off)
	if !bytes.HasPrefix(walMagic[:], b[:n]) && r.last.boot == r.j.boot {
		r.damage("its end cannot be read")
	}
}

// readBase applies a base.
func (r *recovery) readBase(n uint64) error {
	count, whole := uint64(0), false
	_, err := r.readFile(r.j.wal.path(n)+baseSuffix, func(seq uint64, ops []byte) error {
		count++
		return forOps(ops, func(op byte, v uint64, payload []byte) error {
			if op == opEnd {
				whole, r.next = seq == count, v
				return nil
			}
			return r.apply(op, v, payload)
		})
	})
	if err != nil {
		return err
	}
	r.j.wal.base = int64(count) // nothing but a first guess: it is rewritten sooner
	clear(r.seen)
	if r.baseGen = r.last.gen; !whole {
		r.baseGen = 0
		r.damage("its base is not whole")
	}
	return nil
}

// readSegment applies the frames of a segment, as far as the base did not have
// them, and counts those that are missing.
func (r *recovery) readSegment(n uint64) (end int, err error) {
	return r.readFile(r.j.wal.path(n), func(seq uint64, ops []byte) error {
		switch {
		case r.next == 0:
		case seq > r.next:
			r.lost += seq - r.next
		case seq < r.next:
			return errRecord // of another file
		}
		r.next = max(r.next, seq+1)
		r.j.wal.since += int64(len(ops))
		return forOps(ops, r.apply)
	})
}

// readFile calls fn for the frames in a file; the memory that it is mapped to
// may fault where the disk cannot be read.
func (r *recovery) readFile(path string, fn func(seq uint64, ops []byte) error) (end int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("journal: read the log: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return 0, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return 0, fmt.Errorf("journal: read the log: %w", err)
	}
	defer unix.Munmap(b)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			r.damage(fmt.Sprintf("%s cannot be read to its end: %v", filepath.Base(path), p))
			err = nil
		}
	}()
	return readFrames(b, func(seq uint64, ops []byte) error {
		switch err := fn(seq, ops); {
		case errors.Is(err, ErrNewer):
			return err
		case err != nil:
			r.damage(fmt.Sprintf("record %d makes no sense (%v)", seq, err))
		}
		return nil
	})
}

// apply does what a frame says.
func (r *recovery) apply(op byte, v uint64, payload []byte) error {
	j := r.j
	switch op {
	case opRecord:
		e, synced, err := decodeRecord(payload)
		if err != nil {
			return err
		}
		r.take(e, synced)
		delete(r.doubt, e.Ino)
	case opDelete:
		if e := j.index.items[v]; e != nil {
			j.doneRev = max(j.doneRev, e.Rev)
		}
		j.setLocked(v, nil, nil)
	case opReserve:
		j.maxIno = max(j.maxIno, v)
	case opMeta:
		return r.last.read(payload)
	case opSmall:
		id, at, err := readSmallAt(payload)
		if err != nil {
			return err
		}
		if old, ok := j.small.at[id]; ok && old != at {
			r.former[id] = old
		}
		j.small.at[id], r.seen[id] = at, true
	case opSynced:
		return r.applySynced(payload)
	}
	return nil
}

func (r *recovery) applySynced(payload []byte) error {
	f := fields{b: payload}
	ino := uint64(0)
	for f.next() {
		if f.num == fProofIno {
			ino = f.v
		}
	}
	ok := !f.bad
	st := decodeDraft(payload, &ok)
	if !ok {
		return errRecord
	}
	st.c.synced = true
	switch e := r.j.index.items[ino]; {
	case contentGen(e) == st.Gen && e.Draft.File == st.File:
		e.Draft.c.synced = true
		delete(r.j.older, ino)
	case contentGen(e) > st.Gen:
		r.j.older[ino] = st
	}
	return nil
}

func (r *recovery) take(e *Entry, synced *DraftState) {
	j := r.j
	j.setLocked(e.Ino, e, synced)
	j.maxIno = max(j.maxIno, e.Ino)
	j.order = max(j.order, e.Order)
}

// damage reports what is wrong with the log, keeps a copy of it as it was, and
// makes sure that it is rewritten. Only the first time, it copies.
func (r *recovery) damage(why string) {
	r.doubtAll = true
	if r.broken {
		r.problem("the log is damaged: %s", why)
		return
	}
	r.broken = true
	var to []string
	for _, name := range r.logFiles {
		if _, _, ok := parseSegment(name); !ok {
			continue
		}
		p, err := r.asideCopy(logDir+" "+name, filepath.Join(r.j.wal.dir, name))
		if err != nil {
			r.problem("%s cannot be set aside: %v", name, err)
		} else {
			to = append(to, p)
		}
	}
	r.problem("the log is damaged: %s; what could be read is used, a copy is set aside as %s", why, strings.Join(to, ", "))
}

// begin opens the log for writing and tells it what was found out. When the
// disk is full all is known from the log as it is, so that the keeper can
// repeat it.
func (r *recovery) begin() error {
	j := r.j
	if r.fresh || r.legacy || r.broken {
		if r.legacy {
			r.clearLog()
		}
		if err := r.rewrite(); err != nil {
			return err
		}
		j.first = nil
	} else {
		f, err := j.fs.OpenFile(j.wal.path(j.wal.n), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("journal: open the log: %w", err)
		}
		j.wal.use(f, j.wal.n, j.wal.off)
		n, err := f.Length()
		if err != nil {
			return fmt.Errorf("journal: open the log: %w", err)
		}
		j.wal.foul = n > j.wal.off // a write that never ended
		if r.rebooted || len(r.changes) > 0 {
			r.record()
		}
	}
	j.wal.reserve()
	if !r.guarded {
		return r.guard()
	}
	return nil
}

// record puts what was found out before all else that is written.
func (r *recovery) record() {
	j := r.j
	j.first = &record{meta: j.metaLocked(), changes: r.changes}
	for _, c := range r.changes {
		j.unwritten[c.Ino] = &unwritten{records: 1, e: c.before, synced: c.beforeSynced}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.writeLocked()
	if j.first != nil {
		r.problem("what was recovered cannot be written yet")
	}
}

// rewrite makes a new log of what is in memory.
func (r *recovery) rewrite() error {
	j := r.j
	if err := j.rewrite(); err != nil {
		return err
	}
	if !r.fresh {
		return nil
	}
	// The names of the directories themselves, where we may look.
	for _, dir := range []string{j.dir, filepath.Dir(j.dir)} {
		if err := j.fs.SyncDir(dir); err != nil && !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("journal: %w", err)
		}
	}
	return nil
}

// clearLog removes a log that was on its way when a takeover was cut short.
func (r *recovery) clearLog() {
	for _, name := range r.logFiles {
		_ = r.j.fs.Remove(filepath.Join(r.j.wal.dir, name)) // it is written over
	}
}

// openContents opens the small contents that are needed, and returns the files
// that have none.
func (r *recovery) openContents() (unused []string, err error) {
	j := r.j
	needed := make(map[uint64]bool, len(j.small.at))
	for _, e := range j.index.items {
		for _, id := range filesOf(e, j.syncedLocked(e)) {
			needed[id] = true
		}
	}
	for id := range j.small.at {
		j.gen = max(j.gen, id)
		if !needed[id] {
			delete(j.small.at, id)
		}
	}
	if r.legacy {
		return nil, nil
	}
	if r.rebooted {
		r.checkMoved()
	}
	unused, err = j.small.open(r.logFiles)
	if err == nil && r.doubtAll {
		r.saveContents()
	}
	return unused, err
}

// checkMoved looks for the small contents that were moved: the record of it may
// have reached the disk before the power failed, and the bytes not. They are
// where they were, then.
func (r *recovery) checkMoved() {
	j := r.j
	for id, old := range r.former {
		at, ok := j.small.at[id]
		if !ok {
			continue
		}
		f, err := j.fs.OpenFile(j.small.path(at.seg), os.O_RDONLY, 0)
		if err == nil {
			_, err = readSmall(f, id, at)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			j.small.at[id] = old
		}
	}
}
