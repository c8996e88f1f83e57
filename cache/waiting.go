package cache

import (
	"cmp"
	"slices"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
)

// Waiting is one change that the drive lacks.
type Waiting struct {
	Path  string
	Since time.Time // of its oldest part
	For   string    // what it waits for, in words
	Open  bool      // a new file whose writer has not closed it yet
}

// Waiting gives the changes that wait longest, oldest first, up to n of them;
// and all new files that are open still, whatever n is.
func (s *Store) Waiting(n int) []Waiting {
	type item struct {
		ino uint64
		Waiting
	}
	var all []item
	now := time.Now()
	for _, ino := range s.journal.Inos() {
		s.journal.Peek(ino, func(e *journal.Entry) {
			all = append(all, item{ino, Waiting{Since: e.Since, For: waitsFor(e, now), Open: e.Open}})
		})
	}
	slices.SortFunc(all, func(a, b item) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ino, b.ino))
	})
	out := []Waiting{}
	for i, w := range all {
		if i < n || w.Open {
			w.Path = s.intentPath(w.ino)
			out = append(out, w.Waiting)
		}
	}
	return out
}

// waitsFor says why the drive does not have it yet.
func waitsFor(e *journal.Entry, now time.Time) string {
	switch {
	case e.Open:
		return "the program that writes it"
	case e.Failed != "":
		return "another try: " + e.Failed
	case e.Sent != nil:
		return "the drive to show what was sent"
	case e.Due.After(now):
		return "it to settle"
	}
	return "its turn"
}
