package mirror

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// view is a read of one moment of one file.
type view struct {
	tx         *bolt.Tx
	node, home bucket
	strs       []string
	loan       *loan // not nil: entry and value read what is not to be kept
}

// bucket is one that is read: now and then, or often with a cursor that is
// kept, since Get makes one each time.
type bucket struct {
	*bolt.Bucket
	c *bolt.Cursor // nil = now and then
}

func rarely(b *bolt.Bucket) bucket          { return bucket{b, nil} }
func often(tx *bolt.Tx, name []byte) bucket { b := tx.Bucket(name); return bucket{b, b.Cursor()} }

// Get is as that of bolt.Bucket.
func (b bucket) Get(key []byte) []byte {
	if b.c == nil {
		return b.Bucket.Get(key)
	}
	k, v := b.c.Seek(key)
	if !bytes.Equal(k, key) {
		return nil
	}
	return v
}

func newView(f *file, tx *bolt.Tx) view {
	return view{tx: tx, node: rarely(tx.Bucket(bNode)), home: rarely(tx.Bucket(bHome)), strs: *f.strs.Load()}
}

func (v view) decode(val []byte, parent, ino Ino, e *entry) error {
	if v.loan != nil {
		return decodeLent(val, v.loan, parent, ino, v.strs, e)
	}
	return decodeRecord(val, parent, ino, v.strs, e)
}

// names is opened when it is needed only: opening costs as much as a read.
func (v view) names() *bolt.Bucket { return v.tx.Bucket(bName) }

// isLive is a cheaper isDir for a folder of which a child is known.
func (v view) isLive(ino Ino) bool {
	var kb [8]byte
	return v.home.Get(binary.BigEndian.AppendUint64(kb[:0], ino)) != nil
}

// entry reads the live node ino.
func (v view) entry(ino Ino, e *entry) (bool, error) {
	var kb [16]byte
	h := v.home.Get(binary.BigEndian.AppendUint64(kb[:0], ino))
	if h == nil {
		return false, nil
	}
	if len(h) != 8 {
		return false, fmt.Errorf("home of inode %d: %w", ino, ErrDamaged)
	}
	parent := binary.BigEndian.Uint64(h)
	rec := v.node.Get(key2(kb[:0], parent, ino))
	if rec == nil {
		return false, fmt.Errorf("inode %d has no record: %w", ino, ErrDamaged)
	}
	return true, v.decode(rec, parent, ino, e)
}

// in reads the entry ino of dir; ok=false when it is not there.
func (v view) in(dir, ino Ino, e *entry) (level uint8, ok bool, err error) {
	var kb [16]byte
	val := v.node.Get(key2(kb[:0], dir, ino))
	if val == nil {
		return 0, false, nil
	}
	return v.value(dir, ino, val, e)
}

// value decodes what stands under (dir, ino). ok=false for a place that is not
// shown: a folder inside itself.
func (v view) value(dir, ino Ino, val []byte, e *entry) (level uint8, ok bool, err error) {
	if val[0] == tagRecord {
		err = v.decode(val, dir, ino, e)
		level = e.level
	} else {
		var home Ino
		if level, home, ok = decodeLink(val); !ok {
			return 0, false, fmt.Errorf("inode %d in %d: %w", ino, dir, ErrDamaged)
		}
		var kb [16]byte
		rec := v.node.Get(key2(kb[:0], home, ino))
		if rec == nil {
			return 0, false, fmt.Errorf("inode %d in %d has no record in %d: %w", ino, dir, home, ErrDamaged)
		}
		err = v.decode(rec, home, ino, e)
	}
	if err != nil {
		return 0, false, err
	}
	if e.Folder && len(e.raw) > 1 && isBelow(v.home, v.node, dir, ino) {
		return 0, false, nil
	}
	return level, true, nil
}

func (v view) isDir(ino Ino) bool { return isDir(v.home, v.node, ino) }

