package drivetest

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"path/filepath"
	"strings"
)

// Uploads and overwrites (§7.1, §7.2): one multipart body, metadata before
// content, straight to a file.

// upload is the body of an upload being read.
type upload struct {
	mr      *multipart.Reader
	meta    newNode
	hasMeta bool
	part    *multipart.Part // the content, nil until it is reached
	content io.Reader       // its bytes
}

// badMultipart is what the service said when parts were missing or in the
// wrong order: JSON in a string (§3.3).
func badMultipart() *apiError {
	return badRequest("%s", `{"name":"content","Content-Type":"application/octet-stream"}`)
}

// mostFor is what a content may have and what it would be beyond that: the
// limit of uploads, or what is left of the quota, with what is still arriving.
// id is the file that is overwritten, "" = a new one.
func (st *store) mostFor(id string) func(size int64) *apiError {
	return func(size int64) *apiError {
		if size > st.o.MaxUpload {
			return badRequest("The file is larger than %d bytes", st.o.MaxUpload)
		}
		st.mu.RLock()
		defer st.mu.RUnlock()
		used := st.used + st.blobs.arriving.Load()
		if n := st.byID[id]; n != nil && n.content != nil {
			used -= n.content.size
		}
		if used > st.o.Quota {
			return overQuota()
		}
		return nil
	}
}

// typeByName is the content type that a name suggests.
func typeByName(name string) string {
	if ct := mime.TypeByExtension(strings.ToLower(filepath.Ext(name))); ct != "" {
		return ct
	}
	return "application/octet-stream"
}

// openUpload reads up to the first byte of the content.
func (c *call) openUpload() *apiError {
	ct, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || ct != "multipart/form-data" || params["boundary"] == "" {
		return badMultipart()
	}
	u := &upload{mr: multipart.NewReader(c.r.Body, params["boundary"])}
	c.up = u
	p, err := u.mr.NextRawPart()
	if err == nil && p.FormName() == "metadata" {
		if e := u.readMeta(p); e != nil {
			return e
		}
		p, err = u.mr.NextRawPart()
	}
	switch {
	case err != nil && u.hasMeta && !errors.Is(err, io.EOF):
		return badRequest("Cannot read from request.")
	case err != nil, p.FormName() != "content", !hasFileName(p), c.op.name == "content.upload" && !u.hasMeta:
		return badMultipart()
	}
	u.part, u.content = p, p
	return nil
}

func (u *upload) readMeta(p *multipart.Part) *apiError {
	b, err := io.ReadAll(io.LimitReader(p, maxJSON))
	if err != nil {
		return badRequest("Cannot read from request.")
	}
	u.hasMeta = true
	if err := json.Unmarshal(b, &u.meta); err != nil {
		return badRequest("Could not parse the metadata: %s", err)
	}
	return nil
}

// hasFileName: the file name must be there, whatever it is (§7.1).
func hasFileName(p *multipart.Part) bool {
	_, params, err := mime.ParseMediaType(p.Header.Get("Content-Disposition"))
	_, ok := params["filename"]
	_, ext := params["filename*"]
	return err == nil && (ok || ext)
}

// contentType of the part, or what the name tells.
func (u *upload) contentType(name string) string {
	if ct := u.part.Header.Get("Content-Type"); ct != "" && ct != "application/octet-stream" {
		return ct
	}
	return typeByName(name)
}

