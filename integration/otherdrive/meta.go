package otherdrive

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) stamp(t time.Time) string {
	if s.opt.LeanNodes {
		return t.Format("2006-01-02T15:04:05Z")
	}
	return t.Format("2006-01-02T15:04:05.000Z")
}

func (n *node) etag() string {
	return base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprintf("%.4s%d", n.id, n.version)))
}

// wire is a node as the service writes it.
func (s *Server) wire(n *node, r *http.Request) map[string]any {
	m := map[string]any{
		"id": n.id, "kind": n.kind, "status": n.status, "version": n.version,
		"createdDate": s.stamp(n.created), "modifiedDate": s.stamp(n.modified), "parents": n.parents,
	}
	if n.status == "PURGED" { // id and status are all that may be relied on (§9.3)
		return map[string]any{"id": n.id, "status": n.status}
	}
	if len(n.parents) == 0 {
		m["parents"] = []string{}
		if s.opt.LeanNodes {
			delete(m, "parents")
		}
	}
	if n.name != "" {
		m["name"] = n.name
	}
	if n.isRoot {
		m["isRoot"] = true
	}
	if !s.opt.NoCreatedBy {
		m["createdBy"] = n.createdBy
	}
	if !s.opt.NoETag {
		m["eTagResponse"] = n.etag()
	}
	if !s.opt.LeanNodes {
		m["labels"], m["restricted"], m["isShared"] = append([]string{}, n.labels...), false, false
	}
	if n.description != "" {
		m["description"] = n.description
	}
	if n.alone {
		m["exclusivelyTrashed"] = true
	}
	if n.with {
		m["recursivelyTrashed"] = true
	}
	if c := n.content; c != nil && n.status != "PENDING" {
		p := map[string]any{"size": c.size, "md5": c.md5}
		if !s.opt.LeanContent {
			p["version"], p["contentType"], p["contentDate"] = c.version, "application/octet-stream", s.stamp(n.created)
			if i := strings.LastIndexByte(n.name, '.'); i > 0 && i < len(n.name)-1 {
				p["extension"] = strings.ToLower(n.name[i+1:])
			}
		}
		m["contentProperties"] = p
	}
	if s.opt.ExtraFields {
		m["ownerId"], m["xAccntParents"], m["parentMap"] = "A1", []any{}, map[string]any{"FOLDER": n.parents}
		m["keywords"], m["score"], m["protectedFolder"] = nil, 1e300, false
		m["childAssetTypeInfo"] = []any{map[string]any{"assetType": "X", "version": "1"}}
	}
	if r != nil {
		q := r.URL.Query()
		if strings.Contains(q.Get("fields"), "properties") && !s.opt.NoProps {
			own := map[string]any{}
			props := s.propsSeen(n)
			if p := props[Owner]; len(p) > 0 || s.opt.OwnerCheck == "" {
				for owner, p := range props {
					if owner == Owner || s.opt.OwnerCheck == "" {
						own[owner] = p
					}
				}
			}
			m["properties"] = own
		}
		if q.Get("tempLink") == "true" && n.kind == "FILE" && n.content != nil {
			m["tempLink"] = s.storage + "templink/" + url.PathEscape(n.id) + "/" + strconv.Itoa(n.content.version)
		}
	}
	return m
}

// propsSeen are the properties as gets and listings tell them.
func (s *Server) propsSeen(n *node) map[string]map[string]string {
	if s.opt.PropsLag == 0 || s.opt.PropsSilent { // silent changes leave no state behind
		return n.props
	}
	var props map[string]map[string]string
	for _, h := range s.hist[n.id] {
		if h.at.Before(time.Now().Add(-s.opt.PropsLag)) {
			props = h.props
		}
	}
	return props
}