// finish completes e's Record for the outside, as seen at level.
func (v view) finish(e *entry, level uint8) {
	if e.Ino != RootIno {
		e.Shown = shownAt(e.Name, e.ID, level)
	}
	if len(e.raw) < 2 {
		e.Parents = e.raw
		return
	}
	e.Parents = make([]Ino, 0, len(e.raw))
	for _, p := range e.raw {
		if v.isDir(p) && !(e.Folder && isBelow(v.home, v.node, p, e.Ino)) {
			e.Parents = append(e.Parents, p)
		}
	}
}

// finishFirst completes e as seen in its first parent that is a live folder.
func (v view) finishFirst(e *entry) {
	v.finish(e, e.level)
	if len(e.Parents) > 0 && e.Parents[0] != e.home() {
		e.Shown = shownAt(e.Name, e.ID, levelIn(v.node, e, e.Parents[0]))
	}
}

// isBelow reports whether dir is ino or inside it. Only folders of several
// parents can be inside themselves and yet be reached.
func isBelow(home, node bucket, dir, ino Ino) bool {
	seen := map[Ino]bool{}
	todo := []Ino{dir}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if d == ino {
			return true
		}
		if d == RootIno || d == 0 || seen[d] {
			continue
		}
		seen[d] = true
		todo = append(todo, parentsOf(home, node, d)...)
	}
	return false
}

// parentsOf are the parents of a live node, nil when it is not live.
func parentsOf(home, node bucket, ino Ino) []Ino {
	var kb [16]byte
	h := home.Get(binary.BigEndian.AppendUint64(kb[:0], ino))
	if h == nil {
		return nil
	}
	parent := binary.BigEndian.Uint64(h)
	var e entry
	if err := decodeRecord(node.Get(key2(kb[:0], parent, ino)), parent, ino, nil, &e); err != nil {
		return []Ino{parent}
	}
	return e.raw
}

// Root is the root's record; its ID is "" before SetRoot or the feed told it.
func (m *Mirror) Root() Record {
	rec, ok, err := m.Get(RootIno)
	m.logError(err)
	if !ok {
		return Record{Ino: RootIno, Folder: true}
	}
	return rec
}

// Get reads the live node ino. A node below a folder that is in the trash is
// live itself; Reachable tells.
func (m *Mirror) Get(ino Ino) (rec Record, ok bool, err error) {
	err = m.view(func(f *file, tx *bolt.Tx) error {
		v := newView(f, tx)
		var e entry
		if ok, err = v.entry(ino, &e); ok && err == nil {
			v.finishFirst(&e)
			rec = e.Record
		}
		return err
	})
	return rec, ok && err == nil, err
}

// ByID reads the live node with this id.
func (m *Mirror) ByID(id string) (rec Record, ok bool, err error) {
	// The table first: what leaves it is in the bucket before that.
	ino, held := m.held(id)
	err = m.view(func(f *file, tx *bolt.Tx) error {
		if !held {
			var known bool
			if ino, known = number(tx.Bucket(bID).Get([]byte(id))); !known {
				return nil
			}
		}
		v := newView(f, tx)
		var e entry
		var err error
		if ok, err = v.entry(ino, &e); ok && err == nil {
			v.finishFirst(&e)
			rec = e.Record
		}
		return err
	})
	return rec, ok && err == nil, err
}

// held looks an id up among those that a first load holds in memory.
func (m *Mirror) held(id string) (Ino, bool) {
	if ids := m.cur.Load().ids.Load(); ids != nil {
		return ids.get(id)
	}
	return 0, false
}

// Ino is the number of the node with this id, also when it is hidden: in the
// trash, pending, or known only as somebody's parent.
func (m *Mirror) Ino(id string) (ino Ino, ok bool) {
	if ino, ok := m.held(id); ok {
		return ino, true
	}
	err := m.view(func(_ *file, tx *bolt.Tx) error {
		ino, ok = number(tx.Bucket(bID).Get([]byte(id)))
		return nil
	})
	m.logError(err)
	return ino, ok && err == nil
}

