package cache

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// Every call here has the same shape: the wish is put into the journal, which
// is the moment it is true for everybody on this machine; then the caller
// waits for the drive within its patience. What the drive refuses in that
// time is undone and reported; past it the call succeeds and the wish goes on
// in the background (design.md §6).

// Mkdir makes the folder name in dir. mode: ModeSet|bits, or 0 for none of its
// own.
func (s *Store) Mkdir(ctx context.Context, dir uint64, name string, mode uint32) (Entry, error) {
	if s.readOnly() {
		return Entry{}, ErrReadOnly
	}
	driveName, shown, err := shownOf(name)
	if err != nil {
		return Entry{}, err
	}
	if err := s.known(ctx, dir, name); err != nil {
		return Entry{}, err
	}
	e, n, err := s.wishFolder(dir, driveName, shown, mode)
	if err != nil {
		return Entry{}, err
	}
	s.dirTimes.touch(dir)
	s.madeDirs.touch(e.Ino)
	if !s.isNew(dir) {
		if err := s.await(ctx, e); err != nil {
			return Entry{}, err
		}
	}
	return s.entryOf(&n, dir), nil
}

func (s *Store) wishFolder(dir uint64, driveName, shown string, mode uint32) (*journal.Entry, inode, error) {
	ino, err := s.mirror.NewIno()
	if err != nil {
		return nil, inode{}, err
	}
	now := time.Now()
	e := &journal.Entry{
		Ino: ino, Folder: true,
		Intent:   journal.Intent{Mode: mode, Mtime: now, Created: now, Place: journal.Place{Parents: []uint64{dir}, Name: driveName, Shown: shown}, Since: now, Due: now},
		Progress: journal.Progress{LocalID: uuid.NewString()},
	}
	if mode != 0 {
		e.Props = withAttrProp(nil, time.Time{}, mode)
	}
	s.view.Lock()
	defer s.view.Unlock()
	if err := s.freeLocked(dir, shown); err != nil {
		return nil, inode{}, err
	}
	if err := s.putLocked(e); err != nil {
		return nil, inode{}, err
	}
	n, err := s.fromEntryLocked(e)
	return e, n, err
}

// freeLocked makes sure that dir is a folder in the tree and that no spelling
// of name is taken in it.
func (s *Store) freeLocked(dir uint64, name string) error {
	d, ok, err := s.inodeLocked(dir)
	switch {
	case err != nil:
		return err
	case !ok:
		return ErrNotExist
	case !d.folder:
		return ErrNotDir
	}
	_, _, taken, err := s.lookupLocked(dir, name)
	if err != nil {
		return err
	}
	if taken {
		return ErrExist
	}
	return nil
}

// Create makes the file name in dir and opens it, or opens the one that is
// there in any spelling. flags are open(2)'s; with O_EXCL, and with NamesExact
// when only the spelling differs, a taken name is ErrExist.
func (s *Store) Create(ctx context.Context, dir uint64, name string, flags, mode uint32) (Entry, *Handle, error) {
	if s.readOnly() {
		return Entry{}, nil, ErrReadOnly
	}
	driveName, shown, err := shownOf(name)
	if err != nil {
		return Entry{}, nil, err
	}
	if err := s.known(ctx, dir, name); err != nil {
		return Entry{}, nil, err
	}
	e, h, err := s.createFile(dir, driveName, shown, flags, mode, callerOf(ctx))
	if !errors.Is(err, ErrExist) {
		if err == nil {
			s.dirTimes.touch(dir)
		}
		return e, h, err
	}
	if flags&unix.O_EXCL != 0 {
		return Entry{}, nil, ErrExist
	}
	s.view.RLock()
	n, exact, ok, err := s.lookupLocked(dir, name)
	s.view.RUnlock()
	switch {
	case err != nil:
		return Entry{}, nil, err
	case !ok:
		return Entry{}, nil, ErrNotExist
	case s.o.NamesExact && !exact:
		return Entry{}, nil, ErrExist
	case n.folder:
		return Entry{}, nil, ErrIsDir
	}
	h, err = s.Open(ctx, n.ino, n.gen, flags)
	if err != nil {
		return Entry{}, nil, err
	}
	return s.entryOf(&n, dir), h, nil
}