func (s *Server) serveMeta(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	method := r.Method
	if o := r.Header.Get("X-HTTP-Method-Override"); o != "" && method == "POST" {
		method = o
	}
	path := r.URL.EscapedPath()
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, p := range parts {
		parts[i], _ = url.PathUnescape(p)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.problem(w, 400, "Cannot read from request.")
		return
	}
	at := func(i int) string {
		if i < len(parts) {
			return parts[i]
		}
		return ""
	}
	switch route := fmt.Sprintf("%s %s/%d", method, at(0), len(parts)); {
	case r.URL.Path == "/account/endpoint":
		s.serveEndpoint(w, r)
	case r.URL.Path == "/account/info":
		answer(w, 200, map[string]any{"termsOfUse": "1.0.0", "status": "ACTIVE"})
	case r.URL.Path == "/account/quota":
		answer(w, 200, map[string]any{"quota": int64(100) << 40, "available": int64(99) << 40, "lastCalculated": "2014-08-13T23:01:47.479Z"})
	case r.URL.Path == "/account/usage" && s.opt.EmptyUsage:
		answer(w, 200, map[string]any{})
	case r.URL.Path == "/account/usage":
		answer(w, 200, map[string]any{"lastCalculated": "2014-08-13T23:01:47.479Z", "doc": map[string]any{"total": map[string]any{"bytes": 1, "count": 1}}})
	case route == "GET nodes/1":
		s.list(w, r, s.matching(w, r, func(*node) bool { return true }))
	case route == "POST nodes/1":
		s.mkdir(w, r, body)
	case route == "GET nodes/2" && s.hiccupLocked():
		s.problem(w, 404, "Node does not exist")
	case route == "GET nodes/2":
		s.withNode(w, at(1), func(n *node) { answer(w, 200, s.wire(n, r)) })
	case route == "PATCH nodes/2":
		s.withNode(w, at(1), func(n *node) { s.patch(w, r, n, body) })
	case route == "DELETE nodes/2":
		s.complainLocked("a purge of %s", at(1))
		s.problem(w, 403, "Insufficient permissions granted for operation: purgeNode")
	case route == "GET nodes/3" && at(2) == "children":
		s.withNode(w, at(1), func(f *node) {
			s.list(w, r, s.matching(w, r, func(n *node) bool { return slices.Contains(n.parents, f.id) }))
		})
	case route == "POST nodes/3" && at(2) == "children":
		s.withNode(w, at(1), func(n *node) { s.move(w, n, body) })
	case route == "PUT nodes/4" && at(2) == "children":
		s.withNode(w, at(1), func(f *node) { s.withNode(w, at(3), func(n *node) { s.link(w, f, n) }) })
	case route == "DELETE nodes/4" && at(2) == "children":
		s.withNode(w, at(1), func(f *node) { s.withNode(w, at(3), func(n *node) { s.unlink(w, f, n) }) })
	case at(0) == "nodes" && at(2) == "properties" && len(parts) >= 4:
		s.withNode(w, at(1), func(n *node) { s.properties(w, method, n, at(3), at(4), body) })
	case route == "GET trash/1":
		s.list(w, r, s.matching(w, r, func(n *node) bool { return n.alone && (n.kind == "FOLDER" || !s.opt.TrashFolders) }))
	case route == "PUT trash/2":
		s.withNode(w, at(1), func(n *node) { s.trash(w, n) })
	case route == "POST trash/3" && at(2) == "restore":
		s.withNode(w, at(1), func(n *node) { s.restore(w, n) })
	case r.URL.Path == "/changes" && method == "POST":
		s.changes(w, r, body)
	default:
		s.complainLocked("no such call: %s %s", method, r.URL.Path)
		_ = s.fail(w, 404, "<UnknownOperationException/>")
	}
}

func (s *Server) withNode(w http.ResponseWriter, id string, do func(*node)) {
	if n := s.nodes[id]; n != nil && n.status != "PURGED" {
		do(n)
		return
	}
	s.problem(w, 404, "Node does not exist")
}

