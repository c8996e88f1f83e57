package drive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Download is the content of a file from From on, as it comes. The reader
// gives exactly To-From bytes and io.EOF, or an error: io.ErrUnexpectedEOF
// when the service sent less. It must be closed, which frees its connection.
type Download struct {
	io.ReadCloser
	From, To int64 // what comes: [From, To). To is less than asked at the file's end, -1 = not told
	Total    int64 // size of the whole content in bytes, -1 = not told
	// ETag is the content host's header, "" = none. A redirect leads to
	// another host, whose tags nobody promised to be the same: none then.
	ETag string
}

// Download asks for the bytes [from, to) of a file; to < 0 = to the end. A
// range over the end is cut, one that begins at or after it is ErrRange (so is every
// range of an empty file; ask that from 0 to the end). Failures before the first byte are repeated as
// far as ctx allows; what happens to the reader is the reader's business. ctx
// also ends the reading. Redirects are followed without Authorization (API §7.4).
func (c *Client) Download(ctx context.Context, id string, from, to int64) (*Download, error) {
	cl := &call{op: "content.download", host: hostContent, ref: path("nodes", id, "content")}
	return c.download(ctx, cl, nil, from, to)
}

// DownloadLink is Download by a tempLink: no Authorization is sent.
// ErrForbidden or ErrNotFound: the link is too old, ask for another.
func (c *Client) DownloadLink(ctx context.Context, tempLink string, from, to int64) (*Download, error) {
	u, err := parseAddress(tempLink)
	if err != nil {
		return nil, &Error{Op: "content.templink", Kind: ErrInvalid, Err: err}
	}
	cl := &call{op: "content.templink", noAuth: true, secret: true}
	return c.download(ctx, cl, u, from, to)
}

func (c *Client) download(ctx context.Context, cl *call, u *url.URL, from, to int64) (*Download, error) {
	if from < 0 || (to >= 0 && to <= from) {
		return nil, &Error{Op: cl.op, Kind: ErrInvalid, Message: fmt.Sprintf("range [%d, %d)", from, to)}
	}
	cl.shape, cl.idempotent = shapeDownload, true
	req, err := c.request(ctx, cl, http.MethodGet, nil)
	if err != nil {
		return nil, err
	}
	if u != nil {
		req.URL = u
	}
	switch {
	case to >= 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	case from > 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := c.send(cl, req)
	if err != nil {
		return nil, err
	}
	d, err := arrived(resp, from, to)
	if err != nil {
		resp.Body.Close()
		return nil, c.failed(cl, &Error{Op: cl.op, Kind: ErrProtocol, Status: resp.StatusCode, Err: err,
			RequestID: scrub(resp.Header.Get("x-amzn-RequestId"))})
	}
	if cl.redirected {
		d.ETag = ""
	}
	left := int64(-1)
	if d.To >= 0 {
		left = d.To - d.From
	}
	d.ReadCloser = &downloadBody{ctx: ctx, c: c, body: resp.Body, left: left, skip: d.skip}
	return &d.Download, nil
}

type arrival struct {
	Download
	skip int64
}

// maxSkip is how much is read in vain of an answer that ignored the range:
// slow is better than a file whose end nobody can read, as long as a reader's
// patience (15 s) may see the end of it.
const maxSkip = 256 << 20

// arrived says what an answer to a request for [from, to) brings.
func arrived(resp *http.Response, from, to int64) (a arrival, err error) {
	a.ETag = resp.Header.Get("ETag")
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return a, fmt.Errorf("content encoded as %q", enc)
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		var last int64
		a.From, last, a.Total, err = parseContentRange(resp.Header.Get("Content-Range"))
		a.To = last + 1
		switch {
		case err != nil:
		case a.From != from || (to >= 0 && a.To > to):
			err = fmt.Errorf("asked for %d-%d, got %s", from, to-1, resp.Header.Get("Content-Range"))
		case resp.ContentLength >= 0 && resp.ContentLength != a.To-a.From:
			err = fmt.Errorf("%d bytes for %s", resp.ContentLength, resp.Header.Get("Content-Range"))
		}
		return a, err
	case http.StatusOK: // the whole file
		a.From, a.To, a.Total, a.skip = from, resp.ContentLength, resp.ContentLength, from
		if a.Total >= 0 && from > 0 && from >= a.Total {
			return a, errors.New("the whole file for a range beyond its end")
		}
		if to >= 0 && (a.To < 0 || a.To > to) {
			a.To = to
		}
		if a.skip > maxSkip {
			err = errors.New("the whole file for a range of it")
		}
		return a, err
	}
	return a, errors.New("neither content nor an error")
}

