package tree

import (
	"context"
	"time"
)

// Commit is the close of a writer: it puts what was written into the journal,
// from where it goes to the drive. Nothing to do when nothing is new and no
// content waits for its close. It waits for the local disk alone.
func (f *File) Commit() error { return f.commit(false) }

// commit is Commit, or with open what CommitOpen does for one file.
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
		select {
		case f.t.files.wrote <- struct{}{}:
		default:
		}
	}
}

// CommitOpen puts what programs write to files that they keep open into the
// journal, as content that nobody has closed (journal.Intent.Open): a file each
// Options.CommitAfter after the first write that is not there. It returns when
// ctx ends.
func (t *Tree) CommitOpen(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(t.commitOpen())
		select {
		case <-ctx.Done():
			return
		case <-t.files.wrote:
		case <-timer.C:
		}
	}
}

// commitOpen commits the open files that are due, and returns how long the next
// one has.
func (t *Tree) commitOpen() time.Duration {
	due, wait := t.files.unsaved(t.o.CommitAfter)
	for _, f := range due {
		if err := f.commit(true); err != nil {
			t.log.Warn("putting what is written to an open file into the journal", "inode", f.Ino, "err", err)
			f.noteUnsaved(time.Now().UnixNano())
		}
	}
	return wait
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
