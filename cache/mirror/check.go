package mirror

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// checkPages is the size up to which bbolt's own check runs too, in bytes. It
// looks at the list of free pages, for which writers must wait, and takes 50 ms
// or so for this.
const checkPages = 8 << 20

// Check tests every invariant of the live file, as it was when the call began,
// and returns what it found wrong, at most 100 findings. It reads all of the
// file: some ten seconds for a million nodes, during which neither readers nor
// writers wait. The end of ctx ends it, with its error.
func (m *Mirror) Check(ctx context.Context) []error {
	c := checker{m: m, ctx: ctx}
	err := guard(func() error {
		data, end, err := c.begin()
		if err != nil {
			return err
		}
		defer end()
		w := walker{data: data, ctx: ctx, boltMeta: boltMeta{
			pageSize: int64(c.f.bolt.Info().PageSize), root: uint64(c.tx.Cursor().Bucket().Root()),
		}}
		w.high = uint64(c.tx.Size() / w.pageSize)
		w.seen = make([]uint64, w.high/64+1)
		if err := w.page(w.root, 0); err != nil {
			return err
		}
		c.run()
		return ctx.Err()
	})
	if errors.Is(err, ErrDamaged) {
		c.f.condemn(err)
	}
	if err != nil {
		c.errs = append(c.errs, err)
	}
	return c.errs
}

