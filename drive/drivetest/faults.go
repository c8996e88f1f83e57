package drivetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path"
	"time"
)

// Faults is what goes wrong, as `serve --faults` and POST /admin/faults read
// it. Durations are written "1m30s". The zero value is a service without
// faults. Rules are tried in order; the first that fires decides.
type Faults struct {
	// Seed of the probabilities; the same seed and the same requests give the
	// same faults.
	Seed uint64 `json:"seed,omitempty"`
	// Rules for single requests.
	Rules []Rule `json:"rules,omitempty"`
	// Throttle answers 429 above a rate (§13.3).
	Throttle *Throttle `json:"throttle,omitempty"`
	// ListingLag and FeedLag override those of Options while greater than 0.
	ListingLag time.Duration `json:"-"`
	FeedLag    time.Duration `json:"-"`
	// NoAccount: discovery answers customerExists false (§4.1), all else 403.
	NoAccount bool `json:"no_account,omitempty"`
	// OverQuota: uploads and overwrites are refused with 403 (§3.3).
	OverQuota bool `json:"over_quota,omitempty"`
	// ExtraFields: every node carries members no client knows (§1.3).
	ExtraFields bool `json:"extra_fields,omitempty"`
	// Modes: other readings of the document, and delays.
	Modes
}

// Throttle is a token bucket over all calls with a token.
type Throttle struct {
	PerSecond float64 `json:"per_second"`
	Burst     int     `json:"burst,omitempty"` // 0 = 1
	// RetryAfter in seconds goes into the header; 0 = no header.
	RetryAfter int `json:"retry_after,omitempty"`
	// Body as in Fault; "" = "json".
	Body string `json:"body,omitempty"`
}

// Rule matches requests and says what happens to them. Empty fields match
// everything; patterns are those of path.Match ("content.*", "*.tmp").
type Rule struct {
	Op      string `json:"op,omitempty"`       // operation name
	Method  string `json:"method,omitempty"`   // HTTP method
	Name    string `json:"name,omitempty"`     // node's name, in requests that give one or whose id has one
	Node    string `json:"node,omitempty"`     // node id
	MinSize int64  `json:"min_size,omitempty"` // of the content (downloads) or the request's body (uploads; chunked ones have no size and match none)

	// Which of the matching requests, counted from 1 since the faults were
	// set: the Nth alone, or every Every-th; both 0 = each.
	Nth   int `json:"nth,omitempty"`
	Every int `json:"every,omitempty"`
	// Times the rule fires at most, 0 = no limit.
	Times int `json:"times,omitempty"`
	// Probability that it fires, 0 = always.
	Probability float64 `json:"probability,omitempty"`
	// PerNode: Nth, Every and Times count each node (or, in calls that name
	// none, each name) and operation by itself: {"op": "nodes.get", "per_node":
	// true, "times": 2, "fault": {"status": 404}} is a lag of two gets (§13.1).
	PerNode bool `json:"per_node,omitempty"`

	Fault Fault `json:"fault"`

	counts ruleCounts
	each   map[string]*ruleCounts // of PerNode
}

type ruleCounts struct{ seen, fired int }

func (r *Rule) countsFor(op *Op) *ruleCounts {
	if !r.PerNode {
		return &r.counts
	}
	key := op.Name + " " + op.NodeID
	if op.NodeID == "" {
		key += " " + op.Node
	}
	c := r.each[key]
	if c == nil {
		c = &ruleCounts{}
		r.each[key] = c
	}
	return c
}

