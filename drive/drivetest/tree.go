package drivetest

import (
	"maps"
	"slices"
	"time"
	"unicode/utf16"
)

// What may be done with the tree, with the service's checks and refusals.
// Handlers and the second client share it. Every function returns a copy of
// the node as it is after the change, or the refusal.

// newNode is what a caller says of a node it makes.
type newNode struct {
	Name        string                       `json:"name"`
	Kind        string                       `json:"kind"`
	Parents     []string                     `json:"parents"`
	Labels      []string                     `json:"labels"`
	Description string                       `json:"description"`
	Properties  map[string]map[string]string `json:"properties"`
	Size        *int64                       `json:"size"`
	MD5         string                       `json:"md5"`

	id, localID, createdBy string // id "" = a new one
}

// patch is the body of an update; nil = leave.
type patch struct {
	Name              *string   `json:"name"`
	Labels            *[]string `json:"labels"`
	Description       *string   `json:"description"`
	Parents           *[]string `json:"parents"`
	Status            *string   `json:"status"`
	ContentProperties any       `json:"contentProperties"`
}

func (st *store) checkName(name string) *apiError {
	if name == "" {
		return badRequest("1 validation error detected: Value '' at 'name' failed to satisfy constraint: Member must have length greater than or equal to 1")
	}
	if len(utf16.Encode([]rune(name))) > st.o.NameLimit {
		return badRequest("1 validation error detected: Value '%s' at 'name' failed to satisfy constraint: Member must have length less than or equal to %d", name, st.o.NameLimit)
	}
	return nil
}

func checkLabels(labels []string, description string) *apiError {
	if len(labels) > 10 || slices.ContainsFunc(labels, func(l string) bool { return utf16Len(l) > 256 }) {
		return badRequest("1 validation error detected: Value at 'labels' failed to satisfy constraint: Member must have length less than or equal to 10, each of at most 256")
	}
	if utf16Len(description) > 500 {
		return badRequest("1 validation error detected: Value at 'description' failed to satisfy constraint: Member must have length less than or equal to 500")
	}
	return nil
}

func utf16Len(s string) int { return len(utf16.Encode([]rune(s))) }

// checkParentLocked: a live folder that must take a child.
func (st *store) checkParentLocked(id string) *apiError {
	p := st.byID[id]
	switch {
	case p == nil || p.status == StatusPurged:
		return refused("One of the parentId doesn't exists")
	case p.status == StatusTrash:
		return refused("A node cannot be added to trashed parent")
	case p.kind != KindFolder:
		return refused("The parent %s is not a folder", id)
	}
	return nil
}

// checkFreeLocked: no other live node of this name there (§5.5).
func (st *store) checkFreeLocked(parent, name string, self *node) *apiError {
	f := fold(name)
	if n := st.names[nameKey{parent, f}]; n != nil && n != self {
		return nameTaken(f, parent, n.id)
	}
	return nil
}

// checkNewLocked is all that can be wrong with a new node; it fills in the root.
func (st *store) checkNewLocked(s *newNode) *apiError {
	if e := st.checkName(s.Name); e != nil {
		return e
	}
	if e := checkLabels(s.Labels, s.Description); e != nil {
		return e
	}
	for owner, kv := range s.Properties {
		if owner != s.createdBy {
			return forbidden("Access to the properties of another application is not permitted: %s", owner)
		}
		for k, v := range kv {
			if e := checkProperty(k, v); e != nil {
				return e
			}
		}
		if len(kv) > maxProperties {
			return tooManyProperties()
		}
	}
	if len(s.localID) > 100 {
		return badRequest("1 validation error detected: Value '%s' at 'localId' failed to satisfy constraint: Member must have length less than or equal to 100", s.localID)
	}
	if s.localID != "" {
		if id, ok := st.local[s.localID]; ok {
			// The code of this 409 is not known; the node is (§6.6).
			return &apiError{status: 409, hasCode: true, nodeID: id, message: "Node with the localId " + s.localID + " already exists conflicting NodeId: " + id}
		}
	}
	if len(s.Parents) == 0 {
		s.Parents = []string{st.root.id}
	}
	for _, p := range s.Parents {
		if e := st.checkParentLocked(p); e != nil {
			return e
		}
		if e := st.checkFreeLocked(p, s.Name, nil); e != nil {
			return e
		}
	}
	return nil
}

