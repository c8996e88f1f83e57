package drivetest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// call is one request on its way through the service.
type call struct {
	s  *Server
	w  http.ResponseWriter
	r  *http.Request
	q  url.Values
	op *operation

	id        string   // node id of the path
	args      []string // what else the path names
	body      []byte   // of JSON calls
	who       identity
	hooks     hooks // what a fault does to it
	described Op    // the request as rules see it
	up        *upload

	log  Entry
	sent bool
}

// reply is an answer that is not streamed. The zero value means that the
// handler has answered by itself.
type reply struct {
	status int
	header map[string]string
	body   []byte
	gzip   bool // worth compressing
}

// operation is a row of the table of calls (§6.1).
type operation struct {
	name    string
	scope   string // "" = any token, "-" = no token, "write", "read"
	json    bool   // the request has a JSON body
	upload  bool   // the request has a multipart body
	handler func(*call) (reply, *apiError)
}

func ops(l ...*operation) map[string]*operation {
	m := map[string]*operation{}
	for _, o := range l {
		m[o.name] = o
	}
	return m
}

var operations = ops(
	&operation{name: "account.endpoint", handler: (*call).accountEndpoint},
	&operation{name: "account.info", handler: (*call).accountInfo},
	&operation{name: "account.quota", handler: (*call).accountQuota},
	&operation{name: "account.usage", handler: (*call).accountUsage},
	&operation{name: "nodes.list", handler: (*call).nodesList},
	&operation{name: "nodes.children", handler: (*call).nodesChildren},
	&operation{name: "nodes.get", handler: (*call).nodesGet},
	&operation{name: "nodes.create", scope: "write", json: true, handler: (*call).nodesCreate},
	&operation{name: "nodes.update", scope: "write", json: true, handler: (*call).nodesUpdate},
	&operation{name: "nodes.move", scope: "write", json: true, handler: (*call).nodesMove},
	&operation{name: "nodes.addparent", scope: "write", handler: (*call).nodesAddParent},
	&operation{name: "nodes.removeparent", scope: "write", handler: (*call).nodesRemoveParent},
	&operation{name: "nodes.properties", json: true, handler: (*call).nodesProperties},
	&operation{name: "nodes.purge", handler: (*call).nodesPurge},
	&operation{name: "content.upload", scope: "write", upload: true, handler: (*call).contentUpload},
	&operation{name: "content.overwrite", scope: "write", upload: true, handler: (*call).contentOverwrite},
	&operation{name: "content.download", scope: "read", handler: (*call).contentDownload},
	&operation{name: "content.templink", scope: "-", handler: (*call).contentTempLink},
	&operation{name: "content.signed", scope: "-", handler: (*call).contentSigned},
	&operation{name: "trash.put", scope: "write", handler: (*call).trashPut},
	&operation{name: "trash.list", handler: (*call).trashList},
	&operation{name: "trash.restore", scope: "write", handler: (*call).trashRestore},
	&operation{name: "changes", json: true, handler: (*call).changes},
	&operation{name: "auth.authorize", scope: "-", handler: (*call).authAuthorize},
	&operation{name: "auth.token", scope: "-", handler: (*call).authToken},
	&operation{name: "auth.tokeninfo", scope: "-", handler: (*call).authTokenInfo},
	&operation{name: "auth.profile", handler: (*call).authProfile},
)

// route finds the operation: pattern segments, then method → operation. ":"
// takes any segment; the first is the node id.
type route struct {
	pattern []string
	methods map[string]string
}

func on(pattern string, methods ...string) route {
	m := map[string]string{}
	for i := 0; i < len(methods); i += 2 {
		m[methods[i]] = methods[i+1]
	}
	return route{strings.Split(pattern, "/"), m}
}

