package drivetest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// Downloads (§7.4), tempLinks (§7.5) and the signed addresses that large
// downloads were redirected to.

func (c *call) contentDownload() (reply, *apiError) {
	n := c.s.st.get(c.id)
	switch {
	case n == nil || n.status == StatusTrash && c.s.o.TrashedContent404:
		return reply{}, notFound(c.id)
	case n.content == nil:
		return reply{}, badRequest("Node %s has no content", c.id)
	case !c.mayRead(n.content.contentType):
		return reply{}, forbidden("Insufficient permissions granted for operation: %s", c.op.name)
	}
	limit := c.s.o.RedirectThreshold
	if limit >= 0 && n.content.size >= limit || c.hooks.redirect {
		return c.redirect(n), nil
	}
	return c.serveContent(n)
}

// redirect sends the client to a signed address, where Authorization is an
// error. It is on the same host, where a client that forwards it shows.
func (c *call) redirect(n *node) reply {
	q := url.Values{"X-Amz-Algorithm": {"AWS4-HMAC-SHA256"}, "X-Amz-Expires": {"3600"}, "X-Amz-SignedHeaders": {"host"}}
	for _, k := range []string{"response-content-type", "response-content-disposition", "download"} {
		if v := c.q.Get(k); v != "" {
			q.Set(k, v)
		}
	}
	at := c.origin() + "/signed/" + c.s.sign(claims{Kind: tokenSigned, Node: n.id}, c.s.o.TokenLife) + "?" + q.Encode()
	return reply{status: http.StatusFound, header: map[string]string{"Location": at}}
}

// tempLinkFor makes the link that listings and gets carry.
func (c *call) tempLinkFor(n *node) string {
	return c.origin() + "/cdproxy/templink/" + c.s.sign(claims{Kind: tokenTemp, Node: n.id}, c.s.o.TempLinkAge)
}

// openLink reads a tempLink or a signed address.
func (s *Server) openLink(token, op string) (id string, alive bool) {
	kind := tokenTemp
	if op == "content.signed" {
		kind = tokenSigned
	}
	cl, valid, alive := s.verify(kind, token)
	return cl.Node, valid && alive
}

func (c *call) contentTempLink() (reply, *apiError) {
	id, alive := c.s.openLink(c.id, c.op.name)
	n := c.s.st.get(id)
	switch {
	case id == "":
		return reply{}, &apiError{status: http.StatusNotFound, hasCode: true, message: "Unknown link"}
	case !alive:
		return reply{}, forbidden("The link has expired")
	case n == nil || n.content == nil || n.status == StatusTrash && c.s.o.TrashedContent404:
		return reply{}, notFound(id)
	}
	if c.hooks.redirect {
		return c.redirect(n), nil
	}
	return c.serveContent(n)
}

func s3Error(status int, code, message string) *apiError {
	return &apiError{status: status, xml: `<?xml version="1.0" encoding="UTF-8"?>` + "\n<Error><Code>" + code + "</Code><Message>" + message + "</Message><RequestId>" + newRequestID() + "</RequestId></Error>"}
}

