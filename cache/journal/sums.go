package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// The bytes of a draft's file are summed by granule while they are written. A
// state says what all sums came to; so content is known to be whole after a
// power failure, and a file that changed by itself is never sent.
const (
	granule = 64 << 10

	// sumsReread bounds what a Commit reads again, after writes out of order;
	// beyond it the state says nothing of sums.
	sumsReread = 1024
)

var crc64Table = crc64.MakeTable(crc64.ECMA)

// granuleSum is the CRC-32C of the first n bytes of a granule; n < 0: of none.
type granuleSum struct {
	crc uint32
	n   int32
}

// granuleSums is the sums of a file, as far as they are known.
type granuleSums []granuleSum

// wrote takes note of bytes p that were written at off.
func (s *granuleSums) wrote(p []byte, off int64) {
	if have := int64(len(*s)); off > (have+sumsReread)*granule {
		*s = nil // a hole that is not worth the table: see total
		return
	}
	for len(p) > 0 {
		i, at := off/granule, int32(off%granule)
		k := min(len(p), int(granule-at))
		for int64(len(*s)) <= i {
			*s = append(*s, granuleSum{})
		}
		if g := &(*s)[i]; g.n == at {
			g.crc, g.n = crc32.Update(g.crc, castagnoli, p[:k]), at+int32(k)
		} else {
			g.n = -1
		}
		p, off = p[k:], off+int64(k)
	}
}

// spoil forgets the sums of [off, end).
func (s granuleSums) spoil(off, end int64) {
	for i := off / granule; i*granule < end && i < int64(len(s)); i++ {
		s[i].n = -1
	}
}

// total is the sums of the first size bytes of f, nil when more would have to
// be read again than is worth it.
func (s *granuleSums) total(f io.ReaderAt, size int64) []uint32 {
	count := (size + granule - 1) / granule
	if count > int64(len(*s))+sumsReread {
		return nil
	}
	var buf []byte
	reread := 0
	out := make([]uint32, count)
	for i := range count {
		want := int32(min(granule, size-i*granule))
		if int64(len(*s)) <= i {
			*s = append(*s, granuleSum{n: -1})
		}
		g := &(*s)[i]
		if g.n != want {
			if reread++; reread > sumsReread {
				return nil
			}
			if buf == nil {
				buf = make([]byte, granule)
			}
			if _, err := f.ReadAt(buf[:want], i*granule); err != nil && !errors.Is(err, io.EOF) {
				return nil
			}
			g.crc, g.n = crc32.Checksum(buf[:want], castagnoli), want
		}
		out[i] = g.crc
	}
	*s = (*s)[:count]
	return out
}

// known undoes total.
func (s *granuleSums) known(sums []uint32, size int64) {
	*s = make(granuleSums, len(sums))
	for i, crc := range sums {
		(*s)[i] = granuleSum{crc, int32(min(granule, size-int64(i)*granule))}
	}
}

// digest is what the sums come to; 0 when there are none.
func digest(sums []uint32) uint64 {
	if len(sums) == 0 {
		return 0
	}
	b := make([]byte, 0, 4*len(sums))
	for _, crc := range sums {
		b = binary.LittleEndian.AppendUint32(b, crc)
	}
	return max(crc64.Checksum(b, crc64Table), 1)
}

// readSums reads the first size bytes of f and sums them.
func readSums(f io.ReaderAt, size int64) ([]uint32, error) {
	sums := make([]uint32, 0, (size+granule-1)/granule)
	buf := make([]byte, granule)
	for off := int64(0); off < size; off += granule {
		b := buf[:min(granule, size-off)]
		if _, err := f.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		sums = append(sums, crc32.Checksum(b, castagnoli))
	}
	return sums, nil
}

// touchedAttr is the extended attribute with the generation up to which bytes
// may have been overwritten in place: their sums say nothing after a crash.
const touchedAttr = "user.drivefs.touched"

// markLocked notes on the file, before it is done, that bytes of a committed
// content are overwritten from off on. Best effort: where files have no such
// attributes, no sums are believed after a crash.
func (d *Draft) markLocked(off int64) {
	c := d.committed
	if d.mem != nil || c == nil || off >= d.longest || d.marked == c.Gen {
		return
	}
	d.marked = c.Gen
	_ = unix.Setxattr(d.j.draftPath(d.ino, d.file), touchedAttr, strconv.AppendUint(nil, c.Gen, 10), 0)
}

// touchedSince reports whether the bytes of that generation may have been
// overwritten in place since.
func touchedSince(path string, gen uint64) bool {
	b := make([]byte, 32)
	n, err := unix.Getxattr(path, touchedAttr, b)
	if errors.Is(err, unix.ENODATA) {
		return false
	}
	if err != nil {
		return true
	}
	marked, err := strconv.ParseUint(string(b[:n]), 10, 64)
	return err != nil || gen <= marked
}

