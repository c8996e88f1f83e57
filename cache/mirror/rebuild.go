package mirror

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/drivefs/drivefs/drive"
)

// Rebuild is a second file beside the live one that a full feed fills. Nodes
// get the inode numbers they have, and keep Gen and properties. The live file
// is read and written meanwhile as ever. One goroutine uses a Rebuild.
type Rebuild struct {
	m     *Mirror
	f     *file
	begun time.Time
	done  bool
}

func sidePath(path string) string { return path + ".rebuild" }

// ErrRebuilding: there is a rebuild already.
var ErrRebuilding = errors.New("the mirror is being rebuilt already")

// errDone: the rebuild was committed or aborted.
var errDone = errors.New("the rebuild has ended")

// BeginRebuild starts to build the mirror anew, as reset:true asks for.
func (m *Mirror) BeginRebuild() (*Rebuild, error) {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	if m.rebuild != nil {
		return nil, ErrRebuilding
	}
	live := m.cur.Load()
	side := sidePath(m.o.Path)
	if err := removeFiles(side); err != nil {
		return nil, err
	}
	f, err := openFile(side, m.log, m.o.NoSync)
	if err != nil {
		return nil, err
	}
	// The same codes for the same strings, so that unchanged records are equal
	// byte for byte.
	for _, s := range live.table.strs {
		f.table.append(nil, s)
	}
	r := &Rebuild{m: m, f: f, begun: time.Now()}
	m.rebuild = r
	return r, nil
}

// liveView is what a rebuild sees of the live file during one batch.
type liveView struct {
	view
	ids  *idTable
	live *file
	tomb *bolt.Bucket
}

func (l *liveView) ino(id string) (Ino, bool) {
	if l.ids != nil {
		if ino, ok := l.ids.get(id); ok {
			return ino, true
		}
	}
	if v := l.tx.Bucket(bID).Get([]byte(id)); v != nil {
		return number(v)
	}
	return 0, false
}

// entry reads what the live file knows of ino, hidden or not.
func (l *liveView) entry(ino Ino, e *entry) (bool, error) {
	ok, err := l.view.entry(ino, e)
	if ok || err != nil {
		return ok, err
	}
	if v := l.tomb.Get(be(ino)); v != nil {
		_, err := decodeTomb(v, ino, l.strs, e)
		return err == nil, err
	}
	return false, nil
}

// withLive runs fn with a view of the live file. The caller holds wmu, so the
// live file is not exchanged and not written.
func (m *Mirror) withLive(fn func(*liveView) error) error {
	live := m.cur.Load()
	return guard(func() error {
		return live.bolt.View(func(tx *bolt.Tx) error {
			return fn(&liveView{view: newView(live, tx), ids: live.ids.Load(), live: live, tomb: tx.Bucket(bTomb)})
		})
	})
}

// Apply applies one chunk of the full feed to the side file.
func (r *Rebuild) Apply(b drive.Batch) error {
	m := r.m
	m.wmu.Lock()
	defer m.wmu.Unlock()
	if r.done {
		return errDone
	}
	now := time.Now()
	return m.withLive(func(l *liveView) error {
		_, err := m.writeFileLocked(r.f, l, sourceFeed, false, func(w *wtx) error {
			if err := r.inheritRoot(w, l); err != nil {
				return err
			}
			return w.applyBatch(b, now)
		})
		return err
	})
}

// inheritRoot: the feed need not tell the root, which is fetched apart.
func (r *Rebuild) inheritRoot(w *wtx, l *liveView) error {
	if len(w.meta.Get([]byte(keyRoot))) > 0 {
		return nil
	}
	var e entry
	ok, err := l.view.entry(RootIno, &e)
	if err != nil || !ok {
		return err
	}
	if err := w.setRoot(e.ID); err != nil {
		return err
	}
	return w.place(&e, &entry{}, false, false)
}

// Abort drops the side file. After Commit or Abort it does nothing.
func (r *Rebuild) Abort() error {
	r.m.wmu.Lock()
	defer r.m.wmu.Unlock()
	return r.abortLocked()
}

func (r *Rebuild) abortLocked() error {
	if r.done {
		return nil
	}
	r.done = true
	r.m.rebuild = nil
	return r.f.remove()
}

// Commit puts the side file in the place of the live one and reports the
// difference through fn, in parts, after the exchange and without any lock
// held. What answers and listings told lately, and the full feed may not know
// yet, is taken along. A crash leaves either the old file or the new one. After
// an error the old one is in place, unless fn was called.
func (r *Rebuild) Commit(fn func([]Change)) error {
	if err := r.prepare(); err != nil {
		return errors.Join(err, r.Abort())
	}
	old, before, after, err := r.exchange()
	if err != nil {
		return errors.Join(err, r.Abort())
	}
	defer func() {
		// They only read: what ends them cannot fail.
		_ = before.Rollback()
		_ = after.Rollback()
		if err := guard(old.bolt.Close); err != nil {
			r.m.log.Warn("closing the mirror that was replaced", "err", err)
		}
	}()
	return guard(func() error { return r.diff(old, before, after, fn) })
}

