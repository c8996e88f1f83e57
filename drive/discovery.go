package drive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/drivefs/drivefs/drive/local"
)

// endpointLife is how long the account's hosts are believed (API §4.1: three to five days).
const endpointLife = 72 * time.Hour

// staleLife is how long hosts past their life are used on, when discovery does not answer.
const staleLife = 10 * time.Minute

// EndpointCache remembers the hosts of one account. Its methods are called
// from any goroutine; errors are its own business, since a cache that is
// lost only costs one call.
type EndpointCache interface {
	Load() (Endpoints, bool)
	Store(Endpoints)
	Drop()
}

// parseBase accepts https, or http on loopback hosts, and ends the path in a slash.
func parseBase(s string) (*url.URL, error) {
	u, err := parseAddress(s)
	if err != nil {
		return nil, err
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q: a base address has no query", s)
	}
	if !strings.HasSuffix(u.Path, "/") {
		u = u.JoinPath("/")
	}
	return u, nil
}

// parseAddress applies the rule for all addresses we connect to: https, or
// http on loopback hosts. The error never repeats a query.
func parseAddress(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("not a URL")
	}
	where := u.Scheme + "://" + u.Host
	switch {
	case u.Host == "" || u.Hostname() == "":
		return nil, errors.New("not a complete URL (expected https://host/path/)")
	case u.User != nil:
		return nil, errors.New("a URL with a user or password is not accepted")
	case u.Scheme == "https":
	case u.Scheme == "http" && local.Loopback(u.Hostname()):
	case u.Scheme == "http":
		return nil, fmt.Errorf("%s: plain http is accepted on loopback hosts only, use https", where)
	default:
		return nil, fmt.Errorf("%s: expected https", where)
	}
	return u, nil
}

// Discover gives the hosts of the account: from memory or the cache when they are less than
// three days old, else by asking. ErrNoAccount: customerExists is false.
// ErrProtocol: the answer is not this API's.
func (c *Client) Discover(ctx context.Context) (Endpoints, error) {
	if e, ok := c.known(); ok {
		return e, nil
	}
	cl := &call{op: "account.endpoint", idempotent: true, priority: priorityOf(ctx, Metadata)}
	return c.discover(ctx, cl, c.retry.send)
}

// known gives endpoints that are fresh.
func (c *Client) known() (Endpoints, bool) {
	c.mu.Lock()
	e, load := c.endpoints, !c.loaded && c.cache != nil
	c.mu.Unlock()
	if load {
		// Not under the lock: the cache may be a file.
		got, ok := c.cache.Load()
		ok = ok && c.checkEndpoints(&got) == nil
		c.mu.Lock()
		if ok && !c.loaded && c.endpoints.Metadata == "" {
			c.endpoints = got
		}
		c.loaded = true
		e = c.endpoints
		c.mu.Unlock()
	}
	age := time.Since(e.Fetched)
	return e, e.Metadata != "" && age < endpointLife && age > -time.Hour
}

// discover asks for the hosts by the given way of sending, one caller at a
// time; the others find the answer.
func (c *Client) discover(ctx context.Context, cl *call, send sender) (Endpoints, error) {
	select {
	case c.discovering <- struct{}{}:
		defer func() { <-c.discovering }()
	case <-ctx.Done():
		return Endpoints{}, failure(ctx, cl, ctx.Err())
	}
	if e, ok := c.known(); ok {
		return e, nil
	}
	e, err := c.ask(ctx, cl, send)
	if err != nil {
		c.failed(cl, err)
		c.mu.Lock()
		defer c.mu.Unlock()
		old := c.endpoints
		if old.Metadata != "" && (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrThrottled) || errors.Is(err, ErrUntrusted)) {
			// Old hosts are better than none (discovery is throttled too, API §4.1).
			c.endpoints.Fetched = time.Now().Add(staleLife - endpointLife)
			return old, nil
		}
		return Endpoints{}, err
	}
	c.mu.Lock()
	c.endpoints = e
	c.mu.Unlock()
	if c.cache != nil {
		c.cache.Store(e)
	}
	return e, nil
}

func (c *Client) ask(ctx context.Context, cl *call, send sender) (Endpoints, error) {
	req, err := c.request(ctx, cl, http.MethodGet, nil)
	if err != nil {
		return Endpoints{}, err
	}
	req.URL = c.endpoint.JoinPath("account/endpoint")
	c.counters.called(cl.op)
	resp, err := send(cl, req)
	if err != nil {
		return Endpoints{}, failure(ctx, cl, err)
	}
	defer resp.Body.Close()
	data := peek(resp)
	if k, e := classify(cl, resp, data); e != nil {
		switch {
		case k == classAuth && cl.sameToken && cl.exhausted:
			e.Kind = ErrAuth
		case k == classFinal && e.Kind != ErrForbidden:
			e.Kind = ErrProtocol // there is no such call here, so it is not this API
		}
		return Endpoints{}, e
	}
	var answer struct {
		CustomerExists *bool `json:"customerExists"`
		Endpoints
	}
	bad := func(err error) error {
		return &Error{Op: cl.op, Kind: ErrProtocol, Status: resp.StatusCode, Err: err, RequestID: scrub(resp.Header.Get("x-amzn-RequestId"))}
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return Endpoints{}, bad(err)
	}
	if answer.CustomerExists != nil && !*answer.CustomerExists {
		return Endpoints{}, &Error{Op: cl.op, Kind: ErrNoAccount, Status: resp.StatusCode}
	}
	e := answer.Endpoints
	if err := c.checkEndpoints(&e); errors.Is(err, ErrUntrusted) {
		return Endpoints{}, &Error{Op: cl.op, Kind: ErrUntrusted, Status: resp.StatusCode, Err: err}
	} else if err != nil {
		return Endpoints{}, bad(err)
	}
	e.Fetched = time.Now().Round(0) // by the wall clock, which does not stand still while suspended
	return e, nil
}

