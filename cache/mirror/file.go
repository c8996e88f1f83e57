package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The buckets of the file. Numbers in keys are 8 bytes, big endian.
var (
	bMeta   = []byte("meta")   // small values, see the key… constants
	bNode   = []byte("node")   // parent, ino → record or link: a listing is one range
	bName   = []byte("name")   // parent, folded shown name → claims, holder first
	bHome   = []byte("home")   // ino → parent under which the record is
	bID     = []byte("id")     // id → ino (varint); in a first load those not yet here are in file.ids
	bTomb   = []byte("tomb")   // ino → tombstone
	bGhost  = []byte("ghost")  // ino → id of a parent nobody has told about yet
	bListed = []byte("listed") // ino of folders listed completely before the first sync ended
	bTable  = []byte("table")  // code → string
	bMulti  = []byte("multi")  // ino of live folders with several parents
	buckets = [][]byte{bMulti, bMeta, bNode, bName, bHome, bID, bTomb, bGhost, bListed, bTable}
)

// Keys of the meta bucket. Names of SetMeta are kept with userPrefix.
const (
	keyFormat     = "format"
	keyCheckpoint = "checkpoint"
	keyConfirmed  = "confirmed" // time of the last batch or clean end, Unix ms
	keyComplete   = "complete"  // the first sync reached its end
	keyRoot       = "root"      // id of the root
	keyInoLimit   = "inolimit"  // no number at or above this was handed out
	keyIndexed    = "indexed"   // ids of all inos below this are in the id bucket
	keyNodes      = "nodes"     // live nodes
	keyRefreshed  = "refreshed" // when all there is was last told, Unix ms; 0 in files of before
	userPrefix    = "user:"
)

// format is what this package writes. A file with a greater one is refused.
const format = 1

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

// file is one bbolt file: the live mirror, or the one a rebuild fills beside it.
type file struct {
	path string
	log  *slog.Logger
	bolt *bolt.DB

	strs  atomic.Pointer[[]string] // what readers decode with
	table table                    // the writer's view of the same

	// ids holds what a first load has not yet put into the id bucket, nil
	// afterwards. Random ids cost a page of the index each; sorted at the end
	// they cost a tenth.
	ids atomic.Pointer[idTable]

	noSync bool        // never fsync (tests)
	bulk   bool        // first load: no fsync for each transaction. Writer only.
	lazy   bool        // the same for a large chunk of news. Writer only.
	marked bool        // the "unsynced" marker is on disk. Writer only.
	doomed atomic.Bool // found damaged: the next Open shall say so
	loaded int         // nodes written since the last fsync. Writer only.
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
	if _, err := os.Stat(f.path); errors.Is(err, fs.ErrNotExist) {
		// A marker whose file was set aside means nothing.
		if err := removeFiles(f.path); err != nil {
			return err
		}
	}
	if bad, err := f.distrusted(); err != nil {
		return err
	} else if bad {
		return fmt.Errorf("%s: found damaged, or not synced before the machine stopped: %w", f.path, ErrDamaged)
	}
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
			if v := meta.Get([]byte(keyFormat)); len(v) != 8 {
				return fmt.Errorf("%s: no format: %w", f.path, ErrDamaged)
			} else if n := binary.BigEndian.Uint64(v); n > format {
				return fmt.Errorf("%s has format %d, this drivefs knows %d: %w", f.path, n, format, ErrNewer)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bMeta).Put([]byte(keyFormat), be(format))
	})
	if err != nil {
		return err
	}
	return db.View(f.load)
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

// load reads what is kept in memory.
func (f *file) load(tx *bolt.Tx) error {
	f.table = table{codes: map[string]uint64{}, pub: func(s []string) { f.strs.Store(&s) }}
	c := tx.Bucket(bTable).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if len(k) != 8 || binary.BigEndian.Uint64(k) != uint64(len(f.table.strs)) {
			return fmt.Errorf("the string table has a gap: %w", ErrDamaged)
		}
		f.table.codes[string(v)] = uint64(len(f.table.strs)) + 2
		f.table.strs = append(f.table.strs, string(v))
	}
	f.table.saved = len(f.table.strs)
	f.table.pub(f.table.strs)
	meta := tx.Bucket(bMeta)
	f.bulk = len(meta.Get([]byte(keyComplete))) == 0
	f.setSync()
	if f.bulk {
		return f.loadIDs(tx, getNumber(meta, keyIndexed))
	}
	return nil
}