// step runs fn with the lock that Close and other writers take.
func (r *Rebuild) step(fn func() error) error {
	r.m.wmu.Lock()
	defer r.m.wmu.Unlock()
	if r.done {
		return errDone
	}
	return fn()
}

// prepare does what takes long, in steps between which others may write.
func (r *Rebuild) prepare() error {
	m := r.m
	for _, take := range []func(*wtx, *liveView, Ino) (Ino, error){r.takeTombs, r.takeVanished} {
		for from := RootIno + 1; from != 0; {
			err := r.step(func() error {
				return m.withLive(func(l *liveView) error {
					_, err := m.writeFileLocked(r.f, l, sourceAnswer, true, func(w *wtx) (err error) {
						from, err = take(w, l, from)
						return err
					})
					return err
				})
			})
			if err != nil {
				return err
			}
		}
	}
	if err := m.finishLoad(r.f, r.step, r.begun); err != nil {
		return err
	}
	if m.o.NoSync {
		return nil
	}
	return guard(r.f.bolt.Sync) // without the lock: it may take seconds
}

// exchange does the part of Commit that other writers wait for. It returns
// read transactions of the moment of the exchange.
func (r *Rebuild) exchange() (old *file, before, after *bolt.Tx, err error) {
	m := r.m
	m.wmu.Lock()
	defer m.wmu.Unlock()
	if r.done {
		return nil, nil, nil, errDone
	}
	old = m.cur.Load()
	err = m.withLive(func(l *liveView) error {
		_, err := m.writeFileLocked(r.f, l, sourceAnswer, true, func(w *wtx) error {
			if err := r.inheritRoot(w, l); err != nil {
				return err
			}
			if err := r.takeRecent(w, l); err != nil {
				return err
			}
			return r.takeMeta(w, l)
		})
		return err
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if err := r.f.sync(); err != nil { // little is left
		return nil, nil, nil, err
	}
	if before, err = old.bolt.Begin(false); err != nil {
		return nil, nil, nil, err
	}
	if after, err = r.f.bolt.Begin(false); err != nil {
		return nil, nil, nil, errors.Join(err, before.Rollback())
	}
	if err = os.Rename(r.f.path, m.o.Path); err != nil {
		return nil, nil, nil, errors.Join(err, before.Rollback(), after.Rollback())
	}
	r.f.path = m.o.Path
	r.done = true
	m.rebuild = nil
	if !m.o.NoSync {
		if err := syncDir(m.o.Path); err != nil {
			m.log.Warn("the exchange of the mirror may not survive a power failure", "err", err)
		}
	}
	// The old file's marker has no meaning for the new one.
	if err := os.Remove(old.marker()); err != nil && !os.IsNotExist(err) {
		m.log.Warn("removing the marker of the mirror that was replaced", "err", err)
	}
	m.cur.Store(r.f)
	meta := after.Bucket(bMeta)
	m.inos.mu.Lock()
	m.inos.limit = max(m.inos.limit, getNumber(meta, keyInoLimit))
	m.inos.mu.Unlock()
	m.state.mu.Lock()
	m.state.checkpoint = string(meta.Get([]byte(keyCheckpoint)))
	m.state.confirmed = time.Now()
	m.state.refreshed = stamp(meta, keyRefreshed)
	m.state.complete = true
	m.state.nodes = int64(getNumber(meta, keyNodes))
	m.state.mu.Unlock()
	return old, before, after, nil
}

// takeMeta takes the caller's values along and reserves the numbers used.
func (r *Rebuild) takeMeta(w *wtx, l *liveView) error {
	err := w.from.eachMeta(func(k, v []byte) error {
		return w.meta.Put(bytes.Clone(k), bytes.Clone(v))
	})
	if err != nil {
		return err
	}
	w.from = nil
	defer func() { w.from = l }()
	w.m.inos.mu.Lock()
	w.limit = w.m.inos.limit
	w.m.inos.mu.Unlock()
	if err := w.reserve(inoBlock / 4); err != nil {
		return err
	}
	return w.meta.Put([]byte(keyInoLimit), be(w.limit))
}

func (l *liveView) eachMeta(fn func(k, v []byte) error) error {
	c := l.tx.Bucket(bMeta).Cursor()
	for k, v := c.Seek([]byte(userPrefix)); k != nil && bytes.HasPrefix(k, []byte(userPrefix)); k, v = c.Next() {
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return nil
}

// takeRecent carries over what answers told since shortly before the rebuild
// began, where the full feed does not know better.
func (r *Rebuild) takeRecent(w *wtx, l *liveView) error {
	for id, at := range r.m.recent {
		if r.begun.Sub(at) > recentFor {
			continue
		}
		liveIno, ok := l.ino(id)
		if !ok {
			continue
		}
		ino, here, _ := w.lookup(id)
		if here && ino != liveIno {
			if err := w.reinode(id, ino, liveIno); err != nil {
				return err
			}
		}
		var was, is entry
		wasLive, err := l.view.entry(liveIno, &was)
		if err != nil {
			return err
		}
		known := wasLive
		if !known {
			if known, err = l.entry(liveIno, &was); err != nil {
				return err
			}
		}
		if !known || liveIno == RootIno {
			continue
		}
		if err := r.takeParents(w, l, &was); err != nil {
			return err
		}
		isLive, isHidden, err := w.load(liveIno, &is)
		if err != nil {
			return err
		}
		switch {
		case (isLive || isHidden) && is.Version > was.Version:
			next := is
			switch {
			case !contentDiffers(&was, &is):
				next.Gen = was.Gen
			case is.Gen <= was.Gen:
				next.Gen = was.Gen + 1
			}
			if isLive && next.Gen != is.Gen {
				if err := w.rewrite(&next, &is); err != nil {
					return err
				}
			}
		case wasLive:
			if !here {
				if err := w.bind(id, liveIno); err != nil {
					return err
				}
			}
			if err := errors.Join(w.tomb.Delete(be(liveIno)), w.ghost.Delete(be(liveIno))); err != nil {
				return err
			}
			next := was
			next.level = 0
			if err := w.place(&next, &is, isLive, false); err != nil {
				return err
			}
		default:
			if !here {
				if err := w.bind(id, liveIno); err != nil {
					return err
				}
			}
			if err := w.ghost.Delete(be(liveIno)); err != nil {
				return err
			}
			if err := w.hide(&was, &is, isLive); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeParents makes sure that the side file knows the folders of e at least as
// ghosts, under the numbers they have.
func (r *Rebuild) takeParents(w *wtx, l *liveView, e *entry) error {
	for _, p := range e.raw {
		if p == RootIno {
			continue
		}
		var kb [8]byte
		k := binary.BigEndian.AppendUint64(kb[:0], p)
		if w.home.Get(k) != nil || w.tomb.Get(k) != nil || w.ghost.Get(k) != nil {
			continue
		}
		var dir entry
		ok, err := l.entry(p, &dir)
		if err != nil {
			return err
		}
		id := dir.ID
		if !ok {
			g := l.tx.Bucket(bGhost).Get(k)
			if g == nil {
				continue
			}
			id = string(g)
		}
		if ino, here, _ := w.lookup(id); here {
			// Both files met it for the first time meanwhile.
			if err := w.reinode(id, ino, p); err != nil {
				return err
			}
			continue
		}
		if err := w.bind(id, p); err != nil {
			return err
		}
		if err := w.ghost.Put(be(p), []byte(id)); err != nil {
			return err
		}
	}
	return nil
}

// takeMax is how many nodes of the live file one step of prepare looks at.
const takeMax = 10_000

// takeTombs keeps the memory of what is gone, from the number from on. It
// returns where to go on, 0 = at the end.
func (r *Rebuild) takeTombs(w *wtx, l *liveView, from Ino) (Ino, error) {
	c := l.tomb.Cursor()
	n := 0
	for k, v := c.Seek(be(from)); k != nil; k, v = c.Next() {
		ino := binary.BigEndian.Uint64(k)
		if n++; n > takeMax {
			return ino, nil
		}
		var e entry
		hidden, err := decodeTomb(v, ino, l.strs, &e)
		if err != nil {
			return 0, err
		}
		if err := w.takeTomb(&e, hidden); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// takeVanished keeps the numbers of live nodes that are not in the full feed.
func (r *Rebuild) takeVanished(w *wtx, l *liveView, from Ino) (Ino, error) {
	c := l.home.Cursor()
	n := 0
	for k, _ := c.Seek(be(from)); k != nil; k, _ = c.Next() {
		ino := binary.BigEndian.Uint64(k)
		if n++; n > takeMax {
			return ino, nil
		}
		if w.home.Get(k) != nil || w.tomb.Get(k) != nil {
			continue
		}
		var e entry
		if ok, err := l.view.entry(ino, &e); err != nil || !ok {
			return 0, err
		}
		// Perhaps purged, perhaps younger than what the full feed told: whoever
		// tells of it again is believed.
		e.rank = rankPending
		if err := w.takeTomb(&e, w.now); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// takeTomb writes a tombstone for a node of which the file knows nothing.
func (w *wtx) takeTomb(e *entry, hidden time.Time) error {
	switch ino, here, _ := w.lookup(e.ID); {
	case !here:
		if err := w.bind(e.ID, e.Ino); err != nil {
			return err
		}
	case w.ghost.Get(be(ino)) == nil:
		return nil
	default: // named as a parent only
		if err := w.ghost.Delete(be(ino)); err != nil {
			return err
		}
		e.Ino = ino
	}
	e.level = 0
	return w.tomb.Put(be(e.Ino), appendTomb(nil, e, hidden, &w.f.table))
}

// changePart is how many changes are handed out at a time.
const changePart = 1000

// diff reports what differs between the two files as they were exchanged.
func (r *Rebuild) diff(old *file, before, after *bolt.Tx, fn func([]Change)) error {
	a, b := newView(old, before), newView(r.f, after)
	ca, cb := a.home.Cursor(), b.home.Cursor()
	ka, va := ca.First()
	kb, vb := cb.First()
	part := make([]Change, 0, changePart)
	flush := func() {
		if len(part) > 0 {
			fn(part)
			part = make([]Change, 0, changePart)
		}
	}
	var x, y entry
	for ka != nil || kb != nil {
		order := 0
		switch {
		case ka == nil:
			order = 1
		case kb == nil:
			order = -1
		default:
			order = bytes.Compare(ka, kb)
		}
		hasA, hasB := order <= 0, order >= 0
		same := hasA && hasB && bytes.Equal(va, vb)
		if same {
			// Nearly all are: equal but for the day on which they were told.
			ra, rb := a.node.Get(append(bytes.Clone(va), ka...)), b.node.Get(append(bytes.Clone(vb), kb...))
			same = len(ra) > seenLen && len(ra) == len(rb) && bytes.Equal(ra[:len(ra)-seenLen], rb[:len(rb)-seenLen])
			if same {
				home := binary.BigEndian.Uint64(va)
				same = home == 0 || a.isDir(home) == b.isDir(home)
			}
			if same && len(ra) > 1 {
				flags, _ := number(ra[1:])
				same = flags&flagParents == 0
			}
		}
		if !same {
			c := Change{}
			if hasA {
				c.Ino = binary.BigEndian.Uint64(ka)
				if _, err := a.entry(c.Ino, &x); err != nil {
					return err
				}
				c.Old, c.Folder = a.dentries(&x), x.Folder
			}
			if hasB {
				c.Ino = binary.BigEndian.Uint64(kb)
				if _, err := b.entry(c.Ino, &y); err != nil {
					return err
				}
				c.New, c.Folder = b.dentries(&y), y.Folder
			}
			if hasA && hasB {
				c.Content = x.Gen != y.Gen
				c.Attr = attrDiffers(&x.Record, &y.Record) || len(c.Old) != len(c.New)
			}
			if (len(c.Old) > 0 || len(c.New) > 0) && (c.Content || c.Attr || !sameDentries(c.Old, c.New)) {
				part = append(part, c)
			}
			if len(part) == changePart {
				flush()
			}
		}
		if hasA {
			ka, va = ca.Next()
		}
		if hasB {
			kb, vb = cb.Next()
		}
	}
	flush()
	return nil
}

// dentries are the places in which a live entry is shown.
func (v view) dentries(e *entry) []Dentry {
	var list []Dentry
	for _, dir := range e.raw {
		if v.isDir(dir) && !(e.Folder && len(e.raw) > 1 && isBelow(v.home, v.node, dir, e.Ino)) {
			list = append(list, Dentry{dir, shownAt(e.Name, e.ID, levelIn(v.node, e, dir))})
		}
	}
	return slices.Clip(list)
}

// BeginRefresh is BeginRebuild for who does not want to hold the Rebuild.
func (m *Mirror) BeginRefresh() error {
	_, err := m.BeginRebuild()
	return err
}

func (m *Mirror) rebuilding() (*Rebuild, error) {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	if m.rebuild == nil {
		return nil, errDone
	}
	return m.rebuild, nil
}

// ApplyRefresh is Apply of the Rebuild under way.
func (m *Mirror) ApplyRefresh(b drive.Batch) error {
	r, err := m.rebuilding()
	if err != nil {
		return err
	}
	return r.Apply(b)
}

// EndRefresh is Commit of the Rebuild under way.
func (m *Mirror) EndRefresh(fn func([]Change)) error {
	r, err := m.rebuilding()
	if err != nil {
		return err
	}
	return r.Commit(fn)
}

// AbortRefresh is Abort of the Rebuild under way, if there is one.
func (m *Mirror) AbortRefresh() error {
	r, err := m.rebuilding()
	if err != nil {
		return nil
	}
	return r.Abort()
}
