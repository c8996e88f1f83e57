package drive

import (
	"context"
	"net/http"
)

// AccountInfo is the state of the account. API §4.2.
type AccountInfo struct {
	TermsOfUse string `json:"termsOfUse"` // version accepted
	Status     string `json:"status"`     // "ACTIVE" …
}

// AccountInfo asks for the state of the account.
func (c *Client) AccountInfo(ctx context.Context) (a AccountInfo, err error) {
	err = c.exchange(ctx, &call{op: "account.info", host: hostMetadata, ref: "account/info", idempotent: true}, http.MethodGet, "", nil, &a)
	return a, err
}

// Quota asks for the space of the account. It lags behind uploads, and is no check before one. API §4.3.
func (c *Client) Quota(ctx context.Context) (q Quota, err error) {
	err = c.exchange(ctx, &call{op: "account.quota", host: hostMetadata, ref: "account/quota", idempotent: true}, http.MethodGet, "", nil, &q)
	return q, err
}

// Usage asks what lies in the account by kind of content. API §4.4.
func (c *Client) Usage(ctx context.Context) (u Usage, err error) {
	err = c.exchange(ctx, &call{op: "account.usage", host: hostMetadata, ref: "account/usage", idempotent: true}, http.MethodGet, "", nil, &u)
	return u, err
}
