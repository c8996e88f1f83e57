package cache

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/recent"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// source gives the chunk cache the drive's bytes, by whichever way they are to be
// had.
type source struct {
	mirror *mirror.Mirror
	tree   *tree.Tree
	remote *drive.Client
	intake *intake
	paths  *paths
	events *events
	large  int64 // bytes; larger files are read by tempLink, 0 = never
	log    *slog.Logger

	mu    sync.Mutex
	links recent.Map[string, tempLink] // by node; guarded by mu
}

var _ chunk.Source = (*source)(nil)

// tempLink is one that was fetched: that costs a call, and it lives for days
// (API §7.5).
type tempLink struct {
	url string
	at  time.Time
}

const (
	linkLife  = 6 * time.Hour // well below the few days a tempLink was seen to live
	mostLinks = 4096
)

// link is the tempLink of a node that is known to live, "" = none.
func (x *source) link(id string) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t, ok := x.links.Get(id); ok && time.Since(t.at) <= linkLife {
		return t.url
	}
	return ""
}

// keepLink notes the tempLink of a node, "" = it has died.
func (x *source) keepLink(id, url string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.links.Delete(id)
	if url != "" {
		x.links.Put(id, tempLink{url, time.Now()})
	}
}

// Fetch opens [from, to) of v, through its tempLink when it is large.
//
// The service gives the bytes it has now, under whatever version they are
// asked for: when the mirror knows that they are another version's, they are
// not asked for.
func (x *source) Fetch(ctx context.Context, v chunk.Version, from, to int64) (*chunk.Stream, error) {
	if x.superseded(v) {
		return nil, drive.ErrChanged
	}
	d, err := x.fetch(ctx, v, from, to)
	if err == nil && x.superseded(v) {
		d.Close()
		return nil, drive.ErrChanged
	}
	if err != nil {
		return nil, err
	}
	return &chunk.Stream{ReadCloser: d, From: d.From, To: d.To, Total: d.Total, ETag: d.ETag}, nil
}

// wrong says that bytes of the drive are not those of their MD5.
func (x *source) wrong(v chunk.Version, again bool) {
	text := "the drive sent other bytes than those of the file's MD5; they are fetched anew"
	if again {
		text = "the drive sent other bytes than those of the file's MD5 again; they are shown as they came"
	}
	path := v.Name
	var ino uint64
	var err error
	if x.tree.Read(func(t tree.View) { ino, err = t.InoOf(v.ID) }); err == nil && ino != 0 {
		path = x.paths.of(ino)
	}
	x.log.Warn(text, "node", v.ID, "path", path)
	x.events.add("content", path, text)
}

// superseded tells whether the mirror knows another content of v's node.
func (x *source) superseded(v chunk.Version) bool {
	r, ok, err := x.mirror.ByID(v.ID)
	return err == nil && ok && (r.Content != v.Content || r.Size != v.Size)
}

func (x *source) fetch(ctx context.Context, v chunk.Version, from, to int64) (*drive.Download, error) {
	if x.large <= 0 || v.Size < x.large {
		return x.remote.Download(ctx, v.ID, from, to)
	}
	url := x.link(v.ID)
	for cached := url != ""; ; cached = false {
		if !cached {
			var err error
			if url, err = x.remote.TempLink(ctx, v.ID); err != nil {
				return nil, err
			}
			x.keepLink(v.ID, url)
		}
		d, err := x.remote.DownloadLink(ctx, url, from, to)
		if err == nil || !cached || !errors.Is(err, drive.ErrForbidden) && !errors.Is(err, drive.ErrNotFound) && !errors.Is(err, drive.ErrAuth) {
			return d, err
		}
		x.keepLink(v.ID, "") // it has died; a new one may live
	}
}

// Confirm asks the drive whether v is what the node holds now. What it learns
// goes into the mirror.
func (x *source) Confirm(ctx context.Context, v chunk.Version) error {
	n, err := x.remote.Get(ctx, v.ID)
	if errors.Is(err, drive.ErrNotFound) {
		return errors.Join(drive.ErrChanged, err)
	}
	if err != nil {
		return err
	}
	if n.Content != nil && n.Content.Version == v.Content && (v.MD5 == "" || n.Content.MD5 == v.MD5) {
		return nil
	}
	if err := x.intake.node(n); err != nil {
		x.log.Warn("noting a change that a read met", "node", v.ID, "err", err)
	}
	return drive.ErrChanged
}
