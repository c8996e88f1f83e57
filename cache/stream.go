package cache

import (
	"sync/atomic"
)

// streamStep is how much of a new file must have been written before its
// upload may begin while it is open, and how often that is thought about.
const streamStep = 16 << 20

// streamSlack is how far ahead of the end a write in order may be: several
// may be under way at once.
const streamSlack = 4 << 20

// stream watches how a new file is written by the handle that made it, to find
// out whether it can be sent meanwhile.
type stream struct {
	at      atomic.Int64 // size from which on an upload may begin; 0 = never
	inOrder atomic.Int64 // how far it was written without holes, about
}

// grown is told of each write to [off, end). A large new file that is written
// in order is not kept until it is closed: the write-back hears of it, and
// sends what is there and what follows.
func (h *Handle) grown(off, end int64) {
	st := h.stream
	if st == nil {
		return
	}
	at := st.at.Load()
	if at == 0 {
		return
	}
	was := st.inOrder.Load()
	if off > was+streamSlack || off < was-streamSlack || end >= at && h.f.Size() > end+streamSlack {
		st.at.Store(0) // it has holes, is changed behind, or was allocated as a whole
		return
	}
	if end > was {
		st.inOrder.CompareAndSwap(was, end) // else another was quicker, nearby
	}
	if end < at || !st.at.CompareAndSwap(at, end+streamStep) || h.f.Gone() {
		return
	}
	if h.s.tree.MayStream(h.f.Ino) {
		h.f.SetStreamed()
		h.s.writeBack.Stream(h.f.Ino, h.f.Opened.Created.Add(h.s.tree.StreamDelay()))
	}
}
