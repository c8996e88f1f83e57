package tree

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// fileKey names one kernel inode of a file: an inode and the content version
// it stands for.
type fileKey struct{ ino, gen uint64 }

// files knows every open file. Its lock is a leaf.
type files struct {
	mu   sync.Mutex
	open map[fileKey]*File
	pins map[uint64]*File // the file whose draft is what the inode shows

	wrote chan struct{} // one slot: a file has something that the journal lacks

	failed  []failedClose
	retryAt time.Time // of failed
}

func (t *files) init() {
	t.open = map[fileKey]*File{}
	t.pins = map[uint64]*File{}
	t.wrote = make(chan struct{}, 1)
}

func (t *files) get(ino, gen uint64) *File {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[fileKey{ino, gen}]
}

// pinned is the file whose draft holds the version of ino; nil when there is
// none.
func (t *files) pinned(ino uint64) *File {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.pins[ino]; f != nil && !f.gone.Load() {
		return f
	}
	return nil
}

// shown is the file whose draft the inode shows, as pinned, and whether the
// version that it shows is open for writing.
func (t *files) shown(ino, gen uint64) (f *File, writing bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f = t.pins[ino]; f != nil && f.gone.Load() {
		f = nil
	}
	of := f
	if of == nil {
		of = t.open[fileKey{ino, gen}]
	}
	return f, of != nil && of.writers > 0
}

// setGone says whether the open file of a version was removed.
func (t *files) setGone(ino, gen uint64, gone bool) {
	if f := t.get(ino, gen); f != nil {
		f.gone.Store(gone)
	}
}

// overlay lays what an open file has over the view of its inode: a draft that
// was not closed yet is seen by everyone.
func (t *files) overlay(n *Inode) {
	if n.Folder {
		return
	}
	f, writing := t.shown(n.Ino, n.Gen)
	n.Writing = writing
	if f == nil {
		return
	}
	a := n.Attr()
	f.overlay(&a)
	n.Gen, n.Size, n.Mode, n.Mtime, n.Ctime = a.Gen, a.Size, a.Mode, a.Mtime, a.Ctime
}

func (t *files) none() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open) == 0
}

// overlayAll is overlay for the entries of a folder.
func (t *files) overlayAll(es []Entry) {
	if t.none() {
		return
	}
	for i := range es {
		if es[i].Folder {
			continue
		}
		f, writing := t.shown(es[i].Ino, es[i].Gen)
		es[i].Writing = writing
		if f != nil {
			f.overlay(&es[i].Attr)
		}
	}
}

func (f *File) overlay(a *Attr) {
	a.Gen = f.Gen
	a.Size = f.Size()
	if m := f.mtime.Load(); m != 0 {
		a.Mtime = time.Unix(0, m)
		a.Ctime = a.Mtime
	}
	if m := f.mode.Load(); m != 0 {
		a.Mode = m
	}
}

// File is one content version of an inode while it is open; its handles share
// it. The first write gives it a draft, which it keeps; from then on the inode
// shows this version to everyone. Methods are safe for concurrent use.
type File struct {
	t        *Tree
	Ino, Gen uint64
	Opened   Attr // as it was when it was opened: what a superseded version shows

	// refs and writers count handles; guarded by files.mu.
	refs, writers int
	// parted: its draft belongs to no entry and to no other handle any more;
	// guarded by files.mu.
	parted bool

	// mu makes the steps from version to draft to entry one at a time. Data
	// does not pass under it. Before Tree.mu.
	mu sync.Mutex
	// version, guarded by mu, is whose bytes fill what the draft lacks.
	version chunk.Version

	// base, guarded by Tree.mu, is the drive's content that the local bytes
	// began from.
	base journal.Base

	draft    atomic.Pointer[journal.Draft]
	closed   atomic.Pointer[int64]         // the size it had when the last handle was released; nil = open
	place    atomic.Pointer[journal.Place] // where it was last seen
	mtime    atomic.Int64                  // ns; 0 = not touched here
	unsaved  atomic.Int64                  // ns, of the first write that the journal lacks; 0 = it has all
	mode     atomic.Uint32                 // ModeSet|bits; 0 = not touched here
	gone     atomic.Bool                   // removed here: nothing of it goes to the drive
	streamed atomic.Bool                   // its upload began while it was written
}

// Size is what the file holds now, in bytes.
func (f *File) Size() int64 {
	if d := f.draft.Load(); d != nil {
		return d.Size()
	}
	if closed := f.closed.Load(); closed != nil {
		return *closed
	}
	return f.Opened.Size
}

// Draft is its local content, nil before the first write.
func (f *File) Draft() *journal.Draft { return f.draft.Load() }

// Version is whose bytes fill what the draft lacks.
func (f *File) Version() chunk.Version {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.version
}