// matching are the nodes a listing shows; nil with an answer written when the
// filter cannot be had.
func (s *Server) matching(w http.ResponseWriter, r *http.Request, in func(*node) bool) []node {
	expr := r.URL.Query().Get("filters")
	f, err := s.parseFilter(expr)
	if err != nil {
		s.problem(w, 400, "Invalid filter: "+err.Error())
		return nil
	}
	lag := s.opt.ListLag
	if strings.Contains(expr, "isRoot") {
		lag = 0
	}
	out := []node{}
	trash := strings.HasPrefix(r.URL.Path, "/trash")
	for _, n := range s.seen(lag) {
		if n.isRoot && lag > 0 && !strings.Contains(expr, "isRoot") || n.status == "PURGED" {
			continue
		}
		if !in(&n) || (f != nil && !f(&n)) {
			continue
		}
		if !trash && !strings.Contains(expr, "status") && (n.status == "TRASH" && !s.opt.ListTrash || n.status == "PENDING" && s.opt.HidePending) {
			continue
		}
		out = append(out, n)
	}
	return out
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, all []node) {
	if all == nil {
		return
	}
	q := r.URL.Query()
	size := 200
	if l := q.Get("limit"); l != "" {
		n, err := strconv.Atoi(l)
		if err != nil || n < 1 || n > 200 {
			s.problem(w, 400, "limit")
			return
		}
		size = n
	}
	if s.opt.PageSize > 0 {
		size = min(size, s.opt.PageSize)
	}
	from := 0
	if t := q.Get("startToken"); t != "" {
		b, err := base64.StdEncoding.DecodeString(t)
		if err != nil || !strings.HasPrefix(string(b), "~?>~?>") {
			s.complainLocked("startToken %q was never given", t)
			s.problem(w, 400, "Next token is expired")
			return
		}
		from, _ = strconv.Atoi(string(b[6:]))
	}
	total := len(all)
	from = min(from, total)
	to := min(from+size, total)
	page := all[from:to]
	if s.opt.PageRepeats && from > 0 {
		page = append([]node{all[from-1]}, page...)
	}
	data := []any{}
	for i := range page {
		data = append(data, s.wire(&page[i], r))
	}
	out := map[string]any{"data": data}
	switch s.opt.Count {
	case "":
		out["count"] = total
	case "page":
		out["count"] = len(data)
	case "wrong":
		out["count"] = total + 3
	}
	next := base64.StdEncoding.EncodeToString([]byte("~?>~?>" + strconv.Itoa(to)))
	switch {
	case to < total || s.opt.LastPage == "endless", s.opt.LastPage == "empty" && len(page) > 0:
		out["nextToken"] = next
	case s.opt.LastPage == "null":
		out["nextToken"] = nil
	}
	answer(w, 200, out)
}

// fits answers for a name that cannot be in a folder and says whether it can.
func (s *Server) fits(w http.ResponseWriter, name string, parents []string, self string) bool {
	switch {
	case name == "":
		s.problem(w, 400, "name is empty")
		return false
	case len([]rune(name)) > 280:
		s.problem(w, 400, "1 validation error detected: Value '"+name+"' at 'name' failed to satisfy constraint: Member must have length less than or equal to 280")
		return false
	}
	for _, p := range parents {
		f := s.nodes[p]
		switch {
		case f == nil || f.kind != "FOLDER":
			status := s.opt.UploadParent
			if status == 0 {
				status = 400
			}
			s.problem(w, status, "One of the parentId doesn't exists")
			return false
		case !s.alive(f):
			s.problem(w, 400, "A node cannot be added to trashed parent")
			return false
		}
		if n := s.clash(p, name, self); n != nil {
			s.taken(w, n, p)
			return false
		}
	}
	return true
}

type created struct {
	Name        string                       `json:"name"`
	Kind        string                       `json:"kind"`
	Parents     []string                     `json:"parents"`
	Labels      []string                     `json:"labels"`
	Description string                       `json:"description"`
	Properties  map[string]map[string]string `json:"properties"`
}

