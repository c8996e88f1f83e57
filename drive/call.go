package drive

import (
	"context"
	"net/http"
	"time"
)

// Priority orders the calls that wait for the pacing budget or for a
// connection: a higher one overtakes every lower one. Among equals, first
// come, first served.
type Priority int

// The priorities, from the one that may wait to the one somebody waits for.
const (
	Background Priority = iota + 1 // audits, the first sync
	ReadAhead                      // bytes nobody asked for yet
	Uploading                      // the journal's work
	Feed                           // the changes feed
	Metadata                       // what a directory operation waits for; the default
	Foreground                     // what a read(2) waits for
)

type priorityKey struct{}

// WithPriority gives every call made with the returned context that
// priority. Without one, Changes is Feed, Upload and Overwrite are
// Uploading, and the rest is Metadata.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, p)
}

func priorityOf(ctx context.Context, or Priority) Priority {
	if p, ok := ctx.Value(priorityKey{}).(Priority); ok {
		return p
	}
	return or
}

// shape is how a call uses its connection, which decides its limits.
type shape int

const (
	shapeJSON     shape = iota // small question, small answer, read whole
	shapeStream                // small question, long answer read as it comes: changes
	shapeUpload                // long question, small answer
	shapeDownload              // small question, long answer, the caller's to read
)

// host says what call.ref is relative to.
type host int

const (
	hostNone     host = iota // the request's URL is complete
	hostMetadata             // Endpoints.Metadata
	hostContent              // Endpoints.Content
)

// sender sends a request of a call. The layers that only speak through the call
// are senders; the RoundTrippers below them find it in the request's context.
type sender func(*call, *http.Request) (*http.Response, error)

// call is what the layers know of a request beyond the request. It belongs to
// the goroutine that makes the call; the fields below "found out" are written
// by the layers on that goroutine.
type call struct {
	op         string // as in Counters and Error.Op
	shape      shape
	host       host
	ref        string // escaped path and query below the host, no leading slash
	idempotent bool   // a repeat leads to the same state
	noAuth     bool   // never an Authorization header
	secret     bool   // the URL itself grants access: never logged
	checkpoint bool   // a 400 is about the checkpoint
	creates    bool   // names its parent only in the body: a 404 is about that
	priority   Priority
	upload     *uploadSource // shapeUpload
	wait       time.Duration // longest silence before the header; 0 = the default
	silence    time.Duration // longest silence within the answer; 0 = the default

	// Found out.
	tries      int  // sent so far
	unclear    bool // a try that failed may have had an effect
	redirected bool // the last answer came from another place than asked
	sameToken  bool // the last refused token could not be replaced by another
	exhausted  bool // the last try was the last for its number, not for the deadline
}

type callKey struct{}

func withCall(ctx context.Context, c *call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// callOf is never nil: a request of unknown origin is a small one that must not be repeated.
func callOf(req *http.Request) *call {
	if c, ok := req.Context().Value(callKey{}).(*call); ok {
		return c
	}
	return &call{op: "unknown", priority: Metadata}
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
