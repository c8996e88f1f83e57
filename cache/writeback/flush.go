package writeback

import "time"

// flush is one call of Flush. failed is guarded by WriteBack.mu.
type flush struct {
	left   map[uint64]bool
	failed []Failure
	done   chan struct{}
}

func (q *queue) flush(f *flush) {
	f.left = map[uint64]bool{}
	q.flushes[f] = true
	q.probeAt = time.Time{}
	for _, ino := range q.s.j.Inos() {
		f.left[ino] = true
	}
	for _, ino := range q.s.j.Inos() {
		it := q.items[ino]
		if it == nil {
			it = &item{ino: ino}
			q.items[ino] = it
		}
		it.final = false
		if e, ok := q.s.j.Get(ino); ok && (!e.Open || e.Removed) {
			it.haste = e.Rev
		}
		q.look(ino)
		if it.streaming() {
			q.settled(ino, nil)
		}
	}
	q.finishFlush(f)
}

func (q *queue) unflush(f *flush) { delete(q.flushes, f) }

// flushing reports whether a flush waits for the inode.
func (q *queue) flushing(ino uint64) bool {
	for f := range q.flushes {
		if f.left[ino] {
			return true
		}
	}
	return false
}

// settled takes ino, and with an error also what waits for it, off the
// flushes.
func (q *queue) settled(ino uint64, err error) {
	if len(q.flushes) == 0 {
		return
	}
	for f := range q.flushes {
		if !f.left[ino] {
			continue
		}
		delete(f.left, ino)
		if err != nil {
			q.s.mu.Lock()
			f.failed = append(f.failed, Failure{ino, err})
			q.s.mu.Unlock()
			for dep := range q.deps[ino] {
				if dep.ino != ino {
					q.settled(dep.ino, err)
				}
			}
		}
		q.finishFlush(f)
	}
}

func (q *queue) finishFlush(f *flush) {
	if len(f.left) == 0 && q.flushes[f] {
		delete(q.flushes, f)
		close(f.done)
	}
}
