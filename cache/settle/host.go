package settle

import (
	"context"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// FolderState is what FolderID knows of a folder.
type FolderState int

// The three states of a folder that something is to be put in.
const (
	Known   FolderState = iota // it has a node; the id is given
	Waiting                    // its own entry must settle first
	Gone                       // it is removed, or nobody knows it
)

// Host is what settling asks of the store that owns mirror, journal and
// chunk cache. All methods are safe for concurrent use, and none calls back
// into the Settler in a way that waits for it (Kick is fine).
type Host interface {
	// Update is journal.Update, made under whatever lock the host holds from
	// reading an entry until it puts it back. Without that, an older copy put
	// back would wipe out what settling has just learned (the node's id!). A
	// host that changes entries with journal.Edit only needs no such lock.
	Update(ino uint64, fn func(*journal.Entry) bool) error

	// An error of these says that the answer is not known, which is another
	// thing than no.

	// FolderID resolves a folder to its node's id.
	FolderID(ino uint64) (id string, st FolderState, err error)
	// Hidden tells whether no path is known that leads from the root to a
	// folder: it, or one above it, is in the trash, or has not been told yet.
	Hidden(ino uint64) (bool, error)
	// Holder is the inode whose node holds (parent, name) on the drive as far
	// as the mirror knows, and that node; 0 = free.
	Holder(parentID, name string) (ino uint64, nodeID string, err error)
	// Place is the name and the folders (in no order) that the mirror has for a
	// node; false = it does not know the node, or knows it to be gone.
	Place(nodeID string) (name string, parents []string, ok bool, err error)
	// Tag is the eTagResponse to hold a rename against: that of b, or "" when
	// calls of our own are known to have changed it since.
	Tag(ino uint64, b *journal.Base) string
	// InoOf maps a node id to its inode; 0 = unknown.
	InoOf(nodeID string) (uint64, error)
	// Heir is the new file that takes over the node of the removed file ino, 0
	// = none: the removal waits for it.
	Heir(ino uint64) uint64
	// MayStream tells whether the new file ino may be sent while it is written:
	// not where it would take over a node.
	MayStream(ino uint64) bool
	// Ancestor is the removed file whose node the new file ino takes over, 0 =
	// none: nothing may be on its way for it when that happens.
	Ancestor(ino uint64) uint64
	// Inherit gives the new file (ino, rev) the node of the removed file whose
	// place it has, so that it is overwritten instead of made; false = there is
	// none.
	Inherit(ino, rev uint64) (bool, error)

	// Answered hands over what the service answered to a call made for ino:
	// the node belongs to ino from now on, and what changed is our own doing.
	// Its Properties, unless nil, are those that a creation brought along.
	Answered(ino uint64, n drive.Node) error
	// Foreign hands over what a look found about a node that is not (only) ours.
	Foreign(n drive.Node) error
	// Gone: the node is not live on the drive any more, as told by a direct
	// get or by our own trash call. version 0 = not told (404).
	Gone(nodeID string, version int64) error
	// Done: the wish (ino, rev) is fulfilled; it leaves journal and view
	// together. Entry.Props, if any, are on the drive. false: it changed
	// meanwhile, look again.
	Done(ino, rev uint64) (bool, error)

	// Complete fetches the missing base bytes of a draft; drive.ErrChanged
	// when they cannot be had any more.
	Complete(ctx context.Context, ino uint64, d *journal.Draft) error
	// BaseLost settles an edit whose base is gone for good: n is what the drive
	// has instead, without an id when that is nothing. ErrSuperseded where the
	// entry is another one now.
	BaseLost(ctx context.Context, ino uint64, d *journal.Draft, n drive.Node) error
	// Uploaded: content of ino is on the drive as n, whole and verified; the
	// draft's bytes may become cached chunks, when read through
	// d.Snapshot(d.Gen()) and checked against n: somebody may be writing.
	// Called before Done.
	Uploaded(ino uint64, n drive.Node, d *journal.Draft)

	// Conflict gives the local state of ino a name of its own beside what
	// holds its place: for content the entry becomes a new file (no NodeID,
	// no Base, a fresh LocalID, no Sent); a folder or a file without a draft
	// keeps its node and just wants the other name. Reported once.
	Conflict(ino uint64, why string) error
	// Lost: the node of ino is gone from the drive under a local edit: the
	// entry becomes a new file at its place.
	Lost(ino uint64, why string) error
	// Undo takes a wish back because the drive refused it: the view returns
	// to the drive's word. Reported once. A wish that changed meanwhile
	// (another rev) stays, and done is false. Content is never taken back: of an entry with a
	// draft only the wish to be elsewhere, or to be removed, is meant.
	Undo(ino, rev uint64, why error) (done bool, err error)
	// Notice tells the user of something about ino that cannot be mended.
	Notice(ino uint64, what string)
	// ParentGone: a folder that ino belongs in is gone from the drive: it is
	// made again, or the entry moves elsewhere; the host rewrites entries.
	ParentGone(ino uint64) error
}
