package writeback

import "time"

// timerSlot is an item's place in the heap; void when its turn has passed.
type timerSlot struct {
	at   time.Time
	it   *item
	turn uint64
}

// timerHeap has the earliest first; see container/heap.
type timerHeap []timerSlot

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)        { *h = append(*h, x.(timerSlot)) }
func (h *timerHeap) Pop() any {
	n := len(*h) - 1
	x := (*h)[n]
	(*h)[n] = timerSlot{}
	*h = (*h)[:n]
	return x
}

// laneSlot is an item's place in a lane; void when its turn has passed.
type laneSlot struct {
	it   *item
	turn uint64
}

// fifo is a queue of ready items, first come, first served.
type fifo struct {
	slots []laneSlot
	head  int
}

func (f *fifo) push(s laneSlot) { f.slots = append(f.slots, s) }

// waits reports whether an item is ready.
func (f *fifo) waits() bool {
	for f.head < len(f.slots) {
		if s := f.slots[f.head]; s.it.state == ready && s.it.turn == s.turn {
			return true
		}
		f.drop()
	}
	f.slots, f.head = f.slots[:0], 0
	return false
}

func (f *fifo) drop() {
	f.slots[f.head] = laneSlot{}
	f.head++
	if f.head > 1024 && f.head*2 > len(f.slots) {
		f.slots = append(f.slots[:0], f.slots[f.head:]...)
		f.head = 0
	}
}

// pop takes the first item that is still ready, nil when there is none.
func (f *fifo) pop() *item {
	if !f.waits() {
		return nil
	}
	it := f.slots[f.head].it
	f.drop()
	return it
}
