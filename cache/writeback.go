package cache

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/settle"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// openWriteBack makes what brings changes to the drive.
func (s *Store) openWriteBack() error {
	device, err := device(s.mirror)
	if err != nil {
		return err
	}
	s.settler = settle.New(s.tree, s.mirror, s.journal, s.remote, settle.Options{
		Notify: func(e settle.Event) { s.events.add(e.Kind, e.Path, e.Text) },
		Path:   s.paths.wanted,
		Changed: func(changes []mirror.Change) {
			s.props.keepOwner()
			s.intake.answered(changes)
		},
		Fetch: s.chunks.CopyRange, Uploaded: s.uploaded,
		Uploads: s.o.Uploads, UploadDelay: s.o.UploadDelay, Temporary: tree.Temporary,
		WaitPerGB: s.o.UploadWaitPerGB, MinWait: s.o.UploadWait,
		Look: 2 * s.o.Backoff, Backoff: s.o.Backoff, Device: device, Logger: s.log,
	})
	s.filler = newFiller(s.journal, s.settler, s.remote)
	return nil
}

// conflicted tells of a conflict that news from the drive brought about.
func (s *Store) conflicted(ino uint64, name string) {
	s.events.add("conflict", s.PathOf(ino), fmt.Sprintf("a file of that name was made on the drive meanwhile: both are kept; the local one is %q", name))
	s.log.Warn("conflict: both versions are kept", "local", name)
}

// rescued tells of a local change whose folder went from the drive.
func (s *Store) rescued(ino uint64) {
	s.events.add("edit", s.PathOf(ino), "its folder went from the drive; the folder is made again")
}

// adoptLimit bounds what is kept in memory of what was sent, where there is no
// disk tier that it fits in.
const adoptLimit = 4 << 20

// uploaded keeps what was sent to the drive as chunks.
func (s *Store) uploaded(ino uint64, n drive.Node, d *journal.Draft) {
	if n.Content == nil {
		return
	}
	v := chunk.Version{ID: n.ID, Content: n.Content.Version, Size: n.Content.Size, MD5: n.Content.MD5, Name: n.Name}
	if v.Size <= 0 || v.Size > s.o.Disk && v.Size > adoptLimit {
		return
	}
	// Of the generation that was sent, since a program may have closed another
	// meanwhile: its bytes must never get under this version's key.
	var gen uint64
	if e, ok := s.journal.Get(ino); ok && e.Sent != nil && e.Sent.MD5 != "" {
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
		s.chunks.Adopt(v, snap)
	}
}
