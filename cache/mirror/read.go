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

// view is a read of one moment of one file, or of a write transaction.
type view struct {
	tx                 *bolt.Tx
	node, inode, level bucket
	over               map[Ino][]byte // what a write transaction has not yet put into inode
	loan               *loan          // not nil: entry and value read what is not to be kept
	levels             map[Ino]uint8  // in place of level: those of one folder
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

func newView(tx *bolt.Tx) view {
	return view{tx: tx, node: rarely(tx.Bucket(bNode)), inode: rarely(tx.Bucket(bInode)), level: rarely(tx.Bucket(bLevel))}
}

func (v *view) decode(val []byte, parent, ino Ino, e *entry) error {
	if v.loan != nil {
		return decodeLent(val, v.loan, parent, ino, e)
	}
	return decodeRecord(val, parent, ino, e)
}

// names is opened when it is needed only: opening costs as much as a read.
func (v *view) names() *bolt.Bucket { return v.tx.Bucket(bName) }

// number is that of an id.
func (v *view) number(id string) (Ino, bool) { return number(v.tx.Bucket(bID).Get([]byte(id))) }

// of is the value of the inode bucket.
func (v *view) of(ino Ino) []byte {
	if val, ok := v.over[ino]; ok {
		return val
	}
	var kb [8]byte
	return v.inode.Get(binary.BigEndian.AppendUint64(kb[:0], ino))
}

func (v *view) isDir(ino Ino) bool {
	flags, _, ok := liveAt(v.of(ino))
	return ok && flags&flagIsFolder != 0
}

// load reads what is known of ino.
func (v *view) load(ino Ino, e *entry) (state, error) {
	val := v.of(ino)
	if _, home, ok := liveAt(val); ok {
		var kb [16]byte
		rec := v.node.Get(key2(kb[:0], home, ino))
		if rec == nil {
			return stateUnknown, fmt.Errorf("inode %d has no record: %w", ino, ErrDamaged)
		}
		return stateLive, v.decode(rec, home, ino, e)
	}
	switch st := stateOf(val); st {
	case stateUnknown:
		return st, nil
	case statePlaceholder:
		*e = entry{Record: Record{Ino: ino, ID: string(val[1:])}, state: st}
		return st, nil
	default:
		return st, decodeHidden(val, ino, e)
	}
}

// entry reads the live node ino.
func (v *view) entry(ino Ino, e *entry) (bool, error) {
	if _, _, ok := liveAt(v.of(ino)); !ok {
		return false, nil
	}
	st, err := v.load(ino, e)
	return st == stateLive, err
}

// in reads the entry ino of dir; ok=false when it is not there.
func (v *view) in(dir, ino Ino, e *entry) (ok bool, err error) {
	var kb [16]byte
	val := v.node.Get(key2(kb[:0], dir, ino))
	if val == nil {
		return false, nil
	}
	return v.value(dir, ino, val, e)
}

// value decodes what stands under (dir, ino). ok=false for a place that is not
// shown: a folder inside itself.
func (v *view) value(dir, ino Ino, val []byte, e *entry) (ok bool, err error) {
	if home, link := decodeLink(val); link {
		var kb [16]byte
		rec := v.node.Get(key2(kb[:0], home, ino))
		if rec == nil {
			return false, fmt.Errorf("inode %d in %d has no record in %d: %w", ino, dir, home, ErrDamaged)
		}
		err = v.decode(rec, home, ino, e)
	} else {
		err = v.decode(val, dir, ino, e)
	}
	return err == nil && !(e.Folder && len(e.raw) > 1 && v.isBelow(dir, ino)), err
}

// levelIn is the level of ino's name in dir, above 0 only where another node
// has its plain name.
func (v *view) levelIn(dir, ino Ino) uint8 {
	if v.level.Bucket == nil {
		return v.levels[ino]
	}
	var kb [16]byte
	if val := v.level.Get(key2(kb[:0], dir, ino)); len(val) == 1 {
		return val[0]
	}
	return 0
}

// shownIn is the name of e in dir.
func (v *view) shownIn(dir Ino, e *entry) string { return shownAt(e.Name, e.ID, v.levelIn(dir, e.Ino)) }

// dentries are the places in which a live entry is shown.
func (v *view) dentries(e *entry) []Dentry {
	var list []Dentry
	for _, dir := range e.raw {
		if v.isDir(dir) && !(e.Folder && len(e.raw) > 1 && v.isBelow(dir, e.Ino)) {
			list = append(list, Dentry{dir, v.shownIn(dir, e)})
		}
	}
	return list
}

// finish completes e's Record for the outside, as seen in dir; 0 = in its first
// parent that is a live folder.
func (v *view) finish(e *entry, dir Ino) {
	e.Parents = e.raw
	if len(e.raw) > 1 {
		e.Parents = make([]Ino, 0, len(e.raw))
		for _, p := range e.raw {
			if v.isDir(p) && !(e.Folder && v.isBelow(p, e.Ino)) {
				e.Parents = append(e.Parents, p)
			}
		}
	}
	if dir == 0 {
		dir = e.home()
		if len(e.Parents) > 0 {
			dir = e.Parents[0]
		}
	}
	if e.Ino != RootIno {
		e.Shown = v.shownIn(dir, e)
	}
}

// isBelow reports whether dir is ino or inside it. Only folders of several
// parents can be inside themselves and yet be reached.
func (v *view) isBelow(dir, ino Ino) bool {
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
		todo = append(todo, v.parentsOf(d)...)
	}
	return false
}