// verify makes sure, before generation gen is sent, that its sums are known
// and, when they come from an earlier run, that the file is still what was
// closed. ErrDamaged: it is not.
func (d *Draft) verify(gen uint64) error {
	d.mu.RLock()
	st, f, writes := d.committed, d.f, d.writes
	path := d.j.draftPath(d.ino, d.file)
	if st != nil && st.Gen == gen && d.syncFailed != nil && st.Sums == 0 {
		d.mu.RUnlock()
		return fmt.Errorf("%w: inode %d: %w", ErrDamaged, d.ino, d.syncFailed)
	}
	skip := st == nil || st.Gen != gen || d.touched || d.mem != nil || st.File != d.file || st.Sums == 0 || st.c.sums.Load() != nil
	d.mu.RUnlock()
	if skip {
		return nil
	}
	sums, err := readSums(f, st.Size)
	if err != nil {
		return fmt.Errorf("journal: read draft: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.f != f || d.writes != writes {
		return nil // Snapshot finds out what that means
	}
	if digest(sums) != st.Sums && !touchedSince(path, gen) {
		return fmt.Errorf("%w: inode %d: its bytes are not those that were closed", ErrDamaged, d.ino)
	}
	st.c.sums.Store(&sums)
	d.sums.known(slices.Clone(sums), st.Size)
	return nil
}

// verified is bytes of one granule whose sum was right.
type verified struct {
	sums []uint32 // of the whole content; nil = nothing is known
	n    int64    // number of the granule in buf, when it is not empty
	buf  []byte
}

// read copies what p has room for of the granule at off; size is that of the
// content.
func (v *verified) read(f io.ReaderAt, p []byte, off, size int64) (int, error) {
	n := off / granule
	if v.n != n || len(v.buf) == 0 {
		b := append(v.buf[:0], make([]byte, min(granule, size-n*granule))...)
		v.buf = v.buf[:0]
		k, err := f.ReadAt(b, n*granule)
		if err != nil && !(errors.Is(err, io.EOF) && k == len(b)) {
			return 0, err
		}
		if crc32.Checksum(b, castagnoli) != v.sums[n] {
			return 0, fmt.Errorf("%w: the bytes at %d are not those that were written", ErrDamaged, n*granule)
		}
		v.n, v.buf = n, b
	}
	return copy(p, v.buf[off-n*granule:]), nil
}

// rescue copies content whose sync failed to another file, as far as its sums
// prove that it is still what was closed, syncs that, and makes it the entry's.
func (d *Draft) rescue() error {
	d.mu.Lock()
	st, old := d.committed, d.file
	if d.syncFailed == nil || st == nil || st.File != d.file || d.mem != nil || d.dirty.Load() || d.touched || d.orphan {
		d.mu.Unlock()
		return nil // the next Commit or cut begins anew, or there is nothing to save
	}
	seq, err := d.copyLocked(st)
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: inode %d, file %d: what a failed sync left cannot be saved: %w", ErrDamaged, d.ino, old, err)
	}
	return d.j.Written(seq)
}

// copyLocked does rescue's work on the disk and in the tables.
func (d *Draft) copyLocked(st *DraftState) (seq uint64, err error) {
	sums := st.c.sums.Load()
	if sums == nil {
		return 0, errors.New("it has no checksums")
	}
	f, n, err := d.j.createFile(d.ino)
	if err != nil {
		return 0, err
	}
	v := verified{sums: *sums}
	buf := make([]byte, granule)
	for off := int64(0); off < st.Size && err == nil; off += granule {
		var k int
		if k, err = v.read(d.f, buf, off, st.Size); err == nil {
			_, err = f.WriteAt(buf[:k], off)
		}
	}
	if err == nil {
		err = errors.Join(f.Datasync(), d.j.syncNames(n))
	}
	if err != nil {
		_ = d.j.fs.Remove(d.j.draftPath(d.ino, n)) // a leftover is removed at the next Open
		return 0, errors.Join(err, f.Close())
	}
	c := *st
	c.File, c.c = n, &blob{synced: true}
	c.c.sums.Store(sums)
	j := d.j
	j.mu.Lock()
	defer j.mu.Unlock()
	d.retired = append(d.retired, d.f)
	old := d.file
	d.f, d.file, d.syncFailed, d.length = f, n, nil, st.Size
	d.committed, d.state, d.stateAt, d.syncedAt = &c, DraftState{File: n, Sums: c.Sums, c: c.c}, d.writes, d.writes
	d.retireLocked()
	e := j.index.items[d.ino]
	if contentGen(e) != c.Gen {
		j.releaseLocked(d.ino, old)
		return 0, nil
	}
	e = e.Clone()
	e.Draft = &c
	return j.appendLocked([]Change{{Ino: d.ino, Entry: e, Progress: true}}, nil)
}
