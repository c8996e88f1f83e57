package journal

import "fmt"

// Short forms of Append for tests.

// Put is Append of these entries, and Written.
func (j *Journal) Put(es ...*Entry) error {
	cs := make([]Change, len(es))
	for i, e := range es {
		if e == nil {
			return fmt.Errorf("%w: nil", ErrInvalid)
		}
		cs[i] = Change{Ino: e.Ino, Entry: e}
	}
	j.mu.Lock()
	return j.appendUnlock(cs)
}

// appendUnlock appends under mu, gives mu up, and waits for the log.
func (j *Journal) appendUnlock(cs []Change) error {
	if len(cs) == 0 {
		j.mu.Unlock()
		return nil
	}
	seq, err := j.appendLocked(cs, nil)
	j.mu.Unlock()
	if err != nil {
		return err
	}
	return j.Written(seq)
}

// Update edits a copy of an entry without making Rev grow; fn returns false to
// leave it as it was. Without an entry fn is not called.
func (j *Journal) Update(ino uint64, fn func(*Entry) bool) error {
	j.mu.Lock()
	e := j.index.items[ino].Clone()
	if e == nil || !fn(e) {
		j.mu.Unlock()
		return nil
	}
	e.Ino = ino
	return j.appendUnlock([]Change{{Ino: ino, Entry: e, Progress: true}})
}

// Done removes the entry when its Rev is still rev.
func (j *Journal) Done(ino, rev uint64) (ok bool, err error) {
	j.mu.Lock()
	e := j.index.items[ino]
	if e == nil || e.Rev != rev {
		j.mu.Unlock()
		return false, nil
	}
	if err := j.appendUnlock([]Change{{Ino: ino, Progress: true}}); err != nil {
		return false, err
	}
	return true, nil
}
