package cache

import (
	"context"
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
	"github.com/drivefs/drivefs/drive"
)

// fileKey names one kernel inode of a file: an inode and the content version
// it stands for.
type fileKey struct{ ino, gen uint64 }

// openTable knows every open file. Its lock is a leaf.
type openTable struct {
	mu    sync.Mutex
	files map[fileKey]*file
	pins  map[uint64]*file // the file whose local state is what the inode shows
}

func (t *openTable) init() {
	t.files = map[fileKey]*file{}
	t.pins = map[uint64]*file{}
}

func (t *openTable) get(ino, gen uint64) *file {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.files[fileKey{ino, gen}]
}

// pinned is the file whose draft or writing handles hold the version of ino;
// nil when there is none.
func (t *openTable) pinned(ino uint64) *file {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.pins[ino]; f != nil && !f.gone.Load() {
		return f
	}
	return nil
}

// overlay lays what an open file has over the view of its inode: a draft that
// was not closed yet is seen by everybody.
func (t *openTable) overlay(n *inode) {
	if n.folder {
		return
	}
	f := t.pinned(n.ino)
	if f == nil {
		return
	}
	a := n.attr()
	f.overlay(&a)
	n.gen, n.size, n.mode, n.mtime, n.ctime = a.Gen, a.Size, a.Mode, a.Mtime, a.Ctime
}

// overlayAll is overlay for the entries of a folder.
func (t *openTable) overlayAll(es []Entry) {
	t.mu.Lock()
	none := len(t.pins) == 0
	t.mu.Unlock()
	if none {
		return
	}
	for i := range es {
		if es[i].Folder {
			continue
		}
		if f := t.pinned(es[i].Ino); f != nil {
			f.overlay(&es[i].Attr)
		}
	}
}

func (f *file) overlay(a *Attr) {
	a.Gen = f.gen
	a.Size = f.size()
	if m := f.mtime.Load(); m != 0 {
		a.Mtime = time.Unix(0, m)
		a.Ctime = a.Mtime
	}
	if m := f.mode.Load(); m != 0 {
		a.Mode = m
	}
}

// count is the number of open handles.
func (t *openTable) count() (handles int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.files {
		handles += f.refs
	}
	return handles
}

// file is one content version of an inode while somebody has it open; its
// handles share it. The first write gives it a draft, which it keeps.
type file struct {
	s        *Store
	ino, gen uint64

	// refs and writers count handles; guarded by openTable.mu.
	refs, writers int
	// parted: its draft belongs to no wish and to no other handle any more;
	// guarded by openTable.mu.
	parted bool

	opened Attr // as it was when it was opened: what a superseded version shows

	// mu makes the steps from version to draft to wish one at a time. Data
	// does not pass under it.
	mu sync.Mutex
	// version, guarded by mu, is whose bytes fill what the draft lacks.
	version chunk.Version
	fresh   bool // guarded by mu: a new file that was never closed

	// base, guarded by Store.view, is the drive's content that the local
	// bytes began from.
	base journal.Base

	draft atomic.Pointer[journal.Draft]
	place atomic.Pointer[journal.Place] // where it was last seen
	mtime atomic.Int64                  // ns; 0 = not touched here
	mode  atomic.Uint32                 // ModeSet|bits; 0 = not touched here
	gone  atomic.Bool                   // removed here: nothing of it goes to the drive

	streamAt atomic.Int64 // size from which on an upload may begin while it is open; 0 = never
	inOrder  atomic.Int64 // how far it was written without holes, about
	streamed atomic.Bool  // the settler was told of it
}

// size is what the file holds now.
func (f *file) size() int64 {
	if d := f.draft.Load(); d != nil {
		return d.Size()
	}
	return f.opened.Size
}

// attr is what a version without a name shows.
func (f *file) attr(nlink uint32) Attr {
	a := f.opened
	a.Size = f.size()
	a.Nlink = nlink
	if m := f.mtime.Load(); m != 0 {
		a.Mtime = time.Unix(0, m)
	}
	if m := f.mode.Load(); m != 0 {
		a.Mode = m
	}
	return a
}

// versionOf is the content version behind a view; ok=false when the inode is
// not a file with content on the drive.
func versionOf(n *inode) chunk.Version {
	return chunk.Version{ID: n.id, Content: n.content, Size: n.size, MD5: n.md5, Name: n.name}
}

// Open opens the version gen of the file ino; flags are open(2)'s. The gen of
// a version that was superseded opens only while another handle has it open,
// else the current version is opened.
func (s *Store) Open(ctx context.Context, ino, gen uint64, flags uint32) (*Handle, error) {
	write := flags&unix.O_ACCMODE != unix.O_RDONLY
	if s.readOnly() && write {
		return nil, ErrReadOnly
	}
	h, err := s.openHandle(ino, gen, flags)
	if err != nil {
		return nil, err
	}
	if flags&unix.O_TRUNC != 0 && write {
		if err := h.f.truncate(0); err != nil {
			h.Release()
			return nil, err
		}
	}
	return h, nil
}

