package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Contents up to smallMax live beside the log, in segments of their own, and
// are written with the frame that makes them somebody's:
//
//	"djs1" | CRC-32C of the rest (4) | length of content (4) | length of name (4) | id (8) | ino (8) | name | content
//
// A content never changes: what is written later gets another id. A segment of
// which half is dead is given up after what lives was moved.
const (
	smallMax     = 16 << 10
	smallSegment = 16 << 20 // a segment is not begun with, but may end beyond
	smallHeader  = 4 + 4 + 4 + 4 + 8 + 8
	smallReserve = 1 << 20 // bytes allocated ahead
	smallSuffix  = ".small"
)

var smallMagic = [4]byte{'d', 'j', 's', '1'}

// smallAt is where a small content lies.
type smallAt struct {
	seg, off, size uint32 // size of the whole frame
}

// smallSeg is a file with small contents.
type smallSeg struct {
	n    uint32
	f    file
	size int64 // the writer's
	room int64 // bytes allocated; the writer's

	// Guarded by Journal.mu.
	live   int64 // bytes that somebody needs
	dirty  bool  // not all of it is on the disk
	named  bool  // its name is on the disk
	failed bool  // a sync of it failed: nothing in it can be trusted to be there
	stuck  bool  // it cannot be emptied
}

// smallStore is the contents. The table and the live bytes are guarded by
// Journal.mu, the rest is the writer's.
type smallStore struct {
	fs     fsys
	dir    string
	at     map[uint64]smallAt // id → place
	segs   map[uint32]*smallSeg
	active *smallSeg // nil = begin one

	segment int64  // bytes after which one is begun
	last    uint32 // number of the newest segment
	buf     []byte
}

// smallWrite is a content on its way into the store: new, or moved.
type smallWrite struct {
	id, ino uint64
	name    string
	data    []byte
	at      smallAt // when it was written
	of      *blob   // nil when it is moved
	from    smallAt // where it lay then
}

func (s *smallStore) path(n uint32) string {
	return filepath.Join(s.dir, segmentName(uint64(n))+smallSuffix)
}

func appendSmall(b []byte, w *smallWrite) []byte {
	at := len(b)
	b = append(b, make([]byte, smallHeader)...)
	b = append(append(b, w.name...), w.data...)
	f := b[at:]
	copy(f, smallMagic[:])
	le := binary.LittleEndian
	le.PutUint32(f[8:], uint32(len(w.data)))
	le.PutUint32(f[12:], uint32(len(w.name)))
	le.PutUint64(f[16:], w.id)
	le.PutUint64(f[24:], w.ino)
	le.PutUint32(f[4:], crc32.Checksum(f[8:], castagnoli))
	return b
}

// parseSmall reads the frame at the beginning of b; size 0 = there is none.
func parseSmall(b []byte) (w smallWrite, size int) {
	if len(b) < smallHeader || !bytes.Equal(b[:4], smallMagic[:]) {
		return w, 0
	}
	le := binary.LittleEndian
	n, name := uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))
	if smallHeader+n+name > uint64(len(b)) || crc32.Checksum(b[8:smallHeader+n+name], castagnoli) != le.Uint32(b[4:]) {
		return w, 0
	}
	rest := b[smallHeader:]
	return smallWrite{id: le.Uint64(b[16:]), ino: le.Uint64(b[24:]), name: string(rest[:name]), data: rest[name : name+n]}, smallHeader + int(n+name)
}

// write stores contents, all or none of them. begun is a segment that was
// begun for it, nil = none.
func (s *smallStore) write(ws []*smallWrite) (begun *smallSeg, err error) {
	if len(ws) == 0 {
		return nil, nil
	}
	if s.active == nil || s.active.size >= s.segment {
		if begun, err = s.begin(); err != nil {
			return nil, err
		}
		s.active = begun
	}
	seg := s.active
	if cap(s.buf) > 1<<20 {
		s.buf = nil
	}
	b := s.buf[:0]
	for _, w := range ws {
		at := len(b)
		b = appendSmall(b, w)
		w.at = smallAt{seg.n, uint32(seg.size) + uint32(at), uint32(len(b) - at)}
	}
	s.buf = b
	if seg.room < seg.size+int64(len(b)) && seg.f.Allocate(unix.FALLOC_FL_KEEP_SIZE, seg.size, int64(len(b))+smallReserve) == nil {
		seg.room = seg.size + int64(len(b)) + smallReserve
	}
	if _, err := seg.f.WriteAt(b, seg.size); err != nil {
		_ = seg.f.Truncate(seg.size) // what is left is nobody's
		seg.room = seg.size
		return begun, fmt.Errorf("journal: store contents: %w", err)
	}
	seg.size += int64(len(b))
	return begun, nil
}

