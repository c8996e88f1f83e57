package chunk

import (
	"context"
	"io"
	"log/slog"
	"time"
)

// Version names the bytes of one content version of one node. Everything
// cached is keyed by ID and Content; the other fields describe those bytes
// and must be the same whenever the same version is named.
type Version struct {
	ID      string // the node's id
	Content int64  // contentProperties.version, API §5.2
	Size    int64  // bytes
	MD5     string // lower-case hex of the whole content, "" unknown
	Name    string // tells media from other files; no part of the key, may change
}

// Source is where missing bytes come from. Its methods are called from many
// goroutines at once. The context carries the priority (drive.WithPriority).
type Source interface {
	// Fetch opens the bytes [from, to) of v, 0 <= from < to <= v.Size. ctx
	// covers the body too: when it ends, a Read of the body returns. Errors
	// are drive.ErrChanged when the service no longer has this version, and
	// the other sentinels of package drive.
	Fetch(ctx context.Context, v Version, from, to int64) (*Stream, error)
	// Confirm asks the service whether v is the node's content now: nil,
	// drive.ErrChanged, or another sentinel of package drive.
	Confirm(ctx context.Context, v Version) error
}

// Stream is the answer to one Fetch.
type Stream struct {
	io.ReadCloser
	From, To int64  // what is coming; From must be what was asked for
	Total    int64  // size of the whole content, negative when unknown
	ETag     string // of the content, opaque; "" unknown
}

// Options configures Open. Source is required; every other zero is usable.
type Options struct {
	// Memory bounds the buffers in bytes: what ristretto keeps, the windows
	// of the handles and what is arriving. 0 = 512 MiB; less than 8 MiB is
	// taken as 8 MiB.
	Memory int64
	// Dir is the directory of the disk tier, Disk its bound in bytes. Either
	// being zero means no disk tier. The directory may be deleted any time.
	Dir  string
	Disk int64
	// Source gives what is in no tier.
	Source Source
	// Downloads is the most connections at once, 0 = 16. The last of several is
	// for reads that somebody waits for.
	Downloads int
	// ReadTimeout is how long a read waits without a byte arriving before it
	// fails with drive.ErrUnavailable. 0 = 15 s.
	ReadTimeout time.Duration
	// Wrong is told, from any goroutine, of a small content whose bytes are not those of its MD5:
	// they are fetched anew, or again that they were no better then and are given
	// out as they came. Nil is nobody.
	Wrong func(v Version, again bool)
	// Offline tells since when the service answers nobody, zero when it does, as
	// far as others know; it must not wait. Network tells places apart: its answer
	// changes when this machine was asleep or came into another network. Nil
	// means that nobody knows.
	Offline func() time.Time
	Network func() uint64
	// Logger is told when the disk tier goes off or on. Nil discards.
	Logger *slog.Logger
}

// Stats is a snapshot of the counters. Hits and Misses count reads: a hit
// found every byte in memory or on disk, a miss had to wait for the network.
type Stats struct {
	MemoryBytes int64 // buffers in use
	DiskBytes   int64 // taken by the disk tier
	Hits        int64
	Misses      int64
	Downloaded  int64 // bytes the Source delivered
	Served      int64 // bytes handed to readers
	Streams     []StreamStat
}

// StreamStat is one sequential stream of an open Reader that was read lately.
type StreamStat struct {
	Name   string
	Off    int64 // where it is
	Window int64 // bytes it may read ahead
	Rate   int64 // bytes a second it is read with
}