func (s *Store) openHandle(ino, gen uint64, flags uint32) (*Handle, error) {
	// The view stays as it is until the file is in the table: from then on
	// whoever changes what its bytes began from finds it there.
	s.view.RLock()
	defer s.view.RUnlock()
	n, ok, err := s.inodeLocked(ino)
	if err != nil {
		return nil, err
	}
	if ok && n.gen == gen && n.folder {
		return nil, ErrIsDir
	}
	if h := s.open.join(s, ino, gen, flags); h != nil {
		return h, nil
	}
	switch {
	case !ok:
		return nil, ErrNotExist
	case n.gen != gen:
		return nil, ErrStale // only those who have it open can open it again
	}
	f := &file{s: s, ino: ino, gen: gen, opened: n.attr()}
	place := journal.Place{Parents: slices.Clone(n.parents), Name: n.name, Shown: n.shown}
	f.place.Store(&place)
	f.base = journal.Base{Content: n.content, MD5: n.md5, Size: n.size, Version: n.version}
	f.version = versionOf(&n)
	var hasDraft bool
	if n.draft {
		s.journal.Peek(ino, func(e *journal.Entry) {
			if e.Draft == nil {
				return
			}
			hasDraft = true
			f.fresh = e.Open
			f.version = chunk.Version{
				ID: e.Draft.BaseID, Content: e.Draft.BaseGen, Size: e.Draft.BaseLen,
				MD5: e.Draft.BaseMD5, Name: n.name,
			}
			if e.Base != nil {
				f.base = *e.Base
			}
		})
	}
	if hasDraft {
		d, err := s.journal.OpenDraft(ino, nil)
		if err != nil {
			return nil, fmt.Errorf("opening the draft: %w", err)
		}
		f.draft.Store(d)
	}
	return s.open.add(s, f, flags), nil
}

// join gives a handle of a file that is open already; nil when it is not.
func (t *openTable) join(s *Store, ino, gen uint64, flags uint32) *Handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.files[fileKey{ino, gen}]
	if f == nil || f.gone.Load() || f.parted && flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil // what was removed belongs to the handles it had
	}
	return t.handleLocked(f, flags)
}

// add puts f into the table and gives its first handle; when somebody else
// was quicker, f is dropped for theirs.
func (t *openTable) add(s *Store, f *file, flags uint32) *Handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if have := t.files[fileKey{f.ino, f.gen}]; have != nil && !have.gone.Load() {
		if d := f.draft.Load(); d != nil {
			if have.draft.Load() == nil {
				have.draft.Store(d)
				t.pins[have.ino] = have
			} else {
				defer d.Close()
			}
		}
		f = have
	} else {
		t.files[fileKey{f.ino, f.gen}] = f
	}
	return t.handleLocked(f, flags)
}

func (t *openTable) handleLocked(f *file, flags uint32) *Handle {
	acc := flags & unix.O_ACCMODE
	h := &Handle{f: f, readable: acc != unix.O_WRONLY, writable: acc != unix.O_RDONLY}
	f.refs++
	if h.writable {
		f.writers++
	}
	if h.writable || f.draft.Load() != nil && !f.parted {
		t.pins[f.ino] = f
	}
	return h
}

// release drops one handle of f and tells whether it was the last.
func (t *openTable) release(f *file, writable bool) (last, unpinned bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.refs--
	if writable {
		f.writers--
	}
	if f.refs == 0 && t.files[fileKey{f.ino, f.gen}] == f {
		delete(t.files, fileKey{f.ino, f.gen})
	}
	if t.pins[f.ino] == f && (f.refs == 0 || f.writers == 0 && f.draft.Load() == nil) {
		delete(t.pins, f.ino)
		unpinned = true
	}
	return f.refs == 0, unpinned
}

// written tells whether somebody has f open for writing.
func (t *openTable) written(f *file) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return f.writers > 0
}

// part ends that f is what its inode shows, unless somebody writes to it.
func (t *openTable) part(f *file) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.writers > 0 || t.pins[f.ino] != f {
		return false
	}
	delete(t.pins, f.ino)
	f.parted = true
	return true
}

// pin makes f what its inode shows.
func (t *openTable) pin(f *file) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.refs > 0 {
		t.pins[f.ino] = f
	}
}

// ensureDraft gives the file its draft.
func (f *file) ensureDraft() (*journal.Draft, error) {
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
	d, err := f.s.journal.OpenDraft(f.ino, st)
	if err != nil {
		return nil, fmt.Errorf("making a draft: %w", err)
	}
	f.draft.Store(d)
	f.s.open.pin(f)
	return d, nil
}

func (f *file) truncate(size int64) error {
	if size > f.s.o.MaxFileSize {
		return ErrTooLarge
	}
	d, err := f.ensureDraft()
	if err != nil {
		return err
	}
	if err := d.Truncate(size); err != nil {
		return err
	}
	f.mtime.Store(time.Now().UnixNano())
	return nil
}