// repeated answers a creation whose localId was used, and says whether it was.
func (s *Server) repeated(w http.ResponseWriter, r *http.Request) bool {
	id, ok := s.localIDs[r.URL.Query().Get("localId")]
	if !ok || s.opt.LocalID == "ignored" {
		return false
	}
	switch s.opt.LocalID {
	case "same":
		answer(w, 201, s.wire(s.nodes[id], nil))
	case "409":
		s.problem(w, 409, "localId already used")
	default:
		answer(w, 409, map[string]any{"message": "Node with this localId exists", "code": "", "info": map[string]any{"nodeId": id}})
	}
	return true
}

// owned answers 403 for foreign properties and says whether there are none.
func (s *Server) owned(w http.ResponseWriter, props map[string]map[string]string) bool {
	for owner, p := range props {
		if s.opt.OwnerCheck == "403" && owner != Owner || s.opt.NoProps {
			s.problem(w, 403, "Access to another app's properties")
			return false
		}
		for k, v := range p {
			if len(k) > 50 || len(v) > 500 || len(p) > 10 || strings.Trim(k, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
				s.complainLocked("property %s=%s", k, v)
				s.problem(w, 400, "property")
				return false
			}
		}
	}
	return true
}

func (s *Server) mkdir(w http.ResponseWriter, r *http.Request, body []byte) {
	var c created
	if json.Unmarshal(body, &c) != nil || c.Kind != "FOLDER" {
		s.complainLocked("POST nodes with %s", body)
		s.problem(w, 400, "kind")
		return
	}
	if s.repeated(w, r) {
		return
	}
	if len(c.Parents) == 0 {
		c.Parents = []string{s.root}
	}
	if !s.owned(w, c.Properties) || !s.fits(w, c.Name, c.Parents, "") {
		return
	}
	n := s.make(r, c, "FOLDER", nil)
	w.Header().Set("Location", s.meta+"nodes/"+n.id)
	s.answerCreated(w, s.wire(n, nil))
}

// answerCreated is the answer to a creation.
func (s *Server) answerCreated(w http.ResponseWriter, m map[string]any) {
	s.creations++
	if n := s.opt.Unreadable; n > 0 && s.creations%n == 0 {
		s.unreadable(w, s.created(), []string{"html", "cut"}[s.creations/n%2], m)
		return
	}
	answer(w, s.created(), m)
}

// unreadable answers with a body that cannot be understood.
func (s *Server) unreadable(w http.ResponseWriter, status int, how string, v any) {
	switch how {
	case "empty":
		_ = s.fail(w, status, "")
	case "html":
		w.Header().Set("Content-Type", "text/html")
		_ = s.fail(w, status, "<html><body>Gateway</body></html>")
	case "cut":
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = s.fail(w, status, string(b[:len(b)/2]))
	}
}

func (s *Server) created() int {
	if s.opt.Created200 {
		return 200
	}
	return 201
}

func (s *Server) make(r *http.Request, c created, kind string, data *content) *node {
	n := &node{
		id: s.newID(), name: c.Name, kind: kind, status: "AVAILABLE", parents: c.Parents, createdBy: Owner,
		labels: c.Labels, description: c.Description, content: data,
	}
	if !s.opt.PropsDropped {
		n.props = c.Properties
	}
	if s.opt.PendingFirst && kind == "FILE" {
		n.version = 1 // version 1 was the PENDING one
	}
	s.add(n)
	if id := r.URL.Query().Get("localId"); id != "" {
		s.localIDs[id] = n.id
	}
	if s.opt.Strays && kind == "FOLDER" {
		s.strays(n.id)
	}
	return n
}

// stale answers 412 for an If-Match that does not, and says whether it did.
func (s *Server) stale(w http.ResponseWriter, r *http.Request, n *node) bool {
	tag := strings.Trim(r.Header.Get("If-Match"), `"`)
	if !s.opt.IfMatch || tag == "" || tag == "*" || tag == n.etag() {
		return false
	}
	s.problem(w, 412, "Precondition failed")
	return true
}

