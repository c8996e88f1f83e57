package cache

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"io"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// The part of host that is about bytes: making a draft whole before it is
// sent, and what becomes of it after.

func (h host) Complete(ctx context.Context, ino uint64, d *journal.Draft) error {
	return h.s.filler.fill(drive.WithPriority(ctx, drive.Uploading), ino, d)
}

// nearby is how many bytes cost less than another request for those behind
// them.
const nearby = 1 << 20

// together joins ranges with little between them. Fill leaves out what is
// local.
func together(xs []journal.Extent) []journal.Extent {
	var out []journal.Extent
	for _, x := range xs {
		if last := len(out) - 1; last >= 0 && x.Off-out[last].End <= nearby {
			out[last].End = x.End
			continue
		}
		out = append(out, x)
	}
	return out
}

// adoptLimit bounds what is kept in memory of what was sent, where there is no
// disk tier that it fits in.
const adoptLimit = 4 << 20

func (h host) Uploaded(ino uint64, n drive.Node, d *journal.Draft) {
	if n.Content == nil {
		return
	}
	v := chunk.Version{ID: n.ID, Content: n.Content.Version, Size: n.Content.Size, MD5: n.Content.MD5, Name: n.Name}
	if v.Size <= 0 || v.Size > h.s.o.Disk && v.Size > adoptLimit {
		return
	}
	// Of the generation that was sent, since a program may have closed another
	// meanwhile: its bytes must never get under this version's key.
	var gen uint64
	if e, ok := h.s.journal.Get(ino); ok && e.Sent != nil && e.Sent.MD5 != "" {
		gen = e.Sent.Gen
	}
	snap, err := d.Snapshot(gen)
	if err != nil {
		return
	}
	defer snap.Close()
	if snap.Size() != v.Size {
		return
	}
	// Was it sent before a crash, a program may have changed it in place since,
	// and nobody remembers that.
	sum := md5.New()
	if _, err := io.Copy(sum, snap); err == nil && hex.EncodeToString(sum.Sum(nil)) == v.MD5 {
		h.s.chunks.Adopt(v, snap)
	}
}
