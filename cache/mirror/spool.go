package mirror

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// spool takes nodes in the order in which they are told and gives them back in
// the order in which the mirror likes to be written: folder by folder. What does
// not fit into memory lies in sorted runs beside the mirror, each closed by its
// checksum and the checkpoint reached with it, so that a killed first sync goes
// on behind the last of them.
type spool struct {
	path string // a run's is this and its number
	runs int
	buf  []byte // frames
	at   []frameAt
}

// runMax is the size of a run, which is held in memory until it is full.
const runMax = 24 << 20

// frameAt is where a frame is, and how its key begins.
type frameAt struct {
	key uint64
	off uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s *spool) run(i int) string { return fmt.Sprintf("%s%06d", s.path, i) }

// isFull: it is time to flush.
func (s *spool) isFull() bool { return len(s.buf) >= runMax }

// add takes a node.
func (s *spool) add(n *drive.Node) {
	off := len(s.buf)
	s.buf = appendNode(s.buf, n)
	s.at = append(s.at, frameAt{keyStart(frameKey(s.buf[off:])), uint32(off)})
}

func (s *spool) sort() {
	slices.SortFunc(s.at, func(a, b frameAt) int {
		if c := cmp.Compare(a.key, b.key); c != 0 {
			return c
		}
		return cmp.Or(bytes.Compare(frameKey(s.buf[a.off:]), frameKey(s.buf[b.off:])), cmp.Compare(a.off, b.off))
	})
}

// flush writes what is in memory as a run that reaches to checkpoint.
func (s *spool) flush(checkpoint string) (err error) {
	if len(s.at) == 0 {
		return nil
	}
	s.sort()
	f, err := os.OpenFile(s.run(s.runs), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := crc32.New(castagnoli)
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 256<<10)
	for _, at := range s.at {
		_, _ = w.Write(frame(s.buf[at.off:])) // Flush tells
	}
	_, _ = w.Write(appendString(make([]byte, 4), checkpoint)) // no frame is empty
	if err := w.Flush(); err != nil {
		return err
	}
	if _, err := f.Write(sum.Sum(nil)); err != nil {
		return err
	}
	s.runs++
	s.buf, s.at = s.buf[:0], s.at[:0]
	return nil
}

// resume finds the runs that are whole, and where the last of them ends.
func (s *spool) resume() (checkpoint string) {
	for ; ; s.runs++ {
		b, err := os.ReadFile(s.run(s.runs))
		if err != nil || len(b) < 4 || crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
			return checkpoint
		}
		i := 0
		for len(frame(b[i:])) > 4 {
			i += len(frame(b[i:]))
		}
		end := b[i+4 : len(b)-4]
		r := reader{b: end, s: string(end)}
		checkpoint = r.string()
	}
}

