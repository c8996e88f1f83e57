package drive

import (
	"errors"
	"fmt"
	"time"
)

// Errors of any call. Compare with errors.Is; the *Error underneath carries
// status, code and request id (errors.As).
var (
	// ErrAuth: the token is missing or the refresh was refused
	// (invalid_grant and the like); only a new login helps. A sporadic 401
	// or 403 never becomes this one. API document §2.3, §13.6.
	ErrAuth = errors.New("a login is needed")
	// ErrForbidden: the service refuses this operation to this app (403).
	ErrForbidden = errors.New("not permitted by the drive")
	// ErrNotFound: no such node (404).
	ErrNotFound = errors.New("no such node on the drive")
	// ErrThrottled: still 429 after all tries the context allowed.
	ErrThrottled = errors.New("the drive is throttling")
	// ErrUnavailable: still 5xx or no connection after all tries the
	// context allowed. Nothing is known about the effect of a write.
	ErrUnavailable = errors.New("the drive cannot be reached")
	// ErrProtocol: the answer is not this API (HTML, cut JSON, no endpoint).
	ErrProtocol = errors.New("the answer is not of the Amazon Drive API")
	// ErrInvalid: 400, the request itself is wrong and will stay wrong.
	ErrInvalid = errors.New("refused by the drive as invalid")
)

// Errors of starting up.
var (
	// ErrNoAccount: discovery answered customerExists false. §4.1.
	ErrNoAccount = errors.New("no Amazon Drive account (terms of use not accepted?)")
)

// Errors of writing.
var (
	// ErrNameExists: 409 NAME_ALREADY_EXISTS; Error.NodeID is the node in the way.
	ErrNameExists = errors.New("the name is taken on the drive")
	// ErrDuplicate: 409 MD5_DUPLICATE; Error.NodeID may be set.
	ErrDuplicate = errors.New("the same content is on the drive already")
	// ErrConflict: any other 409.
	ErrConflict = errors.New("conflict on the drive")
	// ErrPrecondition: 412, the node has another eTagResponse now. §5.6.
	ErrPrecondition = errors.New("the node changed on the drive")
	// ErrQuota: 403 NO_ACTIVE_SUBSCRIPTION_FOUND. §3.3.
	ErrQuota = errors.New("the drive is full")
	// ErrNameTooLong: 400 about the length of 'name'. §5.5.
	ErrNameTooLong = errors.New("the name is too long for the drive")
	// ErrBadParent: 400, the parent is unknown or in the trash. §3.3.
	ErrBadParent = errors.New("the parent folder is gone from the drive")
	// ErrAmbiguous: a write whose outcome is unknown: the whole body was
	// sent and the answer was 408, 5xx, "Cannot complete upload", or none.
	// The caller settles it by looking. §13.2.
	ErrAmbiguous = errors.New("the outcome of the write is unknown")
)

// Errors of reading.
var (
	// ErrRange: 416, the range starts at or after the end. §7.4.
	ErrRange = errors.New("range beyond the end")
	// ErrChanged: the bytes asked for belong to a version the service no
	// longer has.
	ErrChanged = errors.New("the content changed on the drive")
)

// Errors of listings and of the feed.
var (
	// ErrTokenExpired: 400 "Next token is expired": restart the listing. §6.2.
	ErrTokenExpired = errors.New("the page token expired")
	// ErrCut: a changes stream without its end line, or with a statusCode
	// other than 200: what came before is good, continue from the last
	// checkpoint. §9.3.
	ErrCut = errors.New("the changes stream was cut")
	// ErrCheckpoint: the service does not accept the checkpoint (400). §9.3.
	ErrCheckpoint = errors.New("the checkpoint is not accepted")
)

// Error is what the service answered to one call, classified. It unwraps to
// one of the sentinels above, and to the transport's error where there was
// no answer.
type Error struct {
	Op         string        // "nodes.get", "content.upload" …, as in Counters
	Kind       error         // the sentinel
	Status     int           // HTTP status, 0 when there was no answer
	Code       string        // the body's code, "" when it had none
	Message    string        // the body's message, cut to 500 bytes, tokens removed
	RequestID  string        // x-amzn-RequestId
	NodeID     string        // info.nodeId of a 409
	RetryAfter time.Duration // the header's, 0 when there was none
	Unclear    bool          // of CreateFolder: this call, or an earlier try of it, may have made the folder
	Err        error         // transport error, nil when there was an answer
}

// Error is one line: operation, what happened, status, code and request id.
func (e *Error) Error() string {
	s := e.Op + ": " + e.Kind.Error()
	if e.Status != 0 {
		s += fmt.Sprintf(" (HTTP %d", e.Status)
		if e.Code != "" {
			s += " " + e.Code
		}
		s += ")"
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.RequestID != "" {
		s += " [request " + e.RequestID + "]"
	}
	return s
}

// Unwrap gives the sentinel and, where there is one, the transport's error.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Kind, e.Err}
	}
	return []error{e.Kind}
}
