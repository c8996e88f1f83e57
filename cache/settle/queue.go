package settle

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// state is where an item is in the queue.
type state int

const (
	parked  state = iota // nothing to do until the entry changes
	timed                // until at
	blocked              // until on has been worked on
	ready                // for a free place in its lane
	running
)

// item is what the queue remembers of one entry. It is a cache: everything
// that matters is read from the journal again before anything is done.
type item struct {
	ino   uint64
	state state
	turn  uint64 // grows with each change of state: makes stale heap and lane slots void

	// As the entry was last seen.
	rev     uint64
	node    string   // "" = none
	home    []string // Base.Parents, or where an upload of unknown outcome went
	name    string   // Base.Name
	place   journal.Place
	folder  bool
	removed bool
	open    bool
	lane    lane
	due     time.Time

	at   time.Time // of timed
	on   uint64    // of blocked
	slot bool      // blocked because on holds the name
	// met is whose name the last try ran into, by the service's word; 0 when
	// it did not. The mirror may not know of it yet, and then only this shows
	// that two wait for each other.
	met uint64

	retry    time.Time // not before, unless pressed
	remote   bool      // … because the service as a whole was in trouble
	held     bool      // … because of Interrupt
	pressed  bool      // due and retry do not count, until the next try
	flushing bool      // due does not count
	detour   bool      // take the temporary name next
	again    bool      // look again when the work in flight ends
	err      error     // of the last try
	final    bool      // err will not go away by itself soon
	task     *task

	streamFrom time.Time // when its upload may begin although it is being written; zero = not
	streamed   bool      // that was tried

	spins int      // tasks in a row that changed nothing
	idle  []func() // called once when the work in flight has ended

	// origin is the place the node had before settling touched it, for an Undo.
	origin *journal.Base

	indexed indexed
}

// indexed is what the indexes hold of an item.
type indexed struct {
	node string
	home []string
	name string
}

// slotOf is what may be taken only once: a name in a folder (API §5.5).
func slotOf(parent, name string) string { return parent + "/" + drive.Fold(name) }

func addTo[K comparable](m map[K]map[*item]bool, k K, it *item) {
	if m[k] == nil {
		m[k] = map[*item]bool{}
	}
	m[k][it] = true
}

func takeFrom[K comparable](m map[K]map[*item]bool, k K, it *item) {
	delete(m[k], it)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}

// queue is the state of Run's goroutine; nobody else touches it.
type queue struct {
	s      *Settler
	ctx    context.Context
	items  map[uint64]*item
	byNode map[string]*item
	under  map[string]map[*item]bool // by each id in item.home, where the node is or may be
	unborn map[string]map[*item]bool // by slotOf: without a node, but perhaps with one on the drive
	deps   map[uint64]map[*item]bool // by item.on
	movers map[*item]bool            // folders that are to change parents
	mover  *item                     // the one that is at it
	timers timerHeap
	lanes  [lanes]fifo
	limits limits

	streamsRunning int

	reports chan report
	work    sync.WaitGroup
	flushes map[*flush]bool

	lastRemoval time.Time // latest Due of all removals seen
	stale       bool      // the journal changed since takeChanges

	// While the service is away, one piece of work at a time finds out
	// whether it is back.
	down     bool
	probes   int
	probeAt  time.Time
	upAgain  <-chan struct{}
	wakeTime time.Time
}

// Run owns the queue until ctx ends, then cuts off what is in flight (the
// journal has it) and returns when all workers stopped. It may run again
// after that, but only once at a time.
func (s *Settler) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	q := &queue{
		s: s, ctx: work, limits: newLimits(s.o),
		items: map[uint64]*item{}, byNode: map[string]*item{},
		under: map[string]map[*item]bool{}, unborn: map[string]map[*item]bool{}, deps: map[uint64]map[*item]bool{},
		movers: map[*item]bool{}, flushes: map[*flush]bool{},
		reports: make(chan report), stale: true,
	}
	for _, ino := range s.j.Inos() {
		q.look(ino) // also what an earlier Run has seen
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		q.turn()
		timer.Reset(max(time.Until(q.wakeTime), 0))
		select {
		case <-ctx.Done():
		case r := <-q.reports:
			q.report(r)
		case <-s.signal:
			q.answerAsks()
		case <-s.j.Changed():
			q.stale = true
		case <-q.upAgain:
		case <-timer.C:
		}
	}
	cancel()
	go func() { q.work.Wait(); close(q.reports) }()
	for r := range q.reports {
		q.report(r)
	}
	return ctx.Err()
}

