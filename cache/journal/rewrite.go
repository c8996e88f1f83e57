package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// The log is rewritten when its history is rewriteFactor times as long as what
// lived at the last time, and rewriteLeast bytes at least.
const (
	rewriteFactor = 2
	rewriteLeast  = 8 << 20
)

func (j *Journal) rewriteIfDue() error {
	j.mu.Lock()
	due := j.syncsFailed != j.syncsCured || j.wal.since > max(j.history, rewriteFactor*j.wal.base)
	j.mu.Unlock()
	if !due {
		return nil
	}
	return j.rewrite()
}

// rewrite begins a segment, writes all that lives as its base, and removes
// what is older. Appends go on meanwhile: a record that the base has already
// is replayed without harm, and the base counts only when the disk has the
// records that it may have seen.
func (j *Journal) rewrite() (err error) {
	j.rewriting.Lock()
	defer j.rewriting.Unlock()
	n := j.wal.n + 1 // changed here only
	f, err := j.wal.create(n)
	if err != nil {
		return err
	}
	j.mu.Lock()
	j.becomeWriterLocked()
	j.wal.use(f, n, 0)
	j.wal.since = 0
	next, mark := j.seq+1, j.decided
	failed, stale := j.syncsFailed, j.syncsFailed != j.syncsCured
	j.endWriteLocked()
	j.mu.Unlock()
	path := j.wal.path(n) + baseSuffix
	size, err := j.writeBase(path+".new", next)
	// The disk must have the records that the base has seen; those of the old
	// segments are all in it.
	if err == nil {
		err = f.Datasync()
	}
	if err == nil {
		err = j.fs.Rename(path+".new", path)
	}
	if err == nil {
		err = j.fs.SyncDir(j.wal.dir)
	}
	j.mu.Lock()
	if err != nil {
		j.mu.Unlock()
		return fmt.Errorf("journal: rewrite the log: %w", err)
	}
	j.wal.base = size
	for _, f := range j.wal.old {
		j.shutLocked(f)
	}
	j.wal.old = nil
	if stale {
		j.syncsCured = failed
		j.hardened = max(j.hardened, mark)
	}
	j.mu.Unlock()
	return j.removeOlder(n)
}

// writeBase writes what lives into a file that is on the disk then.
func (j *Journal) writeBase(path string, next uint64) (size int64, err error) {
	f, err := j.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	seq := uint64(0)
	var b []byte
	write := func() error {
		seq++
		sealFrame(b, seq)
		_, err := f.WriteAt(b, size)
		size += int64(len(b))
		b = append(b[:0], make([]byte, frameHeader)...)
		return err
	}
	b = make([]byte, frameHeader)
	j.mu.RLock()
	m := j.metaLocked()
	j.mu.RUnlock()
	b = appendPayload(b, opMeta, m.append)
	if err := write(); err != nil {
		return 0, err
	}
	for after := uint64(0); ; {
		rows, last := j.liveAfter(after)
		for _, r := range rows {
			for _, s := range r.small {
				b = appendPayload(b, opSmall, func(b []byte) []byte { return appendSmallAt(b, s.id, s.at) })
			}
			b = appendEntryOp(b, r.ino, r.e, r.synced)
		}
		if len(b) > frameHeader {
			if err := write(); err != nil {
				return 0, err
			}
		}
		if after = last; last == 0 {
			break
		}
	}
	b = appendOp(b, opEnd, next)
	if err := write(); err != nil {
		return 0, err
	}
	return size, f.Datasync()
}

func (j *Journal) metaLocked() *meta {
	return &meta{boot: j.boot, maxIno: j.maxIno, doneRev: j.doneRev, order: j.order, gen: j.gen, account: j.account}
}

// row is what the log says of an inode.
type row struct {
	ino    uint64
	e      *Entry
	synced *DraftState
	small  []smallWrite // id and place
}