func (t *tx) make(s *newNode, c *content, status string) *node {
	props, createdBy := s.Properties, s.createdBy
	if t.o.DropNewProperties || t.o.DropProperties {
		props = nil
	}
	if t.o.NoCreatedBy {
		createdBy = ""
	}
	n := &node{
		id: s.id, name: s.Name, kind: s.Kind, status: status, parents: slices.Compact(slices.Clone(s.Parents)), labels: s.Labels, description: s.Description,
		createdBy: createdBy, content: c,
	}
	if props != nil {
		t.keepProps(n)
		n.props = props
	}
	t.create(n)
	if s.localID != "" {
		t.local[s.localID] = n.id
		t.puts = append(t.puts, kv{bucketLocal, []byte(s.localID), []byte(n.id)})
	}
	return n
}

// finish ends a change whose result is n.
func (t *tx) finish(n *node) (*node, *apiError) {
	out := n.clone()
	if err := t.end(); err != nil {
		return nil, broken(err)
	}
	return out, nil
}

func (t *tx) fail(e *apiError) (*node, *apiError) {
	t.abort()
	return nil, e
}

// createNode makes a folder (c == nil) or a file.
func (st *store) createNode(s newNode, c *content) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	if e := st.checkNewLocked(&s); e != nil {
		return t.fail(e)
	}
	if c != nil && st.used+c.size > st.o.Quota {
		return t.fail(overQuota())
	}
	return t.finish(t.make(&s, c, StatusAvailable))
}

// createPending makes the node of an upload that has begun; complete gives it
// its content.
func (st *store) createPending(s newNode) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	if e := st.checkNewLocked(&s); e != nil {
		return t.fail(e)
	}
	return t.finish(t.make(&s, nil, StatusPending))
}

// setContent replaces the content of a file, or completes a PENDING one.
func (st *store) setContent(id string, c *content, ifMatch string) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	n, e := st.contentTargetLocked(id, ifMatch)
	if e != nil {
		return t.fail(e)
	}
	var old int64
	if n.content != nil {
		old = n.content.size
	}
	if st.used-old+c.size > st.o.Quota {
		return t.fail(overQuota())
	}
	t.edit(n)
	c.version = 1
	if n.content != nil {
		c.version = n.content.version + 1
		t.blobs = append(t.blobs, n.content.blob)
	}
	c.ext = extension(n.name)
	n.content = c
	if n.status == StatusPending {
		n.status = StatusAvailable
	}
	t.mark(n)
	return t.finish(n)
}

func (st *store) contentTargetLocked(id, ifMatch string) (*node, *apiError) {
	n := st.byID[id]
	switch {
	case n == nil || n.status == StatusPurged, n.status == StatusTrash && st.o.TrashedContent404:
		return nil, notFound(id)
	case n.kind != KindFile:
		return nil, badRequest("Node %s is not a file", id)
	case ifMatch != "" && st.ifMatch() == IfMatchAll && !matches(ifMatch, n):
		return nil, staleTag()
	}
	return n, nil
}

// matches compares an If-Match header, quoted or bare, with a node's tag.
func matches(header string, n *node) bool {
	return header == "*" || header == n.etag() || header == `"`+n.etag()+`"`
}

