package writeback

import (
	"slices"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
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
	doubt   bool // whether it is where home and name say
	open    bool
	lane    lane
	due     time.Time

	since  time.Time // when this revision was first seen here
	sentAt time.Time // Sent.At, and
	found  time.Time // when that was first seen here

	at   time.Time // of timed
	on   uint64    // of blocked
	slot bool      // blocked because on holds the name
	told bool      // … by a worker's word, not by what the queue knows

	settling bool // timed, and one of queue.settling
	// met is whose name the last try ran into, by the service's word; 0 when
	// it did not. The mirror may not know of it yet, and then only this shows
	// that two wait for each other.
	met uint64

	retry  time.Time // not before, unless pressed
	remote bool      // … because the service as a whole was in trouble
	haste  uint64    // the revision whose due and retry do not count until the next try; 0 = none
	detour bool      // take the temporary name next
	again  bool      // look again when the work in flight ends
	err    error     // of the last try
	final  bool      // err will not go away by itself soon
	task   *task

	streamFrom time.Time // when its upload may begin although it is being written; zero = not
	streamed   bool      // that was tried

	spins int // tasks in a row that changed nothing

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

// take copies what the queue needs.
//
// Times of the journal are those of a clock that may have been wrong: none is
// waited for longer than the longest legal wait from when it was first seen.
func (it *item) take(e *journal.Entry, o *Options) {
	now := time.Now()
	if it.since.IsZero() && e.Failed != "" && e.RetryAt.After(now) {
		it.retry = earlier(e.RetryAt, now.Add(mostRetry)) // of an earlier life
	}
	if it.since.IsZero() || it.rev != e.Rev {
		it.since = now
	}
	if e.Sent != nil && !e.Sent.At.Equal(it.sentAt) {
		it.sentAt, it.found = e.Sent.At, now
	}
	if it.rev != e.Rev {
		// A new intent is a new chance, unless the service as a whole is away.
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
	most := max(o.UploadDelay, time.Minute)
	if tree.Temporary(e.Place.Name) {
		most = max(most, tree.TemporaryDelay)
	}
	it.due, it.doubt = earlier(e.Due, it.since.Add(most)), e.Base.Doubted()
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
	if e.Draft != nil && !e.Open && !e.Removed && !contentDone(e) {
		it.lane = laneLarge
		if e.Draft.Size < smallFile {
			it.lane = laneSmall
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
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
