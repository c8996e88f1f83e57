package cache

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/settle"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// Status is a snapshot of what the Store holds and does.
type Status struct {
	Nodes      int64     // live nodes the mirror knows
	Skipped    int64     // nodes of the drive that cannot be shown, see Events
	Complete   bool      // the first feed was heard to its end
	Checkpoint time.Time // when the feed last told something; zero = never
	Pending    int       // wishes that are not fulfilled
	Bytes      int64     // content among them
	Active     []Transfer
	Failed     []Failure
	Open       int // file handles
	Chunks     chunk.Stats
	Events     []Event // conflicts and the like, oldest first
}

// Transfer is one wish being fulfilled now.
type Transfer struct {
	Path    string
	Op      string
	Sent    int64 // bytes
	Size    int64 // bytes, 0 for calls without content
	Rate    float64
	Started time.Time
}

// Failure is a wish whose last try failed; it is tried again.
type Failure struct {
	Path    string
	Error   string
	RetryAt time.Time
}

// maxFailures bounds the list of Status.
const maxFailures = 100

// Status tells what the Store holds and does.
func (s *Store) Status() Status {
	_, at := s.mirror.Checkpoint()
	st := Status{
		Nodes: s.mirror.Nodes(), Skipped: s.mirror.Skipped(), Complete: s.mirror.Complete(), Checkpoint: at,
		Pending: s.journal.Len(), Bytes: s.journal.PendingBytes(),
		Open: s.tree.Handles(), Chunks: s.chunks.Stats(), Events: s.events.all(),
	}
	for _, p := range s.settler.Active() {
		st.Active = append(st.Active, Transfer{
			Path: s.intentPath(p.Ino), Op: p.Op, Sent: p.Sent, Size: p.Size, Rate: p.Rate, Started: p.Started,
		})
	}
	st.Failed = s.failures()
	return st
}

// Oldest is since when the oldest of the pending changes waits; zero = none is
// pending.
func (s *Store) Oldest() time.Time {
	var oldest time.Time
	for _, ino := range s.journal.Inos() {
		s.journal.Peek(ino, func(e *journal.Entry) {
			if oldest.IsZero() || e.Since.Before(oldest) {
				oldest = e.Since
			}
		})
	}
	return oldest
}

func (s *Store) failures() []Failure {
	var fs []Failure
	if s.settler.Stats().Failed == 0 {
		return nil
	}
	for _, ino := range s.journal.Inos() {
		var f Failure
		s.journal.Peek(ino, func(e *journal.Entry) {
			f = Failure{Error: e.Failed, RetryAt: e.RetryAt}
		})
		if f.Error == "" {
			continue
		}
		f.Path = s.intentPath(ino)
		fs = append(fs, f)
		if len(fs) == maxFailures {
			break
		}
	}
	slices.SortFunc(fs, func(a, b Failure) int { return cmp.Compare(a.Path, b.Path) })
	return fs
}

// intentPath is where an entry belongs, also when it is one to be removed.
func (s *Store) intentPath(ino uint64) (path string) {
	s.tree.Read(func(v tree.View) {
		e, ok := v.Entry(ino)
		switch {
		case !ok:
			path = v.Path(ino, s.Root())
		case len(e.Place.Parents) == 0:
			path = e.Place.Shown
		default:
			dir := v.Path(e.Place.Parents[0], s.Root())
			if dir == "/" {
				dir = ""
			}
			path = dir + "/" + e.Place.Shown
		}
	})
	return path
}

// Pending is how much the drive lacks.
func (s *Store) Pending() settle.Stats { return s.settler.Stats() }

// Flush starts all wishes at once, also what is settling or backing off, and
// returns when nothing is pending but what fails, which it lists, and content
// that PauseUploads holds back.
//
// On a read-only mount nothing is settled, so there is nothing to wait for.
func (s *Store) Flush(ctx context.Context) ([]Failure, error) {
	if s.o.ReadOnly {
		return nil, nil
	}
	failed, err := s.settler.Flush(ctx)
	var fs []Failure
	for _, f := range failed {
		if errors.Is(f.Err, settle.ErrPaused) {
			continue
		}
		fs = append(fs, Failure{Path: s.intentPath(f.Ino), Error: f.Err.Error()})
	}
	return fs, err
}

// PauseUploads stops, or starts again, the sending of content. Names and
// places go on.
func (s *Store) PauseUploads(on bool) { s.settler.PauseContents(on) }

// Answered takes a node that the service answered to a call made beside the
// mount, such as a restore from the trash.
func (s *Store) Answered(n drive.Node) error { return host{s}.Foreign(n) }

// Remote is the client the Store speaks through.
func (s *Store) Remote() *drive.Client { return s.remote }
