package drivetest

import (
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// The undocumented resume of Amazon's own client (§7.3): an upload with a
// localId and with size and md5 in its metadata, broken off after at least
// one chunk, can be continued until the server stops.

const resumeChunk = 5_243_915

type resume struct {
	in          *incoming
	meta        newNode
	id          string // that the node will have
	contentType string
	started     time.Time
	busy        bool
}

// interrupted keeps what arrived of a body that broke off, if it can be resumed.
func (c *call) interrupted(in *incoming) {
	m := c.up.meta
	if c.op.name != "content.upload" || m.localID == "" || m.Size == nil || m.MD5 == "" || in.size < resumeChunk {
		in.drop()
		return
	}
	re := &resume{in: in, meta: m, id: c.s.st.reserveID(), contentType: c.up.contentType(m.Name), started: c.s.o.Clock()}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if old := c.s.resumes[m.localID]; old != nil {
		if old.busy {
			in.drop()
			return
		}
		old.in.drop()
	}
	c.s.resumes[m.localID] = re
}

// reserveID makes an id for a node to come.
func (st *store) reserveID() string {
	t := st.begin()
	defer t.abort()
	return t.newID()
}

func (c *call) contentResume() (reply, *apiError) {
	if c.log.Method == http.MethodPut {
		return c.resumeUpload()
	}
	id := c.q.Get("localId")
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	re := c.s.resumes[id]
	if re == nil || re.busy {
		return reply{status: http.StatusNoContent}, nil
	}
	return jsonReply(http.StatusOK, map[string]any{
		"expectedBytes": *re.meta.Size, "receivedBytes": re.in.size, "expectedMd5": re.meta.MD5, "nodeId": re.id,
		"contentLink": c.origin() + "/cdproxy/resume/" + id, "started": re.started.UTC().Format(time.RFC3339), "uploadState": "IN_PROGRESS",
	}), nil
}

// takeResume gives the caller the upload alone.
func (s *Server) takeResume(id string) *resume {
	s.mu.Lock()
	defer s.mu.Unlock()
	re := s.resumes[id]
	if re == nil || re.busy {
		return nil
	}
	re.busy = true
	return re
}

func (s *Server) endResume(id string, re *resume, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	re.busy = false
	if !keep {
		delete(s.resumes, id)
	}
}

func (c *call) resumeUpload() (reply, *apiError) {
	re := c.s.takeResume(c.id)
	if re == nil {
		return reply{}, &apiError{status: http.StatusNotFound, hasCode: true, message: "Nothing to resume"}
	}
	var from, to, total int64
	if _, err := fmt.Sscanf(c.r.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &total); err != nil || from != re.in.size || total != *re.meta.Size {
		c.s.endResume(c.id, re, true)
		return reply{}, badRequest("Content-Range does not continue the %d bytes received", re.in.size)
	}
	n, err := io.Copy(re.in, c.r.Body)
	c.s.bytesIn.Add(n)
	c.log.In += n
	if err != nil || re.in.size < total {
		c.s.endResume(c.id, re, true)
		return reply{}, badRequest("Cannot complete upload")
	}
	c.s.endResume(c.id, re, false)
	if re.in.size != total || hex.EncodeToString(re.in.sum.Sum(nil)) != re.meta.MD5 {
		re.in.drop()
		return reply{}, badRequest("size or md5 does not match the content")
	}
	re.meta.id = re.id
	ct, err := re.in.keep(re.contentType, re.meta.Name, c.s.o.Clock().UnixMilli())
	if err != nil {
		return reply{}, broken(err)
	}
	node, e := c.s.st.createNode(re.meta, ct)
	if e != nil {
		c.s.st.blobs.remove(ct.blob)
		return reply{}, e
	}
	return c.nodeReply(http.StatusCreated, node), nil
}

func (s *Server) dropResumes() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, re := range s.resumes {
		re.in.drop()
		delete(s.resumes, id)
	}
}

// typeByName is the content type that a name suggests.
func typeByName(name string) string {
	if ct := mime.TypeByExtension(strings.ToLower(filepath.Ext(name))); ct != "" {
		return ct
	}
	return "application/octet-stream"
}
