package drivetest

import (
	"io"
	"log/slog"
	"net"
	"time"
)

// Options configures a Server. The zero value is ready: a private directory
// that Close removes, no latency, no faults, and the document's behaviour
// wherever it names one.
type Options struct {
	// Dir keeps contents and records. It is created when missing and used by
	// one Server at a time. "" is a private temporary directory, not synced,
	// removed by Close.
	Dir string
	// Listen is the address of the listener, "" = 127.0.0.1:0. Beyond
	// loopback it needs TLSCert and TLSKey.
	Listen string
	// TLSCert and TLSKey are files in PEM, for https. "" = plain http.
	TLSCert, TLSKey string
	// Listener, when not nil, is used instead of one on Listen, for one in
	// memory; Endpoint names the host its Addr tells. Close closes it.
	Listener net.Listener
	// BaseURL is what the endpoint answer, tempLinks, redirects and the
	// addresses of Server begin with ("https://host"), for a drive behind a
	// proxy; "" = scheme and host of the request, or of the listener.
	BaseURL string
	// Clock is the service's clock: dates, token lives, lags. nil = time.Now.
	Clock func() time.Time
	// Latency is added to every request before its answer begins.
	Latency time.Duration
	// Rate bounds each content connection, in bytes a second; 0 = no bound.
	Rate int64
	// TokenLife of access tokens, 0 = 3600 s (§2.3).
	TokenLife time.Duration
	// Faults to begin with.
	Faults Faults
	// Logger gets one debug line a request; nil = discard.
	Logger *slog.Logger
	// Quota of the account in bytes, 0 = 5 TB.
	Quota int64
	// Owner is the friendly name of the app: createdBy of its nodes and owner
	// of its properties (§11). "" = "drivefs".
	Owner string
	// RedirectURIs registered in the security profile (§2.2). Empty = any
	// http URI on localhost or 127.0.0.1.
	RedirectURIs []string

	// KeepRefreshToken: answers to a refresh carry no new refresh token, the
	// old one goes on (§2.3: either was seen).
	KeepRefreshToken bool
	// NameFilterCaseSensitive makes name:"x" in filters heed case. The
	// document infers that it does not (§6.4).
	NameFilterCaseSensitive bool
	// LastParentOrphans: a node whose last parent is removed has none
	// afterwards. Otherwise it goes to the root (§5.7, in conflict).
	LastParentOrphans bool
	// PageTokenAge of a startToken, 0 = 10 minutes (§5.8).
	PageTokenAge time.Duration
	// HonourIfMatch says which calls answer 412 to a stale If-Match (§5.6).
	HonourIfMatch IfMatch
	// RedirectThreshold: downloads of files this large are answered with 302
	// to a signed address. 0 = 10 GiB (§7.4), negative = never.
	RedirectThreshold int64
	// TempLinkAge is how long a tempLink works, 0 = 48 h (§7.5: "a few days").
	TempLinkAge time.Duration
	// FeedLag: a change shows in the changes feed so much later (§9.3).
	FeedLag time.Duration
	// ListingLag: a change shows in listings so much later; a get by id is
	// always fresh (§13.1).
	ListingLag time.Duration
	// NameLimit in UTF-16 units, 0 = 280 (§5.5).
	NameLimit int
	// MaxUpload in bytes, 0 = 50,000 MiB (§5.8).
	MaxUpload int64
	// EarlyConflict: an upload that must fail (name taken, parent gone) is
	// refused before its body is read, not after (§7.1, unknown).
	EarlyConflict bool
	// PendingUploads: an upload shows as a PENDING node while its body
	// arrives (§5.3), and stays so for good when the body breaks off.
	PendingUploads bool
	// QuietDescendants: what is trashed or restored with its folder does not
	// appear in the feed, only the folder does (§9.3, unknown).
	QuietDescendants bool
	// TrashedContent404: contents of trashed nodes can neither be read nor
	// overwritten (§7.2, §7.4, unknown).
	TrashedContent404 bool
	// DropNewProperties: properties that come with a new node are taken, and
	// not kept; DropProperties: nor are those that are set later (§11, unknown).
	DropNewProperties, DropProperties bool
	// NoCreatedBy: nodes do not tell who made them (§5.1: "usual").
	NoCreatedBy bool
	// MediaDelay: images get their contentProperties.image so much after the
	// upload, with a new version (§5.2). 0 = never.
	MediaDelay time.Duration
}

// IfMatch says which calls heed the If-Match header.
type IfMatch int

// What an old tag meets with.
const (
	IfMatchAll    IfMatch = iota // 412 from PATCH and from overwrites
	IfMatchUpdate                // 412 from PATCH, overwrites ignore the header
	IfMatchNone                  // ignored everywhere
)

func (o Options) withDefaults() Options {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.TokenLife == 0 {
		o.TokenLife = time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))
	}
	if o.Quota == 0 {
		o.Quota = 5e12
	}
	if o.Owner == "" {
		o.Owner = "drivefs"
	}
	if o.PageTokenAge == 0 {
		o.PageTokenAge = 10 * time.Minute
	}
	if o.RedirectThreshold == 0 {
		o.RedirectThreshold = 10 << 30
	}
	if o.TempLinkAge == 0 {
		o.TempLinkAge = 48 * time.Hour
	}
	if o.NameLimit == 0 {
		o.NameLimit = 280
	}
	if o.MaxUpload == 0 {
		o.MaxUpload = 50_000 << 20
	}
	return o
}
