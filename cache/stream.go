package cache

import (
	"time"

	"github.com/drivefs/drivefs/cache/journal"
)

// streamStep is how much of a new file must have been written before its
// upload may begin while it is open, and how often that is thought about.
const streamStep = 16 << 20

// streamSlack is how far ahead of the end a write in order may be: several
// may be under way at once.
const streamSlack = 4 << 20

// grown is told of each write to [off, end). A large new file that is written
// in order is not kept until it is closed: the settler hears of it, and sends
// what is there and what follows.
func (f *file) grown(off, end int64) {
	at := f.streamAt.Load()
	if at == 0 {
		return
	}
	was := f.inOrder.Load()
	if off > was+streamSlack || off < was-streamSlack || end >= at && f.size() > end+streamSlack {
		f.streamAt.Store(0) // it has holes, is changed behind, or was allocated as a whole
		return
	}
	if end > was {
		f.inOrder.CompareAndSwap(was, end) // else another was quicker, nearby
	}
	if end < at || !f.streamAt.CompareAndSwap(at, end+streamStep) {
		return
	}
	if f.gone.Load() || !f.s.mayStream(f) {
		return
	}
	f.streamed.Store(true)
	f.s.settler.Stream(f.ino, f.opened.Created.Add(f.s.o.UploadDelay))
}

// mayStream tells whether the name of a new file looks final. It does not
// when a document was just moved out of its way: the new file will get that
// document's node when the backup is removed, if it was not sent before.
func (s *Store) mayStream(f *file) bool {
	s.view.RLock()
	defer s.view.RUnlock()
	ok := false
	s.journal.Peek(f.ino, func(e *journal.Entry) {
		ok = !e.Removed && e.NodeID == "" && !temporary(e.Place.Shown)
		for _, m := range s.moved {
			if m.Name == e.Place.Shown && time.Since(m.at) < movedFor {
				ok = false
			}
		}
	})
	return ok
}

// written is told when a writing handle was released.
func (f *file) written() {
	if f.streamed.Load() && !f.s.open.written(f) {
		f.s.settler.Written(f.ino)
	}
}