func (s *smallStore) begin() (*smallSeg, error) {
	s.last++
	f, err := s.fs.OpenFile(s.path(s.last), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: store contents: %w", err)
	}
	return &smallSeg{n: s.last, f: f}, nil
}

// putLocked notes where a content lies.
func (s *smallStore) putLocked(id uint64, at smallAt) {
	s.dropLocked(id)
	s.at[id] = at
	if seg := s.segs[at.seg]; seg != nil {
		seg.live += int64(at.size)
	}
}

func (s *smallStore) has(id uint64) bool {
	_, ok := s.at[id]
	return ok
}

// dropLocked forgets a content; its bytes go when its segment does.
func (s *smallStore) dropLocked(id uint64) bool {
	at, ok := s.at[id]
	if !ok {
		return false
	}
	delete(s.at, id)
	if seg := s.segs[at.seg]; seg != nil {
		seg.live -= int64(at.size)
	}
	return true
}

// readSmall gets the content of that id.
func readSmall(f file, id uint64, at smallAt) ([]byte, error) {
	b := make([]byte, at.size)
	if _, err := f.ReadAt(b, int64(at.off)); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("journal: read content: %w", err)
	}
	w, size := parseSmall(b)
	if size != len(b) || w.id != id {
		return nil, fmt.Errorf("%w: content %d is not where it was put", ErrDamaged, id)
	}
	return w.data, nil
}

func (s *smallStore) close() (err error) {
	for _, seg := range s.segs {
		err = errors.Join(err, seg.f.Close())
	}
	return err
}

// open opens the segments that the table speaks of, and returns the names of
// those it does not.
func (s *smallStore) open(names []string) (unused []string, err error) {
	used := make(map[uint32]bool)
	for _, at := range s.at {
		used[at.seg] = true
	}
	for _, name := range names {
		n, _, ok := parseSegment(strings.TrimSuffix(name, smallSuffix))
		if !ok || !strings.HasSuffix(name, smallSuffix) {
			continue
		}
		s.last = max(s.last, uint32(n))
		if !used[uint32(n)] {
			unused = append(unused, name)
			continue
		}
		f, err := s.fs.OpenFile(s.path(uint32(n)), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("journal: open contents: %w", err)
		}
		size, err := f.Length()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("journal: open contents: %w", err), f.Close())
		}
		s.segs[uint32(n)] = &smallSeg{n: uint32(n), f: f, size: size, dirty: true}
	}
	for _, at := range s.at {
		if seg := s.segs[at.seg]; seg != nil {
			seg.live += int64(at.size)
		}
	}
	return unused, nil
}

// scanSmall calls fn for every whole content in b.
func scanSmall(b []byte, fn func(off int, w smallWrite, size int)) {
	for at := 0; ; {
		i := bytes.Index(b[at:], smallMagic[:])
		if i < 0 {
			return
		}
		at += i
		w, size := parseSmall(b[at:])
		if size == 0 {
			at++
			continue
		}
		fn(at, w, size)
		at += size
	}
}

// appendSmallAt and readSmallAt are opSmall's fields.
func appendSmallAt(b []byte, id uint64, at smallAt) []byte {
	b = putUint(b, 1, id)
	b = putUint(b, 2, uint64(at.seg))
	b = putUint(b, 3, uint64(at.off))
	return putUint(b, 4, uint64(at.size))
}

func readSmallAt(b []byte) (id uint64, at smallAt, err error) {
	f := fields{b: b}
	for f.next() {
		switch f.num {
		case 1:
			id = f.v
		case 2:
			at.seg = uint32(f.v)
		case 3:
			at.off = uint32(f.v)
		case 4:
			at.size = uint32(f.v)
		}
	}
	if f.bad {
		return 0, at, errRecord
	}
	return id, at, nil
}
