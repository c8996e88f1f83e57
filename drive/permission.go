package drive

import (
	"context"
	"errors"
	"net/http"
)

// noNode is the id of no node: a call about it changes nothing, and whether it
// is refused as such or for want of a permission tells what the token permits.
const noNode = "drivefs-asks-no-node-0"

// MayRead tells whether the token permits reading contents (clouddrive:read_all,
// API §2.1). False is only the service's refusal; anything else is true, with the
// error that kept it from being known.
func (c *Client) MayRead(ctx context.Context) (bool, error) {
	d, err := c.Download(ctx, noNode, 0, -1)
	switch {
	case err == nil:
		return true, d.Close()
	case errors.Is(err, ErrForbidden):
		return false, nil
	case errors.Is(err, ErrNotFound):
		err = nil
	}
	return true, err
}

// MayWrite tells whether the token permits changes (clouddrive:write, API §2.1).
// It changes nothing; it may be called again. Its answer is only false when the
// service refuses a change of a node of which it also says that there is none.
func (c *Client) MayWrite(ctx context.Context) (bool, error) {
	cl := &call{op: "permission", host: hostMetadata, ref: path("nodes", noNode), idempotent: true}
	req, err := c.request(ctx, cl, http.MethodPatch, []byte(`{"name":"`+noNode+`"}`))
	if err != nil {
		return false, err
	}
	// Not by send: that there is no such node is no failure.
	resp, err := c.retry.send(cl, req)
	if err != nil {
		return false, failure(ctx, cl, err)
	}
	_, refused := classify(cl, resp, errorData(resp))
	if err := resp.Body.Close(); err != nil {
		return false, err
	}
	switch {
	case refused == nil, errors.Is(refused, ErrNotFound):
		return true, nil
	case !errors.Is(refused, ErrForbidden):
		return false, refused
	}
	_, err = c.Get(ctx, noNode)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return true, err
}
