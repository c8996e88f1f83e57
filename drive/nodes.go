package drive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// NewNode describes a node to be made. API §6.6, §7.1.
type NewNode struct {
	Name     string
	ParentID string // "" = the root
	// LocalID (at most 100 characters) makes a repeat harmless: it maps to one
	// node for ever. "" = none, and the call is then never repeated.
	LocalID string
	// Properties are our own, key → value. They are left out as long as Owner is "".
	Properties map[string]string
}

// newNodeJSON is NewNode on the wire.
type newNodeJSON struct {
	Name       string                       `json:"name"`
	Kind       Kind                         `json:"kind"`
	Parents    []string                     `json:"parents,omitempty"`
	Properties map[string]map[string]string `json:"properties,omitempty"`
}

func (c *Client) wire(n NewNode, k Kind) newNodeJSON {
	w := newNodeJSON{Name: n.Name, Kind: k}
	if n.ParentID != "" {
		w.Parents = []string{n.ParentID}
	}
	if owner := c.Owner(); owner != "" && len(n.Properties) > 0 {
		w.Properties = map[string]map[string]string{owner: n.Properties}
	}
	return w
}

// decodeNode reads a node and bears fields of an unexpected form (API §1.3:
// unknown things appear over time): they are left zero. Without an id it is no node.
func decodeNode(data []byte) (Node, error) {
	var n Node
	err := json.Unmarshal(data, &n)
	if err != nil {
		var fields map[string]json.RawMessage
		if json.Unmarshal(data, &fields) != nil {
			return Node{}, err
		}
		n = Node{}
		for k, v := range fields {
			one, merr := json.Marshal(map[string]json.RawMessage{k: v})
			before := n
			if merr != nil || json.Unmarshal(one, &n) != nil {
				n = before
			}
		}
	}
	if n.ID == "" {
		if err == nil {
			err = errors.New("a node without an id")
		}
		return Node{}, err
	}
	return n, nil
}

// rawNode lets a page or a batch hold nodes one of which is odd.
type rawNode struct{ Node }

func (r *rawNode) UnmarshalJSON(data []byte) error {
	n, err := decodeNode(data)
	if err != nil {
		n = Node{} // no id: skipped by whoever reads the list
	}
	r.Node = n
	return nil
}

func (c *Client) get(ctx context.Context, op, id, query string) (n Node, err error) {
	if id == "" {
		return Node{}, &Error{Op: op, Kind: ErrInvalid, Message: "no id"}
	}
	err = c.exchange(ctx, &call{op: op, host: hostMetadata, ref: path("nodes", id) + query, idempotent: true}, http.MethodGet, "", nil, &n)
	return n, err
}

// Get gives a node in any status, the most consistent read there is (API
// §6.5). ErrNotFound when there is none.
func (c *Client) Get(ctx context.Context, id string) (Node, error) {
	return c.get(ctx, "nodes.get", id, "")
}

const fieldsProperties = `["properties"]`

// GetWithProperties is Get with our own properties: Properties is never nil.
func (c *Client) GetWithProperties(ctx context.Context, id string) (Node, error) {
	n, err := c.get(ctx, "nodes.get", id, query("fields", fieldsProperties))
	if err == nil && n.Properties == nil {
		n.Properties = map[string]map[string]string{}
	}
	return n, err
}

// TempLink gives an address that needs no token for some days (API §7.5);
// it is a secret. ErrInvalid when the node has none (it is not a file).
func (c *Client) TempLink(ctx context.Context, id string) (string, error) {
	n, err := c.get(ctx, "nodes.templink", id, query("tempLink", "true"))
	if err == nil && n.TempLink == "" {
		err = &Error{Op: "nodes.templink", Kind: ErrInvalid, Message: "the node has no tempLink"}
	}
	return n.TempLink, err
}

// Root gives the root folder.
func (c *Client) Root(ctx context.Context) (Node, error) {
	for n, err := range c.list(ctx, listing{op: "nodes.root", ref: "nodes", filter: "isRoot:true"}) {
		if err != nil {
			return Node{}, err
		}
		if n.IsRoot {
			return n, nil
		}
	}
	return Node{}, &Error{Op: "nodes.root", Kind: ErrProtocol, Message: "the account has no root"}
}

// CreateFolder makes a folder. ErrNameExists when the name is taken
// (Error.NodeID, which may be a file), ErrBadParent when the parent is gone.
// With a LocalID it is repeated after failures; Error.Unclear then tells that
// the folder in the way may be the one that an earlier try made.
func (c *Client) CreateFolder(ctx context.Context, n NewNode) (Node, error) {
	cl := &call{op: "nodes.create", host: hostMetadata, ref: "nodes" + query("localId", n.LocalID), idempotent: n.LocalID != "", creates: true}
	var made Node
	err := c.exchange(ctx, cl, http.MethodPost, "", c.wire(n, Folder), &made)
	var e *Error
	if errors.As(err, &e) {
		e.Unclear = cl.unclear || e.Kind == ErrProtocol && e.Status/100 == 2
	}
	if err == nil {
		c.learnOwner(made)
		c.clock.made(made)
	}
	return made, err
}

