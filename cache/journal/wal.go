package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The log is segments, files named by growing numbers, and one base: all that
// lived when a segment was begun. A base is written under a name that nobody
// reads and renamed when it is whole and on the disk; then what is older goes.
// Both consist of frames:
//
//	"djw1" | CRC-32C of the rest (4) | length of ops (4) | seq (8) | ops
//
// all little endian. In segments seq counts frames over the life of the log,
// so a hole is damage while an incomplete last frame is an unfinished write.
// In a base it counts from 1. A frame is one atomic change; its ops are a byte,
// a uvarint, and for some of them as many bytes as it says:
//
//	opRecord  length record      the entry is now this
//	opDelete  ino                the entry is gone
//	opReserve ino                inode numbers up to ino are taken
//	opSynced  length fields      a content is on the disk
//	opMeta    length fields      what belongs to no entry
//	opSmall   length fields      where a small content lies
//	opEnd     seq                of a base: it is whole; the next frame's number
const (
	opRecord = iota + 1
	opDelete
	opReserve
	opSynced
	opMeta
	opSmall
	opEnd
)

var walMagic = [4]byte{'d', 'j', 'w', '1'}

const (
	frameHeader = 4 + 4 + 4 + 8

	// walReserve is allocated ahead, so that closing and removing works on a
	// full disk.
	walReserve = 1 << 20

	baseSuffix = ".base"
	logDir     = "journal.log"
)

// wal is the log as the writer sees it. Only the writer uses it
// (Journal.writing), but for what is said to be guarded by Journal.mu.
type wal struct {
	fs   fsys
	dir  string
	n    uint64 // number of the active segment
	off  int64  // where the next frame goes
	room int64  // bytes allocated
	foul bool   // what a failed write left is not taken away yet
	buf  []byte
	ends []int

	// Guarded by mu as well.
	f     file
	old   []file // earlier segments that may not be on the disk
	since int64  // bytes of frames since the base
	base  int64  // bytes of the base
}

func segmentName(n uint64) string { return fmt.Sprintf("%08d", n) }

// parseSegment undoes segmentName, with or without baseSuffix.
func parseSegment(name string) (n uint64, base, ok bool) {
	name, base = strings.CutSuffix(name, baseSuffix)
	n, err := strconv.ParseUint(name, 10, 64)
	return n, base, err == nil && segmentName(n) == name
}

func (w *wal) path(n uint64) string { return filepath.Join(w.dir, segmentName(n)) }

// create makes an empty segment; its name is on the disk then.
func (w *wal) create(n uint64) (file, error) {
	f, err := w.fs.OpenFile(w.path(n), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: new log segment: %w", err)
	}
	if err := w.fs.SyncDir(w.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("journal: new log segment: %w", err), f.Close())
	}
	return f, nil
}

// use makes f, an empty segment or one that ends at off, the active one.
func (w *wal) use(f file, n uint64, off int64) {
	if w.f != nil {
		w.old = append(w.old, w.f)
	}
	w.f, w.n, w.off, w.room, w.foul = f, n, off, off, false
}

// reserve keeps room allocated ahead, best effort.
func (w *wal) reserve() {
	if w.room-w.off >= walReserve/2 {
		return
	}
	// An error only means that this comfort is missing.
	if w.f.Allocate(unix.FALLOC_FL_KEEP_SIZE, w.off, walReserve) == nil {
		w.room = w.off + walReserve
	} else {
		w.room = w.off + walReserve/2 // not with each write
	}
}

// write appends a frame for each record, numbered from seq+1, with one
// write(2). It returns how many went out whole: with an error, those before it
// are good, and of the others nothing is left that a reader could find.
func (w *wal) write(group []*record, seq uint64) (whole int, err error) {
	if w.foul {
		if err := w.cutBack(); err != nil {
			return 0, err
		}
	}
	if cap(w.buf) > 1<<20 {
		w.buf = nil
	}
	b, ends := w.buf[:0], w.ends[:0]
	for i, r := range group {
		at := len(b)
		b = r.appendOps(append(b, make([]byte, frameHeader)...))
		sealFrame(b[at:], seq+1+uint64(i))
		ends = append(ends, len(b))
	}
	w.buf, w.ends = b, ends
	n, err := w.f.WriteAt(b, w.off)
	for whole < len(ends) && ends[whole] <= n {
		whole++
	}
	if whole > 0 {
		w.off += int64(ends[whole-1])
	}
	if whole == len(group) {
		w.reserve()
		return whole, nil
	}
	w.foul = true
	return whole, errors.Join(fmt.Errorf("journal: append to the log: %w", err), w.cutBack())
}

