package drivetest

import (
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// The changes feed (§9): the log from a checkpoint on, a chunk a line.

const defaultChunk = 1000

func (st *store) checkpoint(seq uint64) string {
	b := binary.BigEndian.AppendUint64(nil, st.drive)
	return "CPX_" + base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(b, seq))
}

// since reads a checkpoint; ok = it is one of this drive's.
func (st *store) since(checkpoint string) (seq uint64, ok bool) {
	enc, ok := strings.CutPrefix(checkpoint, "CPX_")
	b, err := base64.RawURLEncoding.DecodeString(enc)
	if !ok || err != nil || len(b) != 16 || binary.BigEndian.Uint64(b) != st.drive {
		return 0, false
	}
	seq = binary.BigEndian.Uint64(b[8:])
	st.mu.RLock()
	defer st.mu.RUnlock()
	return seq, seq <= st.seq
}

// feed is one answer being written.
type feed struct {
	c      *call
	out    io.Writer
	z      *gzip.Writer
	purged bool
	root   bool // full answers tell the root, incremental ones do not (§9.3)
	buf    []byte
	shape  shape
}

func (c *call) changes() (reply, *apiError) {
	var req struct {
		Checkpoint    string `json:"checkpoint"`
		ChunkSize     int    `json:"chunkSize"`
		MaxNodes      int    `json:"maxNodes"`
		IncludePurged any    `json:"includePurged"` // a string by the document, a boolean by reason
	}
	if e := c.decode(&req); e != nil {
		return reply{}, e
	}
	if req.ChunkSize < 0 || req.MaxNodes < 0 {
		return reply{}, badRequest("chunkSize and maxNodes must be positive")
	}
	chunk := req.ChunkSize
	if chunk == 0 {
		chunk = defaultChunk
	}
	st := c.s.st
	seq, known := st.since(req.Checkpoint)
	reset := !known
	flt := c.fault
	if flt != nil && flt.Do == DoFeedReset {
		reset = true
	}
	if reset {
		seq = 0
	}
	f := &feed{c: c, purged: req.IncludePurged == true || req.IncludePurged == "true", root: reset, shape: shape{extra: c.s.extraFields()}}
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
	if flt != nil && flt.Do == DoEndOnly {
		f.write([]byte("{\"end\":true}\n"))
		return reply{}, nil
	}
	if flt != nil && flt.Do == DoRepeat && seq > 0 {
		seq = f.rewind(seq, max(int(flt.At), 10))
	}
	if flt != nil && flt.Do == DoDisorder {
		chunk = max(chunk, 1<<20) // what belongs together stays in one chunk, turned round
	}
	f.stream(seq, reset, chunk, req.MaxNodes)
	return reply{}, nil
}

// rewind goes back over some old changes, so that they are told again.
func (f *feed) rewind(seq uint64, nodes int) uint64 {
	st := f.c.s.st
	st.mu.RLock()
	defer st.mu.RUnlock()
	i := sort.Search(len(st.log), func(i int) bool { return st.log[i].seq > seq })
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

// stream writes chunks until nothing is left or maxNodes are told, then the
// end line.
func (f *feed) stream(seq uint64, reset bool, chunk, maxNodes int) {
	told, flt := 0, f.c.fault
	for i := int64(0); ; i++ {
		var n int
		var more bool
		seq, n, more = f.chunk(seq, reset, chunk)
		told += n
		if f.c.s.st.settle() != nil { // what is told must be on disk, or a crash would take back a checkpoint
			f.cut()
		}
		if flt != nil && i >= flt.At {
			switch flt.Do {
			case DoBadTail:
				f.write(f.buf[:max(1, len(f.buf)*2/3)])
				return
			case DoReset:
				f.write(f.buf[:max(1, len(f.buf)*2/3)])
				f.cut()
			case DoChunkStatus:
				status := flt.Status
				if status == 0 {
					status = http.StatusInternalServerError
				}
				f.write([]byte(`{"statusCode":` + strconv.Itoa(status) + `,"nodes":[]}` + "\n"))
				return
			}
		}
		if !f.write(f.buf) || f.c.r.Context().Err() != nil || f.c.s.closing.Err() != nil {
			return
		}
		if flt != nil && flt.Do == DoCut && i >= flt.At {
			return
		}
		reset = false
		if !more || maxNodes > 0 && told >= maxNodes {
			break
		}
	}
	f.write([]byte("{\"end\":true}\n"))
}

// cut resets the connection in mid-stream.
func (f *feed) cut() {
	if f.z != nil {
		_ = f.z.Flush()
	}
	f.c.abort(true)
}

// chunk puts the next line into buf; seq is where it ends.
func (f *feed) chunk(seq uint64, reset bool, size int) (uint64, int, bool) {
	st := f.c.s.st
	lag := f.c.s.lag(func(in *injector) int64 { return in.f.FeedLag.Milliseconds() }, st.o.FeedLag.Milliseconds())
	horizon := st.now().UnixMilli() - lag
	st.mu.RLock()
	defer st.mu.RUnlock()
	i := sort.Search(len(st.log), func(i int) bool { return st.log[i].seq > seq })
	var nodes []*node
	for ; i < len(st.log) && len(nodes) < size; i++ {
		e := st.log[i]
		if lag > 0 && e.n.changed > horizon {
			if e.n.seq != e.seq {
				// Overtaken by a change still hidden: the node comes when that does.
				seq = e.seq
				continue
			}
			break
		}
		seq = e.seq
		if e.n.seq == e.seq && (f.purged || e.n.status != StatusPurged) && (f.root || !e.n.isRoot) {
			nodes = append(nodes, e.n)
		}
	}
	more := i < len(st.log) && !(lag > 0 && st.log[i].n.changed > horizon)
	if flt := f.c.fault; flt != nil && flt.Do == DoDisorder {
		slices.Reverse(nodes)
	}
	b := append(f.buf[:0], `{"checkpoint":"`...)
	b = append(b, st.checkpoint(seq)...)
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
	return seq, len(nodes), more
}

// lag is the larger of an option and a fault, in ms.
func (s *Server) lag(fault func(*injector) int64, option int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(option, fault(&s.in))
}
