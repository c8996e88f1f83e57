package drive

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/drivefs/drivefs/drive/redact"
)

// maxErrorBody is how much of an error's body is read; the rest is dropped with the connection.
const maxErrorBody = 64 << 10

// maxRetryAfter is the longest Retry-After that is believed, the cap of
// Amazon's own back-off (API §13.3).
const maxRetryAfter = 256 * time.Second

// errorBody is the body of an error as far as it could be understood. API
// §3.2: every field may be missing, and the body may be anything.
type errorBody struct {
	code, message, nodeID string
}

func parseErrorBody(data []byte) (e errorBody) {
	data = bytes.TrimSpace(data)
	switch {
	case len(data) == 0:
	case data[0] == '{':
		// Field by field: one of a surprising type must not hide the others.
		var m map[string]json.RawMessage
		if json.Unmarshal(data, &m) != nil {
			return e
		}
		e.code, e.message = jsonString(m["code"]), jsonString(m["message"])
		var info map[string]json.RawMessage
		if json.Unmarshal(m["info"], &info) == nil {
			e.nodeID = jsonString(info["nodeId"])
		}
		if e.nodeID == "" {
			if f := conflictingNode.FindStringSubmatch(e.message); f != nil {
				e.nodeID = f[1]
			}
		}
	case data[0] == '<':
		var x struct {
			XMLName xml.Name
			Code    string
			Message string
		}
		if xml.Unmarshal(data, &x) != nil || strings.EqualFold(x.XMLName.Local, "html") {
			return e
		}
		e.code, e.message = x.Code, x.Message
		if e.code == "" && e.message == "" {
			e.code = x.XMLName.Local // <UnknownOperationException/>
		}
	}
	return e
}

func jsonString(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

var conflictingNode = regexp.MustCompile(`conflicting NodeId: ([A-Za-z0-9_-]{1,64})`)

// scrub makes a text of the service fit for a log: one line, no secrets, nothing
// a terminal would act on, at most 500 bytes.
func scrub(s string) string {
	s = redact.Printable(strings.Join(strings.Fields(redact.Text(s)), " "))
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "")
	}
	return s
}

// class is what a RoundTripper has to know of an answer.
type class int

const (
	classFine     class = iota // 2xx and redirects
	classFinal                 // the answer will not change
	classAuth                  // the token was refused; the request had no effect
	classThrottle              // 429; the request had no effect
	classTrouble               // 408, 5xx: perhaps later, perhaps done
)

// classify says what an answer means: its class, and for all but classFine
// the error without Op. The body has been read; see peek.
func classify(c *call, resp *http.Response, data []byte) (class, *Error) {
	status := resp.StatusCode
	if status >= 200 && status < 300 {
		return classFine, nil
	}
	b := parseErrorBody(data)
	e := &Error{
		Op: c.op, Status: status, Code: scrub(b.code), Message: scrub(b.message),
		RequestID: scrub(resp.Header.Get("x-amzn-RequestId")), NodeID: b.nodeID,
		RetryAfter: retryAfter(resp.Header, time.Now()),
	}
	k, kind := classFinal, error(nil)
	switch {
	case status == http.StatusUnauthorized:
		k, kind = classAuth, ErrUnavailable
	case status == http.StatusBadRequest:
		k, kind = classify400(c, b)
	case status == http.StatusForbidden:
		switch {
		case b.code == "NO_ACTIVE_SUBSCRIPTION_FOUND", b.code == "InsufficientStorage",
			strings.Contains(b.message, "exceeds account allowance"):
			kind = ErrQuota
		case !c.noAuth && strings.Contains(b.message, "Authorization header"):
			// API §2.4: sporadic, although the header was right.
			k, kind = classAuth, ErrUnavailable
		default:
			kind = ErrForbidden
		}
	case status == http.StatusNotFound:
		switch {
		case b.code == "UnknownOperationException":
			kind = ErrProtocol // not a node that is missing, but a route
		case c.creates:
			kind = ErrBadParent // API §7.1
		default:
			kind = ErrNotFound
		}
	case status == http.StatusGone:
		kind = ErrNotFound
	case status == http.StatusRequestTimeout:
		k, kind = classTrouble, ErrUnavailable
	case status == http.StatusConflict:
		switch {
		case b.code == "NAME_ALREADY_EXISTS", strings.Contains(b.message, "already exists under parentId"):
			kind = ErrNameExists
		case b.code == "MD5_DUPLICATE":
			kind = ErrDuplicate
		default:
			kind = ErrConflict
		}
	case status == http.StatusPreconditionFailed:
		kind = ErrPrecondition
	case status == http.StatusRequestedRangeNotSatisfiable:
		kind = ErrRange
	case status == http.StatusTooManyRequests:
		k, kind = classThrottle, ErrThrottled
	case status >= 500:
		k, kind = classTrouble, ErrUnavailable
	case status >= 400:
		kind = ErrInvalid
	default:
		kind = ErrProtocol // a redirect where none belongs
	}
	// Behind a redirect these speak of the signed address, not of the node.
	if c.redirected && (status == http.StatusForbidden || status == http.StatusNotFound || status == http.StatusGone) {
		k, kind = classTrouble, ErrUnavailable
	}
	e.Kind = kind
	return k, e
}