// liveAfter is some of the entries above inode number after, as the log has
// them; last is where to go on, 0 = these were the last.
func (j *Journal) liveAfter(after uint64) (rows []row, last uint64) {
	const some = 512
	j.mu.RLock()
	defer j.mu.RUnlock()
	j.index.inos.after(after, func(ino uint64) bool {
		last = ino
		if j.unwritten[ino] == nil {
			e := j.index.items[ino]
			rows = append(rows, row{ino: ino, e: e, synced: j.syncedLocked(e)})
		}
		return len(rows) < some
	})
	more := len(rows) >= some
	for ino, u := range j.unwritten {
		if ino > after && (ino <= last || !more) && u.e != nil {
			rows = append(rows, row{ino: ino, e: u.e, synced: u.synced})
		}
	}
	for i := range rows {
		for _, id := range filesOf(rows[i].e, rows[i].synced) {
			if at, ok := j.small.at[id]; ok {
				rows[i].small = append(rows[i].small, smallWrite{id: id, at: at})
			}
		}
	}
	if !more {
		last = 0
	}
	return rows, last
}

// removeOlder removes what the base of segment n makes superfluous.
func (j *Journal) removeOlder(n uint64) error {
	names, err := os.ReadDir(j.wal.dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	for _, d := range names {
		if k, _, ok := parseSegment(d.Name()); ok && k < n {
			if rerr := j.fs.Remove(filepath.Join(j.wal.dir, d.Name())); rerr != nil {
				err = errors.Join(err, rerr)
			}
		}
	}
	return err
}

// cleanBatch is how many bytes of small contents are moved with one write.
const cleanBatch = 1 << 20

// clean gives up segments of small contents that are half dead, and those
// whose sync failed, by moving what lives in them.
func (j *Journal) clean() error {
	j.rewriting.Lock()
	defer j.rewriting.Unlock()
	for {
		seg := j.toClean()
		if seg == nil {
			return nil
		}
		if err := j.empty(seg); err != nil {
			return err
		}
		// What refers to the moved contents must be on the disk first.
		if err := j.harden(); err != nil {
			return err
		}
		j.mu.Lock()
		gone := seg.live == 0
		if gone {
			delete(j.small.segs, seg.n)
			j.shutLocked(seg.f)
		}
		j.mu.Unlock()
		if gone {
			if err := j.fs.Remove(j.small.path(seg.n)); err != nil {
				return fmt.Errorf("journal: %w", err)
			}
		} else {
			seg.stuck = true // something in it cannot be read
		}
	}
}

// toClean is a segment that should be given up, nil for none. It is not the
// active one then.
func (j *Journal) toClean() *smallSeg {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.becomeWriterLocked()
	defer j.endWriteLocked()
	for _, s := range j.small.segs {
		if s.stuck || !s.failed && (s == j.small.active || s.live > s.size/2) {
			continue
		}
		if s == j.small.active {
			j.small.active = nil
		}
		return s
	}
	return nil
}

// empty moves what lives in a segment.
func (j *Journal) empty(seg *smallSeg) error {
	b := make([]byte, seg.size)
	n, err := seg.f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("journal: read contents: %w", err)
	}
	err = nil
	var moves []*smallWrite
	bytes := 0
	move := func() error {
		if len(moves) == 0 {
			return nil
		}
		j.mu.Lock()
		live := slices.DeleteFunc(moves, func(w *smallWrite) bool { return j.small.at[w.id] != w.from })
		seq := j.queueLocked(&record{small: live})
		j.mu.Unlock()
		moves, bytes = nil, 0
		return j.Written(seq)
	}
	scanSmall(b[:n], func(off int, w smallWrite, size int) {
		w.from = smallAt{seg.n, uint32(off), uint32(size)}
		moves = append(moves, &w)
		if bytes += size; bytes >= cleanBatch {
			err = errors.Join(err, move())
		}
	})
	return errors.Join(err, move())
}
