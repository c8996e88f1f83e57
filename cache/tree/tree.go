package tree

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// Options configures New. Mirror and Journal are required.
type Options struct {
	Mirror      *mirror.Mirror
	Journal     *journal.Journal
	NamesExact  bool                 // lookups take the exact spelling only
	UploadDelay func() time.Duration // how long a closed file settles; nil = not at all
	Hostname    string               // in names of conflict copies
	Owner       func() string        // owner name of our own properties, "" while unknown
	CommitAfter time.Duration        // when what is written to a file that stays open is put into the journal: see CommitOpen; 0 = 30 s
	// Conflict hears of a file that was given a conflict name because news from
	// the drive took its own; nil = nobody does. Called with no lock held.
	Conflict func(ino uint64, name string)
	// Drafted hears of a file that was written to and lacks the rest of its base;
	// nil = nobody does. It must not block.
	Drafted func(ino uint64)
	// Rescued hears of a local change that got another folder because its own went
	// from the drive; nil = nobody does.
	Rescued func(ino uint64)
	Logger  *slog.Logger // nil = discard
}

// Tree is what is shown: see the package comment. All methods are safe for
// concurrent use.
type Tree struct {
	o       Options
	log     *slog.Logger
	mirror  *mirror.Mirror
	journal *journal.Journal

	// DirTimes are the modification times of folders that were changed here.
	DirTimes DirTimes

	// mu is the namespace lock. Nothing is written, synced, sent or waited for
	// while it is held.
	mu sync.RWMutex
	// Guarded by mu:
	gens map[uint64]uint64 // inode → the Gen it is shown with, while it has an entry
	// lastPlace is where the folders above entries are or last were, for when
	// the drive loses them.
	lastPlace map[uint64]Dentry
	// staleTags are the inodes whose properties we set since the drive last
	// told their eTagResponse, and the version told then: setting a property
	// changes the tag and does not tell the new one (API §11), and a call with
	// the old one would be refused and cost two more.
	staleTags map[uint64]int64
	moved     map[uint64]movedFrom // file → the place it left with its last rename
	worked    workedTable
	echoes    echoes
	undone    []Effect // what a rollback takes back

	files files // its lock is a leaf

	sink atomic.Pointer[func([]Effect)]
}

// New makes the tree over a mirror and a journal, which must agree: see
// Reconcile.
func New(o Options) *Tree {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Tree{
		o: o, log: o.Logger, mirror: o.Mirror, journal: o.Journal,
		gens:      map[uint64]uint64{},
		lastPlace: map[uint64]Dentry{},
		staleTags: map[uint64]int64{},
		moved:     map[uint64]movedFrom{},
	}
	if t.o.UploadDelay == nil {
		t.o.UploadDelay = func() time.Duration { return 0 }
	}
	if t.o.CommitAfter == 0 {
		t.o.CommitAfter = 30 * time.Second
	}
	t.files.init()
	t.journal.SetRollback(t.rollback)
	return t
}

// OnEffects sets who tells the kernel. fn is called with no lock held, from
// the goroutine that made the change; it must not block.
func (t *Tree) OnEffects(fn func([]Effect)) { t.sink.Store(&fn) }

// Emit hands effects to who tells the kernel. Change does it by itself; this is
// for those that no change of the tree causes.
func (t *Tree) Emit(es []Effect) {
	if len(es) == 0 {
		return
	}
	if fn := t.sink.Load(); fn != nil {
		(*fn)(es)
	}
}

// Read calls fn with the tree as it is at one moment. fn must not wait for
// anything, nor call Change.
func (t *Tree) Read(fn func(View)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	fn(View{t: t})
}

// Change is the only way to change what is shown. fn sees the tree at one
// moment and says what is to change by the methods of Tx; all of it takes
// place at once, and only if fn returns nil. Change returns when kill -9
// cannot undo it, and has then told the effects.
//
// Errors: fn's own; those of the journal's log (a full disk), and then the
// change, and every later one that the log had not taken either, is undone;
// ErrPanic when fn panicked. In each case nothing is changed. fn must not wait
// for anything, nor call Read or Change.
func (t *Tree) Change(fn func(*Tx) error) error {
	c, err := t.commit(fn)
	if err != nil {
		return err
	}
	if c.seq != 0 {
		if err := t.journal.Written(c.seq); err != nil {
			return err
		}
	}
	t.Emit(c.effects)
	for _, fn := range c.done {
		fn()
	}
	return nil
}