func classify400(c *call, b errorBody) (class, error) {
	has := func(s string) bool { return strings.Contains(b.message, s) }
	switch {
	case !c.noAuth && (has("Token has expired") || has("status code=[401]")):
		return classAuth, ErrUnavailable
	case has("Next token is expired"):
		return classFinal, ErrTokenExpired
	case c.checkpoint:
		return classFinal, ErrCheckpoint
	case c.shape == shapeUpload && (has("Cannot complete upload") || has("Cannot read from request") || has("Bytes not received")):
		// The transfer broke; the file may appear all the same. API §3.3, §13.2.
		return classTrouble, ErrUnavailable
	case has("at 'name' failed") && has("length"):
		return classFinal, ErrNameTooLong
	case has("parentId doesn't exist"), has("trashed parent"):
		return classFinal, ErrBadParent
	}
	return classFinal, ErrInvalid
}

// retryAfter reads the header's two forms; what cannot be read is 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	var d time.Duration
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		d = maxRetryAfter
		if n < int64(maxRetryAfter/time.Second) {
			d = time.Duration(n) * time.Second
		}
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// failure makes the error of a call whose last try brought no answer.
func failure(ctx context.Context, c *call, err error) error {
	var known *Error
	if errors.As(err, &known) {
		if known.Op == "" {
			known.Op = c.op
		}
		return err
	}
	for _, s := range []error{ErrAuth, ErrThrottled, ErrProtocol, ErrNoAccount} {
		if errors.Is(err, s) { // before anything was sent
			return &Error{Op: c.op, Kind: s, Err: trimSentinel(err, s)}
		}
	}
	switch {
	case c.upload != nil && c.upload.whole() && !notSent(err):
		// Also when the caller gave up: the service goes on.
		return &Error{Op: c.op, Kind: ErrAmbiguous, Err: err}
	case errors.Is(ctx.Err(), context.Canceled):
		return &canceled{op: c.op, err: ctx.Err()}
	case c.upload != nil && c.upload.sourceErr() != nil:
		return &canceled{op: c.op + ": reading what to send", err: c.upload.sourceErr()}
	}
	return &Error{Op: c.op, Kind: ErrUnavailable, Err: err}
}

// finalError reports whether an error of a try will be the same next time.
func finalError(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		// ErrThrottled without an answer is a pause beyond the deadline.
		return e.Kind != ErrUnavailable && (e.Kind != ErrThrottled || e.Status == 0)
	}
	return errors.Is(err, ErrAuth) || errors.Is(err, ErrProtocol) || errors.Is(err, ErrNoAccount)
}

// trimSentinel avoids an error line that says the same thing twice.
func trimSentinel(err, s error) error {
	if err == s {
		return nil
	}
	return err
}

// canceled is a failure that says nothing about the service: the caller gave up,
// or what it wanted to send could not be read.
type canceled struct {
	op  string
	err error
}

func (e *canceled) Error() string { return e.op + ": " + e.err.Error() }
func (e *canceled) Unwrap() error { return e.err }

// notSent reports whether the request cannot have reached the service.
func notSent(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	var dns *net.DNSError
	return errors.As(err, &dns) || errors.Is(err, errNotSent)
}

// errNotSent marks failures before anything was written: no token, no
// address of the account.
var errNotSent = errors.New("nothing was sent")

// held is a body that has been read whole and can be read again.
type held struct {
	*bytes.Reader
	data []byte
}

func (held) Close() error { return nil }

func hold(resp *http.Response, data []byte) {
	resp.Body = held{bytes.NewReader(data), data}
}

// peek reads the body of an error, at most maxErrorBody, and puts it back.
// An error while reading leaves what was there: the status says more.
func peek(resp *http.Response) []byte {
	if h, ok := resp.Body.(held); ok {
		return h.data
	}
	if resp.Body == nil {
		return nil
	}
	r, err := decoded(resp)
	var data []byte
	if err == nil {
		data, _ = io.ReadAll(io.LimitReader(r, maxErrorBody))
	}
	resp.Body.Close()
	hold(resp, data)
	resp.Header.Del("Content-Encoding")
	return data
}
