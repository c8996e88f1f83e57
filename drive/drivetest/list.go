package drivetest

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Listings (§6.2, §6.3, §8.2): the matches are found once, on the first page;
// later pages tell what of them still matches, as it is then. So pages are no
// snapshot, and nodes made meanwhile are missed, as the document warns.

const (
	maxPage    = 200
	maxOffset  = 9999
	maxCursors = 512
	maxHeld    = 16 << 20 // nodes in all cursors together
)

// cursor is a listing whose later pages were not fetched yet.
type cursor struct {
	nodes []*node
	count int
	list  listing
}

// cursors are the listings under way; guarded by Server.mu.
type cursors struct {
	byID map[string]*cursor
	age  []string // oldest first
	held int
}

// add keeps a cursor; the oldest go when there are too many.
func (cs *cursors) add(cu *cursor) string {
	if cs.byID == nil {
		cs.byID = map[string]*cursor{}
	}
	id := randomName()
	cs.byID[id] = cu
	cs.age = append(cs.age, id)
	cs.held += len(cu.nodes)
	for len(cs.age) > 1 && (len(cs.age) > maxCursors || cs.held > maxHeld) {
		cs.held -= len(cs.byID[cs.age[0]].nodes)
		delete(cs.byID, cs.age[0])
		cs.age = cs.age[1:]
	}
	return id
}

// listing is what a list call asks for.
type listing struct {
	filter *filter
	parent string // children of this node, "" = filter alone
	trash  bool   // only what was trashed directly
	sort   []order
	lag    int64 // ms
}

// overlay is how nodes that changed within the lag were before; nil = absent.
type overlay map[string]*node

func (st *store) overlayLocked(lag int64) overlay {
	if lag <= 0 {
		return nil
	}
	horizon := st.now().UnixMilli() - lag
	o := overlay{}
	for i := len(st.recent) - 1; i >= 0 && st.recent[i].at > horizon; i-- {
		o[st.recent[i].id] = st.recent[i].before // ends with the oldest
	}
	return o
}

// view is n as the listing sees it, nil when it does not.
func (o overlay) view(n *node) *node {
	if before, ok := o[n.id]; ok {
		return before
	}
	return n
}

// wants says whether the listing contains n, whose view is v.
func (l *listing) wants(v *node) bool {
	if v == nil || v.status == StatusPurged {
		return false
	}
	if l.parent != "" && !slices.Contains(v.parents, l.parent) {
		return false
	}
	if l.trash {
		return v.status == StatusTrash && v.exclTrashed && l.filter.match(v)
	}
	return (v.status != StatusTrash || l.filter.mentions("status")) && l.filter.match(v)
}

// findLocked returns the matches in the order asked for, else of creation.
func (st *store) findLocked(l *listing, o overlay) []*node {
	var out []*node
	seen := map[*node]bool{}
	add := func(n *node) {
		if len(o) > 0 {
			if seen[n] {
				return
			}
			seen[n] = true
		}
		if l.wants(o.view(n)) {
			out = append(out, n)
		}
	}
	parent := l.parent
	if parent == "" {
		parent = l.filter.required("parents")
	}
	name := l.filter.required("name")
	switch {
	case l.filter.required("isRoot") == "true":
		add(st.root)
	case parent != "" && name != "" && !l.filter.mentions("status") && !st.twins[nameKey{parent, fold(name)}]:
		if n := st.names[nameKey{parent, fold(name)}]; n != nil {
			add(n)
		}
	case parent != "":
		for n := range st.children[parent] {
			add(n)
		}
	default:
		for _, n := range st.byID {
			add(n)
		}
	}
	for id := range o { // what was here and is elsewhere now
		if n := st.byID[id]; n != nil {
			add(n)
		}
	}
	slices.SortFunc(out, compareBy(l.sort))
	return out
}

func (c *call) nodesList() (reply, *apiError) { return c.list(&listing{}) }

func (c *call) nodesChildren() (reply, *apiError) {
	if c.s.st.get(c.id) == nil {
		return reply{}, notFound(c.id)
	}
	return c.list(&listing{parent: c.id})
}

func (c *call) trashList() (reply, *apiError) { return c.list(&listing{trash: true}) }

