package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/drive"
)

// CheckLocal holds the Store against itself: the mirror's indexes, the
// journal's, and that the two name the same things. It needs no network.
func (s *Store) CheckLocal() []error {
	s.view.RLock()
	defer s.view.RUnlock()
	errs := append(s.mirror.Check(), s.journal.Check()...)
	for _, ino := range s.journal.Inos() {
		e, ok := s.journal.Get(ino)
		if !ok {
			continue
		}
		if (e.NodeID == "") != (e.Base == nil) {
			errs = append(errs, fmt.Errorf("wish %d: node %q and its base do not go together", ino, e.NodeID))
		}
		if have, ok := s.mirror.Ino(e.NodeID); e.NodeID != "" && ok && have != ino {
			errs = append(errs, fmt.Errorf("wish %d: its node %s belongs to inode %d", ino, e.NodeID, have))
		}
		if e.Removed {
			continue
		}
		for _, p := range e.Place.Parents {
			if _, ok, err := s.inodeLocked(p); err == nil && !ok {
				errs = append(errs, fmt.Errorf("wish %d (%s): its folder %d is not in the tree", ino, e.Place.Shown, p))
			}
		}
	}
	return errs
}

// Check holds the Store against itself and its mirror against the drive,
// folder by folder, and tells every difference through say. With repair it
// takes the drive's word where they differ; what is still to be uploaded is
// no difference. The count is of differences found.
func (s *Store) Check(ctx context.Context, repair bool, say func(string)) (int, error) {
	problems := 0
	for _, err := range s.CheckLocal() {
		problems++
		say(err.Error())
	}
	ctx = drive.WithPriority(ctx, drive.Background)
	root := s.mirror.Root()
	queue := []uint64{root.Ino}
	seen := map[uint64]bool{}
	for len(queue) > 0 {
		dir := queue[0]
		queue = queue[1:]
		if seen[dir] {
			continue
		}
		seen[dir] = true
		n, err := s.checkFolder(ctx, dir, repair, say, &queue)
		problems += n
		if err != nil {
			return problems, err
		}
	}
	return problems, nil
}

func (s *Store) checkFolder(ctx context.Context, dir uint64, repair bool, say func(string), queue *[]uint64) (int, error) {
	r, ok, err := s.mirror.Get(dir)
	if err != nil || !ok {
		return 0, err
	}
	here := map[string]mirror.Record{}
	err = s.mirror.List(dir, 0, int(^uint(0)>>1), func(c *mirror.Record) bool {
		here[c.ID] = *c
		return true
	})
	if err != nil {
		return 0, err
	}
	problems := 0
	differs := func(id, name, what string) {
		problems++
		say(fmt.Sprintf("%s: %s", s.nameIn(dir, name), what))
	}
	var nodes []drive.Node
	for n, err := range s.remote.Children(ctx, r.ID, false) {
		if err != nil {
			return problems, fmt.Errorf("listing %s: %w", s.PathOf(dir), err)
		}
		if !n.Live() {
			nodes = append(nodes, n)
			continue
		}
		if s.wished(n.ID) {
			nodes = append(nodes, n)
			delete(here, n.ID)
			continue
		}
		c, known := here[n.ID]
		what := difference(&c, known, &n)
		if what != "" {
			// Listings lag (API §13.1); the node itself does not.
			fresh, err := s.remote.Get(ctx, n.ID)
			if err != nil && !errors.Is(err, drive.ErrNotFound) {
				return problems, err
			}
			if err != nil || !fresh.Live() || !has(fresh.Parents, r.ID) {
				continue // not here any more, nor in the mirror if that is right
			}
			n, what = fresh, difference(&c, known, &fresh)
		}
		nodes = append(nodes, n)
		delete(here, n.ID)
		if what != "" {
			differs(n.ID, n.Name, what)
		}
		if n.Kind == drive.Folder {
			if ino, ok := s.mirror.Ino(n.ID); ok {
				*queue = append(*queue, ino)
			}
		}
	}
	for id, c := range here {
		if s.wished(id) {
			continue
		}
		// One listing does not prove that a node is gone: ask for it.
		n, err := s.remote.Get(ctx, id)
		switch {
		case errors.Is(err, drive.ErrNotFound):
			differs(id, c.Shown, "is in the mirror and not on the drive")
			if repair {
				if err := (host{s}).Gone(id, 0); err != nil {
					return problems, err
				}
			}
		case err != nil:
			return problems, err
		case n.Status != drive.Available, !has(n.Parents, r.ID):
			differs(id, c.Shown, "is in the mirror and not there on the drive")
			if repair {
				if err := (host{s}).Foreign(n); err != nil {
					return problems, err
				}
			}
		}
	}
	if repair && problems > 0 {
		cs, _, err := s.mirror.Listing(dir, nodes, true)
		if err != nil {
			return problems, err
		}
		s.changed(cs)
		for _, n := range nodes {
			if ino, ok := s.mirror.Ino(n.ID); ok && n.Kind == drive.Folder && n.Live() {
				*queue = append(*queue, ino)
			}
		}
	}
	return problems, nil
}

// difference says how the mirror's record of a node that lies on the drive is
// wrong, "" when it is not. A listing may be older than the record.
func difference(c *mirror.Record, known bool, n *drive.Node) string {
	switch {
	case !known:
		return "is on the drive and not in the mirror"
	case c.Version > n.Version:
	case c.Name != n.Name:
		return fmt.Sprintf("is called %q in the mirror", c.Name)
	case n.Content != nil && (c.Size != n.Content.Size || c.MD5 != n.Content.MD5 || c.Content != n.Content.Version):
		return "has other content in the mirror"
	}
	return ""
}

func has(ids []string, id string) bool {
	for _, x := range ids {
		if x == id {
			return true
		}
	}
	return false
}

// wished tells whether the node has an open wish: then mirror and drive may
// differ.
func (s *Store) wished(id string) bool {
	_, ok := s.journal.ByNode(id)
	return ok
}

func (s *Store) nameIn(dir uint64, name string) string {
	p := s.PathOf(dir)
	if p == "/" {
		p = ""
	}
	return p + "/" + name
}

// ownContent tells the mirror that bytes it hears of are the ones an upload
// of ours has just sent.
func (s *Store) ownContent(ino uint64, size int64, md5 string) (own bool) {
	s.journal.Peek(ino, func(e *journal.Entry) {
		own = e.Sent != nil && e.Sent.Size == size && e.Sent.MD5 == md5
	})
	return own
}
