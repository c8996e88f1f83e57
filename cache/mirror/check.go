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
	m.noteDamage(c.f, err)
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
	c.v = view{tx: tx, node: often(tx, bNode), inode: often(tx, bInode), level: often(tx, bLevel), loan: &loan{}}
	c.name, c.index = often(tx, bName), often(tx, bID)
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
	index bucket // id → number
	limit Ino    // no number at or above it was handed out
	known int    // inodes of which the file knows something
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
	c.checkInodes()
	c.checkNodes()
	c.checkIDs()
	c.checkNames()
	c.checkLevels()
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

// checkIDs: the index has no entry but those of what is known. Each of these has
// its own (checkInodes), so as many are right.
func (c *checker) checkIDs() {
	n := 0
	c.each(bID, func(k, v []byte) {
		n++
		ino, ok := number(v)
		var e entry
		if st, err := c.v.load(ino, &e); !ok || err != nil || st == stateUnknown || e.ID != string(k) {
			c.add("inode %d of %q is of %q: %v", ino, k, e.ID, err)
		}
	})
	if n != c.known && c.ctx.Err() == nil {
		c.add("%d ids in the index, %d inodes", n, c.known)
	}
}

// checkInodes: every inode is something, and its id is of it.
func (c *checker) checkInodes() {
	multi := multiOf(c.tx.Bucket(bMeta))
	c.each(bInode, func(k, val []byte) {
		c.known++
		ino := binary.BigEndian.Uint64(k)
		var e entry
		st, err := c.v.load(ino, &e)
		if err != nil || st == stateUnknown {
			c.add("inode %d: %w", ino, errors.Join(err, ErrDamaged))
			return
		}
		if at, _ := number(c.index.Get([]byte(e.ID))); at != ino {
			c.add("inode %d of %q, its index entry is of %d", ino, e.ID, at)
		}
		if ino >= c.limit {
			c.add("inode %d of %s was never reserved (limit %d)", ino, e.ID, c.limit)
		}
		if st != stateLive {
			return
		}
		c.live++
		flags, home, _ := liveAt(val)
		isMulti := e.Folder && len(e.raw) > 1
		if home != e.home() || flags&flagIsFolder != 0 != e.Folder || flags&flagIsMulti != 0 != isMulti || slices.Contains(multi, ino) != isMulti {
			c.add("inode %d with parents %d, folder %v, has flags %x in %d", ino, e.raw, e.Folder, flags, home)
		}
		for i, p := range e.raw {
			if slices.Index(e.raw, p) != i || p == ino {
				c.add("inode %d has parents %d", ino, e.raw)
			}
			if i > 0 {
				if home, ok := decodeLink(c.v.node.Get(key2(nil, p, ino))); !ok || home != e.home() {
					c.add("inode %d has no link in %d", ino, p)
				}
			}
			if c.v.of(p) == nil {
				c.add("inode %d is in %d, which is nothing", ino, p)
			}
		}
	})
	if n := int64(getNumber(c.tx.Bucket(bMeta), keyNodes)); n != c.live && c.ctx.Err() == nil {
		c.add("%d live nodes, counted as %d", c.live, n)
	}
}

// checkLevels: a level is of a node that is there.
func (c *checker) checkLevels() {
	c.each(bLevel, func(k, v []byte) {
		if len(k) != 16 || len(v) != 1 || v[0] == 0 || v[0] > levelMax || c.v.node.Get(k) == nil {
			c.add("level %x of %x", v, k)
		}
	})
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
		if _, link := decodeLink(v); !link && dir != e.home() {
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
		level := c.v.levelIn(dir, ino)
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
			if string(want) != string(k) || c.v.levelIn(dir, cl.ino) < cl.level {
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
			ok, err := c.v.value(s.dir, ino, val, &e)
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
	err := m.view(func(v *view) error {
		for _, name := range buckets {
			err := v.tx.Bucket(name).ForEach(func(k, val []byte) error {
				text, err := v.dump(string(name), k, val)
				fmt.Fprintf(w, "%s %s\n", name, text)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, w.Flush())
}

// dump is one entry of a bucket as text.
func (v *view) dump(bucket string, k, val []byte) (string, error) {
	first := func() Ino { return binary.BigEndian.Uint64(k) }
	var e entry
	switch bucket {
	case "inode":
		if _, home, ok := liveAt(val); ok {
			return fmt.Sprintf("%d live flags=%x home=%d", first(), val[1], home), nil
		}
		st, err := v.load(first(), &e)
		if !st.hidden() {
			return fmt.Sprintf("%d state=%d id=%s", first(), st, e.ID), err
		}
		return fmt.Sprintf("%d state=%d since=%s %s", first(), st, hiddenSince(val).UTC().Format("2006-01-02T15:04:05Z"), e.dump()), err
	case "node":
		dir, ino := first(), binary.BigEndian.Uint64(k[8:])
		if home, ok := decodeLink(val); ok {
			return fmt.Sprintf("%d/%d link home=%d", dir, ino, home), nil
		}
		err := decodeRecord(val, dir, ino, &e)
		return fmt.Sprintf("%d/%d %s", dir, ino, e.dump()), err
	case "name":
		list, err := decodeClaims(nil, val)
		return fmt.Sprintf("%d/%q %v", first(), k[8:], list), err
	case "level":
		return fmt.Sprintf("%d/%d %d", first(), binary.BigEndian.Uint64(k[8:]), val), nil
	case "id":
		ino, _ := number(val)
		return fmt.Sprintf("%s %d", k, ino), nil
	}
	return fmt.Sprintf("%s %q", k, val), nil
}

func (e *entry) dump() string {
	kind := "file"
	if e.Folder {
		kind = "folder"
	}
	s := fmt.Sprintf("%s id=%s name=%q parents=%d version=%d etag=%q created=%s modified=%s by=%q",
		kind, e.ID, e.Name, e.raw, e.Version, e.ETag,
		e.Created.Format("2006-01-02T15:04:05.000"), e.Modified.Format("2006-01-02T15:04:05.000"), e.CreatedBy)
	if !e.Folder {
		s += fmt.Sprintf(" content=%d size=%d md5=%s type=%q gen=%d", e.Content, e.Size, e.MD5, e.ContentType, e.Gen)
	}
	if e.Props != nil {
		s += fmt.Sprintf(" props@%d=%v", e.PropsVersion, e.Props)
	}
	return s + " seen=" + e.Seen.Format("2006-01-02")
}
