package cache

import (
	"crypto/md5"
	"encoding/hex"
	"io"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/writeback"
	"github.com/drivefs/drivefs/drive"
)

// openWriteBack makes what brings changes to the drive.
func (s *Store) openWriteBack() error {
	device, err := device(s.mirror)
	if err != nil {
		return err
	}
	s.writeBack = writeback.New(s.tree, s.mirror, s.journal, s.remote, writeback.Options{
		Notify: func(e writeback.Event) { s.events.add(e.Kind, e.Path, e.Text) },
		Path:   s.paths.wanted,
		Changed: func(changes []mirror.Change) {
			s.props.keepOwner()
			s.intake.answered(changes)
		},
		Fetch: s.chunks.CopyRange,
		Uploaded: func(ino uint64, n drive.Node, d *journal.Draft) {
			adopt(s.chunks, max(s.o.Disk, adoptLimit), s.journal, ino, n, d)
		},
		Uploads: s.o.Uploads, UploadDelay: s.o.UploadDelay,
		WaitPerGB: s.o.UploadWaitPerGB, MinWait: s.o.UploadWait,
		Look: 2 * s.o.Backoff, Backoff: s.o.Backoff, Device: device, Logger: s.log,
	})
	s.filler = newFiller(s.journal, s.writeBack, s.remote)
	return nil
}

// adoptLimit bounds what is kept in memory of what was sent, where there is no
// disk tier that it fits in.
const adoptLimit = 4 << 20

// adopt keeps what was sent to the drive of ino as chunks, up to limit bytes: d,
// which n is now.
func adopt(c *chunk.Cache, limit int64, j *journal.Journal, ino uint64, n drive.Node, d *journal.Draft) {
	if n.Content == nil {
		return
	}
	v := chunk.Version{ID: n.ID, Content: n.Content.Version, Size: n.Content.Size, MD5: n.Content.MD5, Name: n.Name}
	if v.Size <= 0 || v.Size > limit {
		return
	}
	// Of the generation that was sent, since a program may have closed another
	// meanwhile: its bytes must never get under this version's key.
	var gen uint64
	if e, ok := j.Get(ino); ok && e.Sent != nil && e.Sent.MD5 != "" {
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
	// Was it sent before a crash, a program may have changed it in place since
	// without a trace.
	sum := md5.New()
	if _, err := io.Copy(sum, snap); err == nil && hex.EncodeToString(sum.Sum(nil)) == v.MD5 {
		c.Adopt(v, snap)
	}
}
