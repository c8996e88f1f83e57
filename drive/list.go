package drive

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"slices"
)

// pageSize is the largest page the service gives (API §6.2).
const pageSize = "200"

// maxRestarts is how often one listing begins anew because its page token expired.
const maxRestarts = 5

// listing is one paged call.
type listing struct {
	op     string
	ref    string // escaped path
	filter string
	sort   []string
	props  bool
}

// list yields the nodes of all pages, each id once. When the page token
// expires in mid-listing (API §6.2) it begins anew and leaves out what it has
// yielded. Pages are no snapshot: a node may be missed when the folder changes meanwhile.
func (c *Client) list(ctx context.Context, l listing) iter.Seq2[Node, error] {
	return func(yield func(Node, error) bool) {
		seen := map[string]struct{}{}
		for restarts := 0; ; restarts++ {
			more, err := c.listOnce(ctx, l, seen, yield)
			switch {
			case !more:
				return
			case err == nil:
				return
			case errors.Is(err, ErrTokenExpired) && restarts < maxRestarts:
				continue
			}
			yield(Node{}, err)
			return
		}
	}
}

// listOnce follows the pages once. more is false when the consumer has enough.
func (c *Client) listOnce(ctx context.Context, l listing, seen map[string]struct{}, yield func(Node, error) bool) (more bool, err error) {
	sort, fields := "", ""
	if len(l.sort) > 0 {
		b, err := json.Marshal(l.sort)
		if err != nil {
			return true, err
		}
		sort = string(b)
	}
	if l.props {
		fields = fieldsProperties
	}
	var page struct { // its room is used again for the next one
		NextToken string    `json:"nextToken"`
		Data      []rawNode `json:"data"`
	}
	for token := ""; ; {
		clear(page.Data)
		page.NextToken, page.Data = "", page.Data[:0]
		q := query("filters", l.filter, "sort", sort, "fields", fields, "limit", pageSize, "startToken", token)
		cl := &call{op: l.op, host: hostMetadata, ref: l.ref + q, idempotent: true}
		if err := c.exchange(ctx, cl, http.MethodGet, "", nil, &page); err != nil {
			return true, err
		}
		for _, r := range page.Data {
			n := r.Node
			if _, dup := seen[n.ID]; dup || n.ID == "" {
				continue
			}
			seen[n.ID] = struct{}{}
			if l.props && n.Properties == nil {
				n.Properties = map[string]map[string]string{}
			}
			if !yield(n, nil) {
				return false, nil
			}
		}
		// The end is no token; some saw an empty page instead (API §6.2).
		if page.NextToken == "" || len(page.Data) == 0 {
			return true, nil
		}
		if page.NextToken == token {
			return true, &Error{Op: l.op, Kind: ErrProtocol, Message: "the listing does not advance"}
		}
		token = page.NextToken
	}
}

// Children yields every child of the folder once, in any status and of any
// kind as the service told; nodes whose parents lack id (API §13.1) are left
// out. withProps asks for our own properties too; Properties is then never nil. An error comes last.
func (c *Client) Children(ctx context.Context, id string, withProps bool) iter.Seq2[Node, error] {
	all := c.list(ctx, listing{op: "nodes.children", ref: path("nodes", id, "children"), props: withProps})
	return func(yield func(Node, error) bool) {
		if id == "" {
			yield(Node{}, &Error{Op: "nodes.children", Kind: ErrInvalid, Message: "no id"})
			return
		}
		for n, err := range all {
			if err == nil && !slices.Contains(n.Parents, id) {
				continue
			}
			if !yield(n, err) {
				return
			}
		}
	}
}

// Find gives the live nodes of that name in the folder, in any spelling that
// Fold makes equal. It may lag behind (API §13.1): an empty answer is no
// promise that the name is free.
func (c *Client) Find(ctx context.Context, parentID, name string) ([]Node, error) {
	var found []Node
	want := Fold(name)
	filter := `parents:"` + parentID + `" AND name:"` + EscapeFilter(name) + `"`
	for n, err := range c.list(ctx, listing{op: "nodes.find", ref: "nodes", filter: filter}) {
		if err != nil {
			return nil, err
		}
		if n.Live() && Fold(n.Name) == want && slices.Contains(n.Parents, parentID) {
			found = append(found, n)
		}
	}
	return found, nil
}
