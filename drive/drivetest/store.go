package drivetest

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	crand "crypto/rand"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

var (
	bucketNodes = []byte("nodes") // number, big endian → record
	bucketLocal = []byte("local") // localId → node id
	bucketMeta  = []byte("meta")  // secret, epochs, drive
)

// store is the tree in memory and its copy on disk.
type store struct {
	o     *Options
	modes atomic.Pointer[Modes] // never nil
	db    *bolt.DB
	blobs *blobs

	mu       sync.RWMutex
	byID     map[string]*node // purged ones too
	children map[string]map[*node]struct{}
	names    map[nameKey]*node // live ones
	twins    map[nameKey]bool  // names that were live twice at some time
	local    map[string]string // localId → node id
	log      []logEntry        // by seq; entries overtaken by a later change of their node are stale
	root     *node
	seq      uint64
	lastNum  uint64
	used     int64 // bytes of all contents, the trash included
	drive    uint64
	secret   []byte
	epochs   map[string]uint64 // of token kinds
	recent   []recentChange    // what listings that lag still show; only kept while something lags
	keepLag  time.Duration
	failed   error // of the first commit that failed: read-only from then on
	rng      *rand.Rand

	pend struct {
		mu      sync.Mutex
		b       *batch // takes changes
		writing *batch // on its way to the disk
	}
	broken      atomic.Bool  // failed, without mu; set when memory is what the disk has
	spoilCommit func() error // for tests: fails a commit; nil = none does
	kick        chan struct{}
	stop        chan struct{}
	done        chan struct{}
}

type nameKey struct{ parent, fold string }

type logEntry struct {
	seq uint64
	n   *node
}

// recentChange remembers how a node was before a change; nil = it was not.
type recentChange struct {
	at     int64
	id     string
	before *node
}

type kv struct{ bucket, key, value []byte }

// batch is what one bbolt transaction will write, for all who wait on done.
type batch struct {
	puts []kv
	done chan struct{}
	err  error
}