func (st *store) update(id string, p patch, ifMatch string) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	n := st.byID[id]
	switch {
	case n == nil || n.status == StatusPurged:
		return t.fail(notFound(id))
	case p.ContentProperties != nil:
		return t.fail(forbidden("contentProperties cannot be changed"))
	case n.isRoot && (p.Name != nil || p.Parents != nil):
		return t.fail(forbidden("The root can be neither named nor moved"))
	case ifMatch != "" && st.ifMatch() != IfMatchNone && !matches(ifMatch, n):
		return t.fail(staleTag())
	}
	name, parents := n.name, n.parents
	if p.Name != nil {
		name = *p.Name
		if e := st.checkName(name); e != nil {
			return t.fail(e)
		}
	}
	if p.Parents != nil {
		if parents = slices.Clone(*p.Parents); len(parents) == 0 {
			parents = []string{st.root.id}
		}
		for _, parent := range parents {
			if e := st.checkParentLocked(parent); e != nil {
				return t.fail(e)
			}
			if st.belowLocked(parent, n) {
				return t.fail(refused("A node cannot be added to itself or below itself"))
			}
		}
	}
	if p.Status != nil && *p.Status != n.status && !(n.status == StatusPending && *p.Status == StatusAvailable) {
		return t.fail(badRequest("The status cannot be changed from %s to %s", n.status, *p.Status))
	}
	labels, description := n.labels, n.description
	if p.Labels != nil {
		labels = *p.Labels
	}
	if p.Description != nil {
		description = *p.Description
	}
	if e := checkLabels(labels, description); e != nil {
		return t.fail(e)
	}
	if n.live() {
		for _, parent := range parents {
			if e := st.checkFreeLocked(parent, name, n); e != nil {
				return t.fail(e)
			}
		}
	}
	t.edit(n)
	n.name, n.parents, n.labels, n.description = name, parents, labels, description
	if p.Status != nil {
		n.status = *p.Status
	}
	if c := n.content; c != nil && c.ext != extension(name) {
		changed := *c
		changed.ext = extension(name)
		n.content = &changed
	}
	t.mark(n)
	return t.finish(n)
}

// belowLocked reports whether id is n or one of its descendants.
func (st *store) belowLocked(id string, n *node) bool {
	if id == n.id {
		return true
	}
	if p := st.byID[id]; p != nil {
		return slices.ContainsFunc(p.parents, func(up string) bool { return st.belowLocked(up, n) })
	}
	return false
}

// childLocked: a child that may get or lose a parent.
func (st *store) childLocked(id string) (*node, *apiError) {
	n := st.byID[id]
	switch {
	case n == nil || n.status == StatusPurged:
		return nil, notFound(id)
	case n.isRoot:
		return nil, forbidden("The root has no parents")
	}
	return n, nil
}

func (st *store) move(id, from, to string) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	n, e := st.childLocked(id)
	if e != nil {
		return t.fail(e)
	}
	if st.byID[to] == nil {
		return t.fail(notFound(to))
	}
	if n.status == StatusTrash {
		return t.fail(refused("A trashed node cannot be moved"))
	}
	if !slices.Contains(n.parents, from) {
		return t.fail(refused("Node %s is not a child of %s", id, from))
	}
	if e := st.checkAddLocked(n, to); e != nil {
		return t.fail(e)
	}
	t.edit(n)
	parents := slices.DeleteFunc(slices.Clone(n.parents), func(p string) bool { return p == from || p == to })
	n.parents = append(parents, to)
	t.mark(n)
	return t.finish(n)
}

func (st *store) checkAddLocked(n *node, parent string) *apiError {
	if e := st.checkParentLocked(parent); e != nil {
		return e
	}
	if st.belowLocked(parent, n) {
		return refused("A node cannot be added to itself or below itself")
	}
	if n.live() {
		return st.checkFreeLocked(parent, n.name, n)
	}
	return nil
}

func (st *store) addParent(id, parent string) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	n, e := st.childLocked(id)
	if e == nil && st.byID[parent] == nil {
		e = notFound(parent)
	}
	if e == nil {
		e = st.checkAddLocked(n, parent)
	}
	if e != nil {
		return t.fail(e)
	}
	if slices.Contains(n.parents, parent) { // unknown: 200 or 409 (§6.9)
		return t.finish(n)
	}
	t.edit(n)
	n.parents = append(slices.Clone(n.parents), parent)
	t.mark(n)
	return t.finish(n)
}