var routes = []route{
	on("drive/v1/account/endpoint", "GET", "account.endpoint"),
	on("drive/v1/account/info", "GET", "account.info"),
	on("drive/v1/account/quota", "GET", "account.quota"),
	on("drive/v1/account/usage", "GET", "account.usage"),
	on("drive/v1/nodes", "GET", "nodes.list", "POST", "nodes.create"),
	on("drive/v1/nodes/:", "GET", "nodes.get", "PATCH", "nodes.update", "DELETE", "nodes.purge"),
	on("drive/v1/nodes/:/children", "GET", "nodes.children", "POST", "nodes.move"),
	on("drive/v1/nodes/:/children/:", "PUT", "nodes.addparent", "DELETE", "nodes.removeparent"),
	on("drive/v1/nodes/:/properties/:", "GET", "nodes.properties"),
	on("drive/v1/nodes/:/properties/:/:", "GET", "nodes.properties", "PUT", "nodes.properties", "DELETE", "nodes.properties"),
	on("drive/v1/trash", "GET", "trash.list"),
	on("drive/v1/trash/:", "PUT", "trash.put"),
	on("drive/v1/trash/:/restore", "POST", "trash.restore"),
	on("drive/v1/changes", "POST", "changes"),
	on("cdproxy/nodes", "POST", "content.upload"),
	on("cdproxy/nodes/:/content", "GET", "content.download", "HEAD", "content.download", "PUT", "content.overwrite"),
	on("cdproxy/templink/:", "GET", "content.templink", "HEAD", "content.templink"),
	on("signed/:", "GET", "content.signed", "HEAD", "content.signed"),
	on("ap/oa", "GET", "auth.authorize", "POST", "auth.authorize"),
	on("auth/o2/token", "POST", "auth.token"),
	on("auth/o2/tokeninfo", "GET", "auth.tokeninfo"),
	on("user/profile", "GET", "auth.profile"),
}

// find matches the escaped path. Double slashes collapse, as they were not
// known to fail (§1.1), but for an empty property owner, which did (§3.3).
func find(method, escaped string) (op *operation, args []string, known bool) {
	if strings.Contains(escaped, "/properties//") {
		return nil, nil, false
	}
	var segs []string
	for seg := range strings.SplitSeq(escaped, "/") {
		if seg == "" {
			continue
		}
		plain, err := url.PathUnescape(seg)
		if err != nil {
			return nil, nil, false
		}
		segs = append(segs, plain)
	}
	for _, rt := range routes {
		if args, ok := rt.match(segs); ok {
			return operations[rt.methods[method]], args, true
		}
	}
	return nil, nil, false
}

func (rt route) match(segs []string) (args []string, ok bool) {
	if len(segs) != len(rt.pattern) {
		return nil, false
	}
	for i, p := range rt.pattern {
		switch {
		case p == ":":
			args = append(args, segs[i])
		case p != segs[i]:
			return nil, false
		}
	}
	return args, true
}

// ServeHTTP is the whole service.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		panic(http.ErrAbortHandler)
	}
	defer s.working.Done()
	if strings.HasPrefix(r.URL.Path, "/admin/") {
		s.admin(w, r)
		return
	}
	method := r.Method
	if o := r.Header.Get("X-HTTP-Method-Override"); o != "" && method == http.MethodPost {
		method = o
	}
	op, args, known := find(method, r.URL.EscapedPath())
	c := &call{s: s, w: w, r: r, q: r.URL.Query(), op: op, args: args}
	c.log = Entry{Time: s.o.Clock(), Method: method, Path: r.URL.Path, Query: r.URL.RawQuery, Range: r.Header.Get("Range"),
		UserAgent: r.UserAgent(), Authorization: r.Header.Get("Authorization") != "", RequestID: newRequestID()}
	defer func() { s.record(c.log) }()
	w.Header().Set("x-amzn-RequestId", c.log.RequestID)
	w.Header().Set("Server", "Server")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Date", time.UnixMilli(s.st.stamp()).UTC().Format(http.TimeFormat))
	delay := s.o.Latency
	if op != nil {
		delay += s.st.modes.Load().delay(op.name)
	}
	if !s.sleep(r.Context(), delay) {
		c.abort(false)
	}
	switch {
	case !known:
		c.send(c.failure(unknownOperation()))
		return
	case op == nil:
		c.send(c.failure(&apiError{status: http.StatusMethodNotAllowed, message: "Method not allowed: " + method}))
		return
	}
	if len(args) > 0 {
		c.id = args[0]
	}
	c.log.Op, c.log.NodeID = op.name, c.id
	c.serve()
}

