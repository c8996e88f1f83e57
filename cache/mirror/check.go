package mirror

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Check tests every invariant of the live file and returns what it found
// wrong, at most 100 findings. It reads all of the file, and writers wait.
func (m *Mirror) Check() []error {
	m.wmu.Lock() // bbolt's own check looks at the free list
	defer m.wmu.Unlock()
	c := checker{m: m}
	err := m.view(func(f *file, tx *bolt.Tx) error {
		for err := range tx.Check() {
			c.add("bbolt: %w", err)
		}
		c.f, c.tx, c.v = f, tx, newView(f, tx)
		c.ids = map[Ino]string{}
		c.run()
		return nil
	})
	if err != nil {
		c.errs = append(c.errs, err)
	}
	return c.errs
}

type checker struct {
	m    *Mirror
	f    *file
	tx   *bolt.Tx
	v    view
	ids  map[Ino]string // every id of the index, by number
	live int64
	errs []error
}

var errTooMany = errors.New("and more")

func (c *checker) add(format string, args ...any) {
	switch n := len(c.errs); {
	case n < 100:
		c.errs = append(c.errs, fmt.Errorf(format, args...))
	case n == 100:
		c.errs = append(c.errs, errTooMany)
	}
}

func (c *checker) run() {
	c.checkIDs()
	c.checkHomes()
	c.checkNodes()
	c.checkHidden()
	c.checkNames()
	c.checkRoot()
	c.checkCycles()
}

// checkIDs: every number has one id.
func (c *checker) checkIDs() {
	all := map[string]Ino{}
	_ = c.tx.Bucket(bID).ForEach(func(k, v []byte) error {
		ino, ok := number(v)
		if !ok {
			c.add("id %q has no number", k)
		}
		all[string(k)] = ino
		return nil
	})
	if ids := c.f.ids.Load(); ids != nil {
		ids.mu.RLock()
		for id, ino := range ids.usual {
			all[string(id[:])] = ino
		}
		maps.Copy(all, ids.other)
		ids.mu.RUnlock()
	}
	c.m.inos.mu.Lock()
	limit := c.m.inos.limit
	c.m.inos.mu.Unlock()
	for id, ino := range all {
		if other, dup := c.ids[ino]; dup {
			c.add("inode %d has two ids, %s and %s", ino, id, other)
		}
		c.ids[ino] = id
		if ino >= limit {
			c.add("inode %d of %s was never reserved (limit %d)", ino, id, limit)
		}
	}
}

// checkHomes: every live node has a record where its home says, and its id.
func (c *checker) checkHomes() {
	_ = c.tx.Bucket(bHome).ForEach(func(k, _ []byte) error {
		c.live++
		ino := binary.BigEndian.Uint64(k)
		var e entry
		if ok, err := c.v.entry(ino, &e); err != nil || !ok {
			c.add("inode %d: %w", ino, errors.Join(err, ErrDamaged))
			return nil
		}
		if c.ids[ino] != e.ID {
			c.add("inode %d has id %q, its index entry is of %q", ino, e.ID, c.ids[ino])
		}
		delete(c.ids, ino)
		if has := c.tx.Bucket(bMulti).Get(k) != nil; has != (e.Folder && len(e.raw) > 1) {
			c.add("inode %d with parents %d in the list of folders with several: %v", ino, e.raw, has)
		}
		for i, p := range e.raw {
			if slices.Index(e.raw, p) != i || p == ino {
				c.add("inode %d has parents %d", ino, e.raw)
			}
			if i > 0 {
				if _, home, ok := decodeLink(c.v.node.Get(key2(nil, p, ino))); !ok || home != e.home() {
					c.add("inode %d has no link in %d", ino, p)
				}
			}
			if c.v.home.Get(be(p)) == nil && c.tx.Bucket(bTomb).Get(be(p)) == nil && c.tx.Bucket(bGhost).Get(be(p)) == nil {
				c.add("inode %d is in %d, which is nothing", ino, p)
			}
		}
		return nil
	})
	if c.live != c.m.Nodes() && int64(getNumber(c.tx.Bucket(bMeta), keyNodes)) != c.live {
		c.add("%d live nodes, counted as %d", c.live, c.m.Nodes())
	}
}

