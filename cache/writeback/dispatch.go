package writeback

import (
	"context"
	"time"
)

// dispatch starts what may start.
func (q *queue) dispatch(now time.Time) {
	q.s.mu.Lock()
	paused := q.s.paused
	q.s.mu.Unlock()
	if paused || q.ctx.Err() != nil {
		return
	}
	for l := range lanes {
		if l != laneCalls && q.s.held.Load() {
			continue
		}
		for q.limits.free(l, q.lanes[laneLarge].waits()) {
			if q.down && (q.limits.total() > 0 || q.probeAt.After(now)) {
				return
			}
			it := q.lanes[l].pop()
			if it == nil {
				break
			}
			// The world has moved on since it was found ready.
			if e, ok := q.s.j.Get(it.ino); !ok || e.Rev != it.rev {
				q.look(it.ino)
				continue
			}
			if it.streams() && !q.mayStream() {
				it.streamFrom = time.Time{}
				q.look(it.ino)
				continue
			}
			if on, slot := q.blocker(it); on != 0 && !it.detour {
				q.blockOrDetour(it, on, slot, false)
				continue
			}
			q.start(it, l)
		}
	}
}

func (q *queue) start(it *item, l lane) {
	ctx, cancel := context.WithCancel(q.ctx)
	t := &task{
		s: q.s, ino: it.ino, rev: it.rev, node: it.node, sentAt: it.sentAt, found: it.found, lane: l, ctx: ctx, cancel: cancel, started: time.Now(),
		detour: it.detour, origin: it.origin, others: len(q.movers) > 1 || len(q.movers) == 1 && !q.movers[it],
	}
	streams := it.streams() // before it is known where it is about to appear
	if it.folder && it.removed {
		t.covered = q.covered(it)
	}
	if it.node == "" && len(it.home) == 0 {
		// It is about to appear there: a removal of the folder must wait.
		it.home, _, _, _ = resolve(q.s.tree, it.place.Parents, nil) // the worker tells of an error
		it.name = it.place.Name
		q.index(it)
	}
	if streams {
		t.live = &live{poke: make(chan struct{}, 1)}
		q.streamsRunning++
	}
	q.setState(it, running)
	it.task, it.haste, it.detour, it.again = t, 0, false, false
	if q.movers[it] {
		q.mover = it
	}
	q.limits.running[l]++
	q.s.mu.Lock()
	q.s.active[it.ino], q.s.limit = t, q.limits.uploads
	q.s.mu.Unlock()
	q.work.Go(func() { q.reports <- t.runSafely() })
}

// ended does the accounts of a worker that has ended.
func (q *queue) ended(it *item, r *report, now time.Time) {
	r.task.cancel()
	it.task = nil
	if r.task.live != nil {
		q.streamsRunning--
		it.streamed, it.streamFrom = true, time.Time{}
	}
	if q.mover == it {
		q.mover = nil
	}
	q.setState(it, parked)
	q.limits.ended(r.task.lane, r.task.started, r.task.throttled, r.kind == done || r.kind == again, now)
	q.s.mu.Lock()
	delete(q.s.active, it.ino)
	q.s.limit = q.limits.uploads
	q.s.mu.Unlock()
	if q.down && r.remote {
		q.probes++
		q.probeAt = now.Add(min(q.s.after(q.probes), time.Minute))
	}
}

// report takes in what a worker found.
func (q *queue) report(r report) {
	now := time.Now()
	it := q.items[r.task.ino]
	q.ended(it, &r, now)
	it.final, it.remote, it.retry = r.final, r.remote, r.at
	it.met = 0
	if r.kind == waits && r.slot {
		it.met = r.on
	}
	q.setErr(it, r.err)
	q.guard(it, r, now)

	rev := it.rev
	e, present := q.s.j.Get(it.ino)
	if present {
		it.take(e, &q.s.o)
		q.index(it)
	}
	if r.folder != "" && q.ctx.Err() == nil {
		q.work.Go(func() { q.s.noteFolder(q.ctx, it.ino, r.folder) })
	}
	// Those who waited go first: what they still wait for is judged by what
	// this one has done, and only then what this one waits for.
	q.wake(it.ino)
	for _, ino := range r.touched {
		q.look(ino)
	}
	if r.kind == waits && present && it.rev == rev && q.items[r.on] != nil {
		if q.metInCircle(it) {
			it.detour = true
			q.enqueue(it)
		} else {
			q.blockOrDetour(it, r.on, r.slot, true)
		}
	} else {
		q.look(it.ino)
	}
	switch {
	case it.rev != rev:
	case it.err != nil && it.final:
		q.settled(it.ino, it.err)
	case r.writing:
		// As with a file that was never closed: a flush is about what is closed.
		q.settled(it.ino, nil)
	}
}

// guard keeps work that leads nowhere from being started again at once.
func (q *queue) guard(it *item, r report, now time.Time) {
	if r.kind != again {
		it.spins = 0
	} else if it.spins++; it.spins > maxRounds {
		q.s.log.Error("settling makes no progress", "ino", it.ino)
		it.retry = now.Add(q.s.after(it.spins - maxRounds))
	}
}

func (q *queue) setErr(it *item, err error) {
	q.s.mu.Lock()
	if it.err != nil {
		q.s.failed--
	}
	if err != nil {
		q.s.failed++
	}
	q.s.mu.Unlock()
	it.err = err
}
