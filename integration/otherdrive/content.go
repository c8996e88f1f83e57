package otherdrive

import (
	"bufio"
	"compress/gzip"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) serveContent(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(r.URL.EscapedPath(), "/")
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i], _ = url.PathUnescape(p)
	}
	switch {
	case r.Method == "POST" && path == "nodes":
		s.upload(w, r, "")
	case r.Method == "PUT" && len(parts) == 3 && parts[0] == "nodes" && parts[2] == "content":
		s.upload(w, r, parts[1])
	case r.Method == "GET" && len(parts) == 3 && parts[0] == "nodes" && parts[2] == "content":
		s.mu.Lock()
		n := s.nodes[parts[1]]
		var c *content
		var tag string
		if n != nil && n.kind == "FILE" {
			c, tag = n.content, n.etag()
		}
		s.mu.Unlock()
		switch {
		case c == nil:
			s.problem(w, 404, "Node does not exist")
		case s.opt.Redirect:
			w.Header().Set("Location", s.storage+"s3/"+url.PathEscape(parts[1])+"/"+strconv.Itoa(c.version)+"?X-Amz-Algorithm=AWS4&X-Amz-Signature=x")
			w.WriteHeader(302)
		case s.hiccup():
			s.problem(w, 404, "Node does not exist")
		default:
			switch s.opt.ContentETag {
			case "content":
				w.Header().Set("ETag", `"`+c.md5+`"`)
			case "node":
				w.Header().Set("ETag", `"`+tag+`"`)
			}
			s.send(w, r, c)
		}
	default:
		s.complain("no such call: %s %s", r.Method, r.URL.Path)
		_ = s.fail(w, 404, "<UnknownOperationException/>")
	}
}