// Gone tells whether the file was removed here.
func (f *File) Gone() bool { return f.gone.Load() }

// Touch notes a write at this moment.
func (f *File) Touch() {
	now := time.Now().UnixNano()
	f.mtime.Store(now)
	f.noteUnsaved(now)
}

// SetStreamed notes that its upload may begin before it is closed.
func (f *File) SetStreamed() { f.streamed.Store(true) }

// IsStreamed tells what SetStreamed noted.
func (f *File) IsStreamed() bool { return f.streamed.Load() }

// Attr is what a version without a name shows.
func (f *File) Attr(nlink uint32) Attr {
	a := f.Opened
	a.Writing = f.Written()
	a.Size = f.Size()
	a.Nlink = nlink
	if m := f.mtime.Load(); m != 0 {
		a.Mtime = time.Unix(0, m)
	}
	if m := f.mode.Load(); m != 0 {
		a.Mode = m
	}
	return a
}

// VersionOf is the content version behind a view.
func VersionOf(n *Inode) chunk.Version {
	return chunk.Version{ID: n.ID, Content: n.Content, Size: n.Size, MD5: n.MD5, Name: n.Name}
}

// BaseVersion is the content version that a draft's missing bytes are of.
func BaseVersion(st *journal.DraftState, name string) chunk.Version {
	return chunk.Version{ID: st.BaseID, Content: st.BaseGen, Size: st.BaseLen, MD5: st.BaseMD5, Name: name}
}

// Writes tells whether open(2)'s flags ask for writing.
func Writes(flags uint32) bool { return flags&unix.O_ACCMODE != unix.O_RDONLY }

// File is the open file of a version, nil when it is not open.
func (t *Tree) File(ino, gen uint64) *File { return t.files.get(ino, gen) }

// Handles is the number of open handles.
func (t *Tree) Handles() (n int) {
	t.files.mu.Lock()
	defer t.files.mu.Unlock()
	for _, f := range t.files.open {
		n += f.refs
	}
	return n
}

// OpenFile opens the version gen of the file ino. The gen of a version that
// was superseded opens only while another handle has it open, else ErrStale.
// Every call that succeeds is followed by one Release.
func (t *Tree) OpenFile(ino, gen uint64, flags uint32) (*File, error) {
	var d *journal.Draft
	for {
		var f *File
		var more bool
		var err error
		// The view stays as it is until the file is in the table: from then on
		// whoever changes what its bytes began from finds it there.
		t.Read(func(v View) { f, more, err = v.openFile(ino, gen, flags, d) })
		if d != nil && (f == nil || f.draft.Load() != d || more) {
			err = errors.Join(err, d.Close()) // it was open already, or is not wanted
		}
		if err != nil || !more {
			return f, err
		}
		// Opening its file may take time, so it happens outside of the lock.
		if d, err = t.journal.ContinueDraft(ino); err != nil {
			return nil, fmt.Errorf("opening the draft: %w", err)
		}
	}
}

// openFile is one try of OpenFile. more: the draft of ino is needed, and d is
// not it.
func (v View) openFile(ino, gen uint64, flags uint32, d *journal.Draft) (f *File, more bool, err error) {
	n, ok, err := v.Inode(ino)
	if err != nil {
		return nil, false, err
	}
	if ok && n.Gen == gen && n.Folder {
		return nil, false, ErrIsDir
	}
	if f := v.t.files.join(ino, gen, flags); f != nil {
		v.noteOpen(f, &n, flags)
		return f, false, nil
	}
	switch {
	case !ok:
		return nil, false, ErrNotExist
	case n.Gen != gen:
		return nil, false, ErrStale // only those who have it open can open it again
	}
	f = &File{t: v.t, Ino: ino, Gen: gen, Opened: n.Attr()}
	f.place.Store(&journal.Place{Parents: slices.Clone(n.Parents), Name: n.Name, Shown: n.Shown})
	f.base = journal.Base{Content: n.Content, MD5: n.MD5, Size: n.Size, Version: n.Version}
	f.version = VersionOf(&n)
	if e, has := v.Entry(ino); has && e.Draft != nil {
		if d == nil {
			return nil, true, nil
		}
		f.version = BaseVersion(e.Draft, n.Name)
		if e.Base != nil {
			f.base = *e.Base
		}
		f.draft.Store(d)
	}
	if Writes(flags) && v.t.unseen(ino) {
		f.base = unseenBase
	}
	f = v.t.files.add(f, flags)
	v.noteOpen(f, &n, flags)
	return f, false, nil
}

// join gives a file that is open already one more handle; nil when it is not.
func (t *files) join(ino, gen uint64, flags uint32) *File {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.open[fileKey{ino, gen}]
	if f == nil || f.gone.Load() || f.parted && Writes(flags) {
		return nil // what was removed belongs to the handles it had
	}
	t.handleLocked(f, flags)
	return f
}