// Kinds of fault: Fault.Do.
const (
	// any call
	DoStatus    = "status"      // Status with Body
	DoReset     = "reset"       // the connection is reset: uploads after At bytes, downloads and feeds after At bytes of the answer
	DoDelay     = "delay"       // Delay, nothing else
	DoExpired   = "expired"     // 401 "Token has expired"
	DoEmpty401  = "empty401"    // 401 without body
	DoWrapped   = "wrapped401"  // 400 that wraps a 401, as the content host did (§2.4)
	DoSporadic  = "sporadic403" // 403 "Authorization header requires …"
	DoConflict  = "conflict"    // 409 NAME_ALREADY_EXISTS naming the node there is, if any
	DoSilent    = "silent"      // no answer comes for Stall, 0 = until the client leaves; then the connection is reset
	DoOverQuota = "quota"       // 403 NO_ACTIVE_SUBSCRIPTION_FOUND
	// DoSpoil: the call is done and answered as it should be, with the right
	// status, but the body is not to be read (§13.6): Body "" breaks off in
	// its middle with the connection, "half" ends there without a word; or it
	// is another one ("empty", "html" …). With a Status only answers of that
	// status are spoiled and counted: the 409 to a repeat, the 201 of a create.
	DoSpoil = "spoil"
	// content.upload, content.overwrite
	DoExpireMid = "expire-mid" // all access tokens expire while the body arrives: 401 at its end
	// any answer with a body; stall also for uploads
	DoStall = "stall" // after At bytes nothing comes, or is read, for Stall, 0 = until the client leaves
	DoShort = "short" // the connection closes after At bytes
	// content.download, content.templink
	DoRedirect   = "redirect"    // 302 whatever the size
	DoRange      = "416"         // 416 whatever the range
	DoWholeFile  = "ignorerange" // 200 with the whole file although a range was asked for
	DoOtherBytes = "garbage"     // right length, wrong bytes
	// nodes.list, nodes.children, trash.list
	DoMissing   = "missing"   // the page lacks its last At nodes (0 = 1), or those whose name matches Names; count does not
	DoDuplicate = "duplicate" // the page begins with the last node of the page before, or its own
	DoPageToken = "pagetoken" // 400 "Next token is expired"
	DoStale     = "stale"     // the page is as it was Stall ago (0 = 10 s); needs lag to be kept, see Faults.ListingLag
	// changes; At counts chunks that come before (0 = none)
	DoCut         = "cut"         // the stream ends, well formed, without its end line
	DoBadTail     = "badtail"     // the stream ends in the middle of a JSON object
	DoFeedReset   = "feedreset"   // reset:true and everything from the start
	DoChunkStatus = "chunkstatus" // a chunk with statusCode Status (0 = 500)
	DoRepeat      = "repeat"      // old nodes are told once more
	DoDisorder    = "disorder"    // this answer comes newest first, children before parents; see Modes.FeedOrder
	DoCheckpoint  = "checkpoint"  // 400 to any checkpoint; without one the stream is cut after At chunks
	DoEndless     = "endless"     // a chunk does not end: the root is told in it until the client leaves
	DoEndOnly     = "endonly"     // nothing but the end line
)

// What a request does although its answer is a fault: Fault.Effect.
const (
	EffectNone      = ""          // nothing (an upload's body is read up to At, 0 = to its end, negative = not at all)
	EffectDone      = "done"      // everything, before the fault is answered
	EffectLate      = "late"      // uploads: the file appears After later
	EffectTruncated = "truncated" // uploads: cut to At bytes (0 = half) it appears After later
	EffectPending   = "pending"   // uploads: a PENDING node stays behind
)

// Fault is what happens to one request.
type Fault struct {
	Do     string        `json:"do,omitempty"`     // "" = "status" when Status is set, else "delay"
	Status int           `json:"status,omitempty"` // HTTP status
	Body   string        `json:"body,omitempty"`   // "json" (default), "braces" ({}), "empty", "html", "xml", or any text
	Code   string        `json:"code,omitempty"`   // code in a JSON body
	Msg    string        `json:"message,omitempty"`
	Effect string        `json:"effect,omitempty"`
	At     int64         `json:"at,omitempty"`    // bytes, nodes or chunks, see the kinds
	Names  string        `json:"names,omitempty"` // pattern of names, see DoMissing
	Delay  time.Duration `json:"-"`               // before anything else
	After  time.Duration `json:"-"`               // until a late file appears; negative = only when Server.Settle is called
	Stall  time.Duration `json:"-"`
	// RetryAfter in seconds goes into the header; 0 = no header.
	RetryAfter int `json:"retry_after,omitempty"`
}

// duration reads and writes "1m30s".
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = duration(v)
	return err
}

type plainFault Fault

type faultJSON struct {
	*plainFault
	Delay duration `json:"delay,omitempty"`
	After duration `json:"after,omitempty"`
	Stall duration `json:"stall,omitempty"`
}

// MarshalJSON writes durations as text.
func (f Fault) MarshalJSON() ([]byte, error) {
	return json.Marshal(faultJSON{(*plainFault)(&f), duration(f.Delay), duration(f.After), duration(f.Stall)})
}

// UnmarshalJSON refuses members it does not know and kinds there are not.
func (f *Fault) UnmarshalJSON(b []byte) error {
	v := faultJSON{plainFault: (*plainFault)(f)}
	if err := strict(b, &v); err != nil {
		return err
	}
	f.Delay, f.After, f.Stall = time.Duration(v.Delay), time.Duration(v.After), time.Duration(v.Stall)
	return f.validate()
}

type plainFaults Faults

type faultsJSON struct {
	*plainFaults
	modesJSON
	ListingLag duration `json:"listing_lag,omitempty"`
	FeedLag    duration `json:"feed_lag,omitempty"`
}

// MarshalJSON writes durations as text.
func (f Faults) MarshalJSON() ([]byte, error) {
	return json.Marshal(faultsJSON{(*plainFaults)(&f), f.toJSON(), duration(f.ListingLag), duration(f.FeedLag)})
}

// UnmarshalJSON refuses members it does not know.
func (f *Faults) UnmarshalJSON(b []byte) error {
	v := faultsJSON{plainFaults: (*plainFaults)(f)}
	if err := strict(b, &v); err != nil {
		return err
	}
	f.fromJSON(v.modesJSON)
	f.ListingLag, f.FeedLag = time.Duration(v.ListingLag), time.Duration(v.FeedLag)
	return f.validate()
}

func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

