package drive

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/time/rate"
)

// Options configures New. Endpoint is required; everything else has a usable zero.
type Options struct {
	// Endpoint is the discovery base, "https://drive.amazonaws.com/drive/v1/".
	// https, or http on a loopback host.
	Endpoint string
	// Tokens gives the access tokens; nil sends no Authorization header at
	// all. A *TokenFile renews itself; StaticTokenSource is one token.
	Tokens oauth2.TokenSource
	// TrustEndpoints: whatever hosts discovery names get the account's tokens,
	// also those of another registered domain. See ErrUntrusted.
	TrustEndpoints bool
	// Endpoints remembers the account's hosts over restarts; nil = memory only.
	Endpoints EndpointCache
	UserAgent string // "" = "drivefs"
	// Transport is the base; nil = one tuned for this service.
	Transport http.RoundTripper
	// Uploads and Downloads are the most connections at once for content, 0 =
	// 16. The service never sees more.
	Uploads, Downloads int
	// UploadLimit and DownloadLimit bound content in bytes a second, 0 = none. See SetLimits.
	UploadLimit, DownloadLimit int64
	// Owner is the owner name of our own properties, "" = not known yet.
	Owner string
	// Logger gets one debug line a try; nil = discard.
	Logger *slog.Logger
	// Observe is told of every try that ended, from any goroutine; nil = nobody.
	Observe func(Try)
	// IdleTimeout is how long an upload may make no progress on the wire, 0 = 60 s.
	// Time spent in Body.Reader does not count.
	IdleTimeout time.Duration
	// Tries is how often a call is sent at most, 0 = 6. The context's
	// deadline may end it earlier.
	Tries int
}

// Try is one request and what came of it.
type Try struct {
	Op     string        // as in Counters
	Status int           // of the answer, 0 = none came
	Took   time.Duration // to the header of the answer
}

// Client speaks to one account. All methods may be called from any goroutine.
// Contexts end waits; a call whose deadline leaves no room for another try
// returns what the last one said.
type Client struct {
	endpoint  *url.URL
	trustAll  bool
	cache     EndpointCache
	userAgent string
	log       *slog.Logger

	layers http.RoundTripper // what every single request passes, see doc.go
	retry  retrier           // above it
	own    *http.Transport   // the base when it is ours
	open   *connections      // of own
	pauses *pauses           // between the tries of calls

	status               *status
	counters             *counters
	clock                serviceClock
	up, down             *limiter
	uploaded, downloaded atomic.Int64

	discovering chan struct{} // held by the one discovery under way

	mu        sync.Mutex // guards the rest
	owner     string
	endpoints Endpoints // zero = none known
	loaded    bool      // the cache was asked
	doubts    int       // how often discovery was asked because a host was gone
	doubted   time.Time // … the last time
}

// New makes a client without using the network. It fails on an Endpoint that is not
// https (or http on loopback).
func New(o Options) (*Client, error) {
	endpoint, err := parseBase(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&o.Uploads, 16)
	def(&o.Downloads, 16)
	def(&o.Tries, 6)
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = defaultSilence
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.UserAgent == "" {
		o.UserAgent = "drivefs"
	}
	c := &Client{
		endpoint: endpoint, trustAll: o.TrustEndpoints, cache: o.Endpoints, userAgent: o.UserAgent, log: o.Logger,
		status: newStatus(), counters: newCounters(), owner: o.Owner,
		up: newLimiter(o.UploadLimit), down: newLimiter(o.DownloadLimit),
		discovering: make(chan struct{}, 1), pauses: newPauses(),
	}
	base := o.Transport
	if base == nil {
		c.own, c.open = newBase(o.Uploads + o.Downloads + metadataCalls)
		base = c.own
	}
	var rt http.RoundTripper = observeTransport{base, c.log, o.Observe, c.status, c.counters, &c.clock}
	rt = stallTransport{rt, o.IdleTimeout}
	rt = slurpTransport{rt}
	rt = newPace(rt, o.Uploads, o.Downloads)
	rt = authTransport{rt, o.Tokens}
	c.layers = rt
	c.retry = retrier{followed(c.resolved, c.once), o.Tries, c.counters, c.pauses}
	return c, nil
}

// Close closes idle connections. It waits for nothing; calls under way go on.
func (c *Client) Close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

// Wake ends the pauses of calls between their tries, but not those the service
// asked for: something happened that makes another try worth while.
func (c *Client) Wake() { c.pauses.end() }

// Reconnect is Wake after which every call has a new connection; those under
// way lose theirs. It is for after a suspend, when the other side has given up
// the old ones, and nobody would hear of that for minutes. A Transport that
// was given keeps its connections.
func (c *Client) Reconnect() {
	if c.own != nil {
		c.own.CloseIdleConnections()
		c.open.close()
	}
	c.Wake()
}

// Reachable reports whether the account's hosts take connections, or discovery
// where they are not known, or the proxy on the way there. Nothing is asked.
func (c *Client) Reachable(ctx context.Context) error {
	if c.own == nil {
		return nil
	}
	c.mu.Lock()
	bases := []string{c.endpoints.Metadata, c.endpoints.Content}
	c.mu.Unlock()
	if bases[0] == "" {
		bases = []string{c.endpoint.String()}
	}
	seen := map[string]bool{}
	for _, base := range bases {
		u, err := url.Parse(base)
		if err != nil {
			return fmt.Errorf("%s: %w", base, err)
		}
		if proxy, err := c.own.Proxy(&http.Request{URL: u}); err == nil && proxy != nil {
			u = proxy
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
		}
		host := net.JoinHostPort(u.Hostname(), cmp.Or(port, "443"))
		if seen[host] {
			continue
		}
		seen[host] = true
		conn, err := c.own.DialContext(ctx, "tcp", host)
		if err != nil {
			return fmt.Errorf("%s: %w", host, err)
		}
		_ = conn.Close() // nothing was sent
	}
	return nil
}