// add puts f into the table with its first handle; when another call was
// quicker, f is dropped for its file.
func (t *files) add(f *File, flags uint32) *File {
	t.mu.Lock()
	defer t.mu.Unlock()
	if have := t.open[fileKey{f.Ino, f.Gen}]; have != nil && !have.gone.Load() {
		if d := f.draft.Load(); d != nil {
			if have.draft.Load() == nil {
				have.draft.Store(d)
				t.pins[have.Ino] = have
			}
		}
		f = have
	} else {
		t.open[fileKey{f.Ino, f.Gen}] = f
	}
	t.handleLocked(f, flags)
	return f
}

func (t *files) handleLocked(f *File, flags uint32) {
	f.refs++
	if Writes(flags) {
		f.writers++
	}
	if f.draft.Load() != nil && !f.parted {
		t.pins[f.Ino] = f
	}
}

// Release drops one handle that was opened with flags. The last one closes the
// draft.
func (f *File) Release(flags uint32) {
	if Writes(flags) {
		f.t.noteClose(f.Ino)
	}
	last, unpinned := f.t.files.release(f, Writes(flags))
	if last {
		size := f.Size() // a call that has found f may still ask it
		f.closed.Store(&size)
		if d := f.draft.Swap(nil); d != nil {
			if err := d.Close(); err != nil {
				f.t.log.Warn("closing a draft", "inode", f.Ino, "err", err)
			}
		}
	}
	switch {
	case unpinned:
		f.t.unpinned(f)
	case Writes(flags):
		f.t.letGo(f.Ino)
	}
}

// release drops one handle of f and tells whether it was the last.
func (t *files) release(f *File, writable bool) (last, unpinned bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.refs--
	if writable {
		f.writers--
	}
	if f.refs > 0 {
		return false, false
	}
	if t.open[fileKey{f.Ino, f.Gen}] == f {
		delete(t.open, fileKey{f.Ino, f.Gen})
	}
	if t.pins[f.Ino] == f {
		delete(t.pins, f.Ino)
		unpinned = true
	}
	return true, unpinned
}

// Written tells whether f is open for writing.
func (f *File) Written() bool {
	f.t.files.mu.Lock()
	defer f.t.files.mu.Unlock()
	return f.writers > 0
}

// Written tells whether what ino shows is open for writing.
func (t *Tree) Written(ino uint64) bool {
	f := t.files.pinned(ino)
	return f != nil && f.Written()
}

// part ends that f is what its inode shows, unless it is open for writing.
func (t *files) part(f *File) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.writers > 0 || t.pins[f.Ino] != f {
		return false
	}
	delete(t.pins, f.Ino)
	f.parted = true
	return true
}

// pin makes f what its inode shows. False: another version of it is being
// written already.
func (t *files) pin(f *File) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pins[f.Ino]; p != nil && p != f && !p.gone.Load() {
		return false
	}
	if f.refs > 0 {
		t.pins[f.Ino] = f
	}
	return true
}

// unpin takes back a pin that came to nothing.
func (t *files) unpin(f *File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pins[f.Ino] == f && f.draft.Load() == nil {
		delete(t.pins, f.Ino)
	}
}