// drop removes all that is on disk, also what another spool left.
func (s *spool) drop() error {
	for i := 0; ; i++ {
		if err := os.Remove(s.run(i)); errors.Is(err, os.ErrNotExist) && i >= s.runs {
			return nil
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
}

// frames is a sorted run being read.
type frames struct {
	order int
	next  func() ([]byte, error) // nil at the end
	cur   []byte
}

// each gives all nodes, folder by folder, and those of one folder in the order
// in which they were told, until fn fails. A node is valid during the call.
func (s *spool) each(fn func(*drive.Node) error) (err error) {
	var h runHeap
	for i := range s.runs {
		f, err := os.Open(s.run(i))
		if err != nil {
			return err
		}
		defer f.Close()
		r := bufio.NewReaderSize(f, 64<<10)
		var buf []byte
		h = append(h, &frames{order: i, next: func() ([]byte, error) { return readFrame(r, &buf) }})
	}
	s.sort()
	i := -1
	h = append(h, &frames{order: s.runs, next: func() ([]byte, error) {
		if i++; i == len(s.at) {
			return nil, nil
		}
		return frame(s.buf[s.at[i].off:]), nil
	}})
	advance := func(r *frames) (err error) {
		r.cur, err = r.next()
		return err
	}
	for _, r := range h {
		if err := advance(r); err != nil {
			return err
		}
	}
	h = slices.DeleteFunc(h, func(r *frames) bool { return r.cur == nil })
	heap.Init(&h)
	var n drive.Node
	for len(h) > 0 {
		if err := decodeNode(h[0].cur, &n); err != nil {
			return err
		}
		if err := fn(&n); err != nil {
			return err
		}
		if err := advance(h[0]); err != nil {
			return err
		}
		if h[0].cur == nil {
			heap.Pop(&h)
		} else {
			heap.Fix(&h, 0)
		}
	}
	return nil
}

type runHeap []*frames

func (h runHeap) Len() int      { return len(h) }
func (h runHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(x any)   { *h = append(*h, x.(*frames)) }
func (h *runHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (h runHeap) Less(i, j int) bool {
	return cmp.Or(bytes.Compare(frameKey(h[i].cur), frameKey(h[j].cur)), cmp.Compare(h[i].order, h[j].order)) < 0
}

// A frame is the length of what follows (4), and a node: the parents' ids first,
// of which the first one is the key. Frames are read by who wrote them, or behind
// a checksum.

func frame(b []byte) []byte { return b[:4+binary.LittleEndian.Uint32(b)] }

// readFrame reads the next frame into buf, nil = the end of the run.
func readFrame(r *bufio.Reader, buf *[]byte) ([]byte, error) {
	head, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	n := 4 + int(binary.LittleEndian.Uint32(head))
	if n == 4 {
		return nil, nil
	}
	*buf = slices.Grow((*buf)[:0], n)[:n]
	_, err = io.ReadFull(r, *buf)
	return *buf, err
}

func frameKey(b []byte) []byte {
	if b[4] == 0 {
		return nil
	}
	_, k0 := binary.Uvarint(b[4:])
	n, k := binary.Uvarint(b[4+k0:])
	return b[4+k0+k : 4+k0+k+int(n)]
}

// keyStart is the first bytes of a key as a number of the same order.
func keyStart(key []byte) uint64 {
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

const (
	frameRoot = 1 << iota
	frameContent
	frameCreated
	frameModified
)

// appendNode writes what the mirror keeps of a node. The feed carries no
// properties (API §9.2).
func appendNode(b []byte, n *drive.Node) []byte {
	at := len(b)
	b = binary.AppendUvarint(append(b, 0, 0, 0, 0), uint64(len(n.Parents)))
	for _, p := range n.Parents {
		b = appendString(b, p)
	}
	var flags byte
	for i, is := range [...]bool{n.IsRoot, n.Content != nil, !n.Created.IsZero(), !n.Modified.IsZero()} {
		if is {
			flags |= 1 << i
		}
	}
	b = append(b, flags)
	for _, s := range [...]string{n.ID, n.Name, string(n.Kind), string(n.Status), n.CreatedBy, n.ETag} {
		b = appendString(b, s)
	}
	b = binary.AppendVarint(b, n.Version)
	if flags&frameCreated != 0 {
		b = binary.AppendVarint(b, n.Created.UnixMilli())
	}
	if flags&frameModified != 0 {
		b = binary.AppendVarint(b, n.Modified.UnixMilli())
	}
	if c := n.Content; c != nil {
		b = binary.AppendVarint(binary.AppendVarint(b, c.Version), c.Size)
		b = appendString(appendString(b, c.MD5), c.ContentType)
	}
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// decodeNode reads a frame into n, whose strings are of one allocation.
func decodeNode(b []byte, n *drive.Node) error {
	r := reader{b: b, s: string(b), pos: 4}
	*n = drive.Node{Parents: make([]string, 0, 1)}
	for range min(r.uvarint(), uint64(len(b))) {
		n.Parents = append(n.Parents, r.string())
	}
	flags := r.byte()
	n.ID, n.Name, n.Kind, n.Status = r.string(), r.string(), drive.Kind(r.string()), drive.Status(r.string())
	n.CreatedBy, n.ETag = r.string(), r.string()
	n.Version, n.IsRoot = r.varint(), flags&frameRoot != 0
	if flags&frameCreated != 0 {
		n.Created = time.UnixMilli(r.varint()).UTC()
	}
	if flags&frameModified != 0 {
		n.Modified = time.UnixMilli(r.varint()).UTC()
	}
	if flags&frameContent != 0 {
		n.Content = &drive.ContentProperties{Version: r.varint(), Size: r.varint(), MD5: r.string(), ContentType: r.string()}
	}
	if r.bad || r.pos != len(b) {
		return errors.New("a node of a full answer cannot be read again")
	}
	return nil
}
