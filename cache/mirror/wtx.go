package mirror

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
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

// wtx is one write transaction, or one job's part of it. Records are written at
// once, in the order of the work; what bbolt wants sorted is collected: claims on
// names, ids, and what inodes are.
type wtx struct {
	m  *Mirror
	f  *file
	tx *bolt.Tx
	view

	meta, name, id *bolt.Bucket

	src    source
	own    bool
	now    time.Time
	owner  string
	ids    map[string]Ino // given here
	seen   map[Ino]*touched
	order  []Ino
	slab   []touched
	claims []claimOp
	arena  []byte
	enc    []byte
	nodes  int64 // change of the number of live nodes
	limit  Ino   // numbers below it may be handed out after the commit
	skip   []skipped
	root   *entry // the root's new record, nil = as before
	full   *full  // not nil: this is a part of its merge
	built  entry  // see build

	complete bool   // as Mirror.Complete
	lastID   string // looked up last, and its number
	lastIno  Ino
}

// write runs fn in a write transaction and returns what it changed. The commit
// is durable. Nothing is changed when it returns an error.
func (m *Mirror) write(src source, own bool, fn func(*wtx) error) ([]Change, error) {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	return m.writeLocked(src, own, fn)
}

func (m *Mirror) writeLocked(src source, own bool, fn func(*wtx) error) ([]Change, error) {
	j := &job{src: src, own: own, fn: fn}
	err := m.commitLocked(j)
	return j.changes, err
}