// committed is a change that the tree shows.
type committed struct {
	seq     uint64 // of the log; 0 = nothing to write
	effects []Effect
	done    []func()
}

func (t *Tree) commit(fn func(*Tx) error) (c committed, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			t.log.Error("a change of the tree failed", "panic", p, "stack", string(debug.Stack()))
			c, err = committed{}, fmt.Errorf("%w: %v", ErrPanic, p)
		}
	}()
	tx := &Tx{puts: map[uint64]*journal.Entry{}, learned: map[uint64]bool{}, gens: map[uint64]uint64{}}
	tx.View = View{t: t, tx: tx}
	if err := fn(tx); err != nil {
		return committed{}, err
	}
	return tx.commit()
}

// rollback takes back what the log could not take, for the journal.
func (t *Tree) rollback(undo func()) { t.Emit(t.undo(undo)) }

// undo gives the effects of what fn takes back by takeBack.
func (t *Tree) undo(fn func()) []Effect {
	t.mu.Lock()
	defer t.mu.Unlock()
	fn()
	es := t.undone
	t.undone = nil
	return es
}

// Tx collects one change. Its View shows what was there before with the
// entries that were put so far, except in listings.
type Tx struct {
	View
	order   []uint64
	puts    map[uint64]*journal.Entry // nil = the entry goes
	learned map[uint64]bool           // only the write-back's half changed
	gens    map[uint64]uint64         // to be shown with from now on

	// fromKernel: the kernel makes the call itself and knows what it changes.
	fromKernel bool
	effects    []Effect
	after      []func() []Effect // once it is shown, under the lock
	done       []func()          // once it has taken place, with no lock held
}

// FromKernel says that the change is a system call's: only the effects that
// are told by Effect go out.
func (tx *Tx) FromKernel() { tx.fromKernel = true }

// Effect adds something that the kernel must forget.
func (tx *Tx) Effect(es ...Effect) { tx.effects = append(tx.effects, es...) }

// Edit is the entry of ino to be changed and Put: a copy of the open one, or a
// new one that wants what there is. ErrNotExist when there is nothing.
func (tx *Tx) Edit(ino uint64) (*journal.Entry, error) {
	if e, ok := tx.puts[ino]; ok && e != nil {
		return e, nil
	}
	if e, ok := tx.Entry(ino); ok {
		return e.Clone(), nil
	}
	r, ok, err := tx.t.mirror.Get(ino)
	if err != nil {
		return nil, err
	}
	if !ok || tx.elsewhere(&r) {
		return nil, ErrNotExist
	}
	return tx.entryOf(&r)
}

// entryOf is an entry that wants a node to be as it is.
func (tx *Tx) entryOf(r *mirror.Record) (*journal.Entry, error) {
	b, err := tx.BaseOf(r)
	if err != nil {
		return nil, err
	}
	if f := tx.t.files.pinned(r.Ino); f != nil && !r.Folder {
		b.Content, b.MD5, b.Size = f.base.Content, f.base.MD5, f.base.Size
	}
	n := fromRecord(r)
	e := &journal.Entry{Ino: r.Ino, Folder: r.Folder}
	e.NodeID, e.Base = r.ID, b
	e.Place = journal.Place{Parents: slices.Clone(r.Parents), Name: r.Name, Shown: r.Shown}
	e.Mode, e.Mtime, e.Created, e.Since = n.Mode, n.Mtime, n.Created, time.Now()
	return e, nil
}

// Put makes e the entry of its inode: a new revision, which the write-back
// looks at. e may still be changed until the change ends.
func (tx *Tx) Put(es ...*journal.Entry) {
	for _, e := range es {
		tx.set(e.Ino, e, false)
	}
}

// Learn is Put of what the write-back found out: the revision stays.
func (tx *Tx) Learn(e *journal.Entry) { tx.set(e.Ino, e, true) }

// Drop ends the entry of ino.
func (tx *Tx) Drop(ino uint64) { tx.set(ino, nil, true) }

