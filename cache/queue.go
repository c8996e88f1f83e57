package cache

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/cache/writeback"
)

// Queue is what the drive lacks, and how it goes on: the journal's entries with
// what the write-back does about them. Its methods are safe for concurrent use.
type Queue struct {
	journal   *journal.Journal
	tree      *tree.Tree
	writeBack *writeback.WriteBack
	paths     *paths
	readOnly  bool // nothing is sent: what an earlier mount left stays
}

// Transfer is one intent being fulfilled now.
type Transfer struct {
	Path    string
	Op      string
	Sent    int64 // bytes
	Size    int64 // bytes, 0 for calls without content
	Rate    float64
	Started time.Time
}

// Failure is an intent whose last try failed; it is tried again.
type Failure struct {
	Path    string
	Error   string
	RetryAt time.Time
}

// maxFailures bounds the list of failures.
const maxFailures = 100

// Waiting is one change that the drive lacks.
type Waiting struct {
	Path  string
	Since time.Time // of its oldest part
	For   string    // what it waits for, in words
	Open  bool      // content that its writer has not closed; it is not sent
	// Lost: … and cannot any more, since drivefs was killed: the next writer does,
	// or SendUnclosed.
	Lost bool
}

// Stats is how much the drive lacks.
func (q *Queue) Stats() writeback.Stats { return q.writeBack.Stats() }

// Flush starts all intents at once, also what is settling or backing off, and
// returns when nothing is pending but what fails, which it lists, and content
// that Pause holds back.
//
// On a read-only mount nothing is sent, so there is nothing to wait for.
func (q *Queue) Flush(ctx context.Context) ([]Failure, error) {
	if q.readOnly {
		return nil, nil
	}
	failed, err := q.writeBack.Flush(ctx)
	var fs []Failure
	for _, f := range failed {
		if !errors.Is(f.Err, writeback.ErrPaused) {
			fs = append(fs, Failure{Path: q.paths.wanted(f.Ino), Error: f.Err.Error()})
		}
	}
	return fs, err
}

// SendUnclosed has content that no writer closed, because drivefs was killed
// meanwhile, sent as if it had been; what a program has open for writing waits
// for that. See Waiting.
func (q *Queue) SendUnclosed() error {
	if q.readOnly {
		return nil
	}
	return q.tree.CloseUnclosed()
}

// Pause stops, or starts again, the sending of content. Names and places go on.
func (q *Queue) Pause(on bool) { q.writeBack.PauseContents(on) }

// entries yields each entry, in no order; they are shared and must not be modified.
func (q *Queue) entries() iter.Seq[*journal.Entry] {
	return func(yield func(*journal.Entry) bool) {
		for _, ino := range q.journal.Inos() {
			if e, ok := q.journal.Get(ino); ok && !yield(e) {
				return
			}
		}
	}
}

// Oldest is since when the oldest of the pending changes waits; zero = none is
// pending.
func (q *Queue) Oldest() (oldest time.Time) {
	for e := range q.entries() {
		if oldest.IsZero() || e.Since.Before(oldest) {
			oldest = e.Since
		}
	}
	return oldest
}

// Waiting gives the changes that wait longest, oldest first, up to n of them;
// and all files that were not closed, whatever n is.
func (q *Queue) Waiting(n int) []Waiting {
	now := time.Now()
	out := []Waiting{}
	all := slices.SortedFunc(q.entries(), func(a, b *journal.Entry) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Ino, b.Ino))
	})
	for i, e := range all {
		w := Waiting{Since: e.Since, For: waitsFor(e, now), Open: e.Open && !e.Removed}
		if i >= n && !w.Open {
			continue
		}
		if w.Path = q.paths.wanted(e.Ino); w.Open && !q.tree.Written(e.Ino) {
			w.Lost, w.For = true, "its next writer, or drivefs flush: it was not closed when drivefs was killed"
		}
		out = append(out, w)
	}
	return out
}

// waitsFor says why the drive does not have it yet.
func waitsFor(e *journal.Entry, now time.Time) string {
	switch {
	case e.Open && !e.Removed:
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

// transfers are the intents being fulfilled now.
func (q *Queue) transfers() (ts []Transfer) {
	for _, p := range q.writeBack.Active() {
		ts = append(ts, Transfer{
			Path: q.paths.wanted(p.Ino), Op: p.Op, Sent: p.Sent, Size: p.Size, Rate: p.Rate, Started: p.Started,
		})
	}
	return ts
}

// failures are up to maxFailures of the intents whose last try failed, by path.
func (q *Queue) failures() (fs []Failure) {
	if q.writeBack.Stats().Failed == 0 {
		return nil
	}
	for e := range q.entries() {
		if e.Failed == "" {
			continue
		}
		fs = append(fs, Failure{Path: q.paths.wanted(e.Ino), Error: e.Failed, RetryAt: e.RetryAt})
		if len(fs) == maxFailures {
			break
		}
	}
	slices.SortFunc(fs, func(a, b Failure) int { return cmp.Compare(a.Path, b.Path) })
	return fs
}

// active is what the write-back does about ino now, if anything.
func (q *Queue) active(ino uint64) (writeback.Progress, bool) {
	for _, p := range q.writeBack.Active() {
		if p.Ino == ino {
			return p, true
		}
	}
	return writeback.Progress{}, false
}

// state says in a word what the queue has of ino: "" = nothing, "pending",
// "uploading", or "error".
func (q *Queue) state(ino uint64) string {
	e, ok := q.journal.Get(ino)
	if !ok {
		return ""
	}
	if e.Failed != "" {
		return "error"
	}
	if _, ok := q.active(ino); ok {
		return "uploading"
	}
	return "pending"
}
