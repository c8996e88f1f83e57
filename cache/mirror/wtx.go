package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Dentry is one place in which a node is shown.
type Dentry struct {
	Dir  Ino
	Name string
}

// Change is what one write did to one node, for a viewer of the mirror.
type Change struct {
	Ino    Ino
	Folder bool
	// Old and New are where it was shown before and is shown now; never both
	// empty. Places in folders that are not live are left out. What hides or
	// appears together with a folder above it has no Change of its own.
	Old, New []Dentry
	Content  bool // somebody else changed the bytes; Gen has grown
	Attr     bool // any field of the Record but its place and Seen changed
	Own      bool // told by the answer to a write of ours
}

// touched is what a node was before the transaction.
type touched struct {
	before   *entry // nil = it was not live
	dentries []Dentry
	made     *entry // what it is now, when that is known without reading
}

// wtx is one write transaction, or one job's part of it. Records are written at once, in the order of
// the work; claims on names are collected and settled at the end, sorted.
type wtx struct {
	m    *Mirror
	f    *file
	tx   *bolt.Tx
	from *liveView // side file of a rebuild: where identities come from; else nil

	meta, name, id, tomb, ghost, listed, multi *bolt.Bucket
	node, home                                 bucket

	src    source
	own    bool
	now    time.Time
	owner  string
	bulk   bool
	fresh  map[string]Ino // ids that got their number here, in a first load
	forget []string       // ids to drop from file.ids after the commit
	seen   map[Ino]*touched
	order  []Ino
	slab   []touched
	claims []claimOp
	dirs   map[Ino]bool
	arena  []byte
	enc    []byte
	nodes  int64 // change of the number of live nodes
	wrote  int
	limit  Ino  // numbers below it may be handed out after the commit
	root   bool // the root's record changed
	skip   []skipped
}

// write runs fn in a write transaction of the live file and returns what it
// changed. Nothing is changed when it returns an error.
func (m *Mirror) write(src source, own bool, fn func(*wtx) error) ([]Change, error) {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	return m.writeLocked(src, own, fn)
}

func (m *Mirror) writeLocked(src source, own bool, fn func(*wtx) error) ([]Change, error) {
	return m.writeFileLocked(m.cur.Load(), nil, src, own, fn)
}

func (m *Mirror) writeFileLocked(f *file, from *liveView, src source, own bool, fn func(*wtx) error) ([]Change, error) {
	j := &job{src: src, own: own, fn: fn}
	err := m.commitLocked(f, from, j)
	return j.changes, err
}

// commitLocked runs jobs one after the other in one transaction. Each sees
// what those before it wrote and has changes of its own, as if it had been a
// transaction. On an error nothing is changed and no job has any.
func (m *Mirror) commitLocked(f *file, from *liveView, jobs ...*job) error {
	if f.bulk || f.lazy {
		if err := f.mark(); err != nil {
			return fmt.Errorf("marking the mirror as unsynced: %w", err)
		}
	}
	f.setSync()
	err := guard(func() (err error) {
		tx, err := f.bolt.Begin(true)
		if err != nil {
			return err
		}
		defer func() {
			// Does nothing after a commit; after an error or a panic it must run.
			if e := tx.Rollback(); e != nil && !errors.Is(e, berrors.ErrTxClosed) {
				err = errors.Join(err, e)
			}
		}()
		limit := Ino(0)
		for _, j := range jobs {
			j.w = newWtx(m, f, tx, from, j.src, j.own)
			j.w.limit = limit
			if err := j.run(); err != nil {
				return err
			}
			limit = j.w.limit
		}
		if !f.bolt.NoSync {
			m.beforeSync()
		}
		return tx.Commit()
	})
	if err != nil {
		for _, j := range jobs {
			j.w, j.changes = nil, nil
		}
		if errors.Is(err, ErrDamaged) {
			f.condemn(err)
		}
		return err
	}
	wrote := 0
	for _, j := range jobs {
		j.w.publish()
		m.say(j.w.skip)
		wrote += j.w.wrote
		j.w = nil // its memory was the transaction's
	}
	if err := m.afterCommitLocked(f, wrote); err != nil {
		// What was committed stays, and its changes must be told.
		m.log.Warn("mirror", "err", err)
	}
	return nil
}