// SetLimits changes the limits of content in bytes a second, 0 = none. Transfers
// under way follow.
func (c *Client) SetLimits(upload, download int64) {
	c.up.set(upload)
	c.down.set(download)
}

// Owner is the owner name of our own properties: what Options or SetOwner
// said, else the createdBy of the first node this client created, else "". API §11.
func (c *Client) Owner() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owner
}

// SetOwner sets what Owner gives.
func (c *Client) SetOwner(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner = name
}

func (c *Client) learnOwner(n Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owner == "" {
		c.owner = n.CreatedBy
	}
}

// request builds the request of a call; resolved gives it its URL.
func (c *Client) request(ctx context.Context, cl *call, method string, body []byte) (*http.Request, error) {
	if cl.priority == 0 {
		cl.priority = priorityOf(ctx, Metadata)
	}
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, "", r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cl.op, err)
	}
	req.Header.Set("User-Agent", c.userAgent)
	if cl.shape == shapeDownload {
		req.Header.Set("Accept-Encoding", "identity")
	} else {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// once sends a complete request, one time.
func (c *Client) once(cl *call, req *http.Request) (*http.Response, error) {
	return c.layers.RoundTrip(req.WithContext(withCall(req.Context(), cl)))
}

// send makes the call. A nil error means a 2xx whose body must be closed.
func (c *Client) send(cl *call, req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	c.counters.called(cl.op)
	resp, err := c.retry.send(cl, req)
	if err != nil {
		err = failure(ctx, cl, err)
		if ctx.Err() != nil {
			// The caller's time was over, perhaps while waiting in our own queue:
			// that says nothing of the service. What the tries said has been noted.
			c.counters.failed(cl.op)
			return nil, err
		}
		return nil, c.failed(cl, err)
	}
	k, e := classify(cl, resp, errorData(resp))
	if e == nil {
		return resp, nil
	}
	resp.Body.Close()
	switch {
	case k == classAuth && cl.sameToken && cl.exhausted:
		// Refused at every try, and no other token to be had.
		e.Kind = ErrAuth
	case k == classTrouble && cl.upload != nil && cl.upload.whole():
		e.Kind = ErrAmbiguous
	}
	return nil, c.failed(cl, e)
}

// errorData peeks at errors and leaves good answers alone.
func errorData(resp *http.Response) []byte {
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	return peek(resp)
}

func (c *Client) failed(cl *call, err error) error {
	c.counters.failed(cl.op)
	c.status.final(err)
	return err
}

// exchange makes a call with a JSON question and answer. in and out may be nil.
func (c *Client) exchange(ctx context.Context, cl *call, method, etag string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("%s: %w", cl.op, err)
		}
	}
	req, err := c.request(ctx, cl, method, body)
	if err != nil {
		return err
	}
	if etag != "" {
		req.Header.Set("If-Match", etag)
	}
	resp, err := c.send(cl, req)
	if err != nil {
		return err
	}
	return c.decode(cl, resp, out)
}

// decode reads the answer of a call into out and closes it. An answer that
// is not the JSON expected is ErrProtocol.
func (c *Client) decode(cl *call, resp *http.Response, out any) error {
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	var data []byte
	var err error
	if h, ok := resp.Body.(held); ok {
		data = h.data
	} else {
		data, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	}
	if err == nil {
		if n, ok := out.(*Node); ok {
			*n, err = decodeNode(data)
		} else {
			err = json.Unmarshal(data, out)
		}
	}
	if err != nil {
		return c.failed(cl, &Error{Op: cl.op, Kind: ErrProtocol, Status: resp.StatusCode, Err: err,
			RequestID: scrub(resp.Header.Get("x-amzn-RequestId"))})
	}
	return nil
}

// query encodes parameters with %20 for blanks: a plus is a blank to forms only.
func query(kv ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] != "" {
			v.Set(kv[i], kv[i+1])
		}
	}
	if len(v) == 0 {
		return ""
	}
	return "?" + strings.ReplaceAll(v.Encode(), "+", "%20")
}

// path joins escaped segments.
func path(segments ...string) string {
	var b strings.Builder
	for i, s := range segments {
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// limiter bounds bytes a second, over all transfers of one direction.
type limiter struct{ l *rate.Limiter }

func newLimiter(perSecond int64) *limiter {
	l := &limiter{rate.NewLimiter(rate.Inf, 1)}
	l.set(perSecond)
	return l
}

// The burst is an eighth of a second, between these bounds.
const minBurst, maxBurst = 4 << 10, 256 << 10

func (l *limiter) set(perSecond int64) {
	if perSecond <= 0 {
		l.l.SetLimit(rate.Inf)
		return
	}
	l.l.SetBurst(int(min(max(perSecond/8, minBurst), maxBurst)))
	l.l.SetLimit(rate.Limit(perSecond))
}

// most is the largest piece to move at once.
func (l *limiter) most() int {
	if l.l.Limit() == rate.Inf {
		return 1 << 30
	}
	return l.l.Burst()
}

// wait accounts for n bytes.
func (l *limiter) wait(ctx context.Context, n int) error {
	for n > 0 && l.l.Limit() != rate.Inf {
		k := min(n, l.l.Burst())
		now := time.Now()
		r := l.l.ReserveN(now, k)
		if !r.OK() {
			continue // the limit was lowered in between
		}
		if err := sleep(ctx, r.DelayFrom(now)); err != nil {
			r.Cancel()
			return err
		}
		n -= k
	}
	return nil
}