// turn does all that can be done now and sets wakeTime.
func (q *queue) turn() {
	now := time.Now()
	if q.stale {
		q.takeChanges()
	}
	q.watchRemote(now)
	for len(q.timers) > 0 && !q.timers[0].at.After(now) {
		e := heap.Pop(&q.timers).(timerSlot)
		if e.it.state == timed && e.it.turn == e.turn {
			q.look(e.it.ino)
		}
	}
	q.dispatch(now)

	q.wakeTime = now.Add(time.Hour)
	for len(q.timers) > 0 && (q.timers[0].it.state != timed || q.timers[0].it.turn != q.timers[0].turn) {
		heap.Pop(&q.timers)
	}
	if len(q.timers) > 0 && q.timers[0].at.Before(q.wakeTime) {
		q.wakeTime = q.timers[0].at
	}
	if q.down && q.limits.total() == 0 && q.probeAt.After(now) && q.probeAt.Before(q.wakeTime) {
		q.wakeTime = q.probeAt
	}
}

func (q *queue) answerAsks() {
	q.s.mu.Lock()
	asks := q.s.asks
	q.s.asks = nil
	q.s.mu.Unlock()
	for _, fn := range asks {
		fn(q)
	}
}

// takeChanges looks at what was Put since the last time, and now and then
// for entries that left without our doing.
func (q *queue) takeChanges() {
	q.stale = false
	for _, ino := range q.s.j.TakeChanged() {
		q.look(ino)
	}
	if len(q.items) > 2*q.s.j.Len()+256 {
		for ino := range q.items {
			if !q.s.j.Peek(ino, func(*journal.Entry) {}) {
				q.look(ino)
			}
		}
	}
}

// watchRemote keeps track of whether the service is there.
func (q *queue) watchRemote(now time.Time) {
	q.upAgain = q.s.r.StateChanged()
	k := q.s.r.State().Kind
	away := k == drive.Offline || k == drive.AuthRequired
	if away == q.down {
		return
	}
	q.down = away
	if away {
		q.probes, q.probeAt = 0, now
		return
	}
	for _, it := range q.items {
		if it.remote && !it.retry.IsZero() {
			it.retry, it.remote = time.Time{}, false
			q.look(it.ino)
		}
	}
}

// press makes the entry count as due.
func (q *queue) press(ino uint64) {
	q.probeAt = time.Time{}
	if it := q.items[ino]; it != nil {
		it.pressed = true
		if it.streaming() {
			it.task.live.over.Store(true) // what was synced is asked for, not what may follow
		}
		q.look(ino)
		return
	}
	q.look(ino)
	if it := q.items[ino]; it != nil && it.task == nil {
		it.pressed = true
		q.settlePlace(it)
	}
}

// look reads the entry again and decides what is to happen with it.
func (q *queue) look(ino uint64) {
	it := q.items[ino]
	if it != nil && it.task != nil {
		it.again = true
		q.reconsider(it)
		return
	}
	if it == nil {
		it = &item{ino: ino}
	}
	if !q.s.j.Peek(ino, func(e *journal.Entry) { it.take(e) }) {
		q.forget(it)
		return
	}
	if q.items[ino] == nil {
		q.items[ino] = it
	}
	q.index(it)
	q.settlePlace(it)
}

// reconsider stops work in flight that the entry does not want any more.
func (q *queue) reconsider(it *item) {
	if it.task.lane == laneCalls {
		return
	}
	if it.task.live != nil {
		it.task.live.look()
	}
	// A newer generation is no reason: were appends to cut off the upload of
	// what was there before, a growing file might never arrive. Where the bytes
	// being sent change, the snapshot says so by itself.
	q.s.j.Peek(it.ino, func(e *journal.Entry) {
		if e.Removed {
			it.task.cancel()
		}
	})
}