// commit puts what was written into the journal; nothing to do when nothing
// is new. It waits for the local disk alone.
func (f *file) commit() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.draft.Load()
	if d == nil || f.gone.Load() || !d.Dirty() && !f.fresh {
		return nil
	}
	st := d.Commit()
	if err := f.wish(&st); err != nil {
		d.Abort(st)
		return err
	}
	f.fresh = false
	return nil
}

// wish records that the drive shall have the draft state st; f.mu is held.
func (f *file) wish(st *journal.DraftState) error {
	s := f.s
	s.view.Lock()
	defer s.view.Unlock()
	_, had := s.journal.Clone(f.ino)
	e, err := s.wishLocked(f.ino)
	switch {
	case errors.Is(err, ErrNotExist):
		// Somebody else took the node off the drive under this edit: the
		// edit wins a node of its own (P3).
		p := f.place.Load()
		e = &journal.Entry{
			Ino:      f.ino,
			Intent:   journal.Intent{Place: journal.Place{Parents: slices.Clone(p.Parents), Name: p.Name, Shown: p.Shown}, Created: f.opened.Created, Mode: f.opened.Mode, Since: time.Now()},
			Progress: journal.Progress{LocalID: uuid.NewString()},
		}
		s.events.add("edit", p.Shown, "was taken off the drive while it was edited here; it comes back with the local content")
	case err != nil:
		return err
	case e.Removed:
		return nil
	}
	if e.Base != nil && (!had || e.Draft == nil) {
		// The local bytes began from what was opened, whatever the drive has
		// told since: the settler finds the conflict by this.
		e.Base.Content, e.Base.MD5, e.Base.Size = f.base.Content, f.base.MD5, f.base.Size
	}
	e.Draft, e.Open = st, false
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
	s.settleLater(e)
	if early := f.opened.Created.Add(s.o.UploadDelay); f.streamed.Load() && early.Before(e.Due) {
		e.Due = early // had it been open for longer, its upload would have begun by then
	}
	return s.putLocked(e)
}

// settleLater gives a wish its settling time and a clean slate of failures.
func (s *Store) settleLater(e *journal.Entry) {
	delay := s.o.UploadDelay
	if e.NodeID == "" && !e.Folder && !e.Removed && temporary(e.Place.Shown) {
		delay = max(delay, temporaryDelay)
	}
	e.Due = time.Now().Add(delay)
	e.Failed, e.Attempts, e.RetryAt = "", 0, time.Time{}
}

// letGo: see letGoLocked.
func (s *Store) letGo(ino uint64) {
	s.view.Lock()
	es := s.letGoLocked(ino)
	s.view.Unlock()
	s.emit(es)
}

// letGoLocked ends that readers alone keep showing everybody a version that
// was written here, reached the drive, and was replaced there since.
func (s *Store) letGoLocked(ino uint64) []Effect {
	f := s.open.pinned(ino)
	if f == nil || s.journal.Peek(ino, func(*journal.Entry) {}) {
		return nil
	}
	d := f.draft.Load()
	r, ok, err := s.mirror.Get(ino)
	if err != nil || !ok || r.Gen == f.gen || d == nil || d.Dirty() || sameContent(&f.base, &r) || !s.open.part(f) {
		return nil
	}
	s.journal.Part(ino)
	n := fromRecord(&r)
	ds := n.dentries()
	return []Effect{{Ino: ino, Old: ds, New: ds, Content: true, Attr: true}}
}

// unpinned tells the kernel of a version that came while f held its own.
func (s *Store) unpinned(f *file) {
	s.view.RLock()
	n, ok, err := s.inodeLocked(f.ino)
	s.view.RUnlock()
	if err != nil || !ok || n.gen == f.gen {
		return
	}
	ds := n.dentries()
	s.emit([]Effect{{Ino: f.ino, Old: ds, New: ds, Content: true, Attr: true}})
}

// newFile opens the file of a wish that was just made for a new inode. view
// is held for writing.
func (s *Store) newFileLocked(e *journal.Entry, d *journal.Draft, flags uint32) *Handle {
	n, _ := s.fromEntryLocked(e)
	f := &file{s: s, ino: e.Ino, gen: n.gen, opened: n.attr(), fresh: true}
	place := e.Place
	f.place.Store(&place)
	f.draft.Store(d)
	f.mode.Store(e.Mode)
	f.mtime.Store(e.Mtime.UnixNano())
	f.streamAt.Store(streamStep)
	return s.open.add(s, f, flags)
}

// shownOf maps a name typed here to what the drive shall have and what the
// mount shows, or refuses it (design.md §3).
func shownOf(name string) (driveName, shown string, err error) {
	if len(name) > 255 {
		return "", "", ErrNameTooLong
	}
	driveName = mirror.DriveName(name)
	if err := mirror.ValidName(driveName); err != nil {
		if errors.Is(err, drive.ErrNameTooLong) {
			return "", "", fmt.Errorf("%w: %w", ErrNameTooLong, err)
		}
		return "", "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return driveName, mirror.Shown(driveName, "", false), nil
}
