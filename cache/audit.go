package cache

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/drive"
)

const (
	auditEvery = 15 * time.Minute // between two folders, on average
	// auditMax is how many children a folder may have, or its listing would be
	// more than 25 pages (API §6.2). Larger ones are left to the refresh.
	auditMax = 5000
	// auditScan bounds the search for the next folder, in nodes.
	auditScan = 20_000

	metaAudit = "audit" // inode of the folder looked at last
)

// auditor compares a few folders an hour with the drive and mends what differs:
// the feed is believed, but not blindly. It goes round all folders in the order of
// their inodes, over restarts. The whole account is refreshed by the poller, see
// Feed.Refreshed.
type auditor struct {
	mirror  *mirror.Mirror
	remote  *drive.Client
	checker func(repair bool, say func(string)) *checker
	events  *events
	log     *slog.Logger
}

// run audits until ctx ends.
func (a *auditor) run(ctx context.Context) {
	t := time.NewTimer(auditEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if a.mirror.Complete() && a.remote.State().Kind == drive.Online {
			a.next(ctx)
		}
		t.Reset(auditEvery/2 + rand.N(auditEvery))
	}
}

// next compares one folder.
func (a *auditor) next(ctx context.Context) {
	after, _ := strconv.ParseUint(a.mirror.Meta(metaAudit), 10, 64)
	dir, at, err := a.find(after)
	if err == nil && dir == 0 && at == 0 && after != 0 {
		dir, at, err = a.find(0) // around
	}
	if err == nil {
		err = a.mirror.SetMeta(metaAudit, strconv.FormatUint(at, 10))
	}
	if err == nil && dir != 0 {
		c := a.checker(true, func(what string) {
			a.log.Warn("the mirror differed from the drive and was mended", "what", what)
			a.events.add("mirror", "", what+"; mended")
		})
		err = c.folder(drive.WithPriority(ctx, drive.Background), dir)
	}
	if err != nil && ctx.Err() == nil {
		a.log.Info("comparing a folder with the drive", "inode", dir, "err", err)
	}
}

// find finds the next folder behind after that is shown and not too large.
// dir 0: there was none up to at, where the next search begins; at 0: nor is
// there any behind it.
func (a *auditor) find(after uint64) (dir, at uint64, err error) {
	at = after
	for scanned := 0; scanned < auditScan; {
		dir, next, n, err := a.mirror.NextFolder(at, auditScan-scanned)
		if err != nil || n == 0 {
			return 0, 0, err
		}
		scanned += n
		at = next
		if dir == 0 {
			continue
		}
		children := 0
		err = a.mirror.List(dir, 0, auditMax+1, func(*mirror.Record) bool {
			children++
			return true
		})
		if err != nil {
			return 0, 0, err
		}
		scanned += children
		if children <= auditMax && a.mirror.Reachable(dir) {
			return dir, at, nil
		}
	}
	return 0, at, nil
}