// take copies what the queue needs. It runs under the journal's read lock.
func (it *item) take(e *journal.Entry) {
	if it.rev != e.Rev {
		if it.held {
			it.held, it.retry = false, time.Time{}
		}
		// A new wish is a new chance, unless the service as a whole is away.
		if it.final {
			it.retry = time.Time{}
		}
		if it.rev > e.Rev {
			it.origin = nil
		}
	}
	if it.folder != e.Folder || it.node != e.NodeID {
		it.origin = nil
	}
	it.rev, it.node, it.folder, it.removed, it.open = e.Rev, e.NodeID, e.Folder, e.Removed, e.Open
	if e.Place.Name != it.place.Name || !slices.Equal(e.Place.Parents, it.place.Parents) {
		it.streamFrom = time.Time{}
	}
	it.place = journal.Place{Parents: slices.Clone(e.Place.Parents), Name: e.Place.Name}
	it.due = e.Due
	it.home, it.name = nil, ""
	switch {
	case e.Base != nil:
		it.home, it.name = slices.Clone(e.Base.Parents), e.Base.Name
		if it.origin == nil {
			b := *e.Base
			b.Parents = it.home
			it.origin = &b
		}
	case e.Sent != nil:
		it.home, it.name = []string{e.Sent.ParentID}, e.Sent.Name
	}
	it.lane = laneCalls
	if e.Draft != nil && !e.Removed && !contentDone(e) {
		it.lane = laneLarge
		if e.Draft.Size < smallFile {
			it.lane = laneSmall
		}
	}
}

// contentDone reports whether the drive has the entry's content, as far as
// the journal knows: what was sent last is what the node holds.
func contentDone(e *journal.Entry) bool {
	return e.Draft == nil || e.Sent != nil && e.Sent.Gen == e.Draft.Gen && arrived(e)
}

// arrived reports whether what was sent last is known to be on the node.
func arrived(e *journal.Entry) bool {
	return e.Sent != nil && e.NodeID != "" && e.Base != nil && e.Sent.MD5 != "" &&
		e.Base.MD5 == e.Sent.MD5 && e.Base.Size == e.Sent.Size
}

// index files the item by what others look for.
func (q *queue) index(it *item) {
	q.unindex(it)
	if it.node != "" {
		q.byNode[it.node] = it
	}
	for _, id := range it.home {
		addTo(q.under, id, it)
		if it.node == "" {
			addTo(q.unborn, slotOf(id, it.name), it)
		}
	}
	it.indexed = indexed{it.node, it.home, it.name}
	if it.folder && it.node != "" && !it.removed && q.moves(it) {
		q.movers[it] = true
	}
	if it.removed && it.node != "" && it.due.After(q.lastRemoval) {
		q.lastRemoval = it.due
	}
}

func (q *queue) unindex(it *item) {
	if q.byNode[it.indexed.node] == it {
		delete(q.byNode, it.indexed.node)
	}
	for _, id := range it.indexed.home {
		takeFrom(q.under, id, it)
		takeFrom(q.unborn, slotOf(id, it.indexed.name), it)
	}
	delete(q.movers, it)
	it.indexed = indexed{}
}

// forget drops an item whose entry is gone.
func (q *queue) forget(it *item) {
	q.setState(it, parked)
	q.setErr(it, nil)
	q.unindex(it)
	delete(q.items, it.ino)
	q.s.vanished(it.ino)
	q.settled(it.ino, nil)
	q.wake(it.ino)
}

// wake looks again at all that waited for ino.
func (q *queue) wake(ino uint64) {
	deps := q.deps[ino]
	delete(q.deps, ino)
	for it := range deps {
		if it.state == blocked && it.on == ino {
			q.look(it.ino)
		}
	}
}

func (q *queue) setState(it *item, s state) {
	if it.state == blocked {
		takeFrom(q.deps, it.on, it)
	}
	it.state = s
	it.turn++
}

func (q *queue) park(it *item) { q.setState(it, parked) }

func (q *queue) schedule(it *item, at time.Time) {
	q.setState(it, timed)
	it.at = at
	heap.Push(&q.timers, timerSlot{at, it, it.turn})
	q.holdBack(it)
}

// holdBack takes contents that wait for the end of a pause off the flushes.
func (q *queue) holdBack(it *item) {
	if q.heldBack(it) {
		q.settled(it.ino, ErrPaused)
	}
}

func (q *queue) heldBack(it *item) bool {
	return q.s.held.Load() && it.lane != laneCalls && (it.state == ready || it.state == timed)
}

func (q *queue) block(it *item, on uint64, slot bool) {
	q.setState(it, blocked)
	it.on, it.slot = on, slot
	addTo(q.deps, on, it)
}

