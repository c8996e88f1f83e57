package writeback

import (
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// verdict is what a node is to an entry whose call may have made or changed it.
type verdict int

const (
	unclear   verdict = iota // nothing decides it yet: look again later
	absent                   // there is no live node: none was made, or it left
	pending                  // an upload that is not complete (API §5.3), nothing says whose
	untouched                // the entry's own node, with the content it had before
	ours                     // it holds what was sent
	broken                   // ours, but holds other bytes: they are sent over it
	foreign                  // another's, and nothing is taken from it
)

func (v verdict) String() string {
	return [...]string{"unclear", "absent", "pending", "untouched", "ours", "broken", "foreign"}[v]
}

// match is what the content of a node is of what was sent to it.
type match int

const (
	noContent match = iota // none is told: a folder, or an upload under way
	whole                  // all of what was sent last
	former                 // all of what an earlier call sent
	beginning              // what was sent last, cut short; not empty
	empty                  // no byte: the beginning of everything
	other
)

// clue is what led to the node.
type clue int

const (
	byName   clue = iota // it shows where a call of unknown outcome put its node
	byNode               // it is the entry's own
	byTaken              // a 409 says that it holds the name
	byMapped             // a 409 that is not about the name tells of it: a LocalID maps to one node (API §6.6)
)

// evidence is all that a verdict rests on.
type evidence struct {
	clue  clue
	found bool // false: a direct get knows no such node
	node  drive.Node
	kind  drive.Kind // what is wanted

	sits    bool // it has the name, in the folder, that the call gave it
	holds   match
	tried   bool      // an earlier call of ours, with the same LocalID or to the same node, has an unknown outcome
	began   time.Time // the service's date before the first of them; zero = not known
	owner   string    // our name as the service has it, "" = not known
	claimed bool      // it is another entry's
	seen    bool      // this mount shows it as another file
	base    *journal.Base
}

// serviceSlack is how far the clocks of the service's machines may be apart.
const serviceSlack = time.Minute

// judge is the only place that says whose a node is. It believes content, a
// LocalID that maps to the node, and dates of the service compared with dates
// of the service; createdBy is the program's name, which other machines share,
// and therefore only a reason against.
func judge(e *evidence) verdict {
	n := &e.node
	switch {
	case !e.found, n.Status != drive.Pending && !n.Live():
		return absent
	case e.claimed, n.Kind != e.kind:
		return foreign
	case e.clue == byNode:
		return judgeOwn(e)
	case !e.sits && e.clue != byMapped:
		return unclear // it has left, or what was told of it is old
	case e.kind == drive.Folder:
		return judgeFolder(e)
	case e.holds == whole && (e.sits || e.made()):
		return ours // the bytes are there, whoever brought them
	case n.Status == drive.Pending || e.holds == noContent:
		if e.clue == byMapped && e.byUs() || e.clue != byName && e.made() {
			return broken // what a broken upload of ours has left
		}
		return pending
	case !e.made() || !firstContent(n):
		return foreign
	case e.holds == former, e.holds == beginning, e.holds == empty && !e.seen, e.clue == byMapped && !e.sits:
		return broken
	}
	return foreign
}

func judgeFolder(e *evidence) verdict {
	switch {
	case e.node.Status == drive.Pending:
		return unclear
	case e.made():
		return ours
	}
	return foreign
}

// judgeOwn tells what became of the content of the entry's own node.
func judgeOwn(e *evidence) verdict {
	switch {
	case e.node.Status == drive.Pending:
		return pending
	case e.kind == drive.Folder:
		return untouched
	case e.holds == whole:
		return ours
	case e.base == nil || !changedContent(e.base, e.node):
		return untouched
	case !e.tried:
		return foreign
	case e.holds == former, e.holds == beginning,
		e.holds == empty && (e.node.Content.Version == e.base.Content+1 || madeUp(&e.node)):
		return broken
	}
	return foreign
}

// made reports whether an earlier call of ours can have made the node.
func (e *evidence) made() bool {
	return e.tried && e.byUs() &&
		(e.began.IsZero() || e.node.Created.IsZero() || e.node.Created.After(e.began.Add(-serviceSlack)))
}

// byUs reports whether the node may have been made by this program.
func (e *evidence) byUs() bool {
	return e.owner == "" || e.node.CreatedBy == "" || e.node.CreatedBy == e.owner
}

// firstContent reports whether the node may hold the content it was made with.
func firstContent(n *drive.Node) bool {
	return n.Content == nil || n.Content.Version <= 1 || madeUp(n)
}

// madeUp reports whether the service tells no content versions: package drive
// makes them from the content then.
func madeUp(n *drive.Node) bool { return n.Content != nil && n.Content.Version >= 1<<62 }

// changedContent reports whether the node holds other bytes than b tells. The
// same bytes under a new version are no change, nor is a new tag or metadata
// version over the same content version.
func changedContent(b *journal.Base, n drive.Node) bool {
	return n.Content != nil && n.Content.Version != b.Content &&
		(n.Content.MD5 != b.MD5 || n.Content.Size != b.Size)
}