var faultKinds = map[string]bool{
	"": true, DoStatus: true, DoReset: true, DoDelay: true, DoExpired: true, DoEmpty401: true, DoWrapped: true, DoSporadic: true,
	DoConflict: true, DoSilent: true, DoOverQuota: true, DoExpireMid: true, DoStall: true, DoShort: true, DoRedirect: true, DoRange: true, DoWholeFile: true,
	DoOtherBytes: true, DoMissing: true, DoDuplicate: true, DoPageToken: true, DoStale: true, DoCut: true, DoBadTail: true,
	DoFeedReset: true, DoChunkStatus: true, DoRepeat: true, DoDisorder: true, DoEndOnly: true, DoCheckpoint: true, DoSpoil: true, DoEndless: true,
}

func (f *Fault) validate() error {
	switch {
	case !faultKinds[f.Do]:
		return fmt.Errorf("fault: unknown do %q", f.Do)
	case (f.Do == DoStatus) && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("fault: status %d is not an HTTP status", f.Status)
	}
	switch f.Effect {
	case EffectNone, EffectDone, EffectLate, EffectTruncated, EffectPending:
		return nil
	}
	return fmt.Errorf("fault: unknown effect %q", f.Effect)
}

func (f *Faults) validate() error {
	if err := f.Modes.validate(); err != nil {
		return err
	}
	for i := range f.Rules {
		r := &f.Rules[i]
		for _, p := range []string{r.Op, r.Name, r.Node, r.Fault.Names} {
			if _, err := path.Match(p, ""); err != nil {
				return fmt.Errorf("rule %d: pattern %q: %w", i, p, err)
			}
		}
		if err := r.Fault.validate(); err != nil {
			return fmt.Errorf("rule %d: %w", i, err)
		}
	}
	if f.Throttle != nil && f.Throttle.PerSecond <= 0 {
		return fmt.Errorf("throttle: per_second must be positive")
	}
	return nil
}

// ParseFaults reads what --faults takes: the JSON of Faults.
func ParseFaults(b []byte) (Faults, error) {
	var f Faults
	if err := json.Unmarshal(b, &f); err != nil {
		return Faults{}, fmt.Errorf("faults: %w", err)
	}
	return f, nil
}

// Op is a request as the fault hook sees it, before it does anything.
type Op struct {
	Name   string // "nodes.list", "content.upload" …
	Method string
	Path   string
	NodeID string // "" where the request names no node
	Node   string // the node's name: as given in the body, else the present one of NodeID
	Size   int64  // of the content, or of the request's body for uploads (-1 = chunked)
	Token  string // access token of the request
	N      int    // how many requests of this operation there were, this one included

	answer int // status, once there is one
}

func (r *Rule) matches(op *Op) bool {
	if spoils := r.Fault.Do == DoSpoil; spoils != (op.answer != 0) || spoils && r.Fault.Status != 0 && r.Fault.Status != op.answer {
		return false
	}
	return match(r.Op, op.Name) && match(r.Method, op.Method) && match(r.Name, op.Node) && match(r.Node, op.NodeID) &&
		(r.MinSize == 0 || op.Size >= r.MinSize)
}

func match(pattern, s string) bool {
	if pattern == "" || pattern == s {
		return true
	}
	ok, _ := path.Match(pattern, s) // validated
	return ok
}

// injector holds the faults in force; guarded by Server.mu.
type injector struct {
	f    Faults
	rng  *rand.Rand
	hook func(Op) *Fault

	tokens float64 // of the throttle's bucket
	filled time.Time
}

func (in *injector) set(f Faults, now time.Time) {
	f.Rules = append([]Rule(nil), f.Rules...)
	for i := range f.Rules {
		f.Rules[i].counts, f.Rules[i].each = ruleCounts{}, map[string]*ruleCounts{}
	}
	in.f, in.rng = f, rand.New(rand.NewPCG(f.Seed, 0x9e3779b97f4a7c15))
	in.filled = now
	if t := f.Throttle; t != nil {
		in.tokens = float64(max(t.Burst, 1))
	}
}

// pick asks the rules; the hook was asked before.
func (in *injector) pick(op *Op) *Fault {
	for i := range in.f.Rules {
		r := &in.f.Rules[i]
		if !r.matches(op) {
			continue
		}
		n := r.countsFor(op)
		n.seen++
		if r.Nth != 0 && n.seen != r.Nth || r.Every != 0 && n.seen%r.Every != 0 || r.Times != 0 && n.fired >= r.Times {
			continue
		}
		if r.Probability != 0 && in.rng.Float64() >= r.Probability {
			continue
		}
		n.fired++
		f := r.Fault
		return &f
	}
	return nil
}

// throttled takes a token from the bucket, or says that there is none.
func (in *injector) throttled(now time.Time) *Throttle {
	t := in.f.Throttle
	if t == nil {
		return nil
	}
	in.tokens = min(float64(max(t.Burst, 1)), in.tokens+now.Sub(in.filled).Seconds()*t.PerSecond)
	in.filled = now
	if in.tokens < 1 {
		return t
	}
	in.tokens--
	return nil
}