// EnsureDraft gives the file its draft, with which its version is pinned.
// ErrStale when another version of the inode is being written: two cannot
// become one file.
func (f *File) EnsureDraft() (*journal.Draft, error) {
	if d := f.draft.Load(); d != nil {
		return d, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.draft.Load(); d != nil {
		return d, nil
	}
	v := f.version
	st := &journal.DraftState{
		Size: v.Size, Limit: v.Size,
		BaseID: v.ID, BaseGen: v.Content, BaseLen: v.Size, BaseMD5: v.MD5,
	}
	if v.Size == 0 {
		st.BaseID, st.BaseGen, st.BaseMD5 = "", 0, ""
	}
	if !f.gone.Load() && !f.t.files.pin(f) {
		return nil, fmt.Errorf("%w: it was replaced, and the new version is being written", ErrStale)
	}
	d, err := f.t.journal.OpenDraft(f.Ino, st)
	if err != nil {
		f.t.files.unpin(f)
		return nil, fmt.Errorf("making a draft: %w", err)
	}
	f.draft.Store(d)
	if v.Size > 0 && f.t.o.Drafted != nil {
		f.t.o.Drafted(f.Ino)
	}
	return d, nil
}

// Truncate sets the size, in bytes.
func (f *File) Truncate(size int64) error {
	d, err := f.EnsureDraft()
	if err != nil {
		return err
	}
	if err := d.Truncate(size); err != nil {
		return err
	}
	f.Touch()
	return nil
}

// content wants the drive to have the draft state st of f; not before it is
// closed, when it is open.
func (tx *Tx) content(f *File, st *journal.DraftState, open bool) error {
	_, had := tx.Entry(f.Ino)
	e, err := tx.Edit(f.Ino)
	switch {
	case errors.Is(err, ErrNotExist):
		// The node was taken off the drive under this edit: the edit gets a
		// node of its own (P3).
		p := f.place.Load()
		e = &journal.Entry{Ino: f.Ino}
		e.Place = journal.Place{Parents: slices.Clone(p.Parents), Name: p.Name, Shown: p.Shown}
		e.Created, e.Mode, e.LocalID, e.Since = f.Opened.Created, f.Opened.Mode, uuid.NewString(), time.Now()
	case err != nil:
		return err
	case e.Removed:
		return nil
	}
	if e.Base != nil && (!had || e.Draft == nil) {
		// The local bytes began from what was opened, whatever the drive has
		// told since: the write-back finds the conflict by this.
		e.Base.Content, e.Base.MD5, e.Base.Size = f.base.Content, f.base.MD5, f.base.Size
	}
	e.Draft, e.Open = st, open
	if m := f.mtime.Load(); m != 0 {
		e.Mtime = time.Unix(0, m)
	}
	if m := f.mode.Load(); m != 0 {
		e.Mode = m
	}
	e.Props = withAttrProp(e.Props, e.Mtime, e.Mode)
	if e.NodeID == "" && e.LocalID == "" {
		// Else it stays: a broken upload of an earlier generation may have left
		// a node that bears it, and is found by it.
		e.LocalID = uuid.NewString()
	}
	if len(e.Place.Parents) == 0 {
		// All its folders went from the drive; it is shown where it was.
		e.Place.Parents = slices.Clone(f.place.Load().Parents)
	}
	for _, p := range e.Place.Parents {
		if _, there, err := tx.Inode(p); err == nil && !there {
			tx.done = append(tx.done, func() { tx.t.moveOut(f.Ino) })
			break
		}
	}
	tx.settle(e)
	if early := f.Opened.Created.Add(tx.t.StreamDelay()); f.streamed.Load() && early.Before(e.Due) {
		e.Due = early // had it been open for longer, its upload would have begun by then
	}
	tx.Put(e)
	return nil
}

// settle gives an intent its settling time and a clean slate of failures.
func (tx *Tx) settle(e *journal.Entry) {
	delay := tx.t.o.UploadDelay()
	if e.NodeID == "" && !e.Folder && !e.Removed && Temporary(e.Place.Shown) {
		delay = max(delay, TemporaryDelay)
	}
	e.Due = time.Now().Add(delay)
	e.Failed, e.Attempts, e.RetryAt = "", 0, time.Time{}
}

// letGo ends that readers alone keep showing everyone a version that was
// written here, reached the drive, and was replaced there since.
func (t *Tree) letGo(ino uint64) {
	t.Emit(func() []Effect {
		t.mu.Lock()
		defer t.mu.Unlock()
		return View{t: t}.letGo(ino)
	}())
}

// letGo is called with Tree.mu held for writing.
func (v View) letGo(ino uint64) []Effect {
	f := v.t.files.pinned(ino)
	if f == nil || v.t.journal.Has(ino) {
		return nil
	}
	d := f.draft.Load()
	r, ok, err := v.t.mirror.Get(ino)
	if err != nil || !ok || r.Gen == f.Gen || d == nil || d.Dirty() || SameContent(&f.base, &r) || !v.t.files.part(f) {
		return nil
	}
	v.t.journal.Part(ino)
	n := fromRecord(&r)
	ds := n.Dentries()
	return []Effect{{Ino: ino, Old: ds, New: ds, Content: true, Attr: true}}
}

// unpinned tells the kernel of a version that came while f held its own.
func (t *Tree) unpinned(f *File) {
	var es []Effect
	t.Read(func(v View) {
		n, ok, err := v.Inode(f.Ino)
		if err != nil || !ok || n.Gen == f.Gen {
			return
		}
		ds := n.Dentries()
		es = []Effect{{Ino: f.Ino, Old: ds, New: ds, Content: true, Attr: true}}
	})
	t.Emit(es)
}

// SameContent tells whether a node has the bytes of b.
func SameContent(b *journal.Base, r *mirror.Record) bool {
	if b.MD5 != "" && r.MD5 != "" {
		return b.MD5 == r.MD5 && b.Size == r.Size
	}
	return b.Content == r.Content && b.Size == r.Size
}

// SetMeta notes a mode or modification time that is set while it is open.
func (f *File) SetMeta(a SetAttr) {
	if a.Mtime != nil {
		f.mtime.Store(a.Mtime.UnixNano())
	}
	if a.Mode != nil {
		f.mode.Store(ModeSet | *a.Mode&0o777)
	}
}