func (st *store) removeParent(id, parent string) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	n, e := st.childLocked(id)
	if e == nil && st.byID[parent] == nil {
		e = notFound(parent)
	}
	if e == nil && !slices.Contains(n.parents, parent) {
		e = refused("Node %s is not a child of %s", id, parent)
	}
	if e != nil {
		return t.fail(e)
	}
	parents := slices.DeleteFunc(slices.Clone(n.parents), func(p string) bool { return p == parent })
	if len(parents) == 0 && !st.o.LastParentOrphans {
		if parent == st.root.id {
			return t.finish(n)
		}
		if n.live() {
			if e := st.checkFreeLocked(st.root.id, n.name, n); e != nil {
				return t.fail(e)
			}
		}
		parents = []string{st.root.id}
	}
	t.edit(n)
	n.parents = parents
	if n.live() && !slices.ContainsFunc(parents, func(p string) bool { return st.byID[p] != nil && st.byID[p].live() }) {
		// What is left of its folders is in the trash, and it goes along, as it
		// would have had they been trashed after this.
		n.status, n.recTrashed = StatusTrash, true
		t.mark(n)
		t.trashBelow(n)
		return t.finish(n)
	}
	t.mark(n)
	return t.finish(n)
}

// touch changes nothing but version, date and tag, as late media detection does.
func (st *store) touch(id string, change func(*node)) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	n := st.byID[id]
	if n == nil || n.status == StatusPurged {
		return t.fail(notFound(id))
	}
	t.edit(n)
	if change != nil {
		change(n)
	}
	t.mark(n)
	return t.finish(n)
}

// trash takes n and all that hangs only below it out of the live tree (§8.1).
func (st *store) trash(id string) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	n := st.byID[id]
	switch {
	case n == nil || n.status == StatusPurged:
		return t.fail(notFound(id))
	case n.isRoot:
		return t.fail(forbidden("The root cannot be trashed"))
	case n.status == StatusTrash:
		return t.finish(n)
	}
	t.edit(n)
	n.status, n.exclTrashed = StatusTrash, true
	t.mark(n)
	t.trashBelow(n)
	return t.finish(n)
}

// trashBelow marks the descendants that have no live parent left.
func (t *tx) trashBelow(n *node) {
	for _, c := range t.kids(n.id) {
		if !c.live() || slices.ContainsFunc(c.parents, func(p string) bool { return t.byID[p] != nil && t.byID[p].live() }) {
			continue
		}
		t.edit(c)
		c.status, c.recTrashed = StatusTrash, true
		t.markBelow(c)
		t.trashBelow(c)
	}
}

// kids are the children in the order they were made, so that runs repeat.
func (st *store) kids(id string) []*node {
	return slices.SortedFunc(maps.Keys(st.children[id]), func(a, b *node) int { return int(int64(a.num) - int64(b.num)) })
}

func (t *tx) markBelow(n *node) {
	if t.o.QuietDescendants {
		t.markQuiet(n)
	} else {
		t.mark(n)
	}
}

// restore puts a trashed node back into its parents, with what was trashed
// along with it. What the document leaves unknown (§8.3): a taken name is 409,
// a trashed parent 400, parents that are all purged make place for the root.
func (st *store) restore(id string) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	n := st.byID[id]
	switch {
	case n == nil || n.status == StatusPurged:
		return t.fail(notFound(id))
	case n.status != StatusTrash:
		return t.finish(n)
	}
	parents := slices.DeleteFunc(slices.Clone(n.parents), func(p string) bool { return st.byID[p] == nil || st.byID[p].status == StatusPurged })
	if len(parents) == 0 && len(n.parents) > 0 {
		parents = []string{st.root.id}
	}
	for _, p := range parents {
		if e := st.checkParentLocked(p); e != nil {
			return t.fail(e)
		}
		if e := st.checkFreeLocked(p, n.name, n); e != nil {
			return t.fail(e)
		}
	}
	t.edit(n)
	n.status, n.exclTrashed, n.recTrashed, n.parents = StatusAvailable, false, false, parents
	t.mark(n)
	t.restoreBelow(n)
	return t.finish(n)
}

