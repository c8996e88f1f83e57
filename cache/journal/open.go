package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	groupCommit = 50 * time.Millisecond
	lockTimeout = time.Second // for another process to let go of the database
)

// Open opens the journal in o.Dir, making it if there is none. Damage does not
// make it fail: what cannot be used is moved to the directory aside and told
// by Problems. It fails with ErrInUse, ErrNewer, or an error of the disk.
func Open(o Options) (*Journal, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.GroupCommit == 0 {
		o.GroupCommit = groupCommit
	}
	var spare *spares
	if o.fs == nil {
		spare = newSpares(filepath.Join(o.Dir, draftsDir))
		o.fs = osFS{spare}
	}
	if o.proveAfter == 0 {
		o.proveAfter = proveAfter
	}
	if o.bootID == "" {
		o.bootID = bootID()
	}
	j := &Journal{
		dir:      o.Dir,
		log:      o.Logger,
		group:    o.GroupCommit,
		prove:    o.proveAfter,
		fs:       o.fs,
		spares:   spare,
		onFold:   o.folded,
		index:    newIndex(),
		dirty:    make(map[uint64]struct{}),
		proven:   make(map[uint64]*DraftState),
		drafts:   make(map[uint64]*Draft),
		making:   make(map[uint64]*making),
		files:    make(map[uint64][]uint64),
		folded:   make(chan struct{}),
		changed:  make(chan struct{}, 1),
		kick:     make(chan struct{}, 1),
		toProve:  make(chan struct{}, 1),
		now:      make(chan struct{}, 1),
		stop:     make(chan struct{}),
		unproven: make(map[uint64]time.Time),

		unwritten: make(map[uint64]*unwritten),
	}
	if err := os.MkdirAll(j.path(draftsDir), 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("journal: %w", err), j.closeFiles())
	}
	r := recovery{j: j, boot: o.bootID, noSync: o.noSync, maxDB: o.maxDB, doubt: make(map[uint64]bool)}
	if err := r.run(); err != nil {
		return nil, errors.Join(err, j.closeFiles())
	}
	if j.index.inos.len() > 0 {
		wake(j.changed)
	}
	j.goroutines.Go(j.committer)
	j.goroutines.Go(j.prover)
	return j, nil
}

// bootID is the kernel's id of this boot; "" when it does not tell.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// recovery brings memory, database, tail and drafts to agreement. It changes
// the disk in an order that may be cut anywhere: drafts go aside before their
// entry is dropped, and superfluous ones are removed after.
type recovery struct {
	j    *Journal
	boot string

	fresh    bool // the database was made now
	tx       int  // of the database that was read
	noSync   bool
	maxDB    int
	rebooted bool            // what was not synced may not be there
	doubt    map[uint64]bool // entries of these inodes were lost: their drafts are not rubbish
	doubtAll bool
	names    map[uint64]string // of lost entries, as far as they were found
	drop     []uint64          // damaged records
	history  bool              // the tail has frames the database lacks
}

func (r *recovery) run() error {
	j := r.j
	if err := r.openDB(); err != nil {
		return err
	}
	var err error
	if j.tail, err = openTail(j.fs, j.dir); err != nil {
		return err
	}
	if err := r.replay(); err != nil {
		return err
	}
	orphans, err := r.scanDrafts()
	if err != nil {
		return err
	}
	r.checkDrafts()
	j.gen = r.lastGen(orphans)
	j.maxInoLogged = j.maxIno
	for _, e := range j.index.items {
		j.noteUnprovenLocked(e)
	}
	if err := r.store(); err != nil {
		if r.fresh {
			return err
		}
		// A full disk, most likely. All is known from the database and the
		// tail as they are, so go on behind them; the committer will repeat it.
		r.problem("what was recovered cannot be written yet: %v", err)
		j.tail.resume(j.seq)
		j.bumpLocked()
		return nil
	}
	j.tail.reserve()
	if r.fresh {
		if err := j.fs.SyncDir(j.dir); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		// The name of the directory itself, where we may look.
		if err := j.fs.SyncDir(filepath.Dir(j.dir)); err != nil && !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("journal: %w", err)
		}
	}
	j.unlink(orphans)
	return nil
}

