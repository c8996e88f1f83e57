package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The buckets of the file. Numbers in keys are 8 bytes, big endian.
var (
	bMeta   = []byte("meta")  // small values, see the key… constants
	bInode  = []byte("inode") // ino → what it is, and where its record is
	bNode   = []byte("node")  // parent, ino → record or link: a listing is one range
	bName   = []byte("name")  // parent, folded shown name → claims, holder first
	bLevel  = []byte("level") // parent, ino → level of the name, where it is not the plain one
	bID     = []byte("id")    // id → ino (varint)
	buckets = [][]byte{bMeta, bInode, bNode, bName, bLevel, bID}
)

// Keys of the meta bucket. Names of SetMeta are kept with userPrefix.
const (
	keyFormat     = "format"
	keyCheckpoint = "checkpoint"
	keyConfirmed  = "confirmed" // time of the last batch or clean end, Unix ms
	keyComplete   = "complete"  // the first sync reached its end
	keyRoot       = "root"      // id of the root
	keyInoLimit   = "inolimit"  // no number at or above this was handed out
	keyNodes      = "nodes"     // live nodes
	keyRefreshed  = "refreshed" // when all there is was last told, Unix ms
	keyMulti      = "multi"     // inos of live folders with several parents, varints
	keyGen        = "gen"       // what Gen begins with, larger in each file that was begun anew
	userPrefix    = "user:"
)

// format is what this package writes. A file with a greater one is refused; of
// a smaller one the numbers are taken over.
const format = 2

// Errors of opening, and of anything that finds the file damaged later.
var (
	// ErrNewer: the file was written by a newer drivefs.
	ErrNewer = errors.New("the mirror was written by a newer drivefs")
	// ErrDamaged: the file cannot be trusted. It holds nothing that the drive
	// and the journal do not: set it aside and open a new one.
	ErrDamaged = errors.New("the mirror is damaged")
	// ErrInUse: another process has the file open.
	ErrInUse = errors.New("the mirror is in use by another process")
)

// file is one bbolt file.
type file struct {
	path   string
	log    *slog.Logger
	bolt   *bolt.DB
	noSync bool        // never fsync (tests)
	old    bool        // of a smaller format: nothing but beginAnew may read it
	doomed atomic.Bool // found damaged
}

// mmapSize is reserved address space, not memory: with it bbolt need not map
// anew while the file grows, for which it would lock out all readers.
const mmapSize = min(1<<33, math.MaxInt/4)

// openFile opens or makes the file at path.
func openFile(path string, log *slog.Logger, noSync bool) (f *file, err error) {
	f = &file{path: path, log: log, noSync: noSync}
	// bbolt trusts the pages it maps: garbage panics and a file cut short
	// faults. Both mean the same to the caller.
	err = guard(func() error { return f.open() })
	if err != nil {
		if f.bolt != nil {
			_ = guard(f.bolt.Close)
		}
		return nil, err
	}
	return f, nil
}

func (f *file) open() error {
	o := &bolt.Options{
		Timeout:         lockWait,
		OpenFile:        openVerified,
		NoFreelistSync:  true,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: mmapSize,
		NoSync:          f.noSync,
		NoStatistics:    true,
	}
	db, err := bolt.Open(f.path, 0o600, o)
	for db == nil && err != nil && o.InitialMmapSize > 1<<28 && !knownOpenError(err) {
		// Address space may be limited (ulimit -v): take what there is.
		o.InitialMmapSize /= 4
		db, err = bolt.Open(f.path, 0o600, o)
	}
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%s: %w", f.path, ErrInUse)
	case errors.Is(err, ErrDamaged):
		return fmt.Errorf("%s: %w", f.path, err)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("%s: %w: %w", f.path, ErrDamaged, err)
	case err != nil:
		return fmt.Errorf("opening the mirror: %w", err)
	}
	f.bolt = db
	st, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	err = db.View(func(tx *bolt.Tx) error {
		if tx.Size() > st.Size() {
			return fmt.Errorf("%s: %d of %d bytes are there: %w", f.path, st.Size(), tx.Size(), ErrDamaged)
		}
		if meta := tx.Bucket(bMeta); meta != nil {
			v := meta.Get([]byte(keyFormat))
			if len(v) != 8 {
				return fmt.Errorf("%s: no format: %w", f.path, ErrDamaged)
			}
			n := binary.BigEndian.Uint64(v)
			if n > format {
				return fmt.Errorf("%s has format %d, this drivefs knows %d: %w", f.path, n, format, ErrNewer)
			}
			f.old = n < format
		}
		return nil
	})
	if err != nil || f.old {
		return err
	}
	return db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bMeta).Put([]byte(keyFormat), be(format))
	})
}

func knownOpenError(err error) bool {
	for _, known := range []error{
		ErrDamaged, berrors.ErrTimeout, berrors.ErrInvalid, berrors.ErrChecksum, berrors.ErrVersionMismatch,
		fs.ErrPermission, fs.ErrNotExist, fs.ErrExist,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// close syncs, and leaves the list of free pages in the file, so that the next
// Open need not look at every page.
func (f *file) close() error {
	err := guard(func() error {
		f.bolt.NoFreelistSync = false
		return f.bolt.Update(func(*bolt.Tx) error { return nil })
	})
	return errors.Join(err, guard(f.bolt.Close))
}

// caller marks a panic that came out of a caller's function, which is a bug
// and no damage.
type caller struct{ value any }

// guard turns a panic of bbolt, or a fault in its map, into ErrDamaged.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case caller:
			panic(r.value)
		default:
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return fn()
}

func be(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func key2(b []byte, a, c Ino) []byte {
	b = binary.BigEndian.AppendUint64(b, a)
	return binary.BigEndian.AppendUint64(b, c)
}

func getNumber(b *bolt.Bucket, key string) uint64 {
	if v := b.Get([]byte(key)); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}