func (t *tx) restoreBelow(n *node) {
	for _, c := range t.kids(n.id) {
		if c.status != StatusTrash || !c.recTrashed {
			continue
		}
		t.edit(c)
		c.recTrashed = false
		if slices.ContainsFunc(c.parents, func(p string) bool { return t.checkFreeLocked(p, c.name, c) != nil }) {
			c.exclTrashed = true // renamed in the trash to what a sibling is called: stays there
			t.markBelow(c)
			continue
		}
		c.status = StatusAvailable
		t.markBelow(c)
		t.restoreBelow(c)
	}
}

// purge removes for good; only the customer can, on the web site (§8.4).
func (st *store) purge(id string) (*node, *apiError) {
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	n := st.byID[id]
	if n == nil || n.status == StatusPurged {
		return t.fail(notFound(id))
	}
	if n.isRoot {
		return t.fail(forbidden("The root cannot be purged"))
	}
	t.purgeTree(n)
	return t.finish(n)
}

func (t *tx) purgeTree(n *node) {
	below := t.kids(n.id)
	t.edit(n)
	if n.content != nil {
		t.blobs = append(t.blobs, n.content.blob)
	}
	n.status, n.content, n.parents, n.props = StatusPurged, nil, nil, nil
	t.mark(n)
	for _, c := range below {
		if others := slices.DeleteFunc(slices.Clone(c.parents), func(p string) bool { return p == n.id }); len(others) > 0 {
			t.edit(c)
			c.parents = others
			t.mark(c)
		} else {
			t.purgeTree(c)
		}
	}
}

const maxProperties = 10 // per owner and node (§5.8)

func tooManyProperties() *apiError {
	return badRequest("The number of properties of a node is limited to %d", maxProperties)
}

func checkProperty(key, value string) *apiError {
	ok := key != "" && len(key) <= 50
	for _, r := range key {
		ok = ok && (r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}
	if !ok {
		return badRequest("1 validation error detected: Value '%s' at 'key' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9_]{1,50}", key)
	}
	if utf16Len(value) > 500 {
		return badRequest("1 validation error detected: Value at 'value' failed to satisfy constraint: Member must have length less than or equal to 500")
	}
	return nil
}

// setProperty with value nil deletes (absent: 404).
func (st *store) setProperty(id, owner, key string, value *string) (*node, *apiError) {
	if value != nil {
		if e := checkProperty(key, *value); e != nil {
			return nil, e
		}
	}
	t, e := st.begin()
	if e != nil {
		return nil, e
	}
	n := st.byID[id]
	if n == nil || n.status == StatusPurged {
		return t.fail(notFound(id))
	}
	own := maps.Clone(n.props[owner])
	if own == nil {
		own = map[string]string{}
	}
	_, had := own[key]
	switch {
	case t.o.DropProperties:
	case value == nil && !had:
		return t.fail(&apiError{status: 404, hasCode: true, message: "Property does not exist: " + key})
	case value == nil:
		delete(own, key)
	case !had && len(own) >= maxProperties:
		return t.fail(tooManyProperties())
	default:
		own[key] = *value
	}
	t.edit(n)
	t.keepProps(n)
	props := maps.Clone(n.props)
	if props == nil {
		props = map[string]map[string]string{}
	}
	props[owner] = own
	n.props = props
	t.mark(n)
	return t.finish(n)
}

// get returns a copy of a node, nil when there is none or it is purged.
func (st *store) get(id string) *node {
	st.mu.RLock()
	defer st.mu.RUnlock()
	if n := st.byID[id]; n != nil && n.status != StatusPurged {
		return n.clone()
	}
	return nil
}

func (st *store) now() time.Time { return st.o.Clock() }
