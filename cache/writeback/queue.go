package writeback

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// queue is the state of Run's goroutine; nobody else touches it.
type queue struct {
	s      *WriteBack
	ctx    context.Context
	items  map[uint64]*item
	byNode map[string]*item
	under  map[string]map[*item]bool // by each id in item.home, where the node is or may be
	unborn map[string]map[*item]bool // by slotOf: without a node, but perhaps with one on the drive
	deps   map[uint64]map[*item]bool // by item.on
	movers map[*item]bool            // folders that are to change parents
	mover  *item                     // the one that is at it
	timers timerHeap

	settling settling

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

func newQueue(ctx context.Context, s *WriteBack) *queue {
	return &queue{
		s: s, ctx: ctx, limits: newLimits(s.o),
		items: map[uint64]*item{}, byNode: map[string]*item{},
		under: map[string]map[*item]bool{}, unborn: map[string]map[*item]bool{}, deps: map[uint64]map[*item]bool{},
		movers: map[*item]bool{}, flushes: map[*flush]bool{},
		reports: make(chan report), stale: true,
	}
}

// Run owns the queue until ctx ends, then cuts off what is in flight (the
// journal has it) and returns when all workers stopped. It may run again
// after that, but only once at a time.
func (s *WriteBack) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	q := newQueue(work, s)
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
	ripe := q.hurry(now)
	q.dispatch(now)

	q.wakeTime = now.Add(time.Hour)
	if !ripe.IsZero() && ripe.Before(q.wakeTime) {
		q.wakeTime = ripe
	}
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
			if !q.s.j.Has(ino) {
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
		if e, ok := q.s.j.Get(ino); ok {
			it.haste = e.Rev
		}
		if it.streaming() {
			it.task.live.over.Store(true) // what was synced is asked for, not what may follow
		}
		q.look(ino)
		return
	}
	q.look(ino)
	if it := q.items[ino]; it != nil && it.task == nil {
		it.haste = it.rev
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
	was := it.place
	e, ok := q.s.j.Get(ino)
	if !ok {
		q.forget(it)
		return
	}
	it.take(e, &q.s.o)
	if q.deps[ino] != nil && (it.removed || was.Name != it.place.Name || !slices.Equal(was.Parents, it.place.Parents)) {
		q.wake(ino) // a removed file waits for its heir, as long as that has its place
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
	if e, ok := q.s.j.Get(it.ino); ok && e.Removed {
		it.task.cancel()
	}
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
	if it.settling {
		it.settling = false
		q.settling.n--
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

func (q *queue) block(it *item, on uint64, slot, told bool) {
	q.setState(it, blocked)
	it.on, it.slot, it.told = on, slot, told
	addTo(q.deps, on, it)
}

func (q *queue) enqueue(it *item) {
	q.setState(it, ready)
	if it.lane != laneCalls && q.wantsPlace(it) {
		it.lane = laneCalls // its place first, which needs not wait for uploads to end
	}
	q.lanes[it.lane].push(laneSlot{it, it.turn})
	q.holdBack(it)
}