func (s *Server) patch(w http.ResponseWriter, r *http.Request, n *node, body []byte) {
	var p struct {
		Name        *string
		Parents     *[]string
		Labels      *[]string
		Description *string
		Status      *string
		Content     json.RawMessage `json:"contentProperties"`
	}
	if err := json.Unmarshal(body, &p); err != nil {
		s.complainLocked("PATCH with %s", body)
		s.problem(w, 400, err.Error())
		return
	}
	if s.stale(w, r, n) {
		return
	}
	if p.Content != nil || n.isRoot {
		s.problem(w, 403, "Not permitted")
		return
	}
	if p.Name != nil && p.Parents != nil {
		switch s.opt.CombinedPatch {
		case "400":
			s.problem(w, 400, "name and parents cannot be changed at once")
			return
		case "ignored":
			p.Parents = nil
		}
	}
	name, parents := n.name, n.parents
	if p.Name != nil {
		name = *p.Name
	}
	if p.Parents != nil {
		parents = *p.Parents
		for _, id := range parents {
			if s.below(s.nodes[id], n.id) {
				s.complainLocked("a cycle: %s into %s", n.id, id)
				s.problem(w, 400, "cycle")
				return
			}
		}
	}
	if n.status != "TRASH" && (p.Name != nil || p.Parents != nil) {
		if s.opt.CaseRename == "409" && name != n.name && s.fold(name) == s.fold(n.name) && p.Parents == nil {
			s.taken(w, n, n.parents[0])
			return
		}
		if !s.fits(w, name, parents, n.id) {
			return
		}
	}
	n.name, n.parents = name, parents
	if p.Labels != nil {
		n.labels = *p.Labels
	}
	if p.Description != nil {
		n.description = *p.Description
	}
	if p.Status != nil && n.status == "PENDING" && *p.Status == "AVAILABLE" {
		n.status = "AVAILABLE"
	}
	s.touch(n)
	answer(w, 200, s.wire(n, nil))
}

func (s *Server) moved(w http.ResponseWriter, n *node) {
	if s.opt.EmptyAnswers {
		w.WriteHeader(202)
		return
	}
	answer(w, 200, s.wire(n, nil))
}

func (s *Server) move(w http.ResponseWriter, to *node, body []byte) {
	var m struct{ FromParent, ChildID string }
	if json.Unmarshal(body, &m) != nil || m.FromParent == "" || m.ChildID == "" {
		s.complainLocked("a move with %s", body)
		s.problem(w, 400, "move")
		return
	}
	s.withNode(w, m.ChildID, func(n *node) {
		from := slices.Index(n.parents, m.FromParent)
		switch {
		case n.status == "TRASH" || s.below(to, n.id):
			s.problem(w, 400, "cannot be moved")
			return
		case from < 0 && s.opt.MoveFromStrict:
			s.problem(w, 400, "fromParent is no parent")
			return
		case !s.fits(w, n.name, []string{to.id}, n.id):
			return
		}
		parents := slices.DeleteFunc(slices.Clone(n.parents), func(p string) bool { return p == m.FromParent || p == to.id })
		n.parents = append(parents, to.id)
		s.touch(n)
		s.moved(w, n)
	})
}

func (s *Server) link(w http.ResponseWriter, f, n *node) {
	if slices.Contains(n.parents, f.id) {
		s.problem(w, 409, "is a parent already")
		return
	}
	if s.below(f, n.id) || !s.fits(w, n.name, []string{f.id}, n.id) {
		return
	}
	n.parents = append(slices.Clone(n.parents), f.id)
	s.touch(n)
	s.moved(w, n)
}

func (s *Server) unlink(w http.ResponseWriter, f, n *node) {
	if !slices.Contains(n.parents, f.id) {
		s.problem(w, 404, "is no parent")
		return
	}
	n.parents = slices.DeleteFunc(slices.Clone(n.parents), func(p string) bool { return p == f.id })
	if len(n.parents) == 0 && n.status != "TRASH" {
		s.complainLocked("the last parent of live %s was removed", n.name)
		if s.opt.LastParent == "" {
			n.parents = []string{s.root}
		}
	}
	s.touch(n)
	s.moved(w, n)
}