// serve: gateway (throttle, token), request, faults, handler.
func (c *call) serve() {
	s := c.s
	n, t := s.count(c.op)
	if t != nil {
		f := &Fault{Status: http.StatusTooManyRequests, Body: t.Body, RetryAfter: t.RetryAfter, Msg: "Rate exceeded"}
		c.drain()
		c.send(c.faulty(f))
		return
	}
	rep, e := c.admit()
	if e == nil && rep.status == 0 {
		e = c.prepare()
	}
	if e != nil {
		rep = c.failure(e)
	}
	if rep.status != 0 {
		c.drain()
		c.send(rep)
		return
	}
	c.described = c.describe(n)
	if f := s.choose(c.described); f != nil {
		c.log.Fault = f.kind()
		if !s.sleep(c.r.Context(), f.Delay) {
			c.abort(false)
		}
		if c.inject(f) {
			return
		}
	}
	rep, e = c.op.handler(c)
	if e != nil {
		rep = c.failure(e)
		c.drain()
	}
	if rep.status == 0 {
		return
	}
	if f := c.spoiler(n, rep.status); f != nil {
		c.log.Fault = DoSpoil
		c.sendSpoiled(f, rep)
		return
	}
	c.send(rep)
}

// count counts the request and asks the throttle, which the sign-in host is
// not behind.
func (s *Server) count(op *operation) (n int, t *Throttle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[op.name]++
	if !strings.HasPrefix(op.name, "auth.") {
		t = s.in.throttled(s.o.Clock())
	}
	return s.counts[op.name], t
}

// choose asks the hook, then the rules.
func (s *Server) choose(op Op) *Fault {
	s.mu.Lock()
	hook := s.in.hook
	s.mu.Unlock()
	if hook != nil {
		if f := hook(op); f != nil {
			return f
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.pick(&op)
}

const maxJSON = 1 << 20

// prepare reads what a fault rule may ask about and every handler needs: the
// JSON body, or the metadata part of an upload.
func (c *call) prepare() *apiError {
	if c.op.upload {
		return c.openUpload()
	}
	if !c.op.json && c.op.name != "trash.put" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(c.r.Body, maxJSON+1))
	switch {
	case err != nil:
		return badRequest("Cannot read from request.")
	case len(body) > maxJSON:
		return badRequest("The request is too large")
	}
	c.body = body
	return nil
}

// decode reads the JSON body into v; no body is an empty object.
func (c *call) decode(v any) *apiError {
	if len(bytes.TrimSpace(c.body)) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.body, v); err != nil {
		return badRequest("Could not parse the request: %s", err)
	}
	return nil
}

func (c *call) describe(n int) Op {
	op := Op{Name: c.op.name, Method: c.log.Method, Path: c.r.URL.Path, NodeID: c.id, Token: c.who.token, N: n, Size: c.r.ContentLength}
	if c.op.name == "content.templink" || c.op.name == "content.signed" {
		op.NodeID, _ = c.s.openLink(c.id, c.op.name)
	}
	if nd := c.s.st.get(op.NodeID); nd != nil {
		op.Node = nd.name
		if nd.content != nil && !c.op.upload {
			op.Size = nd.content.size
		}
	}
	if c.op.name == "nodes.list" {
		if f, e := parseFilter(c.q.Get("filters"), false); e == nil { // the handler complains
			op.NodeID, op.Node = f.required("parents"), f.required("name")
		}
	}
	var named struct {
		Name string `json:"name"`
	}
	if c.up != nil && c.op.name == "content.upload" {
		named.Name = c.up.meta.Name
	} else if len(c.body) > 0 {
		_ = json.Unmarshal(c.body, &named) // the handler complains
	}
	if named.Name != "" {
		op.Node = named.Name
	}
	c.log.Name = op.Node
	return op
}

