package cache

import (
	"time"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/drive"
)

// Status is a snapshot of what the Store holds and does.
type Status struct {
	Nodes      int64     // live nodes the mirror knows
	Skipped    int64     // nodes of the drive that cannot be shown, see Events
	Complete   bool      // the first feed was read to its end
	Checkpoint time.Time // when the feed last told something; zero = never
	Pending    int       // intents that are not fulfilled
	Bytes      int64     // content among them
	Unsaved    int       // files whose content could not be put into the journal; it is tried again
	Active     []Transfer
	Failed     []Failure
	Open       int // file handles
	Chunks     chunk.Stats
	Events     []Event // conflicts and the like, oldest first
}

// Status tells what the Store holds and does.
func (s *Store) Status() Status {
	_, at := s.mirror.Checkpoint()
	return Status{
		Nodes: s.mirror.Nodes(), Skipped: s.mirror.Skipped(), Complete: s.mirror.Complete(), Checkpoint: at,
		Pending: s.journal.Len(), Bytes: s.journal.PendingBytes(),
		Unsaved: len(s.journal.Uncommitted()),
		Active:  s.queue.transfers(), Failed: s.queue.failures(),
		Open: s.tree.Handles(), Chunks: s.chunks.Stats(), Events: s.events.all(),
	}
}

// Queue is what the drive lacks.
func (s *Store) Queue() *Queue { return &s.queue }

// Feed is what the poller of changes tells what the drive has.
func (s *Store) Feed() *Feed { return &s.feed }

// Remote is the client the Store speaks through.
func (s *Store) Remote() *drive.Client { return s.remote }