// loadIDs finds the ids that a killed first load had not yet indexed.
func (f *file) loadIDs(tx *bolt.Tx, from Ino) error {
	ids := newIDTable()
	homes, nodes := tx.Bucket(bHome), tx.Bucket(bNode)
	var e entry
	var kb [16]byte
	c := homes.Cursor()
	for k, v := c.Seek(be(from)); k != nil; k, v = c.Next() {
		if len(k) != 8 || len(v) != 8 {
			return fmt.Errorf("home of %x: %w", k, ErrDamaged)
		}
		ino, parent := binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(v)
		rec := nodes.Get(key2(kb[:0], parent, ino))
		if rec == nil {
			return fmt.Errorf("inode %d has no record: %w", ino, ErrDamaged)
		}
		if err := decodeRecord(rec, parent, ino, *f.strs.Load(), &e); err != nil {
			return err
		}
		ids.set(e.ID, ino)
	}
	c = tx.Bucket(bTomb).Cursor()
	for k, v := c.Seek(be(from)); k != nil; k, v = c.Next() {
		ino := binary.BigEndian.Uint64(k)
		if _, err := decodeTomb(v, ino, *f.strs.Load(), &e); err != nil {
			return err
		}
		ids.set(e.ID, ino)
	}
	c = tx.Bucket(bGhost).Cursor()
	for k, v := c.Seek(be(from)); k != nil; k, v = c.Next() {
		ids.set(string(v), binary.BigEndian.Uint64(k))
	}
	f.ids.Store(ids)
	return nil
}

// setSync puts bbolt into the mode of f.bulk and f.lazy.
func (f *file) setSync() {
	f.bolt.NoSync = f.noSync || f.bulk || f.lazy
	f.bolt.NoGrowSync = f.bolt.NoSync
}

// A first load, and large news later, commit without fsync until the feed's
// end. Kill -9 cannot hurt it: what was written
// is in the page cache. Power failure can, and in ways nobody sees until the
// wrong page is read; so a marker with the boot's id lies beside the file as
// long as it is not synced, and a file whose marker is of another boot is not
// believed. All it holds comes again from the drive.
func (f *file) marker() string { return f.path + ".unsynced" }

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

func (f *file) distrusted() (bool, error) {
	b, err := os.ReadFile(f.marker())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking for a half written mirror: %w", err)
	}
	f.marked = true
	return strings.TrimSpace(string(b)) != bootID(), nil
}

// condemn makes the next Open say ErrDamaged, when damage was found in use.
func (f *file) condemn(err error) {
	if f.doomed.Swap(true) {
		return
	}
	f.log.Error("the mirror is damaged, it will be built anew at the next start", "path", f.path, "err", err)
	if err := os.WriteFile(f.marker(), []byte("damaged\n"), 0o600); err != nil {
		f.log.Error("marking the mirror as damaged", "err", err)
	}
}

// mark is called before a commit that will not be synced.
func (f *file) mark() error {
	if f.marked || f.noSync || f.doomed.Load() {
		return nil
	}
	w, err := os.OpenFile(f.marker(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = w.WriteString(bootID() + "\n")
	err = errors.Join(err, w.Sync(), w.Close(), syncDir(f.path))
	f.marked = err == nil
	return err
}

// sync makes all commits so far durable.
func (f *file) sync() error {
	f.loaded = 0
	if f.noSync {
		return nil
	}
	if err := f.bolt.Sync(); err != nil {
		return err
	}
	return f.unmark()
}

// unmark is called when all is synced: by sync, or by a commit that does.
func (f *file) unmark() error {
	if !f.marked || f.doomed.Load() {
		return nil
	}
	if err := os.Remove(f.marker()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f.marked = false
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// close syncs, and leaves the list of free pages in the file, so that the next
// Open need not look at every page.
func (f *file) close() error {
	var err error
	if !f.doomed.Load() {
		err = guard(func() error {
			f.bolt.NoFreelistSync = false
			return errors.Join(f.bolt.Update(func(*bolt.Tx) error { return nil }), f.sync())
		})
	}
	return errors.Join(err, guard(f.bolt.Close))
}

// remove drops a file that is not wanted any more.
func (f *file) remove() error {
	f.noSync = true
	err := guard(f.bolt.Close)
	return errors.Join(err, removeFiles(f.path))
}

func removeFiles(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if e := os.Remove(path + ".unsynced"); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
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

// idTable is a map from id to ino without pointers for ids of the usual length
// (22 characters, API §5.1), so that a million of them cost 45 MB and no work
// for the collector.
type idTable struct {
	mu    sync.RWMutex
	usual map[[22]byte]Ino
	other map[string]Ino
}

func newIDTable() *idTable {
	return &idTable{usual: map[[22]byte]Ino{}, other: map[string]Ino{}}
}

func (t *idTable) get(id string) (Ino, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(id) == 22 {
		ino, ok := t.usual[[22]byte([]byte(id))]
		return ino, ok
	}
	ino, ok := t.other[id]
	return ino, ok
}

func (t *idTable) set(id string, ino Ino) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(id) == 22 {
		t.usual[[22]byte([]byte(id))] = ino
		return
	}
	t.other[id] = ino
}

func (t *idTable) remove(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(id) == 22 {
		delete(t.usual, [22]byte([]byte(id)))
		return
	}
	delete(t.other, id)
}

// clone is a copy that nobody else changes.
func (t *idTable) clone() *idTable {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return &idTable{usual: maps.Clone(t.usual), other: maps.Clone(t.other)}
}

// each is for tables that nobody changes.
func (t *idTable) each(fn func(id []byte, ino Ino)) {
	for id, ino := range t.usual {
		fn(id[:], ino)
	}
	for id, ino := range t.other {
		fn([]byte(id), ino)
	}
}

func (t *idTable) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.usual) + len(t.other)
}
