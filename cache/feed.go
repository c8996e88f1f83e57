package cache

import (
	"context"
	"time"

	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/writeback"
	"github.com/drivefs/drivefs/drive"
)

// Feed is the side of the Store that the poller of changes tells what the drive
// has (changes.Target). Its methods are safe beside all others of the Store, but
// for one caller at a time, except OnActivity and Answered.
type Feed struct {
	mirror    *mirror.Mirror
	intake    *intake
	lister    *lister
	writeBack *writeback.WriteBack
}

// Checkpoint is where the feed goes on; "" = from the start.
func (f *Feed) Checkpoint() string {
	cp, _ := f.mirror.Checkpoint()
	return cp
}

// Refreshed is when the drive last told all there is, zero = never yet.
func (f *Feed) Refreshed() time.Time { return f.mirror.Refreshed() }

// OnActivity sets what is called when something was found changed that the feed
// has not told: it is worth asking soon. fn must not block.
func (f *Feed) OnActivity(fn func()) { f.intake.activity.Store(&fn) }

// Answered takes a node that the service answered to a call made beside the
// mount, such as a restore from the trash.
func (f *Feed) Answered(n drive.Node) error { return f.intake.node(n) }

// Apply takes one chunk of the feed: nodes and checkpoint in one transaction,
// then the effects.
func (f *Feed) Apply(ctx context.Context, b drive.Batch) error {
	changes, err := f.mirror.Apply(b)
	if err != nil {
		return err
	}
	f.intake.show(changes, 0)
	return nil
}

// FeedEnd notes that the feed reached its end line: what the drive had then
// is all here.
func (f *Feed) FeedEnd(ctx context.Context) error {
	defer f.writeBack.Polled()
	return f.completing(func() error { return f.mirror.FeedEnd(time.Now()) })
}

// BeginRefresh begins to take everything anew; inode numbers, open files and
// intents are untouched by it. A first sync goes on behind from.
func (f *Feed) BeginRefresh(ctx context.Context) (from string, err error) {
	return f.mirror.BeginRefresh()
}

// ApplyRefresh takes one chunk of the full answer.
func (f *Feed) ApplyRefresh(ctx context.Context, b drive.Batch) error {
	return f.mirror.ApplyRefresh(b)
}

// EndRefresh shows what was told anew, and tells the kernel the difference.
func (f *Feed) EndRefresh(ctx context.Context) error {
	return f.completing(func() error {
		return f.mirror.EndRefresh(func(changes []mirror.Change) { f.intake.show(changes, 0) })
	})
}

// completing is fn, which may make the mirror complete for the first time: then
// no call has to wait for a listing any more.
func (f *Feed) completing(fn func() error) error {
	first := !f.mirror.Complete()
	err := fn()
	if first && err == nil {
		f.lister.wake()
	}
	return err
}

// AbortRefresh drops what was told anew.
func (f *Feed) AbortRefresh() error { return f.mirror.AbortRefresh() }
