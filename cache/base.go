package cache

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/writeback"
	"github.com/drivefs/drivefs/drive"
)

const (
	// fillDelay leaves time to a program that rewrites all of a file.
	fillDelay = time.Second
	// fillMax is the largest base, in bytes, that is fetched ahead of the
	// upload: disks of laptops have room for it.
	fillMax = 1 << 30
	// fillPieces is the most gaps that are filled ahead of the upload: more are a
	// program's that writes all over the file.
	fillPieces = 4096
	// fillRetry is the pause after a try that failed.
	fillRetry = 5 * time.Second
)

// filler fetches the bases of edits. A file of which a part was changed here
// needs the rest from the version that the edit began from, its base, and the
// service gives that only until the file is replaced. So it is fetched soon after
// the first write, not when the upload begins. Where it is lost all the same,
// zeros take its place neither on the drive nor here.
type filler struct {
	journal   *journal.Journal
	writeBack *writeback.WriteBack
	remote    *drive.Client

	mu     sync.Mutex
	inos   map[uint64]time.Time // whose base is to be fetched → not before; guarded by mu
	signal chan struct{}        // one slot
}

func newFiller(j *journal.Journal, s *writeback.WriteBack, remote *drive.Client) *filler {
	return &filler{journal: j, writeBack: s, remote: remote, inos: map[uint64]time.Time{}, signal: make(chan struct{}, 1)}
}

// add asks for the base of ino, after a pause. It does not block.
func (f *filler) add(ino uint64, pause time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, has := f.inos[ino]; !has {
		f.inos[ino] = time.Now().Add(pause)
	}
	select {
	case f.signal <- struct{}{}:
	default:
	}
}

// next is an inode that is due, 0 = none, and how long to wait for one.
func (f *filler) next(now time.Time) (ino uint64, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wait = time.Hour
	for i, at := range f.inos {
		if d := at.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		delete(f.inos, i)
		return i, 0
	}
	return 0, wait
}

// run fetches what edits lack, one file after the other, until ctx ends.
func (f *filler) run(ctx context.Context) {
	for _, ino := range f.journal.Inos() {
		if e, ok := f.journal.Get(ino); ok && e.Draft != nil && e.Draft.Limit > 0 {
			f.add(ino, 0)
		}
	}
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for ctx.Err() == nil {
		ino, wait := f.next(time.Now())
		if ino != 0 {
			f.fillAhead(ctx, ino)
			continue
		}
		t.Reset(wait)
		select {
		case <-ctx.Done():
		case <-f.signal:
		case <-t.C:
		}
	}
}

// fillAhead fetches the base of one edit, where that is worth it before the
// upload.
func (f *filler) fillAhead(ctx context.Context, ino uint64) {
	d, err := f.journal.ContinueDraft(ino)
	if err != nil || d == nil {
		return // removed, or sent already
	}
	defer d.Close()
	if _, _, size, _ := d.Base(); size == 0 || size > fillMax {
		return
	}
	if len(d.Missing(0, d.Size())) > fillPieces {
		return
	}
	if f.remote.State().Kind != drive.Online {
		f.add(ino, fillRetry)
		return
	}
	err = f.writeBack.Complete(drive.WithPriority(ctx, drive.ReadAhead), ino, d)
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, drive.ErrChanged), errors.Is(err, drive.ErrNotFound):
		// What is lost is settled when the file is to be sent: until then it may
		// be written in full.
	default:
		f.add(ino, fillRetry)
	}
}
