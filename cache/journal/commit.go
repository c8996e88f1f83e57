package journal

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Names in the database.
var (
	bucketEntries = []byte("entries") // inode number, big endian → record
	bucketMeta    = []byte("meta")

	metaFormat = []byte("format") // uvarint
	metaFolded = []byte("folded") // uvarint: last frame of the tail that is in here
	metaMaxIno = []byte("maxino") // uvarint
	metaBoot   = []byte("boot")   // kernel's boot id of the last Open
)

const (
	dbName   = "journal.db"
	dbFormat = 1
)

// commitRetry is the pause after the first failed commit; it doubles up to
// commitRetryMax. A full disk is the usual reason, and nothing is lost
// meanwhile: the tail has it all.
const (
	commitRetry    = time.Second
	commitRetryMax = 30 * time.Second
)

// committer folds the tail into the database, a group at a time.
func (j *Journal) committer() {
	pause := time.Duration(0)
	for {
		wait := max(j.group, pause)
		select {
		case <-j.kick:
		case <-j.now:
			wait = 0
		case <-j.stop:
			return
		}
		if !j.behind() {
			continue
		}
		if !j.linger(wait) {
			return
		}
		if err := j.fold(); err != nil {
			pause = min(max(2*pause, commitRetry), commitRetryMax)
			j.log.Error("journal: commit failed, will be repeated", slog.Any("err", err), slog.Duration("after", pause))
			wake(j.kick)
			continue
		}
		pause = 0
	}
}

// linger lets a group gather, unless somebody waits for it. It returns false
// when the journal is closing.
func (j *Journal) linger(d time.Duration) bool {
	if d == 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-j.now:
	case <-j.stop:
		return false
	}
	return true
}

// behind reports whether the database lacks something.
func (j *Journal) behind() bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.foldedVer < j.ver
}

// fold writes everything the database lacks in one synced transaction. Only
// the committer and, after it has ended, Close call it.
func (j *Journal) fold() error {
	j.mu.Lock()
	if j.foldedVer == j.ver {
		j.mu.Unlock()
		return nil
	}
	j.becomeWriterLocked() // so that the tail is not turned under a write
	ver, seq, maxIno, reserved := j.ver, j.seq, j.maxIno, j.reserved
	dirty := j.dirty
	j.dirty = make(map[uint64]struct{})
	j.reserved = false
	type row struct {
		ino    uint64
		e      *Entry
		synced *DraftState
	}
	rows := make([]row, 0, len(dirty))
	for ino := range dirty {
		r := row{ino, j.index.items[ino], j.proven[ino]}
		if u := j.unwritten[ino]; u != nil {
			r.e, r.synced = u.e, u.synced
		}
		rows = append(rows, r)
	}
	j.tail.turn()
	j.endWriteLocked()
	j.mu.Unlock()

	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.ino, b.ino) })
	err := j.db.Update(func(tx *bolt.Tx) error {
		entries := tx.Bucket(bucketEntries)
		for _, r := range rows {
			var err error
			if r.e == nil {
				err = entries.Delete(inoKey(r.ino))
			} else {
				err = entries.Put(inoKey(r.ino), appendRecord(nil, r.e, r.synced))
			}
			if err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if err := putMeta(meta, metaFolded, seq); err != nil {
			return err
		}
		return putMeta(meta, metaMaxIno, maxIno)
	})
	if err == nil && j.onFold != nil {
		j.onFold()
	}

	j.unlinking.Lock()
	defer j.unlinking.Unlock()
	j.mu.Lock()
	j.foldErr = nil
	j.attempts++
	var unlink []rubbish
	if err != nil {
		err = fmt.Errorf("journal: commit: %w", err)
		j.foldErr = err
		maps.Copy(j.dirty, dirty)
		j.reserved = j.reserved || reserved
	} else {
		j.foldedVer, j.inDB = ver, seq
		j.tail.folded(seq)
		unlink = j.takeRubbishLocked()
	}
	close(j.folded)
	j.folded = make(chan struct{})
	j.mu.Unlock()
	j.unlink(unlink)
	return err
}

// roomWait bounds makeRoom.
const roomWait = 2 * time.Second

// makeRoom lets go of the files that nobody needs any more, which otherwise
// happens at the next commit, and tells whether there were any.
func (j *Journal) makeRoom() bool {
	j.mu.RLock()
	some := len(j.rubbish) > 0
	j.mu.RUnlock()
	if some {
		ctx, cancel := context.WithTimeout(context.Background(), roomWait)
		defer cancel()
		if err := j.Sync(ctx); err != nil {
			return false
		}
	}
	if !j.unlinking.TryLock() { // those of the last commit are being removed
		some = true
		j.unlinking.Lock()
	}
	j.unlinking.Unlock()
	return some
}

func inoKey(ino uint64) []byte { return binary.BigEndian.AppendUint64(nil, ino) }

func putMeta(b *bolt.Bucket, key []byte, v uint64) error {
	return b.Put(key, binary.AppendUvarint(nil, v))
}

// getMeta reads a number; 0 when there is none.
func getMeta(b *bolt.Bucket, key []byte) uint64 {
	v, _ := binary.Uvarint(b.Get(key))
	return v
}
