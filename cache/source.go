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
	mirror   *mirror.Mirror
	tree     *tree.Tree
	remote   *drive.Client
	intake   *intake
	paths    *paths
	events   *events
	tempLink int64 // bytes; larger files are read by tempLink, 0 = never
	log      *slog.Logger
	links    linkCache
}

var _ chunk.Source = (*source)(nil)

// linkCache keeps the tempLinks of large files while they live: fetching one
// costs a call, and it lives for days (API §7.5).
type linkCache struct {
	mu sync.Mutex
	m  recent.Map[string, tempLink]
}

type tempLink struct {
	url string
	at  time.Time
}

// linkLife is well below the few days a tempLink was seen to live.
const linkLife = 6 * time.Hour

const mostLinks = 4096

func (l *linkCache) get(id string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.m.Get(id)
	if ok && time.Since(t.at) > linkLife {
		l.m.Delete(id)
		return "", false
	}
	return t.url, ok
}

func (l *linkCache) put(id, url string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m.Max = mostLinks
	l.m.Put(id, tempLink{url, time.Now()})
}

func (l *linkCache) drop(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m.Delete(id)
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
	if x.tempLink <= 0 || v.Size < x.tempLink {
		return x.remote.Download(ctx, v.ID, from, to)
	}
	url, cached := x.links.get(v.ID)
	for {
		if !cached {
			var err error
			if url, err = x.remote.TempLink(ctx, v.ID); err != nil {
				return nil, err
			}
			x.links.put(v.ID, url)
		}
		d, err := x.remote.DownloadLink(ctx, url, from, to)
		if err == nil || !cached || !errors.Is(err, drive.ErrForbidden) && !errors.Is(err, drive.ErrNotFound) && !errors.Is(err, drive.ErrAuth) {
			return d, err
		}
		// The link has died; a new one may live.
		x.links.drop(v.ID)
		cached = false
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
