package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestSyncObeysItsContext(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	put(t, j, file1(10, "a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Sync(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Sync: %v", err)
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Errorf("Sync: %v", err)
	}
	if err := j.Sync(ctx); err != nil {
		t.Errorf("Sync of nothing new: %v", err)
	}
}

func TestClosedJournal(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir(), small: -1})
	e := file1(10, "a")
	content(t, j, e, "x")
	d := must(j.OpenDraft(10, nil))
	shut(t, j)
	if err := j.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	if err := j.Put(e); !errors.Is(err, ErrClosed) {
		t.Errorf("Put: %v", err)
	}
	if _, err := j.Done(10, e.Rev); !errors.Is(err, ErrClosed) {
		t.Errorf("Done: %v", err)
	}
	if _, err := j.OpenDraft(11, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("OpenDraft: %v", err)
	}
	if err := j.ReserveIno(1e9); !errors.Is(err, ErrClosed) {
		t.Errorf("ReserveIno: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close of a draft: %v", err)
	}
	if got := draftFiles(t, j); len(got) != 1 {
		t.Errorf("files %v", got)
	}
}

// TestEverythingAtOnce is for the race detector and for Check.
func TestEverythingAtOnce(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, GroupCommit: time.Millisecond, proveAfter: 4 * time.Millisecond, segment: 2000}
	j := open(t, o)
	var wg sync.WaitGroup
	for w := range uint64(6) {
		wg.Go(func() {
			for i := range uint64(60) {
				ino := 10 + w*1000 + i%7
				e, ok := j.Clone(ino)
				if !ok {
					e = file1(ino, fmt.Sprint("f", ino))
				}
				d, err := j.OpenDraft(ino, nil)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = d.WriteAt([]byte(fmt.Sprint(i)), int64(i%3))
				st := d.Commit()
				e.Draft = &st
				err = errors.Join(err, j.Put(e))
				if i%5 == 0 {
					err = errors.Join(err, d.Sync(), j.Sync(t.Context()))
				}
				if i%3 == 0 {
					var ok bool
					ok, derr := j.Done(ino, e.Rev)
					if !ok {
						t.Errorf("inode %d: Done of Rev %d", ino, e.Rev)
					}
					err = errors.Join(err, derr)
				}
				if err := errors.Join(err, d.Close()); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for i := range 200 {
				for _, ino := range j.Inos() {
					if e, ok := j.Get(ino); ok {
						_ = e.Place.Shown
					}
				}
				n := 0
				j.Children(1, func(*Entry) bool { n++; return n < 10 })
				j.HasChildren(uint64(i))
				j.PendingBytes()
				err := j.Update(10+w*1000+uint64(i%7), func(e *Entry) bool { e.Attempts = i; return true })
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := j.Len()
	kill(t, j)
	j = open(t, o)
	if j.Len() != n || len(j.Problems()) > 0 {
		t.Errorf("%d entries, were %d; problems %q", j.Len(), n, j.Problems())
	}
}