func (c *call) list(l *listing) (reply, *apiError) {
	limit, offset, e := c.window()
	if e != nil {
		return reply{}, e
	}
	if l.filter, e = parseFilter(c.q.Get("filters"), c.s.o.NameFilterCaseSensitive); e != nil {
		return reply{}, e
	}
	if l.sort, e = parseSort(c.q.Get("sort")); e != nil {
		return reply{}, e
	}
	sh, e := c.asked()
	if e != nil {
		return reply{}, e
	}
	l.lag = c.s.lag(func(in *injector) int64 { return in.f.ListingLag.Milliseconds() }, c.s.o.ListingLag.Milliseconds())
	l.lag = max(l.lag, c.hooks.lag.Milliseconds())
	var cu *cursor
	var cursorID string
	at := offset
	if tok := c.q.Get("startToken"); tok != "" {
		if cursorID, cu, at, e = c.s.resumeList(tok); e != nil {
			return reply{}, e
		}
		lag := l.lag
		l = new(listing)
		*l = cu.list
		l.lag = lag
	}
	st := c.s.st
	st.mu.RLock()
	o := st.overlayLocked(l.lag)
	if cu == nil {
		cu = &cursor{nodes: st.findLocked(l, o), list: *l}
		cu.count = len(cu.nodes)
	}
	page, next := pageOf(cu, at, limit, func(n *node) bool { return l.wants(o.view(n)) })
	if c.hooks.page != nil {
		page = c.hooks.page(page, cu, at)
	}
	if len(o) > 0 {
		sh.status = func(n *node) string {
			if v := o.view(n); v != nil {
				return v.status // a trashed node still listed says that it is AVAILABLE
			}
			return n.status
		}
	}
	b := strconv.AppendInt([]byte(`{"count":`), int64(cu.count), 10)
	b = append(b, `,"data":[`...)
	for i, n := range page {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendNode(b, n, sh)
	}
	st.mu.RUnlock()
	b = append(b, ']')
	if next < len(cu.nodes) {
		b = append(b, `,"nextToken":`...)
		b = appendString(b, c.s.suspendList(cursorID, cu, next))
	}
	return reply{status: http.StatusOK, body: append(b, '}'), gzip: true}, nil
}

func pageOf(cu *cursor, at, limit int, wants func(*node) bool) (page []*node, next int) {
	for next = min(at, len(cu.nodes)); next < len(cu.nodes) && len(page) < limit; next++ {
		if n := cu.nodes[next]; wants(n) {
			page = append(page, n)
		}
	}
	return page, next
}

// window reads limit and offset. More than 200 is served as 200.
func (c *call) window() (limit, offset int, e *apiError) {
	limit = maxPage
	for name, to := range map[string]*int{"limit": &limit, "offset": &offset} {
		if v := c.q.Get(name); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 || name == "limit" && n == 0 {
				return 0, 0, badRequest("1 validation error detected: Value '%s' at '%s' failed to satisfy constraint", v, name)
			}
			*to = n
		}
	}
	limit = min(limit, maxPage)
	if c.q.Get("offset") != "" && limit+offset > maxOffset {
		return 0, 0, badRequest("Offset + limit cannot be greater than %d", maxOffset)
	}
	return limit, offset, nil
}

// suspendList makes a page token: cursor, position, time. It looks like the
// service's and needs URL encoding, as those did.
func (s *Server) suspendList(id string, cu *cursor, at int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursors.byID[id] != cu {
		id = s.cursors.add(cu)
	}
	raw := id + "/" + strconv.Itoa(at) + "/" + strconv.FormatInt(s.o.Clock().UnixMilli(), 10)
	return "+" + base64.StdEncoding.EncodeToString([]byte(raw))
}

func (s *Server) resumeList(token string) (id string, cu *cursor, at int, e *apiError) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(token, "+"))
	parts := strings.Split(string(raw), "/")
	if err != nil || len(parts) != 3 {
		return "", nil, 0, badRequest("Invalid startToken: %s", token)
	}
	at, _ = strconv.Atoi(parts[1])
	made, _ := strconv.ParseInt(parts[2], 10, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	cu = s.cursors.byID[parts[0]]
	if cu == nil || s.o.Clock().UnixMilli()-made >= s.o.PageTokenAge.Milliseconds() || at < 0 {
		return "", nil, 0, badRequest("Next token is expired")
	}
	return parts[0], cu, at, nil
}
