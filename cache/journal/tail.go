package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// The tail holds what the database does not have yet, as frames:
//
//	"djt1" | CRC-32C of the rest (4) | length of ops (4) | seq (8) | folded (8) | ops
//
// all little endian. seq counts frames over the life of the journal; folded
// is what the database had for certain when the frame was written, so frames
// up to the largest folded are history. A frame is one atomic change; its ops
// are
//
//	opRecord  length record      the entry is now this
//	opDelete  ino                the entry is gone
//	opReserve ino                inode numbers up to ino are taken
//
// Two files take turns. A file that starts afresh is written over from its
// beginning and not truncated: its blocks stay allocated, so that closing and
// removing files works on a full disk, and what follows the last new frame is
// history that the reader recognises by its numbers.

var tailMagic = [4]byte{'d', 'j', 't', '1'}

const (
	frameHeader = 4 + 4 + 4 + 8 + 8

	tailReserve = 1 << 20 // bytes allocated in advance for each tail file
	tailKeep    = 8 << 20 // a larger file is cut back when it starts afresh
)

const (
	opRecord = iota + 1
	opDelete
	opReserve
)

var tailNames = [2]string{"journal.tail", "journal.tail2"}

// tail is the two files. Only the writer uses it (Journal.writing), but for
// what fold does while there is none.
type tail struct {
	files  [2]file
	active int
	off    int64     // where the next frame goes in the active file
	busy   bool      // the other file holds frames that are not folded yet
	size   [2]int64  // length of each file as far as it was written
	buf    []byte    // of the frames being made
	ends   []int     // where they end in it
	foul   bool      // what a failed write left is not taken away yet
	fold   [2]uint64 // largest seq in each file
}

func openTail(fs fsys, dir string) (tail, error) {
	var t tail
	for i, name := range tailNames {
		f, err := fs.OpenFile(dir+"/"+name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.close()
			return tail{}, fmt.Errorf("journal: open tail: %w", err)
		}
		t.files[i] = f
		n, err := f.Length()
		if err != nil {
			t.close()
			return tail{}, fmt.Errorf("journal: open tail: %w", err)
		}
		t.size[i] = n
	}
	return t, nil
}

// reserve allocates room in both files, best effort: without it frames just
// need the disk to have room.
func (t *tail) reserve() {
	for _, f := range t.files {
		// An error only means that this comfort is missing (an old
		// filesystem, a disk that is full right now).
		_ = f.Allocate(unix.FALLOC_FL_KEEP_SIZE, 0, tailReserve)
	}
}