func (tx *Tx) set(ino uint64, e *journal.Entry, learned bool) {
	if _, again := tx.puts[ino]; !again {
		tx.order = append(tx.order, ino)
		tx.learned[ino] = learned
	}
	tx.learned[ino] = tx.learned[ino] && learned
	tx.puts[ino] = e
}

// shown is what an inode shows.
type shown struct {
	n  Inode
	ok bool
}

// tables is what commit changes beside the journal for one inode, and how it
// was.
type tables struct {
	ino      uint64
	old, new *journal.Entry
	gen      uint64 // to be shown with
	hadGen   bool
	wasGen   uint64
	before   shown
	after    shown
	place    *journal.Place // of the pinned file, before
	base     *journal.Base
}

// commit: journal, then tables, then effects. Nothing may fail behind Append.
func (tx *Tx) commit() (committed, error) {
	t := tx.t
	c := committed{done: tx.done}
	if len(tx.order) == 0 {
		c.effects = tx.finish(nil)
		return c, nil
	}
	plain := View{t: t}
	ts := make([]tables, len(tx.order))
	cs := make([]journal.Change, len(tx.order))
	for i, ino := range tx.order {
		e := tx.puts[ino]
		x := &ts[i]
		x.ino, x.new = ino, e
		x.old, _ = t.journal.Get(ino)
		var err error
		if !tx.fromKernel {
			if x.before.n, x.before.ok, err = plain.Inode(ino); err != nil {
				return c, err
			}
		}
		if e != nil {
			if e.Folders, err = tx.folders(e); err != nil {
				return c, err
			}
			if err := tx.rememberPath(e); err != nil {
				return c, err
			}
			if err := tx.chooseGen(x); err != nil {
				return c, err
			}
		}
		cs[i] = journal.Change{Ino: ino, Entry: e, Progress: tx.learned[ino]}
	}
	seq, err := t.journal.Append(cs, func(error) { t.takeBack(ts) })
	if err != nil {
		return c, err
	}
	for i := range ts {
		tx.appear(&ts[i])
	}
	c.seq, c.effects = seq, tx.finish(ts)
	return c, nil
}

// chooseGen keeps the Gen that an inode is shown with for as long as it has an
// entry.
func (tx *Tx) chooseGen(x *tables) error {
	t := tx.t
	x.wasGen, x.hadGen = t.gens[x.ino]
	x.gen = x.wasGen
	if gen, set := tx.gens[x.ino]; set {
		x.gen = gen
		return nil
	}
	if x.hadGen || x.old == nil && x.new.NodeID == "" {
		return nil
	}
	rec, ok, err := t.mirror.Get(x.ino)
	if err != nil {
		return err
	}
	if ok {
		x.gen = rec.Gen
		if f := t.files.pinned(x.ino); f != nil {
			x.gen = f.Gen
		}
	}
	return nil
}

// appear brings the tables in step with an entry that the journal took.
func (tx *Tx) appear(x *tables) {
	t := tx.t
	f := t.files.pinned(x.ino)
	if x.new == nil {
		x.wasGen, x.hadGen = t.gens[x.ino]
		delete(t.gens, x.ino)
		t.echoes.forget(x.ino)
		return
	}
	t.gens[x.ino] = x.gen
	was := t.echoes.of[x.ino]
	t.echoes.note(x.new)
	tx.effects = append(tx.effects, tx.unechoed(x.ino, was)...)
	if f != nil {
		x.place, x.base = f.place.Load(), &f.base
		if !x.new.Removed {
			p := x.new.Place
			f.place.Store(&p)
		}
		if base := f.base; tx.learned[x.ino] && x.new.Draft != nil && x.new.Base != nil {
			// What the drive has of our bytes is what the next ones begin from.
			x.base = &base
			f.base = *x.new.Base
		}
	}
	t.followUpload(x.old, x.new)
	if gone := x.new.Removed; gone != (x.old != nil && x.old.Removed) {
		t.files.setGone(x.ino, t.gens[x.ino], gone)
	}
}

