package tree

import (
	"context"
	"time"
)

// Commit is the close of a writer: it puts what was written into the journal,
// from where it goes to the drive. Nothing to do when nothing is new and no
// content waits for its close. It waits for the local disk alone.
func (f *File) Commit() error { return f.commit(false) }

// Record is Commit of what a writer has not closed: it is safe, and not sent.
func (f *File) Record() error { return f.commit(true) }

// commit is Commit, or with open Record.
func (f *File) commit(open bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsaved.Store(0)
	d := f.draft.Load()
	if d == nil || f.gone.Load() {
		return nil
	}
	if open && (!d.Dirty() || !f.Written()) {
		return nil // it was closed meanwhile
	}
	if e, ok := f.t.journal.Get(f.Ino); !d.Dirty() && (!ok || !e.Open) {
		return nil
	}
	st := d.Commit()
	err := f.t.Change(func(tx *Tx) error {
		tx.FromKernel()
		return tx.content(f, &st, open)
	})
	if err != nil {
		d.Abort(st)
	}
	return err
}

// Unclosed tells whether the journal has content of the file that no writer
// has closed.
func (f *File) Unclosed() bool {
	e, ok := f.t.journal.Get(f.Ino)
	return ok && e.Open && e.Draft != nil
}

// noteUnsaved notes that the journal lacks something since then.
func (f *File) noteUnsaved(ns int64) {
	if f.unsaved.Load() == 0 && f.unsaved.CompareAndSwap(0, ns) {
		f.t.files.wake()
	}
}

func (t *files) wake() {
	select {
	case t.wrote <- struct{}{}:
	default:
	}
}

// failedClose is a handle that was closed while the journal could not be written.
type failedClose struct {
	f     *File
	flags uint32
}

// retryAfter is when a close that failed is tried again.
const retryAfter = 5 * time.Second

// ReleaseLater is Release for a handle whose Commit failed: the file stays open,
// and CommitOpen tries again until it has succeeded.
func (f *File) ReleaseLater(flags uint32) {
	t := &f.t.files
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.failed) == 0 {
		t.retryAt = time.Now().Add(retryAfter)
	}
	t.failed = append(t.failed, failedClose{f, flags})
	t.wake()
}

// retry makes up for the closes that failed, and returns how long it is to the
// next try.
func (t *Tree) retry(now time.Time) time.Duration {
	due, wait := t.files.takeFailed(now)
	for i, c := range due {
		if err := c.f.Commit(); err != nil {
			// Another one is the first next time.
			return t.files.putBack(append(due[i+1:], c), now)
		}
		c.f.Release(c.flags)
	}
	return wait
}

// takeFailed takes the closes that failed, if it is time to try again, and
// tells how long it is to the next time.
func (t *files) takeFailed(now time.Time) (due []failedClose, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch wait := t.retryAt.Sub(now); {
	case len(t.failed) == 0:
		return nil, time.Hour
	case wait > 0:
		return nil, wait
	}
	due, t.failed = t.failed, nil
	return due, time.Hour
}

func (t *files) putBack(failed []failedClose, now time.Time) (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed, t.retryAt = append(t.failed, failed...), now.Add(retryAfter)
	return retryAfter
}

// CommitOpen puts what programs write to files that they keep open into the
// journal, as content that nobody has closed (journal.Intent.Open): a file each
// Options.CommitAfter after the first write that is not there; and what was
// closed while the journal could not be written (ReleaseLater). It returns when
// ctx ends.
func (t *Tree) CommitOpen(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(t.commitOpen())
		select {
		case <-ctx.Done():
			t.retry(time.Now().Add(retryAfter)) // the last time
			return
		case <-t.files.wrote:
		case <-timer.C:
		}
	}
}

// commitOpen commits the open files that are due, and returns how long the next
// one has.
func (t *Tree) commitOpen() time.Duration {
	wait := t.retry(time.Now())
	due, next := t.files.unsaved(t.o.CommitAfter)
	for _, f := range due {
		if err := f.Record(); err != nil {
			t.log.Warn("putting what is written to an open file into the journal", "inode", f.Ino, "err", err)
			f.noteUnsaved(time.Now().UnixNano())
		}
	}
	return min(wait, next)
}

// unsaved are the files with a write that is after old and not in the journal,
// and how long the next one has.
func (t *files) unsaved(after time.Duration) (due []*File, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	wait = time.Hour
	for _, f := range t.pins {
		ns := f.unsaved.Load()
		if ns == 0 {
			continue
		}
		if left := time.Unix(0, ns).Add(after).Sub(now); left > 0 {
			wait = min(wait, left)
		} else {
			due = append(due, f)
		}
	}
	return due, wait
}

// CloseUnclosed takes the content that no writer has closed, and that no writer
// has open any more, for closed: a crash came between.
func (t *Tree) CloseUnclosed() error {
	for _, ino := range t.journal.Inos() {
		if e, ok := t.journal.Get(ino); !ok || !e.Open || e.Draft == nil {
			continue
		}
		err := t.Change(func(tx *Tx) error {
			e, ok := tx.Entry(ino)
			if !ok || !e.Open || e.Draft == nil || e.Removed || t.Written(ino) {
				return nil
			}
			e = e.Clone()
			e.Open, e.Due = false, time.Now()
			tx.Put(e)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
