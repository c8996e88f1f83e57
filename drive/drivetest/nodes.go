package drivetest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// Metadata calls on single nodes (§6.5 to §6.9, §8, §11).

// location is the address of a node, as create and update answers carry it.
func (c *call) location(n *node) string {
	return c.origin() + "/drive/v1/nodes/" + url.PathEscape(n.id)
}

// owner of the app's properties.
func (c *call) owner() string { return c.s.o.Owner }

func (c *call) nodeReply(status int, n *node) reply {
	rep := reply{status: status, body: appendNode(nil, n, &shape{location: c.location, extra: c.s.extraFields()})}
	if status == http.StatusCreated {
		rep.header = map[string]string{"Location": c.location(n)}
	}
	return rep
}

func (s *Server) extraFields() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.f.ExtraFields
}

// changed is the end of most writes.
func (c *call) changed(n *node, e *apiError) (reply, *apiError) {
	if e != nil {
		return reply{}, e
	}
	return c.nodeReply(http.StatusOK, n), nil
}

// asked reads which optional members the caller wants.
func (c *call) asked() (*shape, *apiError) {
	s := &shape{extra: c.s.extraFields()}
	if f := c.q.Get("fields"); f != "" {
		var fields []string
		if err := json.Unmarshal([]byte(strings.ReplaceAll(f, "'", `"`)), &fields); err != nil {
			return nil, badRequest("Invalid fields: %s", f)
		}
		for _, name := range fields {
			if name == "properties" {
				s.owner, s.props = c.owner(), c.s.st.shownProps
			}
		}
	}
	if c.boolParam("tempLink") {
		s.tempLink = c.tempLinkFor
	}
	for _, p := range []string{c.q.Get("asset"), c.q.Get("assetMapping")} {
		if p != "" && p != "NONE" {
			s.assets = func(n *node) (l []*node) {
				for _, a := range c.s.st.kids(n.id) {
					if a.kind == KindAsset && a.live() {
						l = append(l, a)
					}
				}
				return l
			}
		}
	}
	return s, nil
}

func (c *call) nodesGet() (reply, *apiError) {
	s, e := c.asked()
	if e != nil {
		return reply{}, e
	}
	n := c.s.st.get(c.id)
	if n == nil {
		return reply{}, notFound(c.id)
	}
	c.s.st.mu.RLock()
	defer c.s.st.mu.RUnlock()
	return reply{status: http.StatusOK, body: appendNode(nil, n, s)}, nil
}

func (c *call) nodesCreate() (reply, *apiError) {
	var s newNode
	if e := c.decode(&s); e != nil {
		return reply{}, e
	}
	if s.Kind != KindFolder {
		return reply{}, badRequest("1 validation error detected: Value '%s' at 'kind' failed to satisfy constraint: Member must satisfy enum value set: [FOLDER]", s.Kind)
	}
	s.localID, s.createdBy = c.q.Get("localId"), c.owner()
	n, e := c.s.st.createNode(s, nil)
	if e != nil {
		return reply{}, e
	}
	return c.nodeReply(http.StatusCreated, n), nil
}

func (c *call) nodesUpdate() (reply, *apiError) {
	var p patch
	if e := c.decode(&p); e != nil {
		return reply{}, e
	}
	return c.changed(c.s.st.update(c.id, p, c.r.Header.Get("If-Match")))
}

func (c *call) nodesMove() (reply, *apiError) {
	var m struct {
		FromParent string `json:"fromParent"`
		ChildID    string `json:"childId"`
	}
	if e := c.decode(&m); e != nil {
		return reply{}, e
	}
	if m.ChildID == "" || m.FromParent == "" {
		return reply{}, badRequest("fromParent and childId are required")
	}
	return c.changed(c.s.st.move(m.ChildID, m.FromParent, c.id))
}

func (c *call) nodesAddParent() (reply, *apiError) {
	return c.changed(c.s.st.addParent(c.args[1], c.args[0]))
}

func (c *call) nodesRemoveParent() (reply, *apiError) {
	return c.changed(c.s.st.removeParent(c.args[1], c.args[0]))
}

// nodesPurge is not for third parties, whatever the node (§8.4).
func (c *call) nodesPurge() (reply, *apiError) {
	return reply{}, forbidden("Insufficient permissions granted for operation: purgeNode")
}

func (c *call) nodesProperties() (reply, *apiError) {
	owner, method := c.args[1], c.log.Method
	n := c.s.st.get(c.id)
	if n == nil {
		return reply{}, notFound(c.id)
	}
	if method != http.MethodGet {
		if e := c.checkScope("write"); e != nil {
			return reply{}, e
		}
	}
	if owner != c.owner() {
		return reply{}, forbidden("Access to the properties of another application is not permitted: %s", owner)
	}
	if len(c.args) == 2 {
		data := n.props[owner]
		if data == nil {
			data = map[string]string{}
		}
		return jsonReply(http.StatusOK, map[string]any{"count": len(data), "data": data}), nil
	}
	key := c.args[2]
	switch method {
	case http.MethodPut:
		var body struct {
			Value *string `json:"value"`
		}
		if e := c.decode(&body); e != nil {
			return reply{}, e
		}
		if body.Value == nil {
			return reply{}, badRequest("value is required")
		}
		if _, e := c.s.st.setProperty(c.id, owner, key, body.Value); e != nil {
			return reply{}, e
		}
		at := c.location(n) + "/properties/" + url.PathEscape(owner) + "/" + url.PathEscape(key)
		return jsonReply(http.StatusCreated, map[string]string{"key": key, "value": *body.Value, "location": at}), nil
	case http.MethodDelete:
		if _, e := c.s.st.setProperty(c.id, owner, key, nil); e != nil {
			return reply{}, e
		}
		return reply{status: http.StatusNoContent}, nil
	}
	v, ok := n.props[owner][key]
	if !ok {
		return reply{}, &apiError{status: http.StatusNotFound, hasCode: true, message: "Property does not exist: " + key}
	}
	return jsonReply(http.StatusOK, map[string]string{"key": key, "value": v}), nil
}

func (c *call) trashPut() (reply, *apiError) { return c.changed(c.s.st.trash(c.id)) }

func (c *call) trashRestore() (reply, *apiError) { return c.changed(c.s.st.restore(c.id)) }