func openStore(o *Options, dir string, sync bool) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	db, err := bolt.Open(filepath.Join(dir, "drive.db"), 0o600, &bolt.Options{
		Timeout: time.Second, NoSync: !sync, NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("drive directory %s is in use by another server", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open drive directory: %w", err)
	}
	st := &store{
		o: o, db: db, byID: map[string]*node{}, children: map[string]map[*node]struct{}{}, names: map[nameKey]*node{}, twins: map[nameKey]bool{},
		local: map[string]string{}, epochs: map[string]uint64{}, kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	st.modes.Store(&o.Faults.Modes)
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails since Go 1.24
	st.rng = rand.New(rand.NewChaCha8(seed))
	if st.blobs, err = openBlobs(dir, sync); err == nil {
		err = st.load()
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	go st.commitLoop()
	if st.root == nil {
		t, _ := st.begin() // nothing has failed yet
		st.root = t.create(&node{kind: KindFolder, isRoot: true, createdBy: "CloudDriveFiles"})
		st.secret = slices.Clone(seed[:])
		st.drive = st.rng.Uint64()
		t.puts = append(t.puts, kv{bucketMeta, []byte("secret"), st.secret},
			kv{bucketMeta, []byte("drive"), binary.BigEndian.AppendUint64(nil, st.drive)})
		if err := t.end(); err != nil {
			return nil, errors.Join(err, st.close())
		}
	}
	return st, nil
}

// load reads every record, rebuilds the indexes and removes contents that
// nothing points at.
func (st *store) load() error {
	err := st.db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketNodes, bucketLocal, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	var used map[string]bool
	if err == nil {
		used, err = st.read()
	}
	if err != nil {
		return fmt.Errorf("read drive directory: %w", err)
	}
	return st.blobs.sweep(used)
}

// read fills the empty store from the disk; used are the contents that its
// nodes have.
func (st *store) read() (used map[string]bool, err error) {
	used = map[string]bool{}
	err = st.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		st.secret = slices.Clone(meta.Get([]byte("secret")))
		if v := meta.Get([]byte("drive")); len(v) == 8 {
			st.drive = binary.BigEndian.Uint64(v)
		}
		for _, k := range []string{tokenAccess, tokenRefresh} {
			if v := meta.Get([]byte("epoch " + k)); len(v) == 8 {
				st.epochs[k] = binary.BigEndian.Uint64(v)
			}
		}
		if err := tx.Bucket(bucketLocal).ForEach(func(k, v []byte) error {
			st.local[string(k)] = string(v)
			return nil
		}); err != nil {
			return err
		}
		nodes := tx.Bucket(bucketNodes)
		if last, _ := nodes.Cursor().Last(); last != nil { // the largest number bounds the count
			n := int(min(binary.BigEndian.Uint64(last), 1<<24))
			st.byID, st.names, st.log = make(map[string]*node, n), make(map[nameKey]*node, n), make([]logEntry, 0, n)
		}
		d := decoder{intern: map[string]string{}}
		return nodes.ForEach(func(k, v []byte) error {
			n, ok := d.node(binary.BigEndian.Uint64(k), v)
			if !ok {
				return fmt.Errorf("damaged record %x", k)
			}
			if n.content != nil && st.blobs.private(n.content.blob) {
				used[n.content.blob] = true
			}
			st.attach(n)
			st.log = append(st.log, logEntry{n.seq, n})
			st.seq = max(st.seq, n.seq)
			st.lastNum = n.num
			if n.isRoot {
				st.root = n
			}
			return nil
		})
	})
	slices.SortFunc(st.log, func(a, b logEntry) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return used, err
}

// attach puts n into the indexes; detach takes it out, before its name,
// parents or status change.
func (st *store) attach(n *node) {
	st.byID[n.id] = n
	if n.status == StatusPurged {
		return
	}
	if n.content != nil {
		st.used += n.content.size
	}
	var f string
	if n.live() {
		f = fold(n.name)
	}
	for _, p := range n.parents {
		m := st.children[p]
		if m == nil {
			m = map[*node]struct{}{}
			st.children[p] = m
		}
		m[n] = struct{}{}
		if n.live() {
			if k := (nameKey{p, f}); st.names[k] == nil {
				st.names[k] = n
			} else {
				st.twins[k] = true
			}
		}
	}
}

func (st *store) detach(n *node) {
	if n.status == StatusPurged {
		return
	}
	if n.content != nil {
		st.used -= n.content.size
	}
	f := fold(n.name)
	for _, p := range n.parents {
		delete(st.children[p], n)
		k := nameKey{p, f}
		if st.names[k] != n {
			continue
		}
		delete(st.names, k)
		if !n.live() {
			continue
		}
		// Only PutRaw makes twins; the survivor takes the place.
		if st.twins[k] {
			for c := range st.children[p] {
				if c.live() && fold(c.name) == f {
					st.names[k] = c
				}
			}
		}
	}
	for _, p := range n.parents {
		if len(st.children[p]) == 0 {
			delete(st.children, p)
		}
	}
}

// tx is one change of the tree: begin takes the lock, end gives it back and
// waits for the commit. All checks come before the first edit.
type tx struct {
	*store
	now   int64 // ms, of the server's own clock
	stamp int64 // ms, what the service tells
	dirty []*node
	seen  map[*node]bool
	puts  []kv
	blobs []string // to remove after the commit
}

// After a commit that failed there is no change any more: the disk may be full
// or broken, and what memory had beyond it was taken back.
func (st *store) begin() (*tx, *apiError) {
	st.mu.Lock()
	if st.failed != nil {
		defer st.mu.Unlock()
		return nil, broken(st.failed)
	}
	return &tx{store: st, now: st.o.Clock().UnixMilli(), stamp: st.stamp(), seen: map[*node]bool{}}, nil
}

// abort gives the lock back; nothing was edited.
func (t *tx) abort() { t.mu.Unlock() }

func (t *tx) end() error {
	b := t.queue()
	t.mu.Unlock()
	if b == nil {
		return nil
	}
	t.wake()
	<-b.done
	if b.err == nil {
		for _, name := range t.blobs {
			t.store.blobs.remove(name)
		}
	}
	return b.err
}

// queue hands the records to the committer; the caller holds mu, so that the
// order of batches is the order of changes.
func (t *tx) queue() *batch {
	if len(t.dirty) == 0 && len(t.puts) == 0 {
		return nil
	}
	t.pend.mu.Lock()
	defer t.pend.mu.Unlock()
	if t.pend.b == nil {
		t.pend.b = &batch{done: make(chan struct{})}
	}
	for _, n := range t.dirty {
		t.pend.b.puts = append(t.pend.b.puts, kv{bucketNodes, binary.BigEndian.AppendUint64(nil, n.num), n.encode(nil)})
	}
	t.pend.b.puts = append(t.pend.b.puts, t.puts...)
	return t.pend.b
}

func (st *store) wake() {
	select {
	case st.kick <- struct{}{}:
	default:
	}
}

// settle waits for the commit of every change made so far.
func (st *store) settle() error {
	st.pend.mu.Lock()
	b := st.pend.b
	if b == nil {
		b = st.pend.writing
	}
	st.pend.mu.Unlock()
	if b == nil {
		return nil
	}
	st.wake()
	<-b.done
	return b.err
}

// commitLoop is the only writer of the database: changes that come while it
// writes share its next transaction.
func (st *store) commitLoop() {
	defer close(st.done)
	for {
		select {
		case <-st.kick:
			st.commit()
		case <-st.stop:
			st.commit()
			return
		}
	}
}

func (st *store) commit() {
	st.pend.mu.Lock()
	b := st.pend.b
	st.pend.b, st.pend.writing = nil, b
	st.pend.mu.Unlock()
	if b == nil {
		return
	}
	b.err = st.write(func(tx *bolt.Tx) error {
		for _, p := range b.puts {
			if err := tx.Bucket(p.bucket).Put(p.key, p.value); err != nil {
				return err
			}
		}
		return nil
	})
	if b.err != nil {
		st.mu.Lock()
		st.giveUpLocked(b.err)
		st.mu.Unlock()
	}
	st.pend.mu.Lock()
	st.pend.writing = nil
	st.pend.mu.Unlock()
	close(b.done)
}

// write is one transaction of the database; none follows one that failed.
func (st *store) write(do func(*bolt.Tx) error) error {
	if st.broken.Load() {
		return errReadOnly
	}
	return st.db.Update(func(tx *bolt.Tx) error {
		if err := do(tx); err != nil {
			return err
		}
		if st.spoilCommit != nil {
			return st.spoilCommit()
		}
		return nil
	})
}

var errReadOnly = errors.New("the drive is read-only since a write to its directory failed")

// giveUpLocked makes the store read-only and takes memory back to what the
// disk has: no answer and no checkpoint may tell what a restart will not know.
func (st *store) giveUpLocked(err error) {
	if st.failed != nil {
		return
	}
	st.failed = fmt.Errorf("%w: %w", errReadOnly, err)
	st.o.Logger.Error("the drive is read-only from now on: its directory cannot be written", "dir", st.blobs.dir, "error", err)
	st.byID, st.children, st.names, st.twins = map[string]*node{}, map[string]map[*node]struct{}{}, map[nameKey]*node{}, map[nameKey]bool{}
	st.local, st.log, st.recent, st.used, st.seq, st.lastNum = map[string]string{}, nil, nil, 0, 0, 0
	if _, err := st.read(); err != nil {
		st.o.Logger.Error("what the drive has cannot be read", "error", err)
	}
	st.broken.Store(true)
}

func (st *store) close() error {
	close(st.stop)
	<-st.done
	return st.db.Close()
}

// edit prepares n for a change: it remembers how it was and takes it out of
// the indexes. mark puts it back.
func (t *tx) edit(n *node) {
	if t.seen[n] {
		return
	}
	t.seen[n] = true
	if t.keepLag > 0 && !n.isRoot {
		t.remember(n.id, n.clone())
	}
	t.detach(n)
}

func (t *tx) remember(id string, before *node) {
	old := 0
	for old < len(t.recent) && t.recent[old].at < t.now-t.keepLag.Milliseconds() {
		old++
	}
	t.recent = append(t.recent[old:], recentChange{t.now, id, before})
}

// mark ends an edit: new version, new date, new place in the feed.
func (t *tx) mark(n *node) {
	n.version++
	n.modified = t.stamp
	t.publish(n)
}

// markQuiet is mark for what the feed does not tell.
func (t *tx) markQuiet(n *node) {
	n.version++
	n.modified = t.stamp
	t.attach(n)
	t.dirty = append(t.dirty, n)
	delete(t.seen, n)
}

func (t *tx) publish(n *node) {
	t.seq++
	n.seq, n.changed = t.seq, t.now
	t.log = append(t.log, logEntry{n.seq, n})
	if len(t.log) > 2*len(t.byID)+1024 {
		t.log = slices.DeleteFunc(t.log, func(e logEntry) bool { return e.n.seq != e.seq })
	}
	t.attach(n)
	t.dirty = append(t.dirty, n)
	delete(t.seen, n)
}

// create makes n a node: number, id, dates, version 1, unless they are set.
func (t *tx) create(n *node) *node {
	t.lastNum++
	n.num = t.lastNum
	if n.id == "" {
		n.id = t.newID()
	}
	if n.status == "" {
		n.status = StatusAvailable
	}
	if n.version == 0 {
		n.version = 1
	}
	if n.created == 0 {
		n.created = t.stamp
	}
	if n.modified == 0 {
		n.modified = t.stamp
	}
	if t.keepLag > 0 {
		t.remember(n.id, nil)
	}
	t.publish(n)
	return n
}

const idAlphabet = "-_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// newID: 22 characters, every sixteenth begins with '-' (§0.3 fact 3, §13.6:
// that breaks command lines and filters, so it must happen in tests).
func (t *tx) newID() string {
	for {
		var b [22]byte
		for i := range b {
			b[i] = idAlphabet[t.rng.IntN(64)]
		}
		if t.lastNum%16 == 3 {
			b[0] = '-'
		}
		if id := string(b[:]); t.byID[id] == nil {
			return id
		}
	}
}

// randomName names a blob or a temporary file.
func randomName() string {
	var b [16]byte
	_, _ = crand.Read(b[:]) // never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// bumpEpoch makes every token of this kind issued so far worthless.
func (st *store) bumpEpoch(kind string) error {
	t, e := st.begin()
	if e != nil {
		return e
	}
	t.epochs[kind]++
	t.puts = append(t.puts, kv{bucketMeta, []byte("epoch " + kind), binary.BigEndian.AppendUint64(nil, t.epochs[kind])})
	return t.end()
}