// checkNodes: every entry of a folder belongs there, and holds its name.
func (c *checker) checkNodes() {
	_ = c.tx.Bucket(bNode).ForEach(func(k, v []byte) error {
		dir, ino := binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(k[8:])
		var e entry
		if ok, err := c.v.entry(ino, &e); err != nil || !ok {
			c.add("entry %d in %d is not of a live node: %v", ino, dir, err)
			return nil
		}
		if v[0] == tagRecord && dir != e.home() {
			c.add("inode %d has a record in %d, its home is %d", ino, dir, e.home())
		}
		if dir == 0 {
			if len(e.raw) > 0 {
				c.add("inode %d is in no folder, but has parents", ino)
			}
			return nil
		}
		if !slices.Contains(e.raw, dir) {
			c.add("entry %d in %d, its parents are %d", ino, dir, e.raw)
		}
		level := levelIn(c.v.node, &e, dir)
		for l := uint8(0); l <= level; l++ {
			key := nameKey(nil, dir, shownAt(e.Name, e.ID, l))
			list, err := decodeClaims(nil, c.v.names().Get(key))
			if err != nil || !slices.Contains(list, claim{ino, l}) {
				c.add("inode %d has no claim on %q in %d: %v", ino, key[8:], dir, err)
				continue
			}
			if holds := list[0] == (claim{ino, l}); holds != (l == level) && level < levelMax {
				c.add("inode %d at level %d in %d: holds %q is %v", ino, level, dir, key[8:], holds)
			}
		}
		return nil
	})
}

// checkHidden: tombstones and ghosts are what is left, and nothing else is.
func (c *checker) checkHidden() {
	_ = c.tx.Bucket(bTomb).ForEach(func(k, v []byte) error {
		ino := binary.BigEndian.Uint64(k)
		var e entry
		if _, err := decodeTomb(v, ino, c.v.strs, &e); err != nil {
			c.add("%w", err)
			return nil
		}
		if c.ids[ino] != e.ID {
			c.add("tombstone %d of %q, its index entry is of %q", ino, e.ID, c.ids[ino])
		}
		if c.v.home.Get(k) != nil {
			c.add("inode %d is live and has a tombstone", ino)
		}
		delete(c.ids, ino)
		return nil
	})
	_ = c.tx.Bucket(bGhost).ForEach(func(k, v []byte) error {
		ino := binary.BigEndian.Uint64(k)
		if c.ids[ino] != string(v) {
			c.add("ghost %d of %q, its index entry is of %q", ino, v, c.ids[ino])
		}
		if c.v.home.Get(k) != nil || c.tx.Bucket(bTomb).Get(k) != nil {
			c.add("ghost %d is known", ino)
		}
		delete(c.ids, ino)
		return nil
	})
	for ino, id := range c.ids {
		c.add("inode %d of %q is neither live nor hidden nor a ghost", ino, id)
	}
}

// checkNames: every claim is one of a node that is there, slots are in order,
// and no two nodes of a folder show one folded name.
func (c *checker) checkNames() {
	_ = c.v.names().ForEach(func(k, v []byte) error {
		dir := binary.BigEndian.Uint64(k)
		list, err := decodeClaims(nil, v)
		if err != nil || len(list) == 0 {
			c.add("slot %q in %d: %v", k[8:], dir, err)
			return nil
		}
		var last contender
		for i, cl := range list {
			var e entry
			if ok, err := c.v.entry(cl.ino, &e); err != nil || !ok || !slices.Contains(e.raw, dir) {
				c.add("slot %q in %d is claimed by %d, which is not there: %v", k[8:], dir, cl.ino, err)
				return nil
			}
			want := nameKey(nil, dir, shownAt(e.Name, e.ID, cl.level))
			if isLongKey(k) {
				want = longKey(nil, dir, e.Name)
			}
			if string(want) != string(k) || levelIn(c.v.node, &e, dir) < cl.level {
				c.add("slot %q in %d is claimed by %d, which wants %q", k[8:], dir, cl.ino, want[8:])
			}
			x := contender{cl, e.Created, e.ID}
			if i > 0 && contenderOrder(last, x) >= 0 {
				c.add("slot %q in %d is out of order", k[8:], dir)
			}
			last = x
		}
		return nil
	})
}

