package mirror

import "sync"

// job is one caller's part of a write transaction.
type job struct {
	src source
	own bool
	fn  func(*wtx) error

	w       *wtx
	changes []Change
	err     error
	done    chan struct{} // closed when changes and err are there; nil outside a group
}

// group makes small writes of several callers one transaction, and so one
// sync. Nobody waits for company: a lone write goes at once, and those that
// come while it is on its way to the disk are the next group.
type group struct {
	lead chan struct{} // holds one token, that of who commits; taken before wmu

	mu      sync.Mutex // a leaf
	waiting []*job
}

func (g *group) join(j *job) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, j)
}

func (g *group) take() []*job {
	g.mu.Lock()
	defer g.mu.Unlock()
	jobs := g.waiting
	g.waiting = nil
	return jobs
}

// writeSmall is write for what many call at once. fn may run in the
// goroutine of another caller, and a second time when the group it was in
// failed; what it did to the file is undone by then.
func (m *Mirror) writeSmall(src source, own bool, fn func(*wtx) error) ([]Change, error) {
	j := &job{src: src, own: own, fn: fn, done: make(chan struct{})}
	m.group.join(j)
	select {
	case <-j.done:
	case m.group.lead <- struct{}{}:
		// Whoever led before has told all that it took: j is done, or waits.
		m.lead()
		<-m.group.lead
	}
	return j.changes, j.err
}

// lead commits all that waits. The caller holds the token.
func (m *Mirror) lead() {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	jobs := m.group.take()
	if len(jobs) > 1 && m.commitLocked(jobs...) == nil {
		for _, j := range jobs {
			close(j.done)
		}
		return
	}
	// Alone, or one of them spoiled it: each for itself, so that each gets
	// the error that is its own.
	for _, j := range jobs {
		j.err = m.commitLocked(j)
		close(j.done)
	}
}