// Lookup finds the node shown in dir under this name in any spelling (Fold);
// exact reports whether this is the spelling shown. With Options.NamesExact no
// other spelling is found. ok=false: the mirror does not know such a node.
func (m *Mirror) Lookup(dir Ino, shown string) (rec Record, exact, ok bool, err error) {
	err = m.view(func(f *file, tx *bolt.Tx) error {
		v := newView(f, tx)
		var kb [8 + NameMax + 1]byte
		if len(shown) > NameMax {
			return nil
		}
		c, found := firstClaim(v.names().Get(nameKey(kb[:0], dir, shown)))
		if !found || !v.isLive(dir) {
			return nil
		}
		var e entry
		level, there, err := v.in(dir, c.ino, &e)
		if err != nil || !there {
			return err
		}
		v.finish(&e, level)
		exact = e.Shown == shown
		if ok = exact || !m.o.NamesExact; ok {
			rec = e.Record
		}
		return nil
	})
	if err != nil {
		return Record{}, false, false, err
	}
	return rec, exact, ok, nil
}

// ByName is the live node that has this name in dir as the service compares:
// who is in the way of another one of that name. Of several (API §5.5: it
// happens) it is the oldest.
func (m *Mirror) ByName(dir Ino, name string) (rec Record, ok bool, err error) {
	err = m.view(func(f *file, tx *bolt.Tx) error {
		v := newView(f, tx)
		var best entry
		var err error
		if plain := mappedName(name); len(plain) <= NameMax+NameMax/2 {
			// Another case may be longer in bytes, and then be shown whole.
			if ok, err = v.holderOf(nameKey(nil, dir, plain), name, &best, false); err != nil {
				return err
			}
		}
		if len(name) > NameMax/2 {
			if ok, err = v.holderOf(longKey(nil, dir, name), name, &best, ok); err != nil {
				return err
			}
		}
		if ok {
			v.finishFirst(&best)
			if dir != best.home() {
				best.Shown = shownAt(best.Name, best.ID, levelIn(v.node, &best, dir))
			}
			rec = best.Record
		}
		return nil
	})
	return rec, ok && err == nil, err
}

func mappedName(name string) string {
	if needsMapping(name) {
		return mapped(name)
	}
	return name
}

// List calls fn for up to max nodes of dir with Ino > after, in the order of
// Ino, which therefore is a directory cookie, until fn returns false. Fewer
// than max calls mean the end. The record is valid during the call only, its
// strings for ever. fn must not write to the mirror, and should not take long.
func (m *Mirror) List(dir Ino, after Ino, max int, fn func(*Record) bool) error {
	return m.list(nil, dir, after, max, fn)
}

// Scan is List for who keeps nothing: the record's strings too are valid during
// the call only. It allocates next to nothing.
func (m *Mirror) Scan(dir Ino, after Ino, max int, fn func(*Record) bool) error {
	return m.list(&loan{}, dir, after, max, fn)
}

func (m *Mirror) list(l *loan, dir, after Ino, max int, fn func(*Record) bool) error {
	if max <= 0 {
		return nil
	}
	return m.view(func(f *file, tx *bolt.Tx) error {
		v := newView(f, tx)
		if !v.isDir(dir) {
			return nil
		}
		v.loan = l
		var e entry
		slab := make([]Ino, 0, 32)
		n := 0
		return v.each(dir, after, func(ino Ino, val []byte) error {
			if cap(slab)-len(slab) < 2 {
				slab = make([]Ino, 0, 256)
			}
			e.raw = slab[len(slab):len(slab):cap(slab)]
			level, ok, err := v.value(dir, ino, val, &e)
			if err != nil || !ok {
				return err
			}
			v.finish(&e, level)
			if l == nil {
				slab = slab[:min(len(slab)+len(e.raw), cap(slab))]
			}
			if n++; !callback(fn, &e.Record) || n == max {
				return errStop
			}
			return nil
		})
	})
}

// callback runs a caller's function so that its panic stays its own.
func callback(fn func(*Record) bool, r *Record) bool {
	defer func() {
		if p := recover(); p != nil {
			panic(caller{p})
		}
	}()
	return fn(r)
}