// problem reports something that was not as it should be.
func (r *recovery) problem(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	r.j.problems = append(r.j.problems, s)
	r.j.log.Warn("journal: " + s)
}

// openDB opens the database and reads it, or puts it aside and makes a new
// one.
func (r *recovery) openDB() error {
	path := r.j.path(dbName)
	fi, err := os.Stat(path)
	r.fresh = err != nil || fi.Size() == 0
	if r.fresh {
		r.doubtAll = true // drafts without a database: somebody removed it
	}
	err = r.tryDB(path)
	if err == nil || errors.Is(err, ErrInUse) || errors.Is(err, ErrNewer) || !errors.Is(err, errDamagedDB) {
		return err
	}
	r.names = namesIn(path)
	to, aerr := r.aside(dbName, path)
	if aerr != nil {
		return fmt.Errorf("journal: the database is damaged and cannot be set aside: %w", errors.Join(err, aerr))
	}
	r.problem("the database was damaged (%v) and is set aside as %s", err, to)
	r.fresh, r.doubtAll = true, true
	r.j.index = newIndex()
	clear(r.j.proven)
	r.drop = nil
	return r.tryDB(path)
}

var errDamagedDB = errors.New("damaged")

// tryDB opens and reads the database. bbolt panics on pages that make no
// sense, and the memory map faults when the file was cut; both are damage.
//
// Opening for writing looks at all pages in a goroutine of bbolt's own, where
// a panic ends the process. So what is there is first read through a
// read-only database, which looks at nothing by itself.
func (r *recovery) tryDB(path string) (err error) {
	var db *bolt.DB
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamagedDB, p)
			if db != nil {
				err = errors.Join(err, db.Close())
			}
		}
	}()
	if !r.fresh {
		if db, err = boltOpen(path, &bolt.Options{Timeout: lockTimeout, ReadOnly: true}); err != nil {
			return err
		}
		if err := errors.Join(r.load(db), db.Close()); err != nil {
			return err
		}
	}
	db, err = boltOpen(path, &bolt.Options{
		Timeout:        lockTimeout,
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
		NoSync:         r.noSync,
		MaxSize:        r.maxDB,
	})
	if err != nil {
		return err
	}
	if err := r.unchanged(db); err != nil {
		return errors.Join(err, db.Close())
	}
	r.j.db = db
	return nil
}

func boltOpen(path string, o *bolt.Options) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, o)
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrInUse
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", errDamagedDB, err)
	}
	return nil, fmt.Errorf("journal: open database: %w", err)
}

// unchanged makes sure that nobody wrote between the two openings.
func (r *recovery) unchanged(db *bolt.DB) error {
	return db.View(func(tx *bolt.Tx) error {
		if !r.fresh && tx.ID() != r.tx {
			return ErrInUse
		}
		return nil
	})
}

// load reads the database into memory.
func (r *recovery) load(db *bolt.DB) error {
	j := r.j
	return db.View(func(tx *bolt.Tx) error {
		r.tx = tx.ID()
		entries, meta := tx.Bucket(bucketEntries), tx.Bucket(bucketMeta)
		if meta == nil {
			r.fresh, r.rebooted = true, false
			return nil
		}
		if f := getMeta(meta, metaFormat); f > dbFormat {
			return fmt.Errorf("%w: database format %d", ErrNewer, f)
		}
		if entries == nil {
			return fmt.Errorf("%w: no entries bucket", errDamagedDB)
		}
		j.inDB = getMeta(meta, metaFolded)
		j.maxIno = getMeta(meta, metaMaxIno)
		r.rebooted = r.boot == "" || string(meta.Get(metaBoot)) != r.boot
		return entries.ForEach(func(k, v []byte) error {
			e, synced, err := decodeRecord(v)
			if errors.Is(err, ErrNewer) {
				return err
			}
			if len(k) != 8 {
				return fmt.Errorf("%w: key of %d bytes", errDamagedDB, len(k))
			}
			ino := binary.BigEndian.Uint64(k)
			if err == nil && e.Ino != ino {
				err = errRecord
			}
			if err != nil {
				r.damagedRecord(ino, v, err)
				return nil
			}
			r.take(e, synced)
			return nil
		})
	})
}