// run does the work of j up to the commit.
func (j *job) run() (err error) {
	w := j.w
	if err := w.reserve(inoBlock / 4); err != nil {
		return err
	}
	if err := w.touchMulti(); err != nil {
		return err
	}
	if err := j.fn(w); err != nil {
		return err
	}
	if err := w.settle(); err != nil {
		return err
	}
	if j.changes, err = w.changes(); err != nil {
		return err
	}
	return w.flush()
}

// afterCommitLocked keeps what is not synced, and ids in memory, bounded.
func (m *Mirror) afterCommitLocked(f *file, wrote int) error {
	if !f.bulk && !f.lazy {
		f.loaded = 0
		return f.unmark()
	}
	f.loaded += wrote
	if f.loaded > syncEvery {
		m.beforeSync()
		if err := f.sync(); err != nil {
			return fmt.Errorf("syncing: %w", err)
		}
	}
	if f.bulk && f.ids.Load().len() > idsMax {
		if err := m.indexIDs(f, locked, nil); err != nil {
			return fmt.Errorf("indexing ids: %w", err)
		}
	}
	return nil
}

func newWtx(m *Mirror, f *file, tx *bolt.Tx, from *liveView, src source, own bool) *wtx {
	w := &wtx{
		m: m, f: f, tx: tx, from: from, src: src, own: own,
		meta: tx.Bucket(bMeta), node: rarely(tx.Bucket(bNode)), name: tx.Bucket(bName), home: rarely(tx.Bucket(bHome)),
		id: tx.Bucket(bID), tomb: tx.Bucket(bTomb), ghost: tx.Bucket(bGhost), listed: tx.Bucket(bListed), multi: tx.Bucket(bMulti),
		now: time.Now(), owner: m.owner(), bulk: f.bulk,
		seen: map[Ino]*touched{}, dirs: map[Ino]bool{},
	}
	if w.bulk {
		w.fresh = map[string]Ino{}
		// Mostly appended: numbers grow, and folders come one after another.
		w.home.FillPercent = 0.95
		w.node.FillPercent = 0.9
		w.name.FillPercent = 0.7
	}
	return w
}

// reserve makes sure that at least n numbers can be handed out.
func (w *wtx) reserve(n Ino) error {
	a := &w.m.inos
	a.mu.Lock()
	w.limit = max(w.limit, a.limit)
	next := a.next
	a.mu.Unlock()
	if w.limit >= next+n || w.from != nil {
		// A side file's numbers are reserved when it takes its place.
		return nil
	}
	limit := next + n + inoBlock
	if w.m.o.Reserve != nil {
		if err := w.m.o.Reserve(limit); err != nil {
			return fmt.Errorf("reserving inode numbers: %w", err)
		}
	}
	w.limit = limit
	return w.meta.Put([]byte(keyInoLimit), be(limit))
}

func (w *wtx) newIno() (Ino, error) {
	a := &w.m.inos
	a.mu.Lock()
	ino := a.next
	a.next++
	a.mu.Unlock()
	if ino >= w.limit {
		return ino, w.reserve(1)
	}
	return ino, nil
}

// keep copies b to where it stays until the transaction ends, as bbolt wants
// of values.
func (w *wtx) keep(b []byte) []byte {
	if len(w.arena)+len(b) > cap(w.arena) {
		w.arena = make([]byte, 0, max(64<<10, len(b)))
	}
	n := len(w.arena)
	w.arena = append(w.arena, b...)
	return w.arena[n:len(w.arena):len(w.arena)]
}

// --- identity ---

// lookup is the number of an id already known to this file or, in a rebuild,
// to the live one.
func (w *wtx) lookup(id string) (ino Ino, here, ok bool) {
	if ino, ok := w.fresh[id]; ok {
		return ino, true, true
	}
	if ids := w.f.ids.Load(); ids != nil {
		if ino, ok := ids.get(id); ok {
			return ino, true, true
		}
	}
	if v := w.id.Get([]byte(id)); v != nil {
		ino, ok := number(v)
		return ino, ok, ok
	}
	if w.from != nil {
		if ino, ok := w.from.ino(id); ok {
			return ino, false, true
		}
	}
	return 0, false, false
}