func (s *Store) createFile(dir uint64, driveName, shown string, flags, mode, thread uint32) (Entry, *Handle, error) {
	// Looked at first without an inode number, so that opening files that
	// exist does not use numbers up.
	s.view.RLock()
	err := s.freeLocked(dir, shown)
	s.view.RUnlock()
	if err != nil {
		return Entry{}, nil, err
	}
	ino, err := s.mirror.NewIno()
	if err != nil {
		return Entry{}, nil, err
	}
	d, err := s.journal.OpenDraft(ino, nil)
	if err != nil {
		return Entry{}, nil, err
	}
	now := time.Now()
	e := &journal.Entry{
		Ino:      ino,
		Intent:   journal.Intent{Mode: mode, Mtime: now, Created: now, Open: true, Place: journal.Place{Parents: []uint64{dir}, Name: driveName, Shown: shown}, Since: now, Due: now},
		Progress: journal.Progress{LocalID: uuid.NewString()},
	}
	s.view.Lock()
	defer s.view.Unlock()
	err = s.freeLocked(dir, shown)
	if err == nil {
		err = s.putLocked(e)
	}
	if err != nil {
		d.Close()
		return Entry{}, nil, err
	}
	s.noteMadeLocked(e.Ino, dir, shown, thread)
	h := s.newFileLocked(e, d, flags)
	n, err := s.fromEntryLocked(e)
	return s.entryOf(&n, dir), h, err
}

// Unlink removes the name of a file. The last name of a node moves the node
// to the drive's trash, after a moment in which more removals may gather;
// with several parents only this one is taken away.
func (s *Store) Unlink(ctx context.Context, dir uint64, name string) error {
	if s.readOnly() {
		return ErrReadOnly
	}
	if err := s.known(ctx, dir, name); err != nil {
		return err
	}
	if done, err := s.saveByBackup(dir, name); err != nil || done {
		return err
	}
	es, err := s.unlink(dir, name, callerOf(ctx))
	if err != nil {
		return err
	}
	s.dirTimes.touch(dir)
	s.emit(es)
	return nil
}

func (s *Store) unlink(dir uint64, name string, thread uint32) ([]Effect, error) {
	s.view.Lock()
	defer s.view.Unlock()
	n, err := s.presentLocked(dir, name)
	if err != nil {
		return nil, err
	}
	if n.folder {
		return nil, ErrIsDir
	}
	es, err := s.unlinkLocked(&n, dir)
	if err == nil {
		s.noteRemovedLocked(&n, thread)
	}
	return es, err
}

// unlinkLocked takes the file n out of dir.
func (s *Store) unlinkLocked(n *inode, dir uint64) ([]Effect, error) {
	e, err := s.wishLocked(n.ino)
	if err != nil {
		return nil, err
	}
	if len(n.parents) > 1 {
		e.Place.Parents = slices.DeleteFunc(slices.Clone(n.parents), func(p uint64) bool { return p == dir })
		e.Due = time.Now()
		if err := s.putLocked(e); err != nil {
			return nil, err
		}
		left := n.dentries()
		left = slices.DeleteFunc(left, func(d Dentry) bool { return d.Dir == dir })
		return []Effect{{Ino: n.ino, Old: left, New: left, Attr: true}}, nil
	}
	if err := s.removeLocked(e); err != nil {
		return nil, err
	}
	if f := s.open.get(n.ino, n.gen); f != nil {
		f.gone.Store(true)
	}
	return nil, nil
}

// removeLocked wishes e's inode into the trash.
func (s *Store) removeLocked(e *journal.Entry) error {
	e.Removed, e.Open = true, false
	s.settleLater(e)
	return s.putLocked(e)
}

// presentLocked finds name in dir by the rule of the mount.
func (s *Store) presentLocked(dir uint64, name string) (inode, error) {
	n, exact, ok, err := s.lookupLocked(dir, name)
	if err != nil {
		return inode{}, err
	}
	if !ok || s.o.NamesExact && !exact {
		return inode{}, ErrNotExist
	}
	return n, nil
}