func (r *recovery) take(e *Entry, synced *DraftState) {
	j := r.j
	j.index.set(e.Ino, e)
	j.maxIno = max(j.maxIno, e.Ino)
	j.order = max(j.order, e.Order)
	if synced != nil {
		j.proven[e.Ino] = synced
	} else {
		delete(j.proven, e.Ino)
	}
}

// damagedRecord keeps the bytes of a record that cannot be read.
func (r *recovery) damagedRecord(ino uint64, record []byte, why error) {
	r.doubt[ino] = true
	r.drop = append(r.drop, ino)
	to, err := r.asideBytes(fmt.Sprintf("record-%d", ino), record)
	if err != nil {
		r.problem("the record of inode %d cannot be read (%v), nor be set aside: %v", ino, why, err)
		return
	}
	r.problem("the record of inode %d cannot be read (%v) and is set aside as %s", ino, why, to)
}

// replay applies what the tail has and the database has not.
func (r *recovery) replay() error {
	j := r.j
	found, err := j.tail.read()
	if err != nil {
		r.doubtAll = true
		r.problem("the tail cannot be read to its end: %v", err)
	}
	frames, lost, last := unfolded(found, j.inDB)
	if lost > 0 {
		r.doubtAll = true
		r.setTailAside(fmt.Sprintf("%d records before its end cannot be read", lost))
	}
	for _, f := range frames {
		err := forOps(f.ops, func(op byte, ino uint64, record []byte) error {
			switch op {
			case opDelete:
				j.index.set(ino, nil)
				delete(j.proven, ino)
				j.dirty[ino] = struct{}{}
			case opReserve:
				j.maxIno = max(j.maxIno, ino)
			case opRecord:
				e, synced, err := decodeRecord(record)
				if err != nil {
					return err
				}
				r.take(e, synced)
				delete(r.doubt, e.Ino)
				j.dirty[e.Ino] = struct{}{}
			}
			return nil
		})
		switch {
		case errors.Is(err, ErrNewer):
			return err
		case err != nil:
			r.doubtAll = true
			r.setTailAside(fmt.Sprintf("record %d makes no sense (%v)", f.seq, err))
		}
	}
	r.history = len(frames) > 0
	j.seq = last
	return nil
}

// setTailAside keeps a copy of the tail files, which are about to be used
// again.
func (r *recovery) setTailAside(why string) {
	var to []string
	for _, name := range tailNames {
		b, err := os.ReadFile(r.j.path(name))
		if err == nil && len(b) > 0 {
			var p string
			if p, err = r.asideBytes(name, b); err == nil {
				to = append(to, p)
			}
		}
		if err != nil {
			r.problem("%s cannot be set aside: %v", name, err)
		}
	}
	r.problem("the tail is damaged: %s; what could be read is used, a copy is set aside as %s", why, strings.Join(to, ", "))
}

// store writes what recovery found out in one synced transaction, so that the
// tail can start afresh.
func (r *recovery) store() error {
	j := r.j
	same := !r.fresh && !r.rebooted && !r.history && len(j.dirty) == 0 && len(r.drop) == 0
	if same {
		return nil
	}
	err := j.db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		entries, err := tx.CreateBucketIfNotExists(bucketEntries)
		if err != nil {
			return err
		}
		for _, ino := range r.drop {
			if err := entries.Delete(inoKey(ino)); err != nil {
				return err
			}
		}
		dirty := make([]uint64, 0, len(j.dirty))
		for ino := range j.dirty {
			dirty = append(dirty, ino)
		}
		slices.Sort(dirty)
		for _, ino := range dirty {
			e := j.index.items[ino]
			if e == nil {
				err = entries.Delete(inoKey(ino))
			} else {
				err = entries.Put(inoKey(ino), appendRecord(nil, e, j.proven[ino]))
			}
			if err != nil {
				return err
			}
		}
		return errors.Join(
			putMeta(meta, metaFormat, dbFormat),
			putMeta(meta, metaFolded, j.seq),
			putMeta(meta, metaMaxIno, j.maxIno),
			meta.Put(metaBoot, []byte(r.boot)),
		)
	})
	if err != nil {
		return fmt.Errorf("journal: commit: %w", err)
	}
	clear(j.dirty)
	j.inDB = j.seq
	if j.onFold != nil {
		j.onFold()
	}
	return nil
}