// receive copies the content to in, at most limit bytes (negative = all), and
// counts. It reports a body that broke off as an error.
func (c *call) receive(in io.Writer, limit int64) error {
	buf := make([]byte, 128<<10)
	p := c.pace()
	for limit != 0 {
		b := buf
		if limit > 0 {
			b = b[:min(limit, int64(len(b)))]
		}
		n, err := c.up.content.Read(b)
		if n > 0 {
			c.s.bytesIn.Add(int64(n))
			c.log.In += int64(n)
			if limit > 0 {
				limit -= int64(n)
			}
			if _, werr := in.Write(b[:n]); werr != nil {
				return werr
			}
			if perr := p.wait(n); perr != nil {
				return perr
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// content receives the whole content into a temporary file and checks what the
// request promised of it. The epilogue is read and forgotten.
func (c *call) content() (*incoming, *apiError) {
	in, err := c.s.st.blobs.create()
	if err != nil {
		return nil, broken(err)
	}
	in.most = c.s.st.mostFor(c.id)
	if err := c.receive(in, -1); err != nil {
		in.drop()
		var e *apiError
		if errors.As(err, &e) {
			return nil, e
		}
		return nil, badRequest("Cannot complete upload")
	}
	_, _ = io.Copy(io.Discard, c.r.Body)
	e := c.checkContent(in)
	if _, _, alive := c.s.verify(tokenAccess, c.who.token); !alive {
		e = tokenExpired() // a token that dies in a long upload fails it at the end (§2.4)
	}
	if e != nil {
		in.drop()
		return nil, e
	}
	return in, nil
}

func (c *call) checkContent(in *incoming) *apiError {
	sum := in.sum.Sum(nil)
	switch m := c.up.meta; {
	case in.size == 0 && c.r.ContentLength < 0:
		return badRequest("Bytes not received for request.")
	case c.r.Header.Get("Content-MD5") != "" && !sameMD5(c.r.Header.Get("Content-MD5"), sum):
		return badRequest("Content-MD5 does not match the content")
	case m.MD5 != "" && m.MD5 != hex.EncodeToString(sum), m.Size != nil && *m.Size != in.size:
		return badRequest("size or md5 does not match the content")
	}
	return nil
}

func sameMD5(header string, sum []byte) bool {
	return header == base64.StdEncoding.EncodeToString(sum) || strings.EqualFold(header, hex.EncodeToString(sum))
}

func (c *call) contentUpload() (reply, *apiError) {
	s := &c.up.meta
	if s.Kind != KindFile {
		return reply{}, badRequest("1 validation error detected: Value '%s' at 'kind' failed to satisfy constraint: Member must satisfy enum value set: [FILE]", s.Kind)
	}
	s.localID, s.createdBy = c.q.Get("localId"), c.owner()
	var pending *node
	if c.s.o.EarlyConflict || c.s.o.PendingUploads {
		if e := c.precheck(*s); e != nil {
			return reply{}, e
		}
	}
	if c.s.o.PendingUploads {
		var e *apiError
		if pending, e = c.s.st.createPending(*s); e != nil {
			return reply{}, e
		}
	}
	in, e := c.content()
	if e != nil {
		return reply{}, e
	}
	n, e := c.store(in, *s, pending)
	if e != nil {
		return reply{}, e
	}
	return c.nodeReply(http.StatusCreated, n), nil
}

// precheck refuses before the body what would be refused after it.
func (c *call) precheck(s newNode) *apiError {
	c.s.st.mu.RLock()
	defer c.s.st.mu.RUnlock()
	return c.s.st.checkNewLocked(&s)
}

// store makes a node of a received content.
func (c *call) store(in *incoming, s newNode, pending *node) (*node, *apiError) {
	if c.q.Get("suppress") != "deduplication" && in.size > 0 {
		if e := c.s.st.duplicate(in); e != nil {
			in.drop()
			return nil, e
		}
	}
	if c.s.overQuota() {
		in.drop()
		return nil, overQuota()
	}
	ct, err := in.keep(c.up.contentType(s.Name), s.Name, c.s.st.stamp())
	if err != nil {
		return nil, broken(err)
	}
	var n *node
	var e *apiError
	if pending != nil {
		n, e = c.s.st.setContent(pending.id, ct, "")
	} else {
		n, e = c.s.st.createNode(s, ct)
	}
	if e != nil {
		c.s.st.blobs.remove(ct.blob)
		return nil, e
	}
	c.s.detectMedia(n)
	return n, nil
}

// duplicate refuses a content that the account has already (§7.1).
func (st *store) duplicate(in *incoming) *apiError {
	sum := [md5.Size]byte(in.sum.Sum(nil))
	st.mu.RLock()
	defer st.mu.RUnlock()
	for _, n := range st.byID {
		if n.content != nil && n.live() && n.content.size == in.size && n.content.md5 == sum {
			return &apiError{status: http.StatusConflict, code: "MD5_DUPLICATE", nodeID: n.id,
				message: "Duplicate file with the md5 " + hex.EncodeToString(sum[:]) + " already exists. Existing NodeId: " + n.id}
		}
	}
	return nil
}

func (c *call) contentOverwrite() (reply, *apiError) {
	st, tag := c.s.st, c.r.Header.Get("If-Match")
	if c.s.o.EarlyConflict {
		st.mu.RLock()
		_, e := st.contentTargetLocked(c.id, tag)
		st.mu.RUnlock()
		if e != nil {
			return reply{}, e
		}
	}
	in, e := c.content()
	if e != nil {
		return reply{}, e
	}
	n, e := c.replace(in, tag)
	return c.changed(n, e)
}

func (c *call) replace(in *incoming, tag string) (*node, *apiError) {
	st := c.s.st
	old := st.get(c.id)
	if old == nil {
		in.drop()
		return nil, notFound(c.id)
	}
	if c.s.overQuota() {
		in.drop()
		return nil, overQuota()
	}
	ct, err := in.keep(c.up.contentType(old.name), old.name, c.s.st.stamp())
	if err != nil {
		return nil, broken(err)
	}
	n, e := st.setContent(c.id, ct, tag)
	if e != nil {
		st.blobs.remove(ct.blob)
		return nil, e
	}
	c.s.detectMedia(n)
	return n, nil
}

func (s *Server) overQuota() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.f.OverQuota
}

// detectMedia adds what the service finds out about a picture after the
// upload, as a new version (§5.2).
func (s *Server) detectMedia(n *node) {
	if s.o.MediaDelay <= 0 || n.content == nil || !strings.HasPrefix(n.content.contentType, "image/") {
		return
	}
	id, blob := n.id, n.content.blob
	s.later(s.o.MediaDelay, func() {
		_, _ = s.st.touch(id, func(n *node) {
			if n.content != nil && n.content.blob == blob {
				c := *n.content
				c.media = `{"width":640,"height":480,"make":"ACME","model":"X1"}`
				n.content = &c
			}
		})
	}, func() {})
}