// begin takes the moment that is checked: a read transaction of the live file
// and its pages, until end is called.
func (c *checker) begin() (data []byte, end func(), err error) {
	m := c.m
	m.wmu.Lock()
	defer m.wmu.Unlock()
	f := m.cur.Load()
	tx, err := f.bolt.Begin(false)
	if err != nil {
		return nil, nil, err
	}
	rollback := func() { _ = tx.Rollback() } // it only read
	if tx.Size() <= checkPages {
		for err := range tx.Check() {
			c.add("bbolt: %w", err)
		}
	}
	file, err := os.Open(f.path)
	if err != nil {
		rollback()
		return nil, nil, err
	}
	defer file.Close()
	// What the transaction sees is not written to while it is open.
	data, err = unix.Mmap(int(file.Fd()), 0, int(tx.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		rollback()
		return nil, nil, fmt.Errorf("reading %s: %w", f.path, err)
	}
	c.f, c.tx = f, tx
	c.v = view{tx: tx, node: often(tx, bNode), home: often(tx, bHome), strs: *f.strs.Load(), loan: &loan{}}
	c.name, c.tomb, c.ghost = often(tx, bName), often(tx, bTomb), often(tx, bGhost)
	c.multi, c.index = often(tx, bMulti), often(tx, bID)
	if ids := f.ids.Load(); ids != nil {
		c.held = ids.clone()
	}
	m.inos.mu.Lock()
	c.limit = m.inos.limit
	m.inos.mu.Unlock()
	return data, func() {
		_ = unix.Munmap(data)
		rollback()
	}, nil
}

type checker struct {
	m     *Mirror
	ctx   context.Context
	f     *file
	tx    *bolt.Tx
	v     view // what it reads is valid until it reads the next
	name  bucket
	tomb  bucket
	ghost bucket
	multi bucket
	index bucket   // id → number
	held  *idTable // … of those that a first load holds in memory; nil = none
	limit Ino      // no number at or above it was handed out
	known int      // nodes of which the file knows: live, hidden, ghosts
	live  int64
	seen  int
	errs  []error
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
	c.checkHomes()
	c.checkNodes()
	c.checkHidden()
	c.checkIDs()
	c.checkNames()
	c.checkRoot()
	c.checkCycles()
}

// each walks over a bucket until ctx ends.
func (c *checker) each(bucket []byte, fn func(k, v []byte)) {
	// Only ctx ends it, and Check says so.
	_ = c.tx.Bucket(bucket).ForEach(func(k, v []byte) error {
		if c.seen++; c.seen%1024 == 0 && c.ctx.Err() != nil {
			return errStop
		}
		fn(k, v)
		return nil
	})
}

// number is what the index says of an id, 0 = nothing.
func (c *checker) number(id string) Ino {
	if c.held != nil {
		if ino, ok := c.held.get(id); ok {
			return ino
		}
	}
	ino, _ := number(c.index.Get([]byte(id)))
	return ino
}

// know: what is known of ino is of id, and the index says the same.
func (c *checker) know(what string, ino Ino, id string) {
	c.known++
	if at := c.number(id); at != ino {
		c.add("%s %d of %q, its index entry is of %d", what, ino, id, at)
	}
	if ino >= c.limit {
		c.add("inode %d of %s was never reserved (limit %d)", ino, id, c.limit)
	}
}

// checkIDs: the index has no entry but those of what is known. Each of these has
// its own, so as many are right.
func (c *checker) checkIDs() {
	n := 0
	count := func(id []byte, ino Ino) {
		n++
		var e entry
		switch ok, err := c.v.entry(ino, &e); {
		case err != nil:
			c.add("inode %d: %w", ino, err)
		case ok && e.ID == string(id):
		case string(c.ghost.Get(be(ino))) == string(id):
		default:
			v := c.tomb.Get(be(ino))
			if v == nil {
				c.add("inode %d of %q is neither live nor hidden nor a ghost", ino, id)
			} else if _, err := decodeTomb(v, ino, c.v.strs, &e); err != nil || e.ID != string(id) {
				c.add("inode %d is hidden as %q, an index entry says %q", ino, e.ID, id)
			}
		}
	}
	if c.held != nil {
		c.held.each(func(id []byte, ino Ino) { count(id, ino) })
	}
	c.each(bID, func(k, v []byte) {
		ino, ok := number(v)
		if !ok {
			c.add("id %q has no number", k)
		}
		if c.held != nil {
			if _, twice := c.held.get(string(k)); twice {
				return
			}
		}
		count(k, ino)
	})
	if n != c.known && c.ctx.Err() == nil {
		c.add("%d ids in the index, %d nodes", n, c.known)
	}
}

// checkHomes: every live node has a record where its home says, and its id.
func (c *checker) checkHomes() {
	c.each(bHome, func(k, _ []byte) {
		c.live++
		ino := binary.BigEndian.Uint64(k)
		var e entry
		if ok, err := c.v.entry(ino, &e); err != nil || !ok {
			c.add("inode %d: %w", ino, errors.Join(err, ErrDamaged))
			return
		}
		c.know("inode", ino, e.ID)
		if has := c.multi.Get(k) != nil; has != (e.Folder && len(e.raw) > 1) {
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
			if c.v.home.Get(be(p)) == nil && c.tomb.Get(be(p)) == nil && c.ghost.Get(be(p)) == nil {
				c.add("inode %d is in %d, which is nothing", ino, p)
			}
		}
	})
	if n := int64(getNumber(c.tx.Bucket(bMeta), keyNodes)); n != c.live && c.ctx.Err() == nil {
		c.add("%d live nodes, counted as %d", c.live, n)
	}
}

// checkNodes: every entry of a folder belongs there, and holds its name.
func (c *checker) checkNodes() {
	c.each(bNode, func(k, v []byte) {
		dir, ino := binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(k[8:])
		var e entry
		if ok, err := c.v.entry(ino, &e); err != nil || !ok {
			c.add("entry %d in %d is not of a live node: %v", ino, dir, err)
			return
		}
		if v[0] == tagRecord && dir != e.home() {
			c.add("inode %d has a record in %d, its home is %d", ino, dir, e.home())
		}
		if dir == 0 {
			if len(e.raw) > 0 {
				c.add("inode %d is in no folder, but has parents", ino)
			}
			return
		}
		if !slices.Contains(e.raw, dir) {
			c.add("entry %d in %d, its parents are %d", ino, dir, e.raw)
		}
		level := levelIn(c.v.node, &e, dir)
		for l := uint8(0); l <= level; l++ {
			key := nameKey(nil, dir, shownAt(e.Name, e.ID, l))
			list, err := decodeClaims(nil, c.name.Get(key))
			if err != nil || !slices.Contains(list, claim{ino, l}) {
				c.add("inode %d has no claim on %q in %d: %v", ino, key[8:], dir, err)
				continue
			}
			if holds := list[0] == (claim{ino, l}); holds != (l == level) && level < levelMax {
				c.add("inode %d at level %d in %d: holds %q is %v", ino, level, dir, key[8:], holds)
			}
		}
	})
}

// checkHidden: tombstones and ghosts are what is left, and nothing else is.
func (c *checker) checkHidden() {
	c.each(bTomb, func(k, v []byte) {
		ino := binary.BigEndian.Uint64(k)
		var e entry
		if _, err := decodeTomb(v, ino, c.v.strs, &e); err != nil {
			c.add("%w", err)
			return
		}
		c.know("tombstone", ino, e.ID)
		if c.v.home.Get(k) != nil {
			c.add("inode %d is live and has a tombstone", ino)
		}
	})
	c.each(bGhost, func(k, v []byte) {
		ino := binary.BigEndian.Uint64(k)
		c.know("ghost", ino, string(v))
		if c.v.home.Get(k) != nil || c.tomb.Get(k) != nil {
			c.add("ghost %d is known", ino)
		}
	})
}

// checkNames: every claim is one of a node that is there, slots are in order,
// and no two nodes of a folder show one folded name.
func (c *checker) checkNames() {
	c.each(bName, func(k, v []byte) {
		dir := binary.BigEndian.Uint64(k)
		list, err := decodeClaims(nil, v)
		if err != nil || len(list) == 0 {
			c.add("slot %q in %d: %v", k[8:], dir, err)
			return
		}
		var last contender
		for i, cl := range list {
			var e entry
			if ok, err := c.v.entry(cl.ino, &e); err != nil || !ok || !slices.Contains(e.raw, dir) {
				c.add("slot %q in %d is claimed by %d, which is not there: %v", k[8:], dir, cl.ino, err)
				return
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
	for len(todo) > 0 && c.ctx.Err() == nil {
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