// parseContentRange reads "bytes a-b/total" or "bytes a-b/*".
func parseContentRange(s string) (first, last, total int64, err error) {
	bad := fmt.Errorf("Content-Range %q", s)
	rest, ok := strings.CutPrefix(s, "bytes ")
	span, size, ok2 := strings.Cut(rest, "/")
	a, b, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, bad
	}
	first, err = strconv.ParseInt(a, 10, 64)
	if err != nil {
		return 0, 0, 0, bad
	}
	if last, err = strconv.ParseInt(b, 10, 64); err != nil {
		return 0, 0, 0, bad
	}
	total = -1
	if size != "*" {
		if total, err = strconv.ParseInt(size, 10, 64); err != nil {
			return 0, 0, 0, bad
		}
	}
	if first < 0 || last < first || last == math.MaxInt64 || (total >= 0 && last >= total) {
		return 0, 0, 0, bad
	}
	return first, last, total, nil
}

// downloadBody counts: API §7.4, a short body is an error, whatever the framing said.
type downloadBody struct {
	ctx  context.Context
	c    *Client
	body io.ReadCloser
	left int64 // bytes to come, -1 = until the end
	skip int64 // bytes to drop first
}

func (b *downloadBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for b.skip > 0 { // into p, as it comes: these bytes cost as much as others
		n, err := b.body.Read(p[:min(b.skip, int64(len(p)), int64(b.c.down.most()))])
		b.skip -= int64(n)
		b.c.downloaded.Add(int64(n))
		if werr := b.c.down.wait(b.ctx, n); werr != nil {
			return 0, werr
		}
		if err != nil {
			return 0, b.seen(err)
		}
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	p = p[:min(len(p), b.c.down.most())]
	n, err := b.body.Read(p)
	b.c.downloaded.Add(int64(n))
	if b.left > 0 {
		b.left -= int64(n)
	}
	if werr := b.c.down.wait(b.ctx, n); werr != nil {
		return n, werr
	}
	if err == io.EOF && b.left == 0 {
		return n, io.EOF
	}
	if err != nil {
		err = b.seen(err)
	}
	return n, err
}

func (b *downloadBody) seen(err error) error {
	if cerr := b.ctx.Err(); cerr != nil && err != io.EOF {
		return cerr
	}
	if err == io.EOF && b.left != -1 {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (b *downloadBody) Close() error { return b.body.Close() }

const maxRedirects = 5

// followed follows the redirects of downloads by hand: first sends what was
// asked for, hop what an answer leads to. That request carries Range and nothing
// else that matters: S3 refuses Authorization and headers that were not signed
// (API §3.3), and our token is for the account's hosts alone.
func followed(first, hop sender) sender {
	return func(c *call, req *http.Request) (*http.Response, error) {
		resp, err := first(c, req)
		for hops := 0; c.shape == shapeDownload && err == nil && isRedirect(resp.StatusCode); hops++ {
			var u *url.URL
			u, err = location(req, resp)
			resp.Body.Close()
			if err == nil && hops == maxRedirects {
				err = errors.New("too many redirects")
			}
			if err != nil {
				return nil, &Error{Op: c.op, Kind: ErrProtocol, Status: resp.StatusCode, Err: err}
			}
			c.redirected = true
			at := *c // what the layers below find out of it is not of our call
			at.host, at.noAuth, at.secret = hostNone, true, true
			if req, err = hopRequest(req, u); err != nil {
				return nil, &Error{Op: c.op, Kind: ErrProtocol, Status: resp.StatusCode, Message: "an address that cannot be used"}
			}
			resp, err = hop(&at, req)
		}
		return resp, err
	}
}

func hopRequest(req *http.Request, u *url.URL) (*http.Request, error) {
	next, err := http.NewRequestWithContext(req.Context(), http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range []string{"Range", "User-Agent", "Accept-Encoding"} {
		if v := req.Header.Get(h); v != "" {
			next.Header.Set(h, v)
		}
	}
	return next, nil
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// location is where an answer points, under the rule for all addresses.
func location(req *http.Request, resp *http.Response) (*url.URL, error) {
	base := req.URL
	if resp.Request != nil && resp.Request.URL != nil {
		base = resp.Request.URL // as resolved
	}
	u, err := base.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return nil, errors.New("a redirect to nowhere")
	}
	return parseAddress(u.String())
}