func (c *call) failure(e *apiError) reply {
	ct, b := e.body()
	return reply{status: e.status, header: map[string]string{"Content-Type": ct}, body: b}
}

// drain reads what is left of a small body, so that the connection can be
// kept. A large or endless one is answered at once and the connection closes:
// the client hears the answer while it still sends.
func (c *call) drain() {
	if n := c.r.ContentLength; n >= 0 && n <= maxJSON {
		_, _ = io.Copy(io.Discard, c.r.Body)
		return
	}
	c.w.Header().Set("Connection", "close")
}

// send writes a whole answer.
func (c *call) send(rep reply) {
	if c.sent {
		return
	}
	c.sent = true
	h := c.w.Header()
	for k, v := range rep.header {
		h.Set(k, v)
	}
	if h.Get("Content-Type") == "" && len(rep.body) > 0 {
		h.Set("Content-Type", "application/json")
	}
	body := rep.body
	if rep.gzip && len(body) > 4096 && c.wantsGzip() {
		var buf bytes.Buffer
		z := newGzip(&buf)
		_, _ = z.Write(body) // a bytes.Buffer takes everything
		closeGzip(z)
		body = buf.Bytes()
		h.Set("Content-Encoding", "gzip")
	}
	if rep.status != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	c.log.Status = rep.status
	c.w.WriteHeader(rep.status)
	_, _ = c.w.Write(body) // a client that left is its own business
}

func (c *call) wantsGzip() bool {
	return strings.Contains(c.r.Header.Get("Accept-Encoding"), "gzip")
}

// gzip writers are large; a few are kept.
var gzips = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // the level is valid
	return z
}}

func newGzip(w io.Writer) *gzip.Writer {
	z := gzips.Get().(*gzip.Writer)
	z.Reset(w)
	return z
}

func closeGzip(z *gzip.Writer) {
	_ = z.Close() // the writer below reported its own error
	gzips.Put(z)
}

// abort ends the connection without an answer: with a RST, or as a peer that
// goes away. It does not return.
func (c *call) abort(reset bool) {
	if !c.sent {
		c.log.Status = 0
	}
	rc := http.NewResponseController(c.w)
	if c.sent {
		_ = rc.Flush() // what was promised before the cut arrives
	}
	conn, _, err := rc.Hijack()
	if err != nil { // HTTP/2 front: the stream is reset
		panic(http.ErrAbortHandler)
	}
	if reset {
		raw := conn
		if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
			raw = t.NetConn()
		}
		if t, ok := raw.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // makes Close send a RST
			conn = t
		}
	}
	_ = conn.Close()
	panic(http.ErrAbortHandler)
}

// origin is where the addresses in answers begin.
func (c *call) origin() string {
	if c.s.o.BaseURL != "" {
		return strings.TrimSuffix(c.s.o.BaseURL, "/")
	}
	if c.r.TLS != nil {
		return "https://" + c.r.Host
	}
	return "http://" + c.r.Host
}

func (c *call) boolParam(name string) bool { return strings.EqualFold(c.q.Get(name), "true") }

// pace bounds a content connection to Options.Rate; it returns false when the
// request ended. Shared by both directions.
type pace struct {
	s     *Server
	c     *call
	start time.Time
	done  int64
}

func (c *call) pace() *pace { return &pace{s: c.s, c: c, start: time.Now()} }

func (p *pace) wait(n int) error {
	if p.s.o.Rate <= 0 {
		return nil
	}
	p.done += int64(n)
	due := time.Duration(float64(p.done) / float64(p.s.o.Rate) * float64(time.Second))
	if !p.s.sleep(p.c.r.Context(), due-time.Since(p.start)) {
		return errGone
	}
	return nil
}

var errGone = errors.New("the client left")
