package cache

import (
	"context"
	"fmt"
	"math"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/settle"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// host is the Store as the write-back sees it: who is who, and what to do with
// what the drive answered.
type host struct{ s *Store }

var _ settle.Host = host{}

func (h host) Update(ino uint64, fn func(*journal.Entry) bool) error { return h.s.tree.Learn(ino, fn) }

func (h host) Heir(ino uint64) (heir uint64) {
	h.s.tree.Read(func(v tree.View) { heir = v.Heir(ino) })
	return heir
}

func (h host) MayStream(ino uint64) (may bool) {
	h.s.tree.Read(func(v tree.View) { may = v.MayStream(ino) })
	return may
}

func (h host) Ancestor(ino uint64) (from uint64) {
	h.s.tree.Read(func(v tree.View) { from = v.Ancestor(ino) })
	return from
}

func (h host) Inherit(ino, rev uint64) (bool, error) { return h.s.tree.Inherit(ino, rev) }

func (h host) FolderID(ino uint64) (id string, st settle.FolderState, err error) {
	h.s.tree.Read(func(v tree.View) {
		if e, ok := v.Entry(ino); ok {
			switch {
			case e.Removed:
				st = settle.Gone
			case e.NodeID == "":
				st = settle.Waiting
			default:
				id, st = e.NodeID, settle.Known
			}
			return
		}
		var r mirror.Record
		var ok bool
		if r, ok, err = h.s.mirror.Get(ino); err != nil || ok {
			id, st = r.ID, settle.Known
			return
		}
		if id = v.FolderToCome(ino); id == "" {
			st = settle.Gone
		}
	})
	return id, st, err
}

func (h host) Hidden(ino uint64) (out bool, err error) {
	h.s.tree.Read(func(v tree.View) { out, err = v.OutOfTree(ino) })
	return out, err
}

func (h host) Holder(parentID, name string) (ino uint64, nodeID string, err error) {
	dir, err := h.s.mirror.InoOf(parentID)
	if err != nil || dir == 0 {
		return 0, "", err
	}
	r, ok, err := h.s.mirror.ByName(dir, name)
	if err != nil || !ok {
		return 0, "", err
	}
	h.s.tree.Read(func(v tree.View) { ino, err = v.InoOf(r.ID) })
	return ino, r.ID, err
}

func (h host) Place(nodeID string) (name string, parents []string, ok bool, err error) {
	h.s.tree.Read(func(v tree.View) { name, parents, ok, err = v.ParentIDs(nodeID) })
	return name, parents, ok, err
}

func (h host) Tag(ino uint64, b *journal.Base) (tag string) {
	h.s.tree.Read(func(v tree.View) { tag = v.Tag(ino, b) })
	return tag
}

func (h host) InoOf(nodeID string) (ino uint64, err error) {
	h.s.tree.Read(func(v tree.View) { ino, err = v.InoOf(nodeID) })
	return ino, err
}

func (h host) Answered(ino uint64, n drive.Node) error {
	before, known := h.s.mirror.Ino(n.ID)
	changes, err := h.s.mirror.Answer(n, !h.newContent(ino, n), ino)
	if err != nil {
		return err
	}
	h.s.props.keepOwner()
	h.s.intake.answered(changes)
	if known && before != ino && n.Kind == drive.Folder {
		// A folder that was made elsewhere first is ours now, with what is in it.
		var es []Effect
		err = h.s.mirror.List(ino, 0, math.MaxInt, func(r *mirror.Record) bool {
			es = append(es, Effect{Ino: r.Ino, Folder: r.Folder, New: []Dentry{{Dir: ino, Name: r.Shown}}})
			return true
		})
		h.s.tree.Emit(es)
	}
	return err
}

// newContent tells whether the answer to a call of ours shows content that is
// neither what the entry began from nor what was sent: the file was replaced
// elsewhere, and a rename or the like is the first to tell of it.
func (h host) newContent(ino uint64, n drive.Node) bool {
	e, ok := h.s.journal.Get(ino)
	if !ok || n.Content == nil || e.Base == nil || e.Base.Content == 0 || e.Base.Content == n.Content.Version {
		return false
	}
	return e.Sent == nil || e.Sent.Size != n.Content.Size || e.Sent.MD5 != n.Content.MD5
}

func (h host) Foreign(n drive.Node) error { return h.s.intake.node(n) }

func (h host) Gone(nodeID string, version int64) error { return h.s.intake.gone(nodeID, version) }

func (h host) Done(ino, rev uint64) (bool, error) {
	s := h.s
	e, has := s.journal.Get(ino)
	ok, err := s.tree.Fulfil(ino, rev)
	if ok && has && e.Folder && !e.Removed && e.NodeID != "" && s.journal.HasChildren(ino) {
		s.noteFolder(ino, e.NodeID)
	}
	return ok, err
}

// noteFolder tells the entries in a folder made here which node it has become.
// It returns at once.
func (s *Store) noteFolder(dir uint64, id string) {
	s.background.run(func(ctx context.Context) {
		for ctx.Err() == nil {
			more, err := s.tree.NoteFolder(dir, id)
			if err != nil {
				s.log.Warn("noting the folder of local changes", "inode", dir, "err", err)
			}
			if err != nil || !more {
				return
			}
		}
	})
}

func (h host) Conflict(ino uint64, why string) error {
	c, err := h.s.tree.Conflict(ino)
	if err != nil || c.Name == "" {
		return err
	}
	h.s.events.add("conflict", h.s.PathOf(ino), fmt.Sprintf("%s: both are kept; the local one is %q", why, c.Name))
	h.s.log.Warn("conflict: both versions are kept", "name", c.Was, "local", c.Name, "why", why)
	return nil
}

// conflicted tells of a conflict that news from the drive brought about.
func (s *Store) conflicted(ino uint64, name string) {
	s.events.add("conflict", s.PathOf(ino), fmt.Sprintf("a file of that name was made on the drive meanwhile: both are kept; the local one is %q", name))
	s.log.Warn("conflict: both versions are kept", "local", name)
}

func (h host) Lost(ino uint64, why string) error {
	was, err := h.s.tree.Lost(ino)
	if err != nil || was == "" {
		return err
	}
	p := h.s.PathOf(ino)
	if p == "" {
		p = was
	}
	h.s.events.add("edit", p, why)
	h.s.log.Warn("the node of a local edit is gone from the drive; it comes back as a new one", "name", was, "why", why)
	return nil
}

func (h host) Notice(ino uint64, what string) {
	p := h.s.PathOf(ino)
	h.s.events.add("notice", p, what)
	h.s.log.Warn(what, "path", p)
}

func (h host) Undo(ino, rev uint64, why error) (bool, error) {
	p := h.s.paths.wanted(ino)
	done, err := h.s.tree.Undo(ino, rev)
	if !done {
		return false, err
	}
	h.s.events.add("undone", p, why.Error())
	h.s.log.Warn("the drive refused a change; it is undone here", "path", p, "why", why)
	return true, nil
}

func (h host) ParentGone(ino uint64) error {
	did, err := h.s.tree.ParentGone(ino)
	if did {
		h.s.rescued(ino)
	}
	return err
}

// rescued tells of a local change whose folder went from the drive.
func (s *Store) rescued(ino uint64) {
	s.events.add("edit", s.PathOf(ino), "its folder went from the drive; the folder is made again")
}
