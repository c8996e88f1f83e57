package drivetest

import (
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"io"
	"math"
	"net/http"
	"sort"
	"strconv"
	"strings"
)

// The changes feed (§9): the log from a checkpoint on, a chunk a line.

const defaultChunk = 1000

// position is where a checkpoint stands: behind the change seq and, in the
// middle of an answer that is in another order, behind a key of those up to upTo.
type position struct {
	seq             uint64
	upTo, last, tag uint64
	ordered         bool
}

func (st *store) checkpoint(p position) string {
	fields := []uint64{st.drive, p.seq}
	if p.ordered {
		fields = append(fields, p.upTo, p.last, p.tag)
	}
	var b []byte
	for _, v := range fields {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return "CPX_" + base64.RawURLEncoding.EncodeToString(b)
}

// since reads a checkpoint; ok = it is one of this drive's. One in the middle
// of an order that is not the present one stands where that answer began.
func (st *store) since(checkpoint string, o feedOrder) (p position, ok bool) {
	enc, ok := strings.CutPrefix(checkpoint, "CPX_")
	b, err := base64.RawURLEncoding.DecodeString(enc)
	if !ok || err != nil || len(b) != 16 && len(b) != 40 || binary.BigEndian.Uint64(b) != st.drive {
		return position{}, false
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	p.seq = field(1)
	if len(b) == 40 && field(4) == o.tag() {
		p.upTo, p.last, p.tag, p.ordered = field(2), field(3), field(4), true
	}
	st.mu.RLock()
	defer st.mu.RUnlock()
	return p, max(p.seq, p.upTo) <= st.seq
}

// after is the first entry of the log behind a change.
func (st *store) after(seq uint64) int {
	return sort.Search(len(st.log), func(i int) bool { return st.log[i].seq > seq })
}

// feed is one answer being written.
type feed struct {
	c      *call
	out    io.Writer
	z      *gzip.Writer
	purged bool
	until  int64 // ms; what changed later does not show yet
	root   bool  // full answers tell the root, incremental ones do not (§9.3)
	buf    []byte
	shape  shape
}

func (c *call) changes() (reply, *apiError) {
	r, e := c.feedRequest()
	if e != nil {
		return reply{}, e
	}
	st := c.s.st
	from, known := st.since(r.checkpoint, r.order)
	if r.refuse || r.checkpoint != "" && !known && st.modes.Load().BadCheckpoint == "400" {
		return reply{}, badRequest("Invalid checkpoint: %s", r.checkpoint)
	}
	if r.reset = r.reset || !known; r.reset {
		from = position{}
	}
	lag := c.s.lag(func(in *injector) int64 { return in.f.FeedLag.Milliseconds() }, st.o.FeedLag.Milliseconds())
	f := &feed{c: c, purged: r.purged, root: r.reset, shape: shape{extra: c.s.extraFields()}}
	if f.until = math.MaxInt64; lag > 0 {
		f.until = st.now().UnixMilli() - lag
	}
	c.w.Header().Set("Content-Type", "application/json")
	f.out = c.w
	if c.wantsGzip() {
		c.w.Header().Set("Content-Encoding", "gzip")
		f.z = newGzip(c.w)
		f.out = f.z
		defer closeGzip(f.z)
	}
	c.sent, c.log.Status = true, http.StatusOK
	c.w.WriteHeader(http.StatusOK)
	if r.endOnly {
		f.write(feedEnd)
		return reply{}, nil
	}
	if r.repeat > 0 && from.seq > 0 {
		from.seq = f.rewind(from.seq, r.repeat)
	}
	next := f.asChanged(from.seq, r.reset, r.chunk)
	if r.order.name != "" {
		next = f.inOrder(r.order, from, r.reset, r.chunk)
	}
	f.stream(next, r.maxNodes)
	return reply{}, nil
}

var feedEnd = []byte("{\"end\":true}\n")

// feedRequest reads what is asked for.
func (c *call) feedRequest() (*feedRequest, *apiError) {
	var body struct {
		Checkpoint    string `json:"checkpoint"`
		ChunkSize     int    `json:"chunkSize"`
		MaxNodes      int    `json:"maxNodes"`
		IncludePurged any    `json:"includePurged"` // a string by the document, a boolean by reason
	}
	if e := c.decode(&body); e != nil {
		return nil, e
	}
	if body.ChunkSize < 0 || body.MaxNodes < 0 {
		return nil, badRequest("chunkSize and maxNodes must be positive")
	}
	m := c.s.st.modes.Load()
	r := &feedRequest{checkpoint: body.Checkpoint, chunk: body.ChunkSize, maxNodes: body.MaxNodes,
		purged: body.IncludePurged == true || body.IncludePurged == "true", order: feedOrder{m.FeedOrder, c.s.seed()}}
	if r.chunk == 0 {
		r.chunk = defaultChunk
	}
	if m.IgnoreMaxNodes {
		r.maxNodes = 0
	}
	if c.hooks.ask != nil {
		c.hooks.ask(r)
	}
	return r, nil
}

// hides and tells say what of the log this answer is about.
func (f *feed) hides(n *node) bool { return n.changed > f.until }

func (f *feed) tells(n *node) bool {
	return (f.purged || n.status != StatusPurged) && (f.root || !n.isRoot)
}

// rewind goes back over some old changes, so that they are told again.
func (f *feed) rewind(seq uint64, nodes int) uint64 {
	st := f.c.s.st
	st.mu.RLock()
	defer st.mu.RUnlock()
	i := st.after(seq)
	for ; i > 0 && nodes > 0; i-- {
		if e := st.log[i-1]; e.n.seq == e.seq {
			nodes--
		}
	}
	if i == 0 {
		return 0
	}
	return st.log[i-1].seq
}

func (f *feed) write(b []byte) bool {
	_, err := f.out.Write(b)
	return err == nil
}

// stream writes chunks, which next puts into buf, until nothing is left or
// maxNodes are told, then the end line.
func (f *feed) stream(next func() (told int, more bool), maxNodes int) {
	told, sound := 0, !f.c.s.st.broken.Load()
	for i := int64(0); ; i++ {
		n, more := next()
		told += n
		// What is told must be on disk, or a crash would take back a checkpoint.
		if f.c.s.st.settle() != nil || sound && f.c.s.st.broken.Load() {
			f.cut()
		}
		if f.c.hooks.line != nil && f.c.hooks.line(f, i) {
			return
		}
		if !f.write(f.buf) || f.c.r.Context().Err() != nil || f.c.s.closing.Err() != nil {
			return
		}
		if !more || maxNodes > 0 && told >= maxNodes {
			break
		}
	}
	f.write(feedEnd)
}

// cut resets the connection in mid-stream.
func (f *feed) cut() {
	if f.z != nil {
		_ = f.z.Flush()
	}
	f.c.abort(true)
}

// asChanged returns what writes the next line in the order of the log.
func (f *feed) asChanged(seq uint64, reset bool, size int) func() (told int, more bool) {
	st := f.c.s.st
	return func() (int, bool) {
		st.mu.RLock()
		defer st.mu.RUnlock()
		i := st.after(seq)
		var nodes []*node
		for ; i < len(st.log) && len(nodes) < size; i++ {
			e := st.log[i]
			current := e.n.seq == e.seq // else overtaken by a later change: the node comes when that does
			if current && f.hides(e.n) {
				break
			}
			seq = e.seq
			if current && f.tells(e.n) {
				nodes = append(nodes, e.n)
			}
		}
		f.line(position{seq: seq}, reset, nodes)
		reset = false
		return len(nodes), i < len(st.log) && !f.hides(st.log[i].n)
	}
}

// line puts a chunk into buf; store.mu is held.
func (f *feed) line(at position, reset bool, nodes []*node) {
	b := append(f.buf[:0], `{"checkpoint":"`...)
	b = append(b, f.c.s.st.checkpoint(at)...)
	b = append(b, `","reset":`...)
	b = strconv.AppendBool(b, reset)
	b = append(b, `,"nodes":[`...)
	for j, n := range nodes {
		if j > 0 {
			b = append(b, ',')
		}
		b = appendNode(b, n, &f.shape)
	}
	f.buf = append(b, "],\"statusCode\":200}\n"...)
}

// seed of the faults in force.
func (s *Server) seed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.f.Seed
}

// lag is the larger of an option and a fault, in ms.
func (s *Server) lag(fault func(*injector) int64, option int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(option, fault(&s.in))
}