// finish computes the effects of what is shown now.
func (tx *Tx) finish(ts []tables) []Effect {
	plain := View{t: tx.t}
	for _, fn := range tx.after {
		tx.effects = append(tx.effects, fn()...)
	}
	for i := range ts {
		x := &ts[i]
		if tx.fromKernel {
			continue
		}
		var err error
		if x.after.n, x.after.ok, err = plain.Inode(x.ino); err != nil {
			tx.t.log.Warn("reading back a change", "inode", x.ino, "err", err)
			continue
		}
		tx.effects = append(tx.effects, diff(&x.before, &x.after)...)
	}
	return tx.effects
}

// takeBack returns the tables to what they were before a change that the log
// did not take, and has the kernel forget what was seen of it meanwhile. The
// journal has forgotten it already. mu is held.
func (t *Tree) takeBack(ts []tables) {
	for i := len(ts) - 1; i >= 0; i-- {
		x := &ts[i]
		if x.new != nil && !x.new.Removed {
			t.undone = append(t.undone, Effect{Ino: x.ino, Folder: x.new.Folder, Old: placeDentries(&x.new.Place), Content: true, Attr: true})
		}
		if x.hadGen {
			t.gens[x.ino] = x.wasGen
		} else {
			delete(t.gens, x.ino)
		}
		t.echoes.forget(x.ino)
		if x.old != nil {
			t.echoes.note(x.old)
			if !x.old.Removed {
				t.undone = append(t.undone, Effect{Ino: x.ino, Folder: x.old.Folder, New: placeDentries(&x.old.Place), Attr: true})
			}
		} else if r, ok, err := t.mirror.Get(x.ino); err == nil && ok {
			n := fromRecord(&r)
			t.undone = append(t.undone, Effect{Ino: x.ino, Folder: n.Folder, New: n.Dentries(), Attr: true})
		}
		if f := t.files.pinned(x.ino); f != nil && x.place != nil {
			f.place.Store(x.place)
			if x.base != &f.base {
				f.base = *x.base
			}
		}
		if x.new != nil {
			if gone := x.old != nil && x.old.Removed; gone != x.new.Removed {
				t.files.setGone(x.ino, x.wasGen, gone)
			}
		}
	}
}

func placeDentries(p *journal.Place) []Dentry {
	var ds []Dentry
	for _, dir := range p.Parents {
		ds = append(ds, Dentry{dir, p.Shown})
	}
	return ds
}

// diff is what the kernel must forget when what one inode shows went from a to
// b without a call of its own.
func diff(a, b *shown) []Effect {
	var old, now []Dentry
	if a.ok {
		old = a.n.Dentries()
	}
	if b.ok {
		now = b.n.Dentries()
	}
	if !a.ok && !b.ok {
		return nil
	}
	e := Effect{Old: old, New: now}
	switch {
	case b.ok:
		e.Ino, e.Folder = b.n.Ino, b.n.Folder
	default:
		e.Ino, e.Folder = a.n.Ino, a.n.Folder
	}
	if a.ok && b.ok {
		e.Content = a.n.Gen != b.n.Gen
		e.Attr = a.n.Size != b.n.Size || !a.n.Mtime.Equal(b.n.Mtime) || a.n.Mode != b.n.Mode
		if slices.Equal(old, now) && !e.Content && !e.Attr {
			return nil
		}
	}
	return []Effect{e}
}

// rememberPath notes where the folders above an entry are: should the drive
// lose them, they are made again under these names.
func (tx *Tx) rememberPath(e *journal.Entry) error {
	if e.Removed {
		return nil
	}
	last := tx.t.lastPlace
	if len(last) >= maxRecent {
		clear(last)
	}
	if e.Folder && len(e.Place.Parents) > 0 {
		last[e.Ino] = Dentry{e.Place.Parents[0], e.Place.Shown}
	}
	for _, dir := range e.Place.Parents {
		for range 4096 {
			if _, known := last[dir]; known {
				break
			}
			n, ok, err := tx.Inode(dir)
			if err != nil {
				return err
			}
			if !ok || len(n.Parents) == 0 {
				break
			}
			last[dir] = Dentry{n.Parents[0], n.Shown}
			dir = n.Parents[0]
		}
	}
	return nil
}

// maxRecent bounds each table of things that are remembered for convenience:
// forgetting a folder's last place costs it its name, and only if the drive
// loses it while entries below it are open; forgetting a stale tag costs two
// calls.
const maxRecent = 1 << 16
