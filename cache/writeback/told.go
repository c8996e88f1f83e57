package writeback

import (
	"context"
	"fmt"

	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// What the service's answers change here, and what the user is told of it.

// noteAnswer takes in what the service answered to a call made for ino: the
// node belongs to ino from now on, and what changed is our own doing. Its
// Properties, unless nil, are those that a creation brought along.
func (s *WriteBack) noteAnswer(ino uint64, n drive.Node) error {
	before, known := s.mirror.Ino(n.ID)
	cs, err := s.mirror.Answer(n, !s.newContent(ino, n), ino)
	if err != nil {
		return err
	}
	s.o.Changed(cs)
	if known && before != ino && n.Kind == drive.Folder {
		return s.tree.Adopted(ino)
	}
	return nil
}

// newContent tells whether the answer to a call of ours shows content that is
// neither what the entry began from nor what was sent: the file was replaced
// elsewhere, and a rename or the like is the first to tell of it.
func (s *WriteBack) newContent(ino uint64, n drive.Node) bool {
	e, ok := s.j.Get(ino)
	if !ok || n.Content == nil || e.Base == nil || e.Base.Content == 0 || e.Base.Content == n.Content.Version {
		return false
	}
	return e.Sent == nil || e.Sent.Size != n.Content.Size || e.Sent.MD5 != n.Content.MD5
}

// noteNode takes in what a look found about a node that is not (only) ours.
func (s *WriteBack) noteNode(n drive.Node) error {
	cs, err := s.mirror.Answer(n, false, 0)
	if err != nil {
		return err
	}
	s.o.Changed(cs)
	return nil
}

// noteGone takes in that a node is not live on the drive any more, as told by a
// direct get or by our own trash call. version 0 = not told (404).
func (s *WriteBack) noteGone(nodeID string, version int64) error {
	cs, err := s.mirror.Gone(nodeID, version)
	if err != nil {
		return err
	}
	s.o.Changed(cs)
	return nil
}

// noteFolder tells the entries in a folder made here which node it has become,
// until ctx ends.
func (s *WriteBack) noteFolder(ctx context.Context, dir uint64, id string) {
	for more := true; more && ctx.Err() == nil; {
		var err error
		if more, err = s.tree.NoteFolder(dir, id); err != nil {
			s.log.Warn("noting the folder of local changes", "ino", dir, "err", err)
			return
		}
	}
}

// conflict gives the local state of ino a name of its own.
func (s *WriteBack) conflict(ino uint64, why string) error {
	c, err := s.tree.Conflict(ino)
	if err != nil || c.Name == "" {
		return err
	}
	s.log.Warn("conflict: both versions are kept", "name", c.Was, "local", c.Name, "why", why)
	s.o.Notify(Event{"conflict", s.o.Path(ino), fmt.Sprintf("%s: both are kept; the local one is %q", why, c.Name)})
	return nil
}

// lost makes a new file of a local edit whose node is gone from the drive.
func (s *WriteBack) lost(ino uint64, why string) error {
	was, err := s.tree.Lost(ino)
	if err != nil || was == "" {
		return err
	}
	s.log.Warn("the node of a local edit is gone from the drive; it comes back as a new one", "name", was, "why", why)
	s.o.Notify(Event{"edit", s.o.Path(ino), why})
	return nil
}

// notice tells of something about ino that cannot be mended.
func (s *WriteBack) notice(ino uint64, what string) {
	p := s.o.Path(ino)
	s.log.Warn(what, "path", p)
	s.o.Notify(Event{"notice", p, what})
}

// besideName is a name for a node whose own is taken by another.
func besideName(name, id string) string {
	stem, ext := tree.SplitExt(name)
	return stem + " (" + id[:min(8, len(id))] + ")" + ext
}