// forget drops e, if it is still what is known.
func (c *Client) forget(e Endpoints) {
	c.mu.Lock()
	same := c.endpoints.same(e)
	if same {
		c.endpoints.Fetched = time.Time{} // kept as the last resort
	}
	c.mu.Unlock()
	if same && c.cache != nil {
		c.cache.Drop()
	}
}

func (e Endpoints) same(o Endpoints) bool { return e.Metadata == o.Metadata && e.Content == o.Content }

// believe begins the doubts anew: discovery named other hosts.
func (c *Client) believe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doubts = 0
}

// The pauses between two doubts while discovery keeps naming the same hosts
// (it is throttled too, API §4.1): doubling from the first to the last.
const (
	firstDoubt = 10 * time.Second
	lastDoubt  = time.Minute
)

// mayDoubt reports whether discovery may be asked for what it has said already.
func (c *Client) mayDoubt() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	since := now.Sub(c.doubted)
	switch {
	case c.doubts == 0, since > 2*lastDoubt:
		c.doubts = 0
	case since < min(firstDoubt<<(c.doubts-1), lastDoubt):
		return false
	}
	c.doubts, c.doubted = min(c.doubts+1, 8), now
	return true
}

// resolved completes the URL of a request by the hosts of the account, and
// sends it. When a host cannot be connected to, it asks discovery once whether
// the account has moved, and goes on with what that says. As long as discovery
// says the same it is asked ever more seldom.
func (c *Client) resolved(cl *call, req *http.Request) (*http.Response, error) {
	if cl.host == hostNone {
		return c.once(cl, req)
	}
	e, err := c.endpointsFor(req.Context(), cl)
	if err != nil {
		return nil, err
	}
	resp, err := c.onceTo(cl, req, e, req.Body)
	if err == nil || !notSent(err) || errors.Is(err, errNotSent) || req.Context().Err() != nil {
		return resp, err
	}
	if now, ok := c.known(); !ok || now.same(e) { // else another call has just found out
		if !c.mayDoubt() {
			return nil, err
		}
		c.forget(e)
	}
	moved, derr := c.endpointsFor(req.Context(), cl)
	if derr != nil || moved.same(e) {
		return nil, err
	}
	c.believe()
	body, ok := repeatBody(req, cl, false)
	if !ok {
		return nil, err
	}
	return c.onceTo(cl, req, moved, body)
}

// endpointsFor asks once, below the retry: this is within a try already.
func (c *Client) endpointsFor(ctx context.Context, cl *call) (Endpoints, error) {
	if e, ok := c.known(); ok {
		return e, nil
	}
	e, err := c.discover(ctx, &call{op: "account.endpoint", idempotent: true, priority: cl.priority, tries: 1}, c.once)
	if err != nil {
		return e, fmt.Errorf("%w: %w", errNotSent, err)
	}
	return e, nil
}

func (c *Client) onceTo(cl *call, req *http.Request, e Endpoints, body io.ReadCloser) (*http.Response, error) {
	base := e.Metadata
	if cl.host == hostContent {
		base = e.Content
	}
	u, err := url.Parse(base + cl.ref)
	if err != nil {
		return nil, &Error{Op: cl.op, Kind: ErrInvalid, Message: "no address can be made of it"}
	}
	r := req.Clone(req.Context())
	r.URL, r.Host, r.Body = u, "", body
	return c.once(cl, r)
}

// FileEndpointCache keeps the hosts in a file that belongs to one discovery
// address: what was stored for another one is not found.
func FileEndpointCache(path, endpointURL string) EndpointCache {
	if u, err := parseBase(endpointURL); err == nil {
		endpointURL = u.String()
	}
	return &fileEndpointCache{path: path, endpoint: endpointURL}
}

type fileEndpointCache struct{ path, endpoint string }

type endpointFile struct {
	Endpoint string `json:"endpoint"`
	Endpoints
}

func (f *fileEndpointCache) Load() (Endpoints, bool) {
	data, err := readSmallFile(f.path)
	if err != nil {
		return Endpoints{}, false
	}
	var e endpointFile
	if json.Unmarshal(data, &e) != nil || e.Endpoint != f.endpoint {
		return Endpoints{}, false
	}
	return e.Endpoints, true
}

func (f *fileEndpointCache) Store(e Endpoints) {
	data, err := json.MarshalIndent(endpointFile{f.endpoint, e}, "", "\t")
	if err == nil {
		_ = os.MkdirAll(filepath.Dir(f.path), 0o700)
		_ = local.ReplaceFile(f.path, append(data, '\n'))
	}
}

func (f *fileEndpointCache) Drop() { _ = os.Remove(f.path) }