// commitLocked runs jobs one after the other in one transaction. Each sees
// what those before it wrote and has changes of its own, as if it had been a
// transaction. On an error nothing is changed and no job has any.
func (m *Mirror) commitLocked(jobs ...*job) error {
	f := m.cur.Load()
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
			j.w = newWtx(m, f, tx, j.src, j.own)
			j.w.limit = limit
			if err := j.run(); err != nil {
				return err
			}
			limit = j.w.limit
		}
		m.beforeSync()
		return tx.Commit()
	})
	if err != nil {
		for _, j := range jobs {
			j.w, j.changes = nil, nil
		}
		m.noteDamage(f, err)
		return err
	}
	for _, j := range jobs {
		j.w.publish()
		m.say(j.w.skip)
		j.w = nil // its memory was the transaction's
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

func newWtx(m *Mirror, f *file, tx *bolt.Tx, src source, own bool) *wtx {
	w := &wtx{
		m: m, f: f, tx: tx, view: newView(tx), src: src, own: own,
		meta: tx.Bucket(bMeta), name: tx.Bucket(bName), id: tx.Bucket(bID),
		now: time.Now(), owner: m.owner(), ids: map[string]Ino{}, seen: map[Ino]*touched{},
	}
	w.over = map[Ino][]byte{}
	if w.complete = m.Complete(); !w.complete {
		// Mostly appended: numbers grow, and folders come one after another.
		w.inode.FillPercent = 0.95
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
	if w.limit >= next+n {
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

// lookup is the number of a known id.
func (w *wtx) lookup(id string) (Ino, bool) {
	if ino, ok := w.ids[id]; ok {
		return ino, ino != 0
	}
	if id == w.lastID && w.lastIno != 0 { // of the siblings before
		return w.lastIno, true
	}
	ino, ok := number(w.id.Get([]byte(id)))
	if ok {
		w.lastID, w.lastIno = id, ino
	}
	return ino, ok
}

// assign is lookup, and gives a number where there is none.
func (w *wtx) assign(id string) (ino Ino, isNew bool, err error) {
	ino, known := w.lookup(id)
	if known {
		return ino, false, nil
	}
	if ino, err = w.newIno(); err == nil {
		w.bind(id, ino)
	}
	return ino, true, err
}

// bind gives an id a number; 0 takes it away.
func (w *wtx) bind(id string, ino Ino) { w.ids[id], w.lastIno = ino, 0 }

// parent is assign for a node named as a parent only: until somebody tells
// about it, it is a placeholder, and its children wait under its number.
func (w *wtx) parent(id string) (Ino, error) {
	ino, isNew, err := w.assign(id)
	if err == nil && isNew {
		w.set(ino, appendPlaceholder(nil, id))
	}
	return ino, err
}

// set says what an inode is, nil = unknown.
func (w *wtx) set(ino Ino, val []byte) { w.over[ino] = val }

// setLive says that ino is a live one with its record in home.
func (w *wtx) setLive(e *entry) {
	flags, _, _ := liveAt(w.of(e.Ino))
	flags &= flagIsListed
	if e.Folder {
		flags |= flagIsFolder
		if len(e.raw) > 1 {
			flags |= flagIsMulti
		}
	}
	var b [liveLen]byte // w.enc may hold the record
	w.set(e.Ino, w.keep(appendLive(b[:0], flags, e.home())))
}

// setListed notes that all children of a live folder were told.
func (w *wtx) setListed(dir Ino) {
	if flags, home, ok := liveAt(w.of(dir)); ok {
		w.set(dir, appendLive(nil, flags|flagIsListed, home))
	}
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
	t.before = e.clone()
	t.dentries = w.dentries(e)
	return t
}

// touchMulti remembers the folders of several parents, which are few if any:
// another folder's move may put one of their places inside themselves, where
// it is not shown, or free it.
func (w *wtx) touchMulti() error {
	for _, ino := range multiOf(w.meta) {
		var e entry
		if live, err := w.view.entry(ino, &e); err != nil {
			return err
		} else if live {
			w.touchLive(&e)
		}
	}
	return nil
}

// multiOf is the list of those folders.
func multiOf(meta *bolt.Bucket) (list []Ino) {
	r := reader{b: meta.Get([]byte(keyMulti))}
	for r.pos < len(r.b) && !r.bad {
		list = append(list, r.uvarint())
	}
	return list
}

// noteMulti keeps that list right.
func (w *wtx) noteMulti(e *entry, live bool) error {
	list := multiOf(w.meta)
	i := slices.Index(list, e.Ino)
	switch want := live && e.Folder && len(e.raw) > 1; {
	case want == (i >= 0):
		return nil
	case want:
		list = append(list, e.Ino)
	default:
		list = slices.Delete(list, i, i+1)
	}
	var b []byte
	for _, ino := range list {
		b = binary.AppendUvarint(b, ino)
	}
	return w.meta.Put([]byte(keyMulti), b)
}

// changes compares what the touched nodes were with what they are.
func (w *wtx) changes() ([]Change, error) {
	list := make([]Change, 0, len(w.order))
	var e entry
	for _, ino := range w.order {
		t := w.seen[ino]
		now := t.made
		if now == nil {
			live, err := w.view.entry(ino, &e)
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

// flush writes what was collected, in the order of the keys.
func (w *wtx) flush() error {
	for _, ino := range slices.Sorted(maps.Keys(w.over)) {
		val := w.over[ino]
		if val == nil {
			if err := w.inode.Delete(be(ino)); err != nil {
				return err
			}
			continue
		}
		var kb [8]byte
		if err := w.inode.Put(binary.BigEndian.AppendUint64(kb[:0], ino), val); err != nil {
			return err
		}
	}
	for _, x := range w.sortedIDs() {
		var err error
		if x.ino == 0 {
			err = w.id.Delete([]byte(x.id))
		} else {
			err = w.id.Put([]byte(x.id), w.keep(binary.AppendUvarint(w.enc[:0], x.ino)))
		}
		if err != nil {
			return err
		}
	}
	if w.nodes != 0 {
		n := int64(getNumber(w.meta, keyNodes)) + w.nodes
		return w.meta.Put([]byte(keyNodes), be(uint64(n)))
	}
	return nil
}

type idNumber struct {
	start uint64 // of the id: most comparisons need no more
	id    string
	ino   Ino
}

func (w *wtx) sortedIDs() []idNumber {
	list := make([]idNumber, 0, len(w.ids))
	for id, ino := range w.ids {
		list = append(list, idNumber{keyStart([]byte(id)), id, ino})
	}
	slices.SortFunc(list, func(a, b idNumber) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.id, b.id)) })
	return list
}

// publish makes what was committed known to readers of memory.
func (w *wtx) publish() {
	a := &w.m.inos
	a.mu.Lock()
	a.limit = max(a.limit, w.limit)
	a.mu.Unlock()
	if w.root != nil {
		w.m.root = w.root
	}
	s := &w.m.state
	s.mu.Lock()
	s.nodes += w.nodes
	s.mu.Unlock()
}
