package drivetest

import (
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// How a fault gets at a call that goes on to its handler: around it, at the
// request and at the ResponseWriter, as far as bytes and headers will do; and
// by these hooks where it takes to know what is told. Handlers ask the hooks,
// and know nothing of kinds of faults. The zero value spoils nothing.
type hooks struct {
	redirect bool          // the content is elsewhere, whatever its size
	lag      time.Duration // a listing is at least so old
	page     func(page []*node, cu *cursor, at int) []*node
	ask      func(*feedRequest)                // what the feed is asked for
	line     func(f *feed, i int64) (end bool) // before line i of the feed, which is in f.buf; end = that was the last
	answer   *Fault                            // see DoSpoil
}

// spoil prepares what a fault does to the handler's work.
func (c *call) spoil(f *Fault) {
	switch f.kind() {
	case DoSpoil:
		c.hooks.answer = f
	case DoRedirect:
		c.hooks.redirect = true
	case DoStale:
		c.hooks.lag = staleAge(f)
	case DoMissing, DoDuplicate:
		c.hooks.page = f.spoilPage
	case DoWholeFile:
		c.r.Header.Del("Range")
	case DoRange:
		c.r.Header.Set("Range", "bytes="+strconv.FormatInt(math.MaxInt64, 10)+"-")
	case DoOtherBytes, DoShort:
		c.w = &brokenWriter{ResponseWriter: c.w, c: c, f: f, left: f.At}
	case DoStall, DoReset:
		switch {
		case c.op.upload && f.At >= 0:
			c.up.content = &stalledReader{c: c, f: f, r: c.up.content, left: f.At}
		case c.op.name == "changes":
			c.hooks.line = f.spoilLine
		case !c.op.upload:
			c.w = &brokenWriter{ResponseWriter: c.w, c: c, f: f, left: f.At}
		}
	default:
		c.hooks.ask, c.hooks.line = f.spoilFeed, f.spoilLine
	}
}

// brokenWriter spoils a content on its way out. Its header goes as it is.
type brokenWriter struct {
	http.ResponseWriter
	c      *call
	f      *Fault
	status int
	left   int64 // bytes until the fault
	out    int64 // bytes that went
	broken bool
}

func (w *brokenWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *brokenWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	switch {
	case w.status >= 300 || w.broken:
		return w.pass(p)
	case w.f.kind() == DoOtherBytes:
		return w.pass(make([]byte, len(p)))
	}
	k := int(min(int64(len(p)), w.left))
	n, err := w.pass(p[:k])
	w.left -= int64(n)
	if err != nil || n == len(p) {
		return n, err
	}
	w.broken = true
	w.c.served(w.out - w.c.log.Out)
	w.c.breakOff(w.f)
	rest, err := w.pass(p[k:])
	return k + rest, err
}

func (w *brokenWriter) pass(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.out += int64(n)
	return n, err
}

// breakOff ends an answer in its middle, or lets it wait.
func (c *call) breakOff(f *Fault) {
	_ = http.NewResponseController(c.w).Flush() // what came before the fault arrives
	if f.kind() != DoStall {
		c.abort(f.kind() == DoReset)
	}
	if !c.s.sleep(c.r.Context(), stallTime(f)) {
		c.abort(false)
	}
}

// stallTime 0 is until the client leaves.
func stallTime(f *Fault) time.Duration {
	if f.Stall == 0 {
		return math.MaxInt64
	}
	return f.Stall
}

// stalledReader is the content of an upload of which nothing is read for a while.
type stalledReader struct {
	c       *call
	f       *Fault
	r       io.Reader
	left    int64
	stalled bool
}

func (r *stalledReader) Read(p []byte) (int, error) {
	if !r.stalled {
		if r.left > 0 {
			n, err := r.r.Read(p[:min(int64(len(p)), r.left)])
			r.left -= int64(n)
			return n, err
		}
		if r.stalled = true; !r.c.s.sleep(r.c.r.Context(), stallTime(r.f)) {
			return 0, errGone
		}
	}
	return r.r.Read(p)
}

func (f *Fault) spoilPage(page []*node, cu *cursor, at int) []*node {
	switch {
	case len(page) == 0:
	case f.Do == DoMissing && f.Names != "":
		return slices.DeleteFunc(page, func(n *node) bool { return match(f.Names, n.name) })
	case f.Do == DoMissing:
		return page[:max(0, len(page)-int(max(f.At, 1)))]
	case at > 0:
		return append([]*node{cu.nodes[at-1]}, page...)
	default:
		return append(page[:len(page):len(page)], page[0])
	}
	return page
}

func staleAge(f *Fault) time.Duration {
	if f.Stall > 0 {
		return f.Stall
	}
	return 10 * time.Second
}

// feedRequest is what the feed is asked for, and will do about it.
type feedRequest struct {
	checkpoint      string
	chunk, maxNodes int
	purged          bool

	order   feedOrder
	reset   bool // everything, from the start
	refuse  bool // the checkpoint
	repeat  int  // so many old nodes once more
	endOnly bool
}

func (f *Fault) spoilFeed(r *feedRequest) {
	switch f.Do {
	case DoFeedReset:
		r.reset = true
	case DoDisorder:
		r.order = feedOrder{name: OrderNewest}
	case DoRepeat:
		r.repeat = max(int(f.At), 10)
	case DoEndOnly:
		r.endOnly = true
	case DoCheckpoint:
		r.refuse = r.checkpoint != ""
	}
}

func (f *Fault) spoilLine(fd *feed, i int64) (end bool) {
	if i < f.At {
		return false
	}
	switch f.Do {
	case DoEndless:
		fd.endless()
	case DoBadTail:
		fd.write(fd.buf[:max(1, len(fd.buf)*2/3)])
	case DoReset:
		fd.write(fd.buf[:max(1, len(fd.buf)*2/3)])
		fd.cut()
	case DoChunkStatus:
		status := f.Status
		if status == 0 {
			status = http.StatusInternalServerError
		}
		fd.write([]byte(`{"statusCode":` + strconv.Itoa(status) + `,"nodes":[]}` + "\n"))
	case DoCut, DoCheckpoint:
		fd.write(fd.buf)
	default:
		return false
	}
	return true
}

// endless writes a chunk that has no end, and has not said by then whether it
// is a reset.
func (f *feed) endless() {
	f.c.s.st.mu.RLock()
	root := appendNode(nil, f.c.s.st.root, &f.shape)
	f.c.s.st.mu.RUnlock()
	b := append([]byte(`{"statusCode":200,"nodes":[`), root...)
	for f.write(b) && f.c.r.Context().Err() == nil && f.c.s.closing.Err() == nil {
		b = append(append(b[:0], ','), root...)
	}
}

// spoiler is the fault that spoils an answer of this status, nil = none.
func (c *call) spoiler(n, status int) *Fault {
	if f := c.hooks.answer; f != nil && (f.Status == 0 || f.Status == status) { // of the hook
		return f
	}
	op := c.described
	op.N, op.answer = n, status
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.in.pick(&op)
}

// sendSpoiled answers with a body that is not to be read.
func (c *call) sendSpoiled(f *Fault, rep reply) {
	rep.gzip = false
	switch f.Body {
	case "":
		c.w.Header().Set("Content-Length", strconv.Itoa(max(1, len(rep.body))))
		for k, v := range rep.header {
			c.w.Header().Set(k, v)
		}
		c.sent, c.log.Status = true, rep.status
		c.w.WriteHeader(rep.status)
		_, _ = c.w.Write(rep.body[:len(rep.body)/2])
		c.abort(false)
	case "half":
		rep.body = rep.body[:len(rep.body)/2]
	default:
		if rep.header == nil {
			rep.header = map[string]string{}
		}
		shaped := *f
		shaped.Status = rep.status
		rep.set(c.shapeOf(&shaped))
	}
	c.send(rep)
}