// assign is lookup, and gives a number where there is none. isNew: this file
// knows nothing about the node yet.
func (w *wtx) assign(id string) (ino Ino, isNew bool, err error) {
	ino, here, ok := w.lookup(id)
	if here {
		return ino, false, nil
	}
	if !ok {
		if ino, err = w.newIno(); err != nil {
			return 0, false, err
		}
	}
	return ino, true, w.bind(id, ino)
}

// bind writes the index entry id → ino.
func (w *wtx) bind(id string, ino Ino) error {
	if w.bulk {
		w.fresh[id] = ino
		return nil
	}
	return w.id.Put([]byte(id), w.keep(binary.AppendUvarint(nil, ino)))
}

// parent is assign for a node named as a parent only: until somebody tells
// about it, it is a ghost, and its children wait under its number.
func (w *wtx) parent(id string) (Ino, error) {
	ino, isNew, err := w.assign(id)
	if err == nil && isNew {
		err = w.ghost.Put(be(ino), []byte(id))
	}
	return ino, err
}

// --- reading inside the transaction ---

// load reads what the file holds about ino: live, hidden, or nothing.
func (w *wtx) load(ino Ino, e *entry) (live, hidden bool, err error) {
	var kb [16]byte
	k := binary.BigEndian.AppendUint64(kb[:0], ino)
	if v := w.home.Get(k); v != nil {
		parent := binary.BigEndian.Uint64(v)
		rec := w.node.Get(key2(kb[:0], parent, ino))
		if rec == nil {
			return false, false, fmt.Errorf("inode %d has no record: %w", ino, ErrDamaged)
		}
		return true, false, decodeRecord(rec, parent, ino, w.f.table.strs, e)
	}
	if v := w.tomb.Get(k); v != nil {
		_, err := decodeTomb(v, ino, w.f.table.strs, e)
		return false, true, err
	}
	return false, false, nil
}

// isDir reports whether ino is a live folder.
func (w *wtx) isDir(ino Ino) bool {
	is, ok := w.dirs[ino]
	if !ok {
		is = isDir(w.home, w.node, ino)
		w.dirs[ino] = is
	}
	return is
}

func isDir(home, node bucket, ino Ino) bool {
	var kb [16]byte
	v := home.Get(binary.BigEndian.AppendUint64(kb[:0], ino))
	if v == nil {
		return false
	}
	return isFolderValue(node.Get(key2(kb[:0], binary.BigEndian.Uint64(v), ino)))
}

// levelIn is the level of e's name in dir, one of its parents.
func levelIn(node bucket, e *entry, dir Ino) uint8 {
	if dir == e.home() {
		return e.level
	}
	var kb [16]byte
	level, _, _ := decodeLink(node.Get(key2(kb[:0], dir, e.Ino)))
	return level
}

// dentries are the places in which a live entry is shown.
func (w *wtx) dentries(e *entry) []Dentry {
	if len(e.raw) == 1 { // nearly always
		if !w.isDir(e.raw[0]) {
			return nil
		}
		return []Dentry{{e.raw[0], shownAt(e.Name, e.ID, e.level)}}
	}
	var list []Dentry
	for _, dir := range e.raw {
		if !w.isDir(dir) || e.Folder && isBelow(w.home, w.node, dir, e.Ino) {
			continue
		}
		list = append(list, Dentry{dir, shownAt(e.Name, e.ID, levelIn(w.node, e, dir))})
	}
	return list
}

// --- what changed ---

func (w *wtx) touch(ino Ino) *touched {
	if t, ok := w.seen[ino]; ok {
		return t
	}
	if len(w.slab) == cap(w.slab) {
		w.slab = make([]touched, 0, 64)
	}
	w.slab = append(w.slab, touched{})
	t := &w.slab[len(w.slab)-1]
	w.seen[ino] = t
	w.order = append(w.order, ino)
	return t
}

// touchLive remembers what a live node was, before it is changed.
func (w *wtx) touchLive(e *entry) *touched {
	if t, ok := w.seen[e.Ino]; ok {
		t.made = nil
		return t
	}
	t := w.touch(e.Ino)
	before := *e
	before.raw = slices.Clone(e.raw)
	t.before = &before
	t.dentries = w.dentries(e)
	return t
}

