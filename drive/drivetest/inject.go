package drivetest

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
)

func (f *Fault) kind() string {
	switch {
	case f.Do != "":
		return f.Do
	case f.Status != 0:
		return DoStatus
	}
	return DoDelay
}

// faulty is the answer that a fault gives. Status without body shape is the
// JSON one.
func (c *call) faulty(f *Fault) reply {
	rep := reply{status: f.Status, header: map[string]string{}}
	switch f.kind() {
	case DoExpired, DoExpireMid:
		return c.failure(tokenExpired())
	case DoEmpty401:
		return reply{status: http.StatusUnauthorized}
	case DoWrapped:
		return c.failure(badRequest("com.amazon.clouddrive.client.exceptions.UnauthourizedAccessException: HTTP status code=[401] RequestId=[%s] Token has expired", c.log.RequestID))
	case DoSporadic:
		return c.failure(forbidden("Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. Authorization header requires 'SignedHeaders' parameter. Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. Authorization=Bearer"))
	case DoConflict:
		return c.failure(c.conflict())
	case DoOverQuota:
		return c.failure(overQuota())
	}
	if f.RetryAfter > 0 {
		rep.header["Retry-After"] = strconv.Itoa(f.RetryAfter)
	}
	rep.set(c.shapeOf(f))
	return rep
}

func (r *reply) set(contentType, body string) {
	if contentType != "" {
		r.header["Content-Type"] = contentType
	}
	r.body = []byte(body)
}

// shapeOf is the body of a fault.
func (c *call) shapeOf(f *Fault) (ct, body string) {
	ct, body = "application/json", f.Body
	switch f.Body {
	case "", "json":
		msg := f.Msg
		if msg == "" {
			msg = faultMessage(f.Status)
		}
		b, _ := json.Marshal(struct {
			Message string `json:"message"`
			Code    string `json:"code,omitempty"`
		}{msg, f.Code})
		body = string(b)
	case "braces":
		body = "{}"
	case "empty":
		ct, body = "", ""
	case "html":
		ct, body = "text/html; charset=utf-8", "<!DOCTYPE html><html><head><title>Error</title></head><body><h1>HTTP Status "+strconv.Itoa(f.Status)+"</h1></body></html>\n"
	case "xml":
		ct, body = "application/xml", "<UnknownOperationException/>\n"
	default:
		ct = "text/plain"
	}
	return ct, body
}

// faultMessage as the service worded it (§3.3).
func faultMessage(status int) string {
	switch status {
	case http.StatusTooManyRequests:
		return "Rate exceeded"
	case http.StatusInternalServerError:
		return "Internal failure"
	case http.StatusRequestTimeout:
		return "REQUEST_TIMEOUT"
	case http.StatusGatewayTimeout:
		return "GATEWAY_TIMEOUT"
	case http.StatusServiceUnavailable:
		return "System unavailable. Please back off for a while and try again later"
	}
	return http.StatusText(status)
}

// conflict names the node in the way, when there is one.
func (c *call) conflict() *apiError {
	name, parent, id := c.log.Name, c.s.st.root.id, c.id
	var body newNode
	if c.up != nil {
		body = c.up.meta
	} else {
		_ = json.Unmarshal(c.body, &body) // the name of the log will do
	}
	if len(body.Parents) > 0 {
		parent = body.Parents[0]
	}
	c.s.st.mu.RLock()
	defer c.s.st.mu.RUnlock()
	if n := c.s.st.names[nameKey{parent, fold(name)}]; n != nil {
		id = n.id
	}
	return nameTaken(fold(name), parent, id)
}

// inject does what the fault asks for before or instead of the handler; true
// = the request is answered.
func (c *call) inject(f *Fault) bool {
	streams := c.op.name == "content.download" || c.op.name == "content.templink" || c.op.name == "content.signed" || c.op.name == "changes"
	switch kind := f.kind(); {
	case kind == DoDelay:
		return false
	case kind == DoReset && streams && f.Effect == EffectNone,
		kind == DoStall, kind == DoShort, kind == DoRedirect, kind == DoRange, kind == DoWholeFile, kind == DoOtherBytes,
		kind == DoMissing, kind == DoDuplicate, kind == DoStale,
		kind == DoSpoil, kind == DoCheckpoint, kind == DoEndless, kind == DoCut, kind == DoBadTail, kind == DoFeedReset, kind == DoChunkStatus, kind == DoRepeat, kind == DoDisorder, kind == DoEndOnly:
		c.spoil(f)
		return false
	case kind == DoPageToken:
		c.send(c.failure(badRequest("Next token is expired")))
		return true
	}
	c.effect(f)
	if f.kind() == DoExpireMid {
		c.s.ExpireTokens()
	}
	if f.kind() == DoSilent {
		c.s.sleep(c.r.Context(), stallTime(f))
		c.abort(true)
	}
	if f.kind() == DoReset {
		c.abort(true)
	}
	c.send(c.faulty(f))
	return true
}

// effect reads the body and does what the request does in spite of its answer.
func (c *call) effect(f *Fault) {
	switch {
	case f.Effect == EffectDone:
		_, _ = c.op.handler(c) // the fault is the answer, whatever came of it
	case !c.op.upload && (f.Effect == EffectLate || f.Effect == EffectTruncated):
		c.s.later(f.After, func() { _, _ = c.op.handler(c) }, func() {})
	case !c.op.upload:
	case f.Effect == EffectLate, f.Effect == EffectTruncated:
		c.lateUpload(f)
	default:
		if f.Effect == EffectPending && c.op.name == "content.upload" {
			s := c.up.meta
			s.localID, s.createdBy = c.q.Get("localId"), c.owner()
			_, _ = c.s.st.createPending(s) // a name that is taken leaves nothing behind
		}
		if f.At == 0 {
			_ = c.receive(io.Discard, -1) // the answer comes all the same
			_, _ = io.Copy(io.Discard, c.r.Body)
			return
		}
		_ = c.receive(io.Discard, max(0, f.At))
		c.w.Header().Set("Connection", "close")
	}
}

// lateUpload receives the content and lets it appear later (§13.2).
func (c *call) lateUpload(f *Fault) {
	in, e := c.content()
	if e != nil {
		return
	}
	if f.Effect == EffectTruncated {
		size := in.size / 2
		if f.At > 0 {
			size = min(f.At, in.size)
		}
		if err := in.truncate(size); err != nil {
			in.drop()
			return
		}
	}
	tag := c.r.Header.Get("If-Match")
	c.s.later(f.After, func() {
		if c.op.name == "content.overwrite" {
			_, _ = c.replace(in, tag) // refused = it never appears
			return
		}
		s := c.up.meta
		s.localID, s.createdBy = c.q.Get("localId"), c.owner()
		_, _ = c.store(in, s, nil)
	}, in.drop)
}