func (s *Server) properties(w http.ResponseWriter, method string, n *node, owner, key string, body []byte) {
	var v struct{ Value *string }
	switch {
	case owner == "":
		s.complainLocked("a property call without owner")
		_ = s.fail(w, 404, "<UnknownOperationException/>")
		return
	case s.opt.NoProps, s.opt.OwnerCheck == "403" && owner != Owner:
		s.problem(w, 403, "Access to another app's properties")
		return
	case method == "GET" && key == "":
		p := n.props[owner]
		if p == nil {
			p = map[string]string{}
		}
		answer(w, 200, map[string]any{"count": len(p), "data": p})
		return
	}
	has, ok := n.props[owner][key]
	switch method {
	case "GET":
		if !ok {
			s.problem(w, 404, "no such property")
			return
		}
		answer(w, 200, map[string]any{"key": key, "value": has})
		return
	case "DELETE":
		if !ok {
			s.problem(w, 404, "no such property")
			return
		}
		n.setProp(owner, key, nil)
		w.WriteHeader(204)
	case "PUT":
		if json.Unmarshal(body, &v) != nil || v.Value == nil {
			s.complainLocked("a property with %s", body)
			s.problem(w, 400, "value")
			return
		}
		if !s.owned(w, map[string]map[string]string{owner: {key: *v.Value}}) {
			return
		}
		n.setProp(owner, key, v.Value)
		answer(w, 201, map[string]any{"key": key, "value": *v.Value, "location": s.meta + "nodes/" + n.id + "/properties/" + owner + "/" + key})
	}
	if !s.opt.PropsSilent {
		s.touch(n)
	}
}

// setProp replaces the map, which older states share.
func (n *node) setProp(owner, key string, value *string) {
	props := map[string]map[string]string{}
	for o, p := range n.props {
		props[o] = map[string]string{}
		for k, v := range p {
			props[o][k] = v
		}
	}
	if props[owner] == nil {
		props[owner] = map[string]string{}
	}
	if value == nil {
		delete(props[owner], key)
	} else {
		props[owner][key] = *value
	}
	n.props = props
}

func (s *Server) descend(n *node, do func(*node)) {
	for _, id := range s.order {
		if c := s.nodes[id]; slices.Contains(c.parents, n.id) {
			do(c)
			s.descend(c, do)
		}
	}
}

func (s *Server) trash(w http.ResponseWriter, n *node) {
	if n.isRoot {
		s.complainLocked("the root was to be trashed")
		s.problem(w, 403, "root")
		return
	}
	if n.status == "TRASH" && s.opt.Retrash != 0 {
		s.problem(w, s.opt.Retrash, "in the trash already")
		return
	}
	s.trashLocked(n)
	s.trashed(w, n)
}

func (s *Server) trashLocked(n *node) {
	n.status, n.alone = "TRASH", true
	s.touch(n)
	if s.opt.Deep {
		s.descend(n, func(c *node) {
			if c.status == "AVAILABLE" && !s.alive(c) {
				c.status, c.with = "TRASH", true
				s.touch(c)
			}
		})
	}
}

func (s *Server) trashed(w http.ResponseWriter, n *node) {
	if s.opt.EmptyAnswers2 {
		w.WriteHeader(200)
		return
	}
	answer(w, 200, s.wire(n, nil))
}

func (s *Server) restore(w http.ResponseWriter, n *node) {
	if n.status != "TRASH" {
		s.problem(w, 400, "not in the trash")
		return
	}
	for _, p := range n.parents {
		if c := s.clash(p, n.name, n.id); c != nil && s.opt.RestoreClash == "" {
			s.taken(w, c, p)
			return
		}
		if !s.alive(s.nodes[p]) && s.opt.RestoreParent != 0 {
			s.problem(w, s.opt.RestoreParent, "parent in the trash")
			return
		}
	}
	n.status, n.alone = "AVAILABLE", false
	s.touch(n)
	s.descend(n, func(c *node) {
		if c.with {
			c.status, c.with = "AVAILABLE", false
			s.touch(c)
		}
	})
	s.trashed(w, n)
}
