package drive

import (
	"context"
	"iter"
	"net/http"
	"slices"
)

// Trash moves the node, and all below it, to the drive's trash. A node with
// several parents leaves them all. Trashing what is in the trash gives the
// node. API §8.1.
func (c *Client) Trash(ctx context.Context, id string) (Node, error) {
	cl := &call{op: "trash.put", host: hostMetadata, ref: path("trash", id), idempotent: true}
	var n Node
	err := c.exchange(ctx, cl, http.MethodPut, "", struct{}{}, &n)
	return c.settle(ctx, cl, id, n, err, doneBefore, func(n Node) bool { return n.Status == Trashed || n.Status == Purged })
}

// Restore takes the node out of the trash, back into all its parents. API §8.3.
func (c *Client) Restore(ctx context.Context, id string) (Node, error) {
	cl := &call{op: "trash.restore", host: hostMetadata, ref: path("trash", id, "restore"), idempotent: true}
	var n Node
	err := c.exchange(ctx, cl, http.MethodPost, "", nil, &n)
	return c.settle(ctx, cl, id, n, err, refusedAgain, func(n Node) bool { return n.Status == Available })
}

// ListTrash yields the nodes that were put into the trash themselves, not
// what lies in trashed folders. The trash call of the service has been seen
// to leave out files (API §8.2), so they are asked for by status as well. An error comes last.
func (c *Client) ListTrash(ctx context.Context) iter.Seq2[Node, error] {
	return func(yield func(Node, error) bool) {
		seen := map[string]bool{}    // yielded
		folders := map[string]bool{} // in the trash, at any depth
		for n, err := range c.list(ctx, listing{op: "trash.list", ref: "trash"}) {
			if err == nil {
				seen[n.ID] = true
				folders[n.ID] = n.Kind == Folder
			}
			if !yield(n, err) || err != nil {
				return
			}
		}
		var rest []Node
		for _, k := range []Kind{Folder, File} {
			for n, err := range c.list(ctx, listing{op: "trash.list", ref: "nodes", filter: "status:TRASH AND kind:" + string(k)}) {
				if err != nil {
					yield(Node{}, err)
					return
				}
				if n.Kind == Folder {
					folders[n.ID] = true
				}
				if !seen[n.ID] && n.Status == Trashed && !within(n, folders) {
					rest = append(rest, n)
				}
			}
		}
		for _, n := range rest {
			// Again, now that all folders are known.
			if !within(n, folders) && !yield(n, nil) {
				return
			}
		}
	}
}

func within(n Node, folders map[string]bool) bool {
	return slices.ContainsFunc(n.Parents, func(p string) bool { return folders[p] })
}
