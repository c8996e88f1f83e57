package mirror

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"time"

	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// verify.go looks at the pages of a bbolt file before bbolt does. A file that
// was not closed has no list of free pages, and bbolt then finds them by a walk
// over all pages on a goroutine of its own, where nobody can recover from a
// damaged one: the process would die at every start. The layout is bbolt's
// version 2, in the machine's byte order.

const (
	pageHeader   = 16 // id u64, flags u16, count u16, overflow u32
	pageBranch   = 1
	pageLeaf     = 2
	pageFreelist = 16
	elemSize     = 16 // leaf: flags, pos, ksize, vsize u32; branch: pos, ksize u32, page u64
	elemBucket   = 1
	boltMagic    = 0xED0CDAED
	noFreelist   = ^uint64(0)
	depthMax     = 64
)

// boltMeta is what a meta page says.
type boltMeta struct {
	pageSize             int64
	root, freelist, high uint64
	txid                 uint64
}

var ne = binary.NativeEndian

// readMeta reads the meta page at off; ok=false when it is none.
func readMeta(f io.ReaderAt, off int64) (m boltMeta, ok bool) {
	var b [64]byte
	if _, err := f.ReadAt(b[:], off+pageHeader); err != nil {
		return m, false
	}
	sum := fnv.New64a()
	sum.Write(b[:56])
	if ne.Uint32(b[0:]) != boltMagic || ne.Uint32(b[4:]) != 2 || ne.Uint64(b[56:]) != sum.Sum64() {
		return m, false
	}
	m = boltMeta{
		pageSize: int64(ne.Uint32(b[8:])), root: ne.Uint64(b[16:]),
		freelist: ne.Uint64(b[32:]), high: ne.Uint64(b[40:]), txid: ne.Uint64(b[48:]),
	}
	return m, m.pageSize >= 1024 && m.pageSize <= 1<<16 && m.pageSize&(m.pageSize-1) == 0
}

// verify returns ErrDamaged for a file that bbolt could not open without harm.
// A file that is no bbolt file at all is left to bbolt to refuse.
func verify(f *os.File) error {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	m, ok := readMeta(f, 0)
	size := int64(os.Getpagesize())
	if ok {
		size = m.pageSize
	}
	if m1, ok1 := readMeta(f, size); ok1 && (!ok || m1.txid > m.txid) {
		m, ok = m1, true
	}
	if !ok {
		return nil
	}
	if m.high > uint64(st.Size())/uint64(m.pageSize) {
		return fmt.Errorf("%d of %d pages are there: %w", st.Size()/m.pageSize, m.high, ErrDamaged)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(int64(m.high)*m.pageSize), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	// Read only, and never written through: what ends the mapping cannot fail.
	defer func() { _ = unix.Munmap(data) }()
	w := walker{data: data, ctx: context.Background(), boltMeta: m, seen: make([]uint64, m.high/64+1)}
	if m.freelist != noFreelist {
		_, err := w.read(m.freelist, pageFreelist)
		return err // it was closed in order
	}
	return w.page(m.root, 0)
}

type walker struct {
	boltMeta
	ctx  context.Context // its end ends the walk
	data []byte          // all pages
	seen []uint64        // bits
}

func damagedPage(id uint64, format string, args ...any) error {
	return fmt.Errorf("page %d: %s: %w", id, fmt.Sprintf(format, args...), ErrDamaged)
}

// read gives a page with what overflows, and checks its header.
func (w *walker) read(id uint64, flags uint16) ([]byte, error) {
	if id < 2 || id >= w.high {
		return nil, damagedPage(id, "outside of the file")
	}
	size := uint64(w.pageSize)
	b := w.data[id*size:]
	has, over := ne.Uint16(b[8:]), uint64(ne.Uint32(b[12:]))
	if ne.Uint64(b) != id || has&flags == 0 || has&^(pageBranch|pageLeaf|pageFreelist) != 0 || id+over >= w.high {
		return nil, damagedPage(id, "not what it should be")
	}
	for p := id; p <= id+over; p++ {
		if w.seen[p/64]&(1<<(p%64)) != 0 {
			return nil, damagedPage(p, "used twice")
		}
		w.seen[p/64] |= 1 << (p % 64)
	}
	return b[:(over+1)*size], nil
}

// page checks a page of a tree and all below it.
func (w *walker) page(id uint64, depth int) error {
	b, err := w.read(id, pageBranch|pageLeaf)
	if err != nil {
		return err
	}
	if depth > depthMax {
		return damagedPage(id, "too deep")
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	return w.elements(id, b, depth)
}

func (w *walker) elements(id uint64, b []byte, depth int) error {
	if len(b) < pageHeader {
		return damagedPage(id, "too short")
	}
	flags, count := ne.Uint16(b[8:]), int(ne.Uint16(b[10:]))
	if pageHeader+count*elemSize > len(b) {
		return damagedPage(id, "%d elements", count)
	}
	var last []byte
	for i := range count {
		at := pageHeader + i*elemSize
		e := b[at:]
		var pos, ksize, vsize, kind uint64
		switch flags {
		case pageLeaf:
			kind, pos, ksize, vsize = uint64(ne.Uint32(e)), uint64(ne.Uint32(e[4:])), uint64(ne.Uint32(e[8:])), uint64(ne.Uint32(e[12:]))
		case pageBranch:
			pos, ksize = uint64(ne.Uint32(e)), uint64(ne.Uint32(e[4:]))
		default:
			return damagedPage(id, "of kind %x", flags)
		}
		if pos+ksize+vsize > uint64(len(e)) {
			return damagedPage(id, "element %d is outside", i)
		}
		key := e[pos : pos+ksize]
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return damagedPage(id, "keys are out of order")
		}
		last = key
		var err error
		switch {
		case flags == pageBranch:
			err = w.page(ne.Uint64(e[8:]), depth+1)
		case kind&elemBucket != 0:
			value := e[pos+ksize : pos+ksize+vsize]
			if len(value) < 16 {
				return damagedPage(id, "bucket %q", key)
			}
			if root := ne.Uint64(value); root != 0 {
				err = w.page(root, depth+1)
			} else if depth > depthMax {
				err = damagedPage(id, "too deep")
			} else {
				err = w.elements(id, value[16:], depth+1)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// openVerified opens a file for bbolt: locked, as bbolt will lock it again, and
// verified.
func openVerified(path string, flag int, perm fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := verify(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lockWait is how long another process is waited for, which may be about to end.
const lockWait = 2 * time.Second

func lockFile(f *os.File) error {
	for end := time.Now().Add(lockWait); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("locking: %w", err)
		case time.Now().After(end):
			return berrors.ErrTimeout
		}
		time.Sleep(50 * time.Millisecond)
	}
}
