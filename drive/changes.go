package drive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"unsafe"
)

// ChangesRequest says what the feed shall bring. API §9.1.
type ChangesRequest struct {
	Checkpoint    string // "" = everything from the start
	ChunkSize     int    // nodes a batch, 0 = the service's choice
	MaxNodes      int    // about how many nodes in all, 0 = no limit; then ask again until none come
	IncludePurged bool
}

// What a feed may cost, whatever it says: memory does not depend on the
// service keeping to ChunkSize, nor on a line having an end.
const (
	maxBatchNodes = 20_000  // a line with more is given in several batches
	maxFeedValue  = 1 << 20 // text of one JSON value: a node, a checkpoint
	feedThing     = 256     // what a field or a node counts beyond its text
)

// feedBounds are in bytes.
type feedBounds struct {
	batch int64 // memory of the nodes of one batch
	held  int64 // memory of nodes that cannot be given yet
	idle  int64 // text that brings no batch
	line  int64 // text of one line
}

var usualBounds = feedBounds{batch: 24 << 20, held: 48 << 20, idle: 64 << 20, line: 1 << 30}

// Changes yields the batches of the feed in order. Each may be applied at once:
// Checkpoint holds when its nodes are applied. It ends without an error
// only after the end line. ErrCut comes last when the stream broke off, was
// garbage, or a line had a statusCode other than 200: the batches before
// are good, go on from the last checkpoint (ErrProtocol when all of it is garbage). So does a
// value, a chunk or a line that is beyond all measure; it costs at most 64 MiB of memory. ErrCheckpoint: the service does
// not accept Checkpoint. Failures before the first byte are repeated; it may take minutes (API §9.3).
//
// A line of more than 20,000 nodes comes as several batches, of which all
// but the last carry the checkpoint before it ("" when the line says reset, or
// is the beginning of everything and has not said yet).
func (c *Client) Changes(ctx context.Context, r ChangesRequest) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		in := struct {
			Checkpoint    string `json:"checkpoint,omitempty"`
			ChunkSize     int    `json:"chunkSize,omitempty"`
			MaxNodes      int    `json:"maxNodes,omitempty"`
			IncludePurged string `json:"includePurged,omitempty"` // a string, API §9.1
		}{r.Checkpoint, r.ChunkSize, r.MaxNodes, ""}
		if r.IncludePurged {
			in.IncludePurged = "true"
		}
		cl := &call{
			op: "changes", shape: shapeStream, host: hostMetadata, ref: "changes", idempotent: true,
			checkpoint: r.Checkpoint != "", priority: priorityOf(ctx, Feed), wait: changesWait, silence: changesSilence,
		}
		body, err := json.Marshal(in)
		var req *http.Request
		if err == nil {
			req, err = c.request(ctx, cl, http.MethodPost, body)
		}
		var resp *http.Response
		if err == nil {
			resp, err = c.send(cl, req)
		}
		if err != nil {
			yield(Batch{}, err)
			return
		}
		defer resp.Body.Close()
		some := false // good came of it
		plain, err := decoded(resp)
		if err == nil {
			err = newFeed(plain, r.Checkpoint).run(func(b Batch, err error) bool {
				some = true
				return yield(b, err)
			})
		}
		if err == nil {
			return
		}
		var garbage *json.SyntaxError
		if cerr := ctx.Err(); errors.Is(cerr, context.Canceled) {
			err = &canceled{op: cl.op, err: cerr}
		} else {
			kind := ErrCut
			if !some && errors.As(err, &garbage) {
				kind = ErrProtocol
			}
			err = &Error{Op: cl.op, Kind: kind, Status: resp.StatusCode, Err: err, RequestID: scrub(resp.Header.Get("x-amzn-RequestId"))}
		}
		yield(Batch{}, c.failed(cl, err))
	}
}

// feed reads the stream value by value, so that a line is never in memory as text.
type feed struct {
	dec        *json.Decoder
	in         *valueLimit
	checkpoint string // of the last full line
	bounds     feedBounds
	all        bool  // everything was asked for, and no line has ended yet
	line0      int64 // offset where the line began
	batch0     int64 // offset where the last batch ended, or the line began
	things     int64 // fields and nodes since then
}

func newFeed(r io.Reader, checkpoint string) *feed {
	in := &valueLimit{r: r, left: maxFeedValue}
	return &feed{dec: json.NewDecoder(in), in: in, checkpoint: checkpoint, bounds: usualBounds, all: checkpoint == ""}
}

// run yields batches until the end line (nil), until the consumer has enough
// (nil), or until the stream fails.
func (f *feed) run(yield func(Batch, error) bool) error {
	for {
		end, more, err := f.line(yield)
		if err != nil || end || !more {
			return err
		}
		f.all = false
	}
}

// bounded ends a line that brings nothing, or has no end.
func (f *feed) bounded() error {
	at := f.dec.InputOffset()
	if at-f.batch0+f.things*feedThing > f.bounds.idle || at-f.line0 > f.bounds.line {
		return errFeedLine
	}
	return nil
}

func (f *feed) token() (json.Token, error) {
	t, err := f.dec.Token()
	f.in.left = maxFeedValue
	f.in.forget(f.dec.InputOffset())
	if err == nil {
		err = f.bounded()
	}
	return t, unexpected(err)
}

func (f *feed) value(v any) error {
	err := f.dec.Decode(v)
	f.in.left = maxFeedValue
	if berr := f.bounded(); berr != nil {
		err = berr
	}
	return unexpected(err)
}