func (c *checker) checkRoot() {
	id := string(c.tx.Bucket(bMeta).Get([]byte(keyRoot)))
	var e entry
	ok, err := c.v.entry(RootIno, &e)
	if err != nil || ok != (id != "") || e.ID != id || ok && (!e.Folder || len(e.raw) > 0) {
		c.add("the root is %q, recorded as %q: %v", e.ID, id, err)
	}
}

// checkCycles walks down from the root and must come to an end: no folder is
// shown inside itself.
func (c *checker) checkCycles() {
	type step struct {
		dir   Ino
		above []Ino
	}
	const depthMax = 10_000
	todo := []step{{dir: RootIno}}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if len(s.above) > depthMax {
			c.add("folder %d is more than %d deep", s.dir, depthMax)
			return
		}
		err := c.v.each(s.dir, 0, func(ino Ino, val []byte) error {
			if val[0] == tagRecord && !isFolderValue(val) {
				return nil
			}
			var e entry
			_, ok, err := c.v.value(s.dir, ino, val, &e)
			if err != nil || !ok || !e.Folder {
				return err
			}
			if ino == s.dir || slices.Contains(s.above, ino) {
				c.add("folder %d is inside itself", ino)
				return nil
			}
			todo = append(todo, step{ino, append(slices.Clip(s.above), s.dir)})
			return nil
		})
		if err != nil {
			c.add("folder %d: %w", s.dir, err)
		}
	}
}

// Dump writes the whole file as text, a line for each entry, for tests, for
// `check` and for eyes.
func (m *Mirror) Dump(out io.Writer) error {
	w := bufio.NewWriter(out)
	err := m.view(func(f *file, tx *bolt.Tx) error {
		v := newView(f, tx)
		line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
		for _, name := range buckets {
			err := tx.Bucket(name).ForEach(func(k, val []byte) error {
				switch string(name) {
				case "node":
					dir, ino := binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(k[8:])
					if level, home, ok := decodeLink(val); ok {
						line("node %d/%d link home=%d level=%d", dir, ino, home, level)
						return nil
					}
					var e entry
					if err := decodeRecord(val, dir, ino, v.strs, &e); err != nil {
						return err
					}
					line("node %d/%d %s", dir, ino, e.dump())
				case "name":
					list, err := decodeClaims(nil, val)
					if err != nil {
						return err
					}
					line("name %d/%q %v", binary.BigEndian.Uint64(k), k[8:], list)
				case "tomb":
					var e entry
					ino := binary.BigEndian.Uint64(k)
					at, err := decodeTomb(val, ino, v.strs, &e)
					if err != nil {
						return err
					}
					line("tomb %d rank=%d at=%s %s", ino, e.rank, at.UTC().Format("2006-01-02T15:04:05Z"), e.dump())
				case "id":
					ino, _ := number(val)
					line("id %s %d", k, ino)
				case "home":
					line("home %d %d", binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(val))
				case "meta":
					line("meta %s %q", k, val)
				default: // multi, ghost, listed, table
					line("%s %d %q", name, binary.BigEndian.Uint64(k), val)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, w.Flush())
}

func (e *entry) dump() string {
	kind := "file"
	if e.Folder {
		kind = "folder"
	}
	s := fmt.Sprintf("%s id=%s name=%q parents=%d level=%d version=%d etag=%q created=%s modified=%s by=%q",
		kind, e.ID, e.Name, e.raw, e.level, e.Version, e.ETag,
		e.Created.Format("2006-01-02T15:04:05.000"), e.Modified.Format("2006-01-02T15:04:05.000"), e.CreatedBy)
	if !e.Folder {
		s += fmt.Sprintf(" content=%d size=%d md5=%s type=%q gen=%d", e.Content, e.Size, e.MD5, e.ContentType, e.Gen)
	}
	if e.Props != nil {
		s += fmt.Sprintf(" props@%d=%v", e.PropsVersion, e.Props)
	}
	return s + " seen=" + e.Seen.Format("2006-01-02")
}