// touchMulti remembers the folders of several parents, which are few if any:
// another folder's move may put one of their places inside themselves, where
// it is not shown, or free it.
func (w *wtx) touchMulti() error {
	if w.from != nil {
		return nil // its changes come from comparing the files
	}
	c := w.multi.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		var e entry
		if live, _, err := w.load(binary.BigEndian.Uint64(k), &e); err != nil {
			return err
		} else if live {
			w.touchLive(&e)
		}
	}
	return nil
}

// noteMulti keeps the list of those folders right.
func (w *wtx) noteMulti(e *entry, live bool) error {
	if live && e.Folder && len(e.raw) > 1 {
		return w.multi.Put(be(e.Ino), []byte{1})
	}
	return w.multi.Delete(be(e.Ino))
}

// changes compares what the touched nodes were with what they are.
func (w *wtx) changes() ([]Change, error) {
	list := make([]Change, 0, len(w.order))
	var e entry
	for _, ino := range w.order {
		t := w.seen[ino]
		now := t.made
		if now == nil {
			live, _, err := w.load(ino, &e)
			if err != nil {
				return nil, err
			}
			if live {
				now = &e
			}
		}
		c := Change{Ino: ino, Old: t.dentries, Own: w.own}
		if t.before != nil {
			c.Folder = t.before.Folder
		}
		if now != nil {
			c.New = w.dentries(now)
			c.Folder = now.Folder
			if t.before != nil {
				c.Content = now.Gen != t.before.Gen
				c.Attr = attrDiffers(&t.before.Record, &now.Record) || len(c.Old) != len(c.New)
			}
		}
		if len(c.Old) == 0 && len(c.New) == 0 {
			continue
		}
		if c.Content || c.Attr || !sameDentries(c.Old, c.New) {
			list = append(list, c)
		}
	}
	return list, nil
}

func sameDentries(a, b []Dentry) bool {
	if len(a) != len(b) {
		return false
	}
	for _, d := range a {
		if !slices.Contains(b, d) {
			return false
		}
	}
	return true
}

func attrDiffers(a, b *Record) bool {
	if a.ID != b.ID || a.Folder != b.Folder || a.Version != b.Version || a.ETag != b.ETag ||
		!a.Created.Equal(b.Created) || !a.Modified.Equal(b.Modified) || a.CreatedBy != b.CreatedBy ||
		a.Content != b.Content || a.Size != b.Size || a.MD5 != b.MD5 || a.ContentType != b.ContentType ||
		a.PropsVersion != b.PropsVersion || (a.Props == nil) != (b.Props == nil) || len(a.Props) != len(b.Props) {
		return true
	}
	for k, v := range a.Props {
		if o, ok := b.Props[k]; !ok || o != v {
			return true
		}
	}
	return false
}

// --- the end of the transaction ---

// flush writes what was collected beside the nodes.
func (w *wtx) flush() error {
	t := &w.f.table
	if t.saved < len(t.strs) {
		b := w.tx.Bucket(bTable)
		for i := t.saved; i < len(t.strs); i++ {
			if err := b.Put(be(uint64(i)), []byte(t.strs[i])); err != nil {
				return err
			}
		}
	}
	if w.nodes != 0 {
		n := int64(getNumber(w.meta, keyNodes)) + w.nodes
		return w.meta.Put([]byte(keyNodes), be(uint64(n)))
	}
	return nil
}

// publish makes what was committed known to readers of memory.
func (w *wtx) publish() {
	w.f.table.saved = len(w.f.table.strs)
	if ids := w.f.ids.Load(); ids != nil {
		ids.mu.Lock()
		for id, ino := range w.fresh {
			if len(id) == 22 {
				ids.usual[[22]byte([]byte(id))] = ino
			} else {
				ids.other[id] = ino
			}
		}
		ids.mu.Unlock()
		for _, id := range w.forget {
			ids.remove(id)
		}
	}
	if w.from != nil {
		return
	}
	a := &w.m.inos
	a.mu.Lock()
	a.limit = max(a.limit, w.limit)
	a.mu.Unlock()
	s := &w.m.state
	s.mu.Lock()
	s.nodes += w.nodes
	s.mu.Unlock()
}