// parentsOf are the parents of a live node, nil when it is not live.
func (v *view) parentsOf(ino Ino) []Ino {
	flags, home, ok := liveAt(v.of(ino))
	if !ok || flags&flagIsMulti == 0 {
		if home == 0 {
			return nil
		}
		return []Ino{home}
	}
	var kb [16]byte
	var e entry
	if err := decodeRecord(v.node.Get(key2(kb[:0], home, ino)), home, ino, &e); err != nil {
		return []Ino{home}
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

// get reads a live node whose number find knows in that moment.
func (m *Mirror) get(find func(v *view) (Ino, bool)) (rec Record, ok bool, err error) {
	err = m.view(func(v *view) (err error) {
		ino, known := find(v)
		if !known {
			return nil
		}
		var e entry
		if ok, err = v.entry(ino, &e); ok && err == nil {
			v.finish(&e, 0)
			rec = e.Record
		}
		return err
	})
	return rec, ok && err == nil, err
}

// Get reads the live node ino. A node below a folder that is in the trash is
// live itself; Reachable tells.
func (m *Mirror) Get(ino Ino) (rec Record, ok bool, err error) {
	return m.get(func(*view) (Ino, bool) { return ino, true })
}

// ByID reads the live node with this id.
func (m *Mirror) ByID(id string) (rec Record, ok bool, err error) {
	return m.get(func(v *view) (Ino, bool) { return v.number(id) })
}

// Ino is the number of the node with this id, also when it is hidden: in the
// trash, pending, or known only as somebody's parent.
func (m *Mirror) Ino(id string) (ino Ino, ok bool) {
	ino, err := m.InoOf(id)
	m.logError(err)
	return ino, ino != 0
}

// InoOf is Ino for a caller to whom "not known" (0) and "cannot be read" are
// different answers.
func (m *Mirror) InoOf(id string) (ino Ino, err error) {
	err = m.view(func(v *view) error {
		ino, _ = v.number(id)
		return nil
	})
	return ino, err
}

// Lookup finds the node shown in dir under this name in any spelling (Fold);
// exact reports whether this is the spelling shown. With Options.NamesExact no
// other spelling is found. ok=false: the mirror does not know such a node.
func (m *Mirror) Lookup(dir Ino, shown string) (rec Record, exact, ok bool, err error) {
	err = m.view(func(v *view) error {
		var kb [8 + NameMax + 1]byte
		if len(shown) > NameMax {
			return nil
		}
		c, found := firstClaim(v.names().Get(nameKey(kb[:0], dir, shown)))
		if !found || !v.isDir(dir) {
			return nil
		}
		var e entry
		if there, err := v.in(dir, c.ino, &e); err != nil || !there {
			return err
		}
		v.finish(&e, dir)
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
	err = m.view(func(v *view) (err error) {
		var best entry
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
			v.finish(&best, dir)
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
	return m.view(func(v *view) error {
		if !v.isDir(dir) {
			return nil
		}
		v.loan = l
		for _, x := range withPrefix(v.level.Bucket, be(dir)) { // nearly always none
			if v.levels == nil {
				v.levels = map[Ino]uint8{}
			}
			v.levels[binary.BigEndian.Uint64(x.k[8:])] = x.v[0]
		}
		v.level = bucket{}
		var e entry
		slab := make([]Ino, 0, 32)
		n := 0
		return v.each(dir, after, func(ino Ino, val []byte) error {
			if cap(slab)-len(slab) < 2 {
				slab = make([]Ino, 0, 256)
			}
			e.raw = slab[len(slab):len(slab):cap(slab)]
			if ok, err := v.value(dir, ino, val, &e); err != nil || !ok {
				return err
			}
			v.finish(&e, dir)
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
func (v *view) each(dir, after Ino, fn func(ino Ino, val []byte) error) error {
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
	err := m.view(func(v *view) error {
		flags, _, ok := liveAt(v.of(dir))
		listed = ok && flags&flagIsListed != 0
		return nil
	})
	return listed && err == nil
}

// NextFolder is the live folder with the smallest number above after, looking
// at max nodes at most; n is how many were looked at. dir 0 and n 0: there is
// no live node behind after; dir 0 otherwise: at is where to go on.
func (m *Mirror) NextFolder(after Ino, max int) (dir, at Ino, n int, err error) {
	err = m.view(func(v *view) error {
		c := v.inode.Cursor()
		for k, val := c.Seek(be(after + 1)); k != nil && n < max; k, val = c.Next() {
			if len(k) != 8 {
				return fmt.Errorf("inode %x: %w", k, ErrDamaged)
			}
			n++
			at = binary.BigEndian.Uint64(k)
			if flags, _, ok := liveAt(val); ok && flags&flagIsFolder != 0 {
				dir = at
				return nil
			}
		}
		return nil
	})
	return dir, at, n, err
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
	err := m.view(func(v *view) error {
		if path, ok = v.path(ino, map[Ino]bool{}); ok {
			slices.Reverse(path)
		}
		return nil
	})
	return path, ok && err == nil
}

// path climbs from ino to the root, the last name first.
func (v *view) path(ino Ino, seen map[Ino]bool) ([]string, bool) {
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
					return append(append(names, v.shownIn(p, &e)), rest...), true
				}
			}
			return nil, false
		}
		if !v.isDir(e.raw[0]) {
			return nil, false
		}
		names = append(names, v.shownIn(e.raw[0], &e))
		ino = e.raw[0]
	}
	return names, v.isDir(RootIno)
}

// Reachable reports whether some path leads from the root to ino.
func (m *Mirror) Reachable(ino Ino) bool {
	_, ok := m.Path(ino)
	return ok
}
