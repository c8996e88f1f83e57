package cache

import (
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/drive"
)

// The audit compares a few folders an hour with the drive and mends what
// differs: the feed is believed, but not blindly. It goes round all folders in
// the order of their inodes, over restarts. The whole account is refreshed by
// the poller, see Refreshed.
const (
	auditEvery = 15 * time.Minute // between two folders, on average
	// auditMax is how many children a folder may have, or its listing would be
	// more than 25 pages (API §6.2). Larger ones are left to the refresh.
	auditMax = 5000
	// auditScan bounds the search for the next folder, in nodes.
	auditScan = 20_000

	metaAudit = "audit" // inode of the folder looked at last
)

// audit runs until ctx ends.
func (s *Store) audit(ctx context.Context) {
	t := time.NewTimer(auditEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if s.mirror.Complete() && s.remote.State().Kind == drive.Online {
			s.auditNext(ctx)
		}
		t.Reset(auditEvery/2 + rand.N(auditEvery))
	}
}

// auditNext compares one folder.
func (s *Store) auditNext(ctx context.Context) {
	after, _ := strconv.ParseUint(s.mirror.Meta(metaAudit), 10, 64)
	dir, at, err := s.auditFind(after)
	if err == nil && dir == 0 && at == 0 && after != 0 {
		dir, at, err = s.auditFind(0) // around
	}
	if err == nil {
		err = s.mirror.SetMeta(metaAudit, strconv.FormatUint(at, 10))
	}
	if err == nil && dir != 0 {
		c := checker{s: s, repair: true, below: func(uint64) {}, say: func(what string) {
			s.log.Warn("the mirror differed from the drive and was mended", "what", what)
			s.events.add("mirror", "", what+"; mended")
		}}
		err = c.folder(drive.WithPriority(ctx, drive.Background), dir)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Info("comparing a folder with the drive", "inode", dir, "err", err)
	}
}

// auditFind finds the next folder behind after that is shown and not too large.
// dir 0: there was none up to at, where the next search begins; at 0: nor is
// there any behind it.
func (s *Store) auditFind(after uint64) (dir, at uint64, err error) {
	at = after
	for scanned := 0; scanned < auditScan; {
		dir, next, n, err := s.mirror.NextFolder(at, auditScan-scanned)
		if err != nil || n == 0 {
			return 0, 0, err
		}
		scanned += n
		at = next
		if dir == 0 {
			continue
		}
		children := 0
		err = s.mirror.List(dir, 0, auditMax+1, func(*mirror.Record) bool {
			children++
			return true
		})
		if err != nil {
			return 0, 0, err
		}
		scanned += children
		if children <= auditMax && s.mirror.Reachable(dir) {
			return dir, at, nil
		}
	}
	return 0, at, nil
}