// node reads one node. An odd one is read a second time, leniently, from the
// bytes kept: going that way with all of them takes half as long again.
func (f *feed) node() (Node, error) {
	start := f.dec.InputOffset()
	f.in.forget(start)
	var n Node
	err := f.value(&n)
	if err == nil {
		return n, nil
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errFeedLine) || (f.in.err != nil && errors.Is(err, f.in.err)) {
		return Node{}, err // the stream is broken, not the node
	}
	raw := bytes.TrimLeft(f.in.kept(start, f.dec.InputOffset()), ", \t\r\n")
	if n, err = decodeNode(raw); err != nil {
		return Node{}, nil // no node at all
	}
	return n, nil
}

// unexpected: every end before the end line is one too early.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (f *feed) delim(want json.Delim) error {
	t, err := f.token()
	if err == nil && t != want {
		err = fmt.Errorf("%v where %v belongs", t, want)
	}
	return err
}

// line reads one object of the stream. The fields may come in any order.
func (f *feed) line(yield func(Batch, error) bool) (end, more bool, err error) {
	f.line0 = f.dec.InputOffset()
	f.batch0, f.things = f.line0, 0
	if err := f.delim('{'); err != nil {
		return false, false, err
	}
	var (
		b       Batch
		isChunk bool
		split   bool // batches of this line were yielded
		told    bool // whether it is a reset is known
		status  = 200
	)
	for f.dec.More() {
		f.things++
		key, err := f.token()
		if err != nil {
			return false, false, err
		}
		switch key {
		case "checkpoint":
			isChunk = true
			err = f.value(&b.Checkpoint)
		case "reset":
			told = true
			err = f.value(&b.Reset)
		case "statusCode":
			err = f.value(&status)
		case "end":
			err = f.value(&end)
		case "nodes":
			isChunk = true
			more, err = f.nodes(&b, told, &split, yield)
			if err == nil && !more {
				return false, false, nil
			}
		default:
			var skip json.RawMessage
			err = f.value(&skip)
		}
		if err != nil {
			return false, false, err
		}
	}
	if err := f.delim('}'); err != nil {
		return false, false, err
	}
	if status != 200 {
		return false, false, fmt.Errorf("statusCode %d", status)
	}
	if isChunk && (b.Checkpoint != "" || b.Reset || split || len(b.Nodes) > 0) {
		if b.Checkpoint == "" {
			b.Checkpoint = f.checkpoint // nothing new is covered
		}
		if split {
			b.Reset = false // the first batch of the line said it
		}
		f.checkpoint = b.Checkpoint
		if !yield(b, nil) {
			return end, false, nil
		}
	}
	return end, true, nil
}

// nodes reads the array into b. What is more than a batch may be goes out at
// once, with a checkpoint that does not cover it yet: a repeat is harmless, a
// gap is not. As long as it is not told whether the line is a reset, nothing can
// go out, unless everything was asked for: then it is one.
func (f *feed) nodes(b *Batch, told bool, split *bool, yield func(Batch, error) bool) (more bool, err error) {
	t, err := f.token()
	if err != nil || t == nil { // null
		return true, err
	}
	if t != json.Delim('[') {
		return false, fmt.Errorf("%v where the nodes belong", t)
	}
	before := f.checkpoint
	if b.Reset {
		before = ""
	}
	cost, start := int64(0), f.dec.InputOffset()
	for f.dec.More() {
		f.things++
		n, err := f.node()
		if err != nil {
			return false, err
		}
		if n.ID == "" {
			continue
		}
		cost += n.cost() + f.dec.InputOffset() - start
		start = f.dec.InputOffset()
		if cost > f.bounds.held && !told {
			if !f.all {
				return false, errFeedLine
			}
			told, b.Reset, before = true, true, ""
		}
		if told && (len(b.Nodes) == maxBatchNodes || cost > f.bounds.batch && len(b.Nodes) > 0) {
			if !yield(Batch{Checkpoint: before, Reset: b.Reset && !*split, Nodes: b.Nodes}, nil) {
				return false, nil
			}
			*split, b.Nodes, cost, f.batch0, f.things = true, nil, n.cost(), start, 0
		}
		b.Nodes = append(b.Nodes, n)
	}
	return true, f.delim(']')
}

// cost is about what a node takes in memory beyond its text.
func (n *Node) cost() int64 {
	c := int(unsafe.Sizeof(*n)) + 16*(cap(n.Parents)+cap(n.Labels))
	if n.Content != nil {
		c += int(unsafe.Sizeof(*n.Content))
	}
	for _, kv := range n.Properties {
		c += 400 + 100*len(kv)
	}
	return int64(c)
}

var (
	errFeedValue = errors.New("a value in the feed is too long")
	errFeedLine  = errors.New("a line of the feed is too long")
)

// valueLimit bounds what is read without a value being complete, and keeps
// what was read lately.
type valueLimit struct {
	r    io.Reader
	left int
	err  error // of r
	keep []byte
	base int64 // offset of keep[0] in the stream
}

func (l *valueLimit) Read(p []byte) (int, error) {
	if l.left <= 0 {
		l.err = errFeedValue
		return 0, l.err
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	l.keep = append(l.keep, p[:n]...)
	if err != nil {
		l.err = err
	}
	return n, err
}

// forget allows to drop what is before an offset.
func (l *valueLimit) forget(before int64) {
	if n := before - l.base; n > 64<<10 {
		l.keep = append(l.keep[:0], l.keep[n:]...)
		l.base = before
	}
}

func (l *valueLimit) kept(from, to int64) []byte { return l.keep[from-l.base : to-l.base] }