// Rmdir removes an empty folder. Patience permitting, the drive is asked
// whether something is in it that the mirror does not know yet.
func (s *Store) Rmdir(ctx context.Context, dir uint64, name string) error {
	if s.readOnly() {
		return ErrReadOnly
	}
	if err := s.known(ctx, dir, name); err != nil {
		return err
	}
	s.view.RLock()
	n, err := s.presentLocked(dir, name)
	s.view.RUnlock()
	if err != nil {
		return err
	}
	if !n.folder {
		return ErrNotDir
	}
	if err := s.listed(ctx, n.ino); err != nil {
		return err
	}
	if err := s.emptyOnDrive(ctx, &n); err != nil {
		return err
	}
	if err := s.rmdir(dir, name); err != nil {
		return err
	}
	s.dirTimes.touch(dir)
	return nil
}

// emptyOnDrive asks the drive for what the mirror may not have heard of yet,
// as long as patience lasts: the settler looks again before anything goes to
// the trash, but a person wants to know now.
func (s *Store) emptyOnDrive(ctx context.Context, n *inode) error {
	d := s.patience.take()
	if n.id == "" || d < time.Millisecond {
		return nil
	}
	start := time.Now()
	defer func() { s.patience.spent(time.Since(start)) }()
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var nodes []drive.Node
	for c, err := range s.remote.Children(ctx, n.id, true) {
		if err != nil {
			return nil // not answered in time: the settler will ask
		}
		nodes = append(nodes, c)
	}
	if len(nodes) == 0 {
		return nil
	}
	s.recognise(nodes)
	cs, err := s.mirror.Listing(n.ino, nodes, true)
	if err != nil {
		return err
	}
	s.changed(cs)
	return nil
}

func (s *Store) rmdir(dir uint64, name string) error {
	s.view.Lock()
	defer s.view.Unlock()
	n, err := s.presentLocked(dir, name)
	if err != nil {
		return err
	}
	if !n.folder {
		return ErrNotDir
	}
	if err := s.emptyLocked(n.ino); err != nil {
		return err
	}
	e, err := s.wishLocked(n.ino)
	if err != nil {
		return err
	}
	if len(n.parents) > 1 {
		e.Place.Parents = slices.DeleteFunc(slices.Clone(n.parents), func(p uint64) bool { return p == dir })
		e.Due = time.Now()
		return s.putLocked(e)
	}
	return s.removeLocked(e)
}

func (s *Store) emptyLocked(dir uint64) error {
	in, err := s.listLocked(nil, dir, 0, 1)
	if err != nil {
		return err
	}
	if len(in) > 0 {
		return ErrNotEmpty
	}
	return nil
}

// Link gives a file a second folder under the same name, which is all that
// the service can do (API §5.7); anything else is ErrNotPermitted.
func (s *Store) Link(ctx context.Context, ino uint64, dir uint64, name string) (Entry, error) {
	if s.readOnly() {
		return Entry{}, ErrReadOnly
	}
	if err := s.known(ctx, dir, name); err != nil {
		return Entry{}, err
	}
	e, n, effects, err := s.link(ino, dir, name)
	if err != nil {
		return Entry{}, err
	}
	s.dirTimes.touch(dir)
	s.emit(effects)
	if e.NodeID != "" && e.Draft == nil {
		if err := s.await(ctx, e); err != nil {
			return Entry{}, err
		}
	}
	return s.entryOf(&n, dir), nil
}

func (s *Store) link(ino, dir uint64, name string) (*journal.Entry, inode, []Effect, error) {
	s.view.Lock()
	defer s.view.Unlock()
	n, ok, err := s.inodeLocked(ino)
	switch {
	case err != nil:
		return nil, n, nil, err
	case !ok:
		return nil, n, nil, ErrNotExist
	case n.folder:
		return nil, n, nil, ErrNotPermitted
	}
	if err := s.freeLocked(dir, name); err != nil {
		return nil, n, nil, err
	}
	if name != n.shown || slices.Contains(n.parents, dir) {
		return nil, n, nil, ErrNotPermitted
	}
	e, err := s.wishLocked(ino)
	if err != nil {
		return nil, n, nil, err
	}
	before := n.dentries()
	e.Place.Parents = append(slices.Clone(n.parents), dir)
	if e.NodeID != "" && e.Draft == nil {
		e.Due = time.Now()
	}
	if err := s.putLocked(e); err != nil {
		return nil, n, nil, err
	}
	n, err = s.fromEntryLocked(e)
	s.open.overlay(&n)
	return e, n, []Effect{{Ino: ino, Old: before, New: before, Attr: true}}, err
}
