package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// Every call here has the same shape: the intent is put into the journal, which
// is the moment it is true for everyone on this machine; then the caller waits
// for the drive within its patience. What the drive refuses in that time is
// undone and reported; past it the call succeeds and the intent goes on in the
// background (design.md §6).

// change makes a system call's change of the tree.
func (s *Store) change(fn func(*tree.Tx) error) error {
	return s.tree.Change(func(tx *tree.Tx) error {
		tx.FromKernel()
		return fn(tx)
	})
}

// newFor is how long a folder that was made here counts as new: no other
// machine can well have put anything into it, so no call waits for that.
const newFor = 10 * time.Second

// Mkdir makes the folder name in dir. mode: ModeSet|bits, or 0 for none of its
// own.
func (s *Store) Mkdir(ctx context.Context, dir uint64, name string, mode uint32) (Entry, error) {
	driveName, shown, err := s.toMake(ctx, dir, name)
	if err != nil {
		return Entry{}, err
	}
	ino, err := s.mirror.NewIno()
	if err != nil {
		return Entry{}, err
	}
	var w waiter
	if time.Since(s.madeDirs.Latest(dir, time.Time{})) >= newFor {
		w = s.expect(ino)
	}
	defer w.leave()
	var e *journal.Entry
	err = s.change(func(tx *tree.Tx) (err error) {
		e, err = tx.Mkdir(ino, dir, driveName, shown, mode)
		return err
	})
	if err != nil {
		return Entry{}, err
	}
	s.tree.DirTimes.Touch(dir)
	s.madeDirs.Touch(ino)
	if err := w.await(ctx, e); err != nil {
		return Entry{}, err
	}
	return s.entry(ino, dir)
}

// toMake prepares to make name in dir: what the drive shall have and what the
// mount shows. ErrReadOnly, ErrInvalid, ErrNameTooLong.
func (s *Store) toMake(ctx context.Context, dir uint64, name string) (driveName, shown string, err error) {
	if s.readOnly() {
		return "", "", ErrReadOnly
	}
	if driveName, shown, err = shownOf(name); err != nil {
		return "", "", err
	}
	return driveName, shown, s.lister.knowName(ctx, dir, name)
}