// contentSigned is S3 as it answered such requests (§3.3).
func (c *call) contentSigned() (reply, *apiError) {
	if c.r.Header.Get("Authorization") != "" {
		return reply{}, s3Error(http.StatusBadRequest, "InvalidArgument",
			"Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified")
	}
	for k := range c.r.Header {
		if strings.HasPrefix(strings.ToLower(k), "x-amz") {
			return reply{}, s3Error(http.StatusForbidden, "AccessDenied", "There were headers present in the request which were not signed")
		}
	}
	id, alive := c.s.openLink(c.id, c.op.name)
	n := c.s.st.get(id)
	switch {
	case !alive:
		return reply{}, s3Error(http.StatusForbidden, "AccessDenied", "Request has expired")
	case n == nil || n.content == nil:
		return reply{}, s3Error(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
	case strings.ContainsFunc(n.name, func(r rune) bool { return r > 0xff }):
		return reply{}, s3Error(http.StatusBadRequest, "InvalidArgument", "Header value cannot be represented using ISO-8859-1.")
	}
	return c.serveContent(n)
}

// openBlob opens what n had when it was looked up; an overwrite may have
// removed it meanwhile, then the new content is served.
func (c *call) openBlob(n *node) (*os.File, *content, error) {
	ct := n.content
	f, err := c.s.st.blobs.open(ct.blob)
	if errors.Is(err, os.ErrNotExist) {
		if now := c.s.st.get(n.id); now != nil && now.content != nil {
			ct = now.content
			f, err = c.s.st.blobs.open(ct.blob)
		}
	}
	return f, ct, err
}

func (c *call) serveContent(n *node) (reply, *apiError) {
	f, ct, err := c.openBlob(n)
	if err != nil {
		return reply{}, notFound(n.id)
	}
	defer f.Close()
	from, to, partial, ok := parseRange(c.r.Header.Get("Range"), ct.size)
	if !ok {
		rep := c.failure(&apiError{status: http.StatusRequestedRangeNotSatisfiable, message: "The requested range is not satisfiable"})
		rep.header["Content-Range"] = fmt.Sprintf("bytes */%d", ct.size)
		return rep, nil
	}
	h := c.w.Header()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Security-Policy", "sandbox") // a page of the drive is no page of the service
	h.Set("Cache-Control", "private, no-cache")
	switch c.s.st.modes.Load().ContentETag {
	case "":
		h.Set("ETag", `"`+hex.EncodeToString(ct.md5[:])+`"`)
	case ETagNode:
		h.Set("ETag", `"`+n.etag()+`"`)
	}
	h.Set("Content-Type", ct.contentType)
	if v := c.q.Get("response-content-type"); v != "" {
		h.Set("Content-Type", v)
	}
	if c.boolParam("download") {
		h.Set("Content-Disposition", "attachment; filename*=UTF-8''"+url.PathEscape(n.name))
	}
	if v := c.q.Get("response-content-disposition"); v != "" {
		h.Set("Content-Disposition", v)
	}
	h.Set("Content-Length", strconv.FormatInt(to-from, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, ct.size))
	}
	c.sent, c.log.Status = true, status
	c.w.WriteHeader(status)
	if c.r.Method == http.MethodHead {
		return reply{}, nil
	}
	c.pour(f, from, to-from)
	return reply{}, nil
}

// parseRange reads a single range (§7.4). partial = answer 206; not ok = 416.
// What is no range of bytes is ignored, as HTTP has it.
func parseRange(h string, size int64) (from, to int64, partial, ok bool) {
	spec, isBytes := strings.CutPrefix(h, "bytes=")
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !isBytes || !dash || strings.Contains(spec, ",") {
		return 0, size, false, true
	}
	if first == "" { // the last n bytes
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n <= 0 || size == 0 {
			return 0, 0, false, false
		}
		return max(0, size-n), size, true, true
	}
	from, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, size, false, true
	}
	to = size
	if last != "" {
		end, err := strconv.ParseInt(last, 10, 64)
		if err != nil || end < from {
			return 0, size, false, true
		}
		to = min(size, end+1)
	}
	return from, to, true, from < size
}

// pour sends n bytes from off: by sendfile when nothing slows or spoils them.
func (c *call) pour(f *os.File, off, n int64) {
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		c.abort(false)
	}
	c.copyOut(f, n)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (c *call) copyOut(r io.Reader, n int64) {
	p, step := c.pace(), int64(4<<20) // counted as it goes
	if c.s.o.Rate > 0 {
		step = min(64<<10, max(1, c.s.o.Rate/20))
	}
	var done int64
	var err error
	for done < n && err == nil {
		var k int64
		k, err = io.CopyN(c.w, r, min(step, n-done))
		c.served(k)
		done += k
		if err == nil {
			err = p.wait(int(k))
		}
	}
	if done < n || err != nil {
		c.abort(false)
	}
}

func (c *call) served(n int64) {
	c.s.bytesOut.Add(n)
	c.log.Out += n
}