// serveStorage is where tempLinks and redirects lead.
func (s *Server) serveStorage(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		s.complain("a token was sent to the storage host: %s", r.URL.Path)
		_ = s.fail(w, 400, "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>")
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	s.mu.Lock()
	var c *content
	if len(parts) == 3 {
		if n := s.nodes[parts[1]]; n != nil && n.content != nil && strconv.Itoa(n.content.version) == parts[2] {
			c = n.content
		}
	}
	s.mu.Unlock()
	if c == nil {
		_ = s.fail(w, 403, "<Error><Code>AccessDenied</Code></Error>")
		return
	}
	s.send(w, r, c)
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, c *content) {
	f, err := os.Open(c.path)
	if err != nil {
		s.complain("%v", err)
		s.problem(w, 500, "Internal failure")
		return
	}
	defer f.Close()
	from, to, status := int64(0), c.size, 200
	if rg, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && s.opt.Range != "ignored" {
		a, b, _ := strings.Cut(rg, "-")
		first, err := strconv.ParseInt(a, 10, 64)
		last, err2 := strconv.ParseInt(b, 10, 64)
		if err != nil || (b != "" && (err2 != nil || last < first)) {
			s.complain("range %s", rg)
			s.problem(w, 400, "range")
			return
		}
		switch {
		case c.size == 0 && s.opt.EmptyRange == 200:
		case first >= c.size:
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", c.size))
			_ = s.fail(w, 416, "")
			return
		default:
			from, status = first, 206
			if b != "" {
				to = min(last+1, c.size)
			}
			total := strconv.FormatInt(c.size, 10)
			if s.opt.Range == "star" {
				total = "*"
			}
			if s.opt.Range == "whole200" && to-from == c.size {
				status = 200
				break
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%s", from, to-1, total))
		}
	}
	s.mu.Lock()
	s.downloads++
	cut := s.opt.CutDownloads && s.downloads%2 == 1 && to-from > 1000
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/octet-stream")
	if s.opt.GzipContent && status == 200 && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(status)
		z := gzip.NewWriter(w)
		_, _ = io.Copy(z, f)
		_ = z.Close()
		return
	}
	if s.opt.NoLength {
		// A body without length ends with the connection or the last chunk.
		w.WriteHeader(status)
		_ = http.NewResponseController(w).Flush()
	} else {
		w.Header().Set("Content-Length", strconv.FormatInt(to-from, 10))
		w.WriteHeader(status)
	}
	if cut {
		_, _ = io.Copy(w, io.NewSectionReader(f, from, (to-from)/2))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = io.Copy(w, io.NewSectionReader(f, from, to-from))
}

var errParts = errors.New(`{"name":"content","Content-Type":"application/octet-stream"}`)

func (s *Server) upload(w http.ResponseWriter, r *http.Request, id string) {
	if r.ContentLength < 0 && s.opt.NoChunked {
		w.Header().Set("Connection", "close")
		s.problem(w, 411, "Content-Length missing")
		return
	}
	typ, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/form-data" {
		s.complain("an upload of %q", r.Header.Get("Content-Type"))
		s.problem(w, 400, errParts.Error())
		return
	}
	body := bufio.NewReader(r.Body)
	mr := multipart.NewReader(body, params["boundary"])
	var c created
	if id == "" {
		part, err := mr.NextPart()
		if err != nil || part.FormName() != "metadata" || part.FileName() != "" || json.NewDecoder(part).Decode(&c) != nil || c.Kind != "FILE" {
			s.complain("an upload without metadata first")
			s.problem(w, 400, errParts.Error())
			return
		}
		if len(c.Parents) == 0 {
			c.Parents = []string{s.root}
		}
		if s.opt.EarlyConflict {
			s.mu.Lock()
			for _, p := range c.Parents {
				if n := s.clash(p, c.Name, ""); n != nil {
					w.Header().Set("Connection", "close")
					s.taken(w, n, p)
					s.mu.Unlock()
					return
				}
			}
			s.mu.Unlock()
		}
	}
	part, err := mr.NextPart()
	for id != "" && err == nil && part.FormName() == "metadata" {
		part, err = mr.NextPart()
	}
	if err != nil || part.FormName() != "content" || part.FileName() == "" {
		if r.Context().Err() == nil {
			s.complain("an upload without content: %v", err)
		}
		s.problem(w, 400, errParts.Error())
		return
	}
	data := &content{path: s.newFile(), version: 1}
	f, err := os.Create(data.path)
	if err != nil {
		s.complain("%v", err)
		s.problem(w, 500, "Internal failure")
		return
	}
	sum := md5.New()
	data.size, err = io.Copy(io.MultiWriter(f, sum), part)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		if _, e := mr.NextPart(); e != io.EOF {
			err = errors.New("no closing boundary")
		}
	}
	if err != nil {
		s.problem(w, 400, "Cannot read from request.")
		return
	}
	_, _ = io.Copy(io.Discard, body)
	if data.size == 0 && r.ContentLength < 0 {
		s.complain("an empty content by chunked encoding")
		s.problem(w, 400, "Bytes not received for request.")
		return
	}
	data.md5 = hex.EncodeToString(sum.Sum(nil))
	if h := r.Header.Get("Content-MD5"); h != "" && h != base64.StdEncoding.EncodeToString(sum.Sum(nil)) {
		s.problem(w, 400, "Content-MD5")
		return
	}
	s.mu.Lock()
	s.uploads++
	lost := s.opt.LostUploads > 0 && s.uploads%s.opt.LostUploads == 0
	n := s.uploads
	s.mu.Unlock()
	if lost && s.opt.LateUploads > 0 {
		s.wg.Go(func() {
			select {
			case <-time.After(s.opt.LateUploads):
			case <-s.closed:
				return
			}
			s.stored(discard{http.Header{}}, r, id, c, data)
		})
	} else if lost {
		s.stored(discard{http.Header{}}, r, id, c, data)
	}
	switch {
	case !lost:
		s.stored(w, r, id, c, data)
	case n/s.opt.LostUploads%2 == 0:
		_ = s.fail(w, 504, "")
	default:
		panic(http.ErrAbortHandler)
	}
}

// stored makes the node of what was uploaded, and answers.
func (s *Server) stored(w http.ResponseWriter, r *http.Request, id string, c created, data *content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != "" {
		s.withNode(w, id, func(n *node) { s.overwrite(w, r, n, data) })
		return
	}
	if s.repeated(w, r) || !s.owned(w, c.Properties) || !s.fits(w, c.Name, c.Parents, "") {
		return
	}
	if !slices.Contains(r.URL.Query()["suppress"], "deduplication") && data.size > 0 {
		for _, n := range s.nodes {
			if n.content != nil && n.content.md5 == data.md5 {
				answer(w, 409, map[string]any{"code": "MD5_DUPLICATE", "message": "a duplicate file"})
				return
			}
		}
	}
	n := s.make(r, c, "FILE", data)
	w.Header().Set("Location", s.meta+"nodes/"+n.id)
	m := s.wire(n, nil)
	if s.opt.AnswerPending {
		m["status"] = "PENDING"
		delete(m, "contentProperties")
	}
	s.answerCreated(w, m)
}

func (s *Server) overwrite(w http.ResponseWriter, r *http.Request, n *node, data *content) {
	if n.kind != "FILE" || n.status == "TRASH" {
		s.problem(w, 404, "Node does not exist")
		return
	}
	if s.stale(w, r, n) {
		return
	}
	before := s.wire(n, nil)
	if n.content != nil {
		data.version = n.content.version + 1
	}
	n.content, n.status = data, "AVAILABLE"
	s.touch(n)
	if s.opt.OverwriteLie {
		answer(w, 200, before)
		return
	}
	answer(w, 200, s.wire(n, nil))
}