// cutBack takes away what a failed write may have left behind the last good
// frame. While it cannot, nothing is written.
func (w *wal) cutBack() error {
	if err := w.f.Truncate(w.off); err != nil {
		return fmt.Errorf("journal: cut the log back: %w", err)
	}
	w.foul, w.room = false, w.off
	w.reserve()
	return nil
}

func (w *wal) close() (err error) {
	for _, f := range append(w.old, w.f) {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// sealFrame completes the header of the frame f.
func sealFrame(f []byte, seq uint64) {
	copy(f, walMagic[:])
	le := binary.LittleEndian
	le.PutUint32(f[8:], uint32(len(f)-frameHeader))
	le.PutUint64(f[12:], seq)
	le.PutUint32(f[4:], crc32.Checksum(f[8:], castagnoli))
}

// readFrames calls fn for every whole frame in b, whatever lies between them,
// until it fails; end is where the last one ended.
func readFrames(b []byte, fn func(seq uint64, ops []byte) error) (end int, err error) {
	at := 0
	for {
		i := bytes.Index(b[at:], walMagic[:])
		if i < 0 || len(b)-at-i < frameHeader {
			return end, nil
		}
		at += i
		f := b[at:]
		le := binary.LittleEndian
		n := uint64(le.Uint32(f[8:]))
		if n > uint64(len(f)-frameHeader) || crc32.Checksum(f[8:frameHeader+n], castagnoli) != le.Uint32(f[4:]) {
			at++
			continue
		}
		if err := fn(le.Uint64(f[12:]), f[frameHeader:frameHeader+n]); err != nil {
			return end, err
		}
		at += frameHeader + int(n)
		end = at
	}
}

// forOps walks over the ops of a frame. The frame's checksum was right, so a
// malformed op means that something else than this package wrote it.
func forOps(ops []byte, fn func(op byte, v uint64, payload []byte) error) error {
	for len(ops) > 0 {
		op := ops[0]
		v, n := binary.Uvarint(ops[1:])
		if n <= 0 {
			return errRecord
		}
		ops = ops[1+n:]
		var payload []byte
		switch op {
		case opDelete, opReserve, opEnd:
		case opRecord, opSynced, opMeta, opSmall:
			if v > uint64(len(ops)) {
				return errRecord
			}
			payload, ops = ops[:v], ops[v:]
		default:
			return fmt.Errorf("%w: operation %d", ErrNewer, op)
		}
		if err := fn(op, v, payload); err != nil {
			return err
		}
	}
	return nil
}

func appendOp(b []byte, op byte, v uint64) []byte {
	return binary.AppendUvarint(append(b, op), v)
}

// appendPayload appends op with what payload appends.
func appendPayload(b []byte, op byte, payload func([]byte) []byte) []byte {
	at := len(b) + 1
	b = payload(append(b, op, 0, 0)) // nearly always the length takes 2 bytes
	n := len(b) - at - 2
	if n < 0x80 || n >= 0x4000 {
		var length [binary.MaxVarintLen64]byte
		k := binary.PutUvarint(length[:], uint64(n))
		grown := append(b, length[:k]...)
		b = grown[:len(b)-2+k]
		copy(grown[at+k:len(b)], grown[at+2:at+2+n])
		copy(b[at:], length[:k])
		return b
	}
	b[at], b[at+1] = byte(n)|0x80, byte(n>>7)
	return b
}

// meta is what belongs to no entry, as opMeta has it. In a frame of a segment
// only what is not zero counts.
type meta struct {
	boot                        string // the kernel's boot id
	maxIno, doneRev, order, gen uint64
	account                     []byte // JSON
}

func (m *meta) append(b []byte) []byte {
	b = putString(b, 1, m.boot)
	b = putUint(b, 2, m.maxIno)
	b = putUint(b, 3, m.doneRev)
	b = putUint(b, 4, m.order)
	b = putUint(b, 5, m.gen)
	if m.account != nil {
		b = putBytes(b, 6, m.account)
	}
	return b
}

func (m *meta) read(b []byte) error {
	f := fields{b: b}
	for f.next() {
		switch f.num {
		case 1:
			m.boot = string(f.s)
		case 2:
			m.maxIno = max(m.maxIno, f.v)
		case 3:
			m.doneRev = max(m.doneRev, f.v)
		case 4:
			m.order = max(m.order, f.v)
		case 5:
			m.gen = max(m.gen, f.v)
		case 6:
			m.account = bytes.Clone(f.s)
		}
	}
	if f.bad {
		return errRecord
	}
	return nil
}