// each walks over the entries of dir behind after.
func (v view) each(dir, after Ino, fn func(ino Ino, val []byte) error) error {
	prefix := be(dir)
	c := v.node.Cursor()
	if after == ^Ino(0) {
		return nil
	}
	for k, val := c.Seek(key2(nil, dir, after+1)); k != nil && bytes.HasPrefix(k, prefix); k, val = c.Next() {
		if len(k) != 16 || len(val) == 0 {
			return fmt.Errorf("entry %x: %w", k, ErrDamaged)
		}
		if err := fn(binary.BigEndian.Uint64(k[8:]), val); err == errStop {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Listed reports whether all children of dir are known: the feed is complete,
// or the folder was listed, or it is new and ours.
func (m *Mirror) Listed(dir Ino) bool {
	if m.Complete() {
		return true
	}
	var listed bool
	err := m.view(func(_ *file, tx *bolt.Tx) error {
		listed = tx.Bucket(bListed).Get(be(dir)) != nil
		return nil
	})
	return listed && err == nil
}

// NextFolder is the live folder with the smallest number above after, looking
// at max nodes at most; n is how many were looked at. dir 0 and n 0: there is
// no live node behind after; dir 0 otherwise: at is where to go on.
func (m *Mirror) NextFolder(after Ino, max int) (dir, at Ino, n int, err error) {
	err = m.view(func(f *file, tx *bolt.Tx) error {
		v := newView(f, tx)
		c := v.home.Cursor()
		var kb [16]byte
		for k, h := c.Seek(be(after + 1)); k != nil && n < max; k, h = c.Next() {
			if len(k) != 8 || len(h) != 8 {
				return fmt.Errorf("home of %x: %w", k, ErrDamaged)
			}
			n++
			at = binary.BigEndian.Uint64(k)
			if isFolderValue(v.node.Get(key2(kb[:0], binary.BigEndian.Uint64(h), at))) {
				dir = at
				return nil
			}
		}
		return nil
	})
	return dir, at, n, err
}

// Empty reports whether no live node is in dir, as far as the mirror knows.
func (m *Mirror) Empty(dir Ino) (empty bool, err error) {
	empty = true
	err = m.List(dir, 0, 1, func(*Record) bool {
		empty = false
		return false
	})
	return empty && err == nil, err
}

// Count is the number of live nodes in dir. It reads all their keys.
func (m *Mirror) Count(dir Ino) (n int) {
	err := m.view(func(f *file, tx *bolt.Tx) error {
		v := newView(f, tx)
		if !v.isDir(dir) {
			return nil
		}
		return v.each(dir, 0, func(Ino, []byte) error {
			n++
			return nil
		})
	})
	m.logError(err)
	return n
}

// logError reports what a method without an error cannot return.
func (m *Mirror) logError(err error) {
	if err != nil {
		m.log.LogAttrs(context.Background(), slog.LevelError, "mirror unreadable", slog.Any("err", err))
	}
}

// Path is the shown names from the root to ino, through the first parents that
// lead there; false when none does: something above is in the trash, unknown,
// or inside itself. The root's path is empty.
func (m *Mirror) Path(ino Ino) (path []string, ok bool) {
	err := m.view(func(f *file, tx *bolt.Tx) error {
		v := newView(f, tx)
		if path, ok = v.path(ino, map[Ino]bool{}); ok {
			slices.Reverse(path)
		}
		return nil
	})
	return path, ok && err == nil
}

// path climbs from ino to the root, the last name first.
func (v view) path(ino Ino, seen map[Ino]bool) ([]string, bool) {
	var names []string
	for ino != RootIno {
		if seen[ino] || ino == 0 {
			return nil, false
		}
		seen[ino] = true
		var e entry
		if ok, err := v.entry(ino, &e); err != nil || !ok || len(e.raw) == 0 {
			return nil, false
		}
		if len(e.raw) > 1 {
			for _, p := range e.raw {
				if !v.isDir(p) {
					continue
				}
				if rest, ok := v.path(p, seen); ok {
					return append(append(names, shownAt(e.Name, e.ID, levelIn(v.node, &e, p))), rest...), true
				}
			}
			return nil, false
		}
		if !v.isDir(e.raw[0]) {
			return nil, false
		}
		names = append(names, shownAt(e.Name, e.ID, e.level))
		ino = e.raw[0]
	}
	return names, v.isDir(RootIno)
}

// Reachable reports whether some path leads from the root to ino.
func (m *Mirror) Reachable(ino Ino) bool {
	_, ok := m.Path(ino)
	return ok
}
