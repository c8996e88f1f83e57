package journal

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// Entry is the state one inode should have on the drive and does not have
// yet. The journal keeps at most one entry per inode: a later change of the
// same inode replaces the intent, it does not queue behind it. That makes the
// queue short, replay after a crash a no-op, and a file that was created,
// renamed and removed again cost nothing.
type Entry struct {
	Ino    uint64
	Rev    uint64 // local changes so far; Append makes it grow, progress does not
	Order  uint64 // set by the journal: the larger one's intent was recorded later
	Folder bool

	Intent
	Progress
}

// Intent is what the user wants. Its one writer is the tree above.
type Intent struct {
	// What should be. Removed wins over everything else: the node belongs in
	// the drive's trash, and an inode without a node just ends.
	Place   Place
	Removed bool

	// Vacated is the place that a removed file gave up: whoever takes it
	// next may take over the node.
	Vacated Vacated
	// ReplacedBy is the inode whose rename took the place of a removed one: it
	// comes back should the drive refuse that. 0 = it was removed for itself.
	ReplacedBy uint64

	// Draft is the content that should be on the drive; nil when the
	// content is not to be changed.
	Draft *DraftState

	// Props are the own properties that should be on the node, by key; an
	// empty value takes the key away. Nil when none is to be changed.
	Props map[string]string

	// Mode, Mtime, Created are what the mount shows meanwhile. Mode 0 = the
	// mount's default. They reach the drive as properties (Props), never by
	// themselves.
	Mode    uint32
	Mtime   time.Time
	Created time.Time

	// Open is set while no writer has closed the content: it shows in the
	// mount, and is not sent. After a crash it stays so, if there is a Draft;
	// a new file that has none is dropped, and its bytes are set aside.
	Open bool

	Since time.Time // of the oldest change that is not on the drive
	Due   time.Time // not before: the settling time of design §5 and §6
}

// Progress is what the write-back has learned. Its one writer is the
// write-back.
type Progress struct {
	// NodeID is the node that stands for the inode on the drive, "" while
	// there is none. Base is what the drive said of it when the local change
	// began; nil exactly when NodeID is "".
	NodeID string
	Base   *Base

	// Folders are nodes that the inode numbers in Place stand for, as far as
	// is known. Numbers that Place does not name (any more) are no harm.
	Folders []FolderID

	// LocalID makes a repeated POST find the node of the first one (API
	// §6.6). It is made with the entry and stays through generations: what a
	// broken upload of an earlier one left behind is recognised by it.
	LocalID string

	// Sent is an upload whose outcome is not known; it is settled by looking
	// before anything is sent again (API §13.2). Nil normally.
	Sent *Sent

	// Trashed: the node is in the drive's trash by our doing.
	Trashed bool

	// Failed is the last refusal, for status; "" when there was none.
	Failed   string
	FailedAt time.Time
	Attempts int       // failures in a row
	RetryAt  time.Time // not before, after a failure
}

// Vacated is a place that was given up. The zero Vacated is none.
type Vacated struct {
	Dir  uint64 // inode number of the folder
	Name string // as drive.Fold gives it
}

// Base is what the drive had when a local change began, and what the write-back
// has brought about since.
type Base struct {
	Parents []string // node ids
	Name    string   // as the drive has it
	Version int64    // metadata version
	ETag    string   // "" = none is known; see Doubt
	Content int64    // content version; 0 for folders
	Size    int64
	MD5     string
}

// doubt stands for the tag of a node whose place is about to change. The
// service's own are longer (API §5.6).
const doubt = "?"

// Doubt notes that a call that changes Name or Parents is on its way: what
// they are then nobody knows until the node was got, and news of the node may
// be an echo of that call.
func (b *Base) Doubt() { b.ETag = doubt }

// Doubted tells whether Name and Parents are in doubt. Nil is not.
func (b *Base) Doubted() bool { return b != nil && b.ETag == doubt }

// Place is where a node belongs.
type Place struct {
	Parents []uint64 // inode numbers of folders; never empty unless Removed
	Name    string   // as the drive shall have it
	Shown   string   // as the mount shows it
}

// FolderID says which node an inode number stands for.
type FolderID struct {
	Ino uint64
	ID  string
}

// DraftState is the part of a Draft that must survive a crash: which bytes of
// its sparse file are ours, and whose bytes fill the rest.
type DraftState struct {
	Gen     uint64   // grows with each commit of changed content; never 0
	File    uint64   // number of the file that has the bytes, or of the small content beside the log; set by the journal
	Size    int64    // bytes
	Local   []Extent // sorted, disjoint, not adjacent: bytes that are in the file
	Limit   int64    // bytes at and beyond it are local (zero where not written); below it, what is not Local is the base's
	BaseID  string   // node whose bytes fill the rest; "" when Limit is 0
	BaseGen int64    // its content version
	BaseLen int64    // its size
	BaseMD5 string
	Sums    uint64 // what the checksums of a complete file come to; 0 = not known

	c *blob
}

// blob is what all states of the same bytes share. Journal.mu guards it, but
// for sums.
type blob struct {
	sums   atomic.Pointer[[]uint32] // of a file's granules; nil = not known
	data   []byte                   // of a small one that is not stored yet; nil otherwise
	taken  bool                     // the writer is storing it
	failed error                    // of a sync of its file: what the disk has of it is not known, and never will be
	synced bool                     // the bytes are on the disk
}

// same reports whether both are the same bytes of the same file.
func (s *DraftState) same(t *DraftState) bool {
	return s != nil && t != nil && s.c != nil && s.c == t.c
}

// Extent is a range of bytes [Off, End).
type Extent struct{ Off, End int64 }

// Sent says what was sent, so that it can be recognised on the drive.
type Sent struct {
	File     uint64 // where the content is; set by the journal
	Gen      uint64 // draft generation; 0 for a folder
	Size     int64
	MD5      string // lower hex; "" when the body was not sent to its end
	Whole    bool   // the whole body went out: the service may be working on it
	At       time.Time
	Deadline time.Time // look until then before sending again
	ParentID string
	Name     string

	// Of earlier calls for the same node whose outcome was never known: how
	// many went out, what those that went out whole held (the latest last, at
	// most 8), and the service's date before the first of them or of this one;
	// zero = not known.
	Tries   int
	Earlier []Sum
	Began   time.Time
}

// Sum tells one content from another.
type Sum struct {
	Gen  uint64 // draft generation
	Size int64
	MD5  string // lower hex
}

// WentWhole tells whether content went out whole whose outcome is not known:
// there may be a node for it.
func (e *Entry) WentWhole() bool { return e.Sent != nil && e.Sent.Whole }

// Clone returns a copy that shares nothing with e. A nil e gives nil.
func (e *Entry) Clone() *Entry {
	if e == nil {
		return nil
	}
	c := *e
	if e.Base != nil {
		b := *e.Base
		b.Parents = slices.Clone(b.Parents)
		c.Base = &b
	}
	c.Place.Parents = slices.Clone(e.Place.Parents)
	c.Folders = slices.Clone(e.Folders)
	if e.Draft != nil {
		d := *e.Draft
		d.Local = slices.Clone(d.Local)
		c.Draft = &d
	}
	c.Props = maps.Clone(e.Props)
	if e.Sent != nil {
		s := *e.Sent
		s.Earlier = slices.Clone(s.Earlier)
		c.Sent = &s
	}
	return &c
}