// entry is the line of ino in dir, after a change that put it there.
func (s *Store) entry(ino, dir uint64) (e Entry, err error) {
	s.tree.Read(func(v tree.View) {
		var n tree.Inode
		var ok bool
		if n, ok, err = v.Inode(ino); err == nil && !ok {
			err = ErrNotExist // gone again
		}
		e = v.DirEntry(&n, dir)
	})
	return e, err
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

// Create makes the file name in dir and opens it, or opens the one that is
// there in any spelling. flags are open(2)'s; with O_EXCL, and with NamesExact
// when only the spelling differs, a taken name is ErrExist.
func (s *Store) Create(ctx context.Context, dir uint64, name string, flags, mode uint32) (Entry, *Handle, error) {
	driveName, shown, err := s.toMake(ctx, dir, name)
	if err != nil {
		return Entry{}, nil, err
	}
	h, err := s.createFile(dir, driveName, shown, flags, mode)
	if err == nil {
		s.tree.DirTimes.Touch(dir)
		e, err := s.entry(h.f.Ino, dir)
		if errors.Is(err, ErrNotExist) {
			// Removed by another already: its handle works on.
			e, err = Entry{Name: shown, Primary: true, Attr: h.f.Attr(0)}, nil
		}
		return e, h, err
	}
	if !errors.Is(err, ErrExist) || flags&unix.O_EXCL != 0 {
		return Entry{}, nil, err
	}
	var e Entry
	var n tree.Inode
	s.tree.Read(func(v tree.View) {
		var exact, ok bool
		n, exact, ok, err = v.Lookup(dir, name)
		switch {
		case err != nil:
		case !ok:
			err = ErrNotExist
		case s.o.NamesExact && !exact:
			err = ErrExist
		case n.Folder:
			err = ErrIsDir
		}
		e = v.DirEntry(&n, dir)
	})
	if err != nil {
		return Entry{}, nil, err
	}
	h, err = s.Open(ctx, n.Ino, n.Gen, flags)
	return e, h, err
}

func (s *Store) createFile(dir uint64, driveName, shown string, flags, mode uint32) (*Handle, error) {
	// Looked at first without an inode number, so that opening files that
	// exist does not use numbers up.
	var err error
	s.tree.Read(func(v tree.View) { err = v.Free(dir, shown) })
	if err != nil {
		return nil, err
	}
	ino, err := s.mirror.NewIno()
	if err != nil {
		return nil, err
	}
	d, err := s.journal.OpenDraft(ino, nil)
	if err != nil {
		return nil, err
	}
	var f *tree.File
	err = s.change(func(tx *tree.Tx) (err error) {
		f, err = tx.Create(ino, dir, driveName, shown, flags, mode, d)
		return err
	})
	if err != nil {
		if s.tree.File(ino, 0) != nil {
			f.Release(flags) // it was there until the log failed
		} else {
			err = errors.Join(err, d.Close())
		}
		return nil, err
	}
	h := newHandle(s, f, flags)
	h.stream = &stream{}
	h.stream.at.Store(streamStep)
	return h, nil
}

// Unlink removes the name of a file. The last name of a node moves the node
// to the drive's trash, after a moment in which more removals may gather;
// with several parents only this one is taken away.
func (s *Store) Unlink(ctx context.Context, dir uint64, name string) error {
	if s.readOnly() {
		return ErrReadOnly
	}
	if err := s.lister.knowName(ctx, dir, name); err != nil {
		return err
	}
	if err := s.change(func(tx *tree.Tx) error { return tx.Unlink(dir, name) }); err != nil {
		return err
	}
	s.tree.DirTimes.Touch(dir)
	return nil
}

// Rmdir removes an empty folder. Patience permitting, the drive is asked
// whether something is in it that the mirror does not know yet.
func (s *Store) Rmdir(ctx context.Context, dir uint64, name string) error {
	if s.readOnly() {
		return ErrReadOnly
	}
	if err := s.lister.knowName(ctx, dir, name); err != nil {
		return err
	}
	var n tree.Inode
	var err error
	if s.tree.Read(func(v tree.View) { n, err = v.Present(dir, name) }); err != nil {
		return err
	}
	if !n.Folder {
		return ErrNotDir
	}
	if err := s.lister.knowAll(ctx, n.Ino); err != nil {
		return err
	}
	if n.ID != "" {
		err := s.patience.within(ctx, func(ctx context.Context) error { return s.lister.lookForChildren(ctx, n.Ino, n.ID) })
		if err != nil {
			return err
		}
	}
	if err := s.change(func(tx *tree.Tx) error { return tx.Rmdir(dir, name) }); err != nil {
		return err
	}
	s.tree.DirTimes.Touch(dir)
	return nil
}

// Rename is rename(2): oname in odir becomes nname in ndir, replacing what is
// there (noReplace: ErrExist instead). Another spelling of the same name is a
// rename like any other.
func (s *Store) Rename(ctx context.Context, odir uint64, oname string, ndir uint64, nname string, noReplace bool) error {
	if s.readOnly() {
		return ErrReadOnly
	}
	driveName, shown, err := shownOf(nname)
	if err != nil {
		return err
	}
	if err := s.lister.knowName(ctx, odir, oname); err != nil {
		return err
	}
	if err := s.lister.knowName(ctx, ndir, nname); err != nil {
		return err
	}
	ino, err := s.beforeReplace(ctx, odir, oname, ndir, shown)
	if err != nil {
		return err
	}
	w := s.expect(ino)
	defer w.leave()
	var r tree.Renamed
	err = s.change(func(tx *tree.Tx) (err error) {
		r, err = tx.Rename(odir, oname, ndir, driveName, shown, noReplace)
		return err
	})
	if err != nil || r.Entry == nil {
		return err
	}
	s.tree.DirTimes.Touch(odir)
	s.tree.DirTimes.Touch(ndir)
	if e := r.Entry; e.NodeID == "" || e.Draft != nil || tree.Temporary(shown) || r.Unsent {
		// Its place goes with its upload, or will change again soon, or what it
		// replaced could not be brought back: there is nothing to wait for.
		return nil
	}
	return w.await(ctx, r.Entry)
}

// beforeReplace prepares for what a rename of ino, which is oname in odir, is
// about to replace: a folder is listed, so that "empty" means empty, and a new file
// that was never closed is committed, since what it replaces may be closed content
// that nothing else has.
func (s *Store) beforeReplace(ctx context.Context, odir uint64, oname string, ndir uint64, shown string) (ino uint64, err error) {
	var src, dst tree.Inode
	var taken bool
	s.tree.Read(func(v tree.View) {
		if src, err = v.Present(odir, oname); err == nil {
			dst, _, taken, err = v.Lookup(ndir, shown)
		}
	})
	switch {
	case err != nil || !taken || dst.Ino == src.Ino:
	case dst.Folder:
		err = s.lister.knowAll(ctx, dst.Ino)
	case src.Folder || !src.Fresh:
	default:
		if f := s.tree.File(src.Ino, src.Gen); f != nil {
			err = f.Commit()
		}
	}
	return src.Ino, err
}

// RenameExact renames a node in place, also to another spelling of its own
// name; unlike Rename it takes the shown spelling only. It is what `drivefs
// rename` does.
func (s *Store) RenameExact(ctx context.Context, dir uint64, oldName, newName string) error {
	e, _, err := s.Lookup(ctx, dir, oldName)
	if err != nil {
		return err
	}
	if err := s.Rename(ctx, dir, e.Name, dir, newName, true); err != nil {
		return err
	}
	// The kernel did not make this call: it has to be told.
	s.tree.Emit([]Effect{{Ino: e.Ino, Folder: e.Folder, Old: []Dentry{{Dir: dir, Name: e.Name}}, New: []Dentry{{Dir: dir, Name: newName}}, Attr: true}})
	return nil
}

// Link gives a file a second folder under the same name, which is all that
// the service can do (API §5.7); anything else is ErrNotPermitted.
func (s *Store) Link(ctx context.Context, ino uint64, dir uint64, name string) (Entry, error) {
	if s.readOnly() {
		return Entry{}, ErrReadOnly
	}
	if err := s.lister.knowName(ctx, dir, name); err != nil {
		return Entry{}, err
	}
	w := s.expect(ino)
	defer w.leave()
	var e *journal.Entry
	err := s.change(func(tx *tree.Tx) (err error) {
		e, err = tx.Link(ino, dir, name)
		return err
	})
	if err != nil {
		return Entry{}, err
	}
	s.tree.DirTimes.Touch(dir)
	if e.NodeID != "" && e.Draft == nil {
		if err := w.await(ctx, e); err != nil {
			return Entry{}, err
		}
	}
	return s.entry(ino, dir)
}

// Setattr changes size, mode or modification time of the version gen of ino.
// h is the handle the caller has, nil for a call by path; a new size set by
// path is committed at once, one set through a handle with the handle's next
// Flush. Times and mode bits are kept on the node as properties, one call for
// all that changed in a moment.
func (s *Store) Setattr(ctx context.Context, ino, gen uint64, h *Handle, a SetAttr) (Attr, error) {
	s.lister.knowPropsOf(ctx, ino)
	if s.readOnly() {
		return Attr{}, ErrReadOnly
	}
	if a.Size != nil {
		if err := s.resize(ctx, ino, gen, h, *a.Size); err != nil {
			return Attr{}, err
		}
	}
	if a.Mode != nil || a.Mtime != nil {
		if err := s.setMeta(ino, gen, a); err != nil {
			return Attr{}, err
		}
	}
	return s.Attr(ctx, ino, gen)
}

func (s *Store) resize(ctx context.Context, ino, gen uint64, h *Handle, size int64) error {
	if size < 0 {
		return ErrInvalid
	}
	if h != nil {
		return h.truncate(size)
	}
	h, err := s.Open(ctx, ino, gen, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer h.Release()
	if err := h.truncate(size); err != nil {
		return err
	}
	return h.Flush()
}

func (s *Store) setMeta(ino, gen uint64, a SetAttr) error {
	f := s.tree.File(ino, gen)
	if f != nil {
		f.SetMeta(a)
		if f.Gone() {
			return nil
		}
	}
	err := s.change(func(tx *tree.Tx) error { return tx.SetMeta(ino, a) })
	if errors.Is(err, ErrNotExist) && f != nil {
		return nil
	}
	return err
}

// SyncDir is fsync(2) of a folder: what happened in it so far survives a
// power failure.
func (s *Store) SyncDir(ctx context.Context, dir uint64) error {
	return s.journal.Sync(context.WithoutCancel(ctx))
}