func (q *queue) enqueue(it *item) {
	q.setState(it, ready)
	if it.lane != laneCalls && it.node != "" && (it.name != it.place.Name || q.moves(it)) {
		it.lane = laneCalls // its place first, which needs not wait for uploads to end
	}
	q.lanes[it.lane].push(laneSlot{it, it.turn})
	q.holdBack(it)
}

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
		for q.limits.free(l) {
			if q.down && (q.limits.total() > 0 || q.probeAt.After(now)) {
				return
			}
			it := q.lanes[l].pop()
			if it == nil {
				break
			}
			// The world has moved on since it was found ready.
			fresh := false
			q.s.j.Peek(it.ino, func(e *journal.Entry) { fresh = e.Rev == it.rev })
			if !fresh {
				q.look(it.ino)
				continue
			}
			if it.streams() && !q.mayStream() {
				it.streamFrom = time.Time{}
				q.look(it.ino)
				continue
			}
			if on, slot := q.blocker(it); on != 0 && !it.detour {
				q.blockOrDetour(it, on, slot)
				continue
			}
			q.start(it, l)
		}
	}
}

func (q *queue) start(it *item, l lane) {
	ctx, cancel := context.WithCancel(q.ctx)
	t := &task{
		s: q.s, ino: it.ino, rev: it.rev, lane: l, ctx: ctx, cancel: cancel, started: time.Now(),
		detour: it.detour, origin: it.origin, others: len(q.movers) > 1 || len(q.movers) == 1 && !q.movers[it],
	}
	streams := it.streams() // before it is known where it is about to appear
	if it.folder && it.removed {
		t.covered = q.covered(it)
	}
	q.s.j.Peek(it.ino, func(e *journal.Entry) {
		t.node = e.NodeID
		if e.Base != nil {
			t.content = e.Base.Content
		}
	})
	if it.node == "" && len(it.home) == 0 {
		// It is about to appear there: a removal of the folder must wait.
		it.home, _, _ = resolve(q.s.h, it.place.Parents, nil)
		it.name = it.place.Name
		q.index(it)
	}
	if streams {
		t.live = &live{poke: make(chan struct{}, 1)}
		q.streamsRunning++
	}
	q.setState(it, running)
	it.task, it.pressed, it.detour, it.again = t, false, false, false
	if q.movers[it] {
		q.mover = it
	}
	q.limits.running[l]++
	q.s.mu.Lock()
	q.s.active[it.ino], q.s.limit = t, q.limits.uploads
	q.s.mu.Unlock()
	q.work.Add(1)
	go func() {
		defer q.work.Done()
		q.reports <- t.run()
	}()
}

// report takes in what a worker found.
func (q *queue) report(r report) {
	now := time.Now()
	it := q.items[r.task.ino]
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

	it.final, it.remote, it.retry = r.final, r.remote, r.at
	it.met = 0
	if r.kind == waits && r.slot {
		it.met = r.on
	}
	q.setErr(it, r.err)
	q.guard(it, r, now)
	for _, fn := range it.idle {
		fn()
	}
	it.idle = nil

	rev := it.rev
	present := q.s.j.Peek(it.ino, func(e *journal.Entry) { it.take(e) })
	if present {
		q.index(it)
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
			q.blockOrDetour(it, r.on, r.slot)
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

// interrupt: see Settler.Interrupt.
func (q *queue) interrupt(ino uint64, reply chan<- bool) {
	it := q.items[ino]
	if it == nil {
		q.look(ino)
		if it = q.items[ino]; it == nil {
			reply <- true
			return
		}
	}
	t := it.task
	it.streamFrom = time.Time{}
	answer := func() {
		clean := true
		q.s.j.Peek(ino, func(e *journal.Entry) {
			it.take(e) // or a change from before the question would end the hold
			clean = e.Sent == nil || arrived(e)
			if t != nil && (e.NodeID != t.node || e.Base != nil && e.Base.Content != t.content) {
				clean = false // it came just too late
			}
		})
		it.held = true
		it.retry = time.Now().Add(interruptTime)
		reply <- clean
	}
	if t == nil {
		answer()
		q.look(ino)
		return
	}
	if t.lane != laneCalls {
		t.cancel()
	}
	it.idle = append(it.idle, answer)
}

// flush is one call of Flush. failed is guarded by Settler.mu.
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
		it.flushing, it.pressed, it.final = true, true, false
		q.look(ino)
		if it.open && it.task == nil || it.streaming() {
			q.settled(ino, nil)
		}
	}
	q.finishFlush(f)
}

func (q *queue) unflush(f *flush) {
	delete(q.flushes, f)
	if len(q.flushes) == 0 {
		for ino := range f.left {
			if it := q.items[ino]; it != nil {
				it.flushing = false
			}
		}
	}
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