func (t *tail) close() error {
	var errs []error
	for _, f := range t.files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// write appends a frame for each record, numbered from seq+1, with one
// write(2). It returns how many went out whole: with an error, those before it
// are good, and of the others nothing is left that a reader could find.
func (t *tail) write(group []*record, seq, folded uint64) (whole int, err error) {
	if t.foul {
		if err := t.cutBack(); err != nil {
			return 0, err
		}
	}
	if cap(t.buf) > 1<<20 {
		t.buf = nil
	}
	b, ends := t.buf[:0], t.ends[:0]
	for i, r := range group {
		b = appendFrame(b, r, seq+1+uint64(i), folded)
		ends = append(ends, len(b))
	}
	t.buf, t.ends = b, ends
	n, err := t.files[t.active].WriteAt(b, t.off)
	t.size[t.active] = max(t.size[t.active], t.off+int64(n))
	for whole < len(ends) && ends[whole] <= n {
		whole++
	}
	if whole > 0 {
		t.off += int64(ends[whole-1])
		t.fold[t.active] = seq + uint64(whole)
	}
	if whole == len(group) {
		return whole, nil
	}
	t.foul = true
	return whole, errors.Join(fmt.Errorf("journal: append to tail: %w", err), t.cutBack())
}

// cutBack takes away what a failed write may have left behind the last good
// frame. While it cannot, nothing is written.
func (t *tail) cutBack() error {
	if err := t.files[t.active].Truncate(t.off); err != nil {
		return fmt.Errorf("journal: cut the tail back: %w", err)
	}
	t.foul = false
	t.size[t.active] = t.off
	t.reserve()
	return nil
}

func appendFrame(b []byte, r *record, seq, folded uint64) []byte {
	at := len(b)
	b = r.appendOps(append(b, make([]byte, frameHeader)...))
	f := b[at:]
	copy(f, tailMagic[:])
	le := binary.LittleEndian
	le.PutUint32(f[8:], uint32(len(f)-frameHeader))
	le.PutUint64(f[12:], seq)
	le.PutUint64(f[20:], folded)
	le.PutUint32(f[4:], crc32.Checksum(f[8:], castagnoli))
	return b
}

// turn makes the other file the active one, unless it is still needed.
func (t *tail) turn() {
	if t.busy {
		return
	}
	t.active = 1 - t.active
	t.off = 0
	t.busy = true
	if t.size[t.active] > tailKeep {
		if err := t.files[t.active].Truncate(tailReserve); err == nil {
			t.size[t.active] = tailReserve
		}
	}
}

// resume goes on behind what both files hold up to seq, which is not folded.
func (t *tail) resume(seq uint64) {
	t.off = t.size[t.active]
	t.busy = true
	t.fold = [2]uint64{seq, seq}
}

// folded says that the database has everything up to seq.
func (t *tail) folded(seq uint64) {
	if t.fold[1-t.active] <= seq {
		t.busy = false
	}
}

// frameRead is one frame as found in a tail file.
type frameRead struct {
	seq, folded uint64
	ops         []byte
}

// readFrames finds every whole frame in b, whatever lies between them.
func readFrames(b []byte) []frameRead {
	var out []frameRead
	for {
		i := bytes.Index(b, tailMagic[:])
		if i < 0 || len(b)-i < frameHeader {
			return out
		}
		b = b[i:]
		le := binary.LittleEndian
		n := uint64(le.Uint32(b[8:]))
		if n > uint64(len(b)-frameHeader) || crc32.Checksum(b[8:frameHeader+n], castagnoli) != le.Uint32(b[4:]) {
			b = b[1:]
			continue
		}
		out = append(out, frameRead{le.Uint64(b[12:]), le.Uint64(b[20:]), b[frameHeader : frameHeader+n]})
		b = b[frameHeader+n:]
	}
}

// read finds the frames in both files. What can be read is returned with the
// error.
func (t *tail) read() ([]frameRead, error) {
	var frames []frameRead
	var errs []error
	for i, f := range t.files {
		b := make([]byte, t.size[i])
		n, err := f.ReadAt(b, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			errs = append(errs, err)
		}
		frames = append(frames, readFrames(b[:n])...)
	}
	return frames, errors.Join(errs...)
}

// unfolded picks from frames, in order, those that a database with all up to
// folded does not have. lost is how many are missing between them, last the
// largest number seen at all.
func unfolded(frames []frameRead, folded uint64) (out []frameRead, lost, last uint64) {
	last = folded
	for _, f := range frames {
		folded = max(folded, f.folded)
		last = max(last, f.seq)
	}
	for _, f := range frames {
		if f.seq > folded {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b frameRead) int { return cmp.Compare(a.seq, b.seq) })
	out = slices.CompactFunc(out, func(a, b frameRead) bool { return a.seq == b.seq })
	if n := len(out); n > 0 {
		lost = out[n-1].seq - folded - uint64(n)
	}
	return out, lost, last
}

// forOps walks over the ops of a frame. The frame's checksum was right, so a
// malformed op means that something else than this package wrote it.
func forOps(ops []byte, fn func(op byte, ino uint64, record []byte) error) error {
	for len(ops) > 0 {
		op := ops[0]
		v, n := binary.Uvarint(ops[1:])
		if n <= 0 {
			return errRecord
		}
		ops = ops[1+n:]
		var err error
		switch op {
		case opRecord:
			if v > uint64(len(ops)) {
				return errRecord
			}
			err = fn(op, 0, ops[:v])
			ops = ops[v:]
		case opDelete, opReserve:
			err = fn(op, v, nil)
		default:
			return fmt.Errorf("%w: tail operation %d", ErrNewer, op)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func appendOp(b []byte, op byte, ino uint64) []byte {
	return binary.AppendUvarint(append(b, op), ino)
}