// Rename gives the node another name in all its parents. ErrNameExists when
// it is taken in one of them, ErrPrecondition when etag is not "" and not
// the node's any more. Repeated after failures; a repeat that finds the work done is success.
func (c *Client) Rename(ctx context.Context, id, newName, etag string) (Node, error) {
	cl := &call{op: "nodes.rename", host: hostMetadata, ref: path("nodes", id), idempotent: true}
	var n Node
	err := c.exchange(ctx, cl, http.MethodPatch, etag, map[string]string{"name": newName}, &n)
	return c.settle(ctx, cl, id, n, err, refusedAgain, func(n Node) bool { return n.Name == newName })
}

// Move takes the node from one parent to another; other parents stay.
// ErrNameExists when the name is taken there. A repeat that finds the work done is success. API §6.8.
func (c *Client) Move(ctx context.Context, id, fromParent, toParent string) (Node, error) {
	cl := &call{op: "nodes.move", host: hostMetadata, ref: path("nodes", toParent, "children"), idempotent: true}
	var n Node
	err := c.exchange(ctx, cl, http.MethodPost, "", map[string]string{"fromParent": fromParent, "childId": id}, &n)
	return c.settle(ctx, cl, id, n, err, refusedAgain, func(n Node) bool {
		return slices.Contains(n.Parents, toParent) && (fromParent == toParent || !slices.Contains(n.Parents, fromParent))
	})
}

// settle looks at the node where an answer leaves open what became of the work:
// work that is done is no error.
func (c *Client) settle(ctx context.Context, cl *call, id string, n Node, err error, open func(*call, *Error) bool, done func(Node) bool) (Node, error) {
	var e *Error
	if !errors.As(err, &e) || !open(cl, e) {
		return n, err
	}
	if got, gerr := c.Get(ctx, id); gerr == nil && done(got) {
		c.counters.settled(cl.op)
		return got, nil
	}
	return n, err
}

// refusedAgain: a repeat was refused after a try that may have worked, or
// success was told without the node (API §6.9).
func refusedAgain(cl *call, e *Error) bool {
	return cl.unclear && e.Status/100 == 4 || e.Kind == ErrProtocol && e.Status/100 == 2
}

// doneBefore: what the service answers to work that was done by whomever
// before, and with what body, is not known (API §6.9, §8.1).
func doneBefore(_ *call, e *Error) bool {
	return slices.Contains([]error{ErrConflict, ErrNameExists, ErrNotFound, ErrInvalid, ErrProtocol}, e.Kind)
}

// AddParent puts the node into a further folder. Nil also when it is there already. API §6.9.
func (c *Client) AddParent(ctx context.Context, id, parent string) error {
	cl := &call{op: "nodes.addparent", host: hostMetadata, ref: path("nodes", parent, "children", id), idempotent: true}
	err := c.exchange(ctx, cl, http.MethodPut, "", struct{}{}, nil)
	_, err = c.settle(ctx, cl, id, Node{}, err, doneBefore, func(n Node) bool { return slices.Contains(n.Parents, parent) })
	return err
}

// RemoveParent takes the node out of one folder. Never for the last parent
// of a live node (API §5.7). Nil also when it is not there any more.
func (c *Client) RemoveParent(ctx context.Context, id, parent string) error {
	cl := &call{op: "nodes.removeparent", host: hostMetadata, ref: path("nodes", parent, "children", id), idempotent: true}
	err := c.exchange(ctx, cl, http.MethodDelete, "", nil, nil)
	_, err = c.settle(ctx, cl, id, Node{}, err, doneBefore, func(n Node) bool { return !slices.Contains(n.Parents, parent) })
	return err
}

// SetProperty sets one of our own properties; ErrInvalid while Owner is "",
// and when the limits of API §5.8 are passed.
func (c *Client) SetProperty(ctx context.Context, id, key, value string) error {
	owner := c.Owner()
	if owner == "" || key == "" {
		return &Error{Op: "properties.set", Kind: ErrInvalid, Message: fmt.Sprintf("property %q: the owner of our properties is not known yet", key)}
	}
	cl := &call{op: "properties.set", host: hostMetadata, ref: path("nodes", id, "properties", owner, key), idempotent: true}
	return c.exchange(ctx, cl, http.MethodPut, "", map[string]string{"value": value}, nil)
}

// DeleteProperty removes one of our own properties; nil when there is none.
func (c *Client) DeleteProperty(ctx context.Context, id, key string) error {
	owner := c.Owner()
	if owner == "" || key == "" {
		return nil // nobody can have set it
	}
	cl := &call{op: "properties.delete", host: hostMetadata, ref: path("nodes", id, "properties", owner, key), idempotent: true}
	err := c.exchange(ctx, cl, http.MethodDelete, "", nil, nil)
	if errors.Is(err, ErrNotFound) {
		c.counters.settled(cl.op)
		return nil
	}
	return err
}
