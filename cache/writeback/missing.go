package writeback

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// A 404 is a question: a node may be too new for the machine that was asked,
// and gateways have hiccups. The node's folder is asked for its name then, and
// both are asked again after a poll of the feed. What they all lack is gone;
// until then whatever needs the node waits, and no intent is dropped.

// errMissing is why an intent waits whose node one call did not find.
var errMissing = errors.New("the drive did not find the node, which may be for a moment")

// absence is what is known of a node that a get answered with 404.
type absence struct {
	since time.Time
	polls int  // at that time
	gone  bool // that is settled
}

// Polled tells that the feed was read to its end, later than any call that was
// answered before.
func (s *WriteBack) Polled() {
	s.mu.Lock()
	s.polls++
	s.mu.Unlock()
	s.tell(func(q *queue) {
		for _, it := range q.items {
			if errors.Is(it.err, errMissing) && it.task == nil {
				it.retry = time.Time{}
				q.look(it.ino)
			}
		}
	})
}

// mostAbsent bounds WriteBack.absent.
const mostAbsent = 4096

// confirm says whether a node that was not found just now is gone; shown tells
// that its folder still lists it.
func (s *WriteBack) confirm(id string, shown bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	a, asked := s.absent[id]
	wait := s.o.MissingWait
	if shown {
		wait *= 8 // listings lag (API §13.1), but not for ever
	}
	switch {
	case !asked:
		if len(s.absent) >= mostAbsent {
			clear(s.absent)
		}
		a = absence{since: now, polls: s.polls}
	case s.polls > a.polls && !shown, now.Sub(a.since) >= wait:
		a.gone = true
	}
	s.absent[id] = a
	if a.gone {
		return fmt.Errorf("%w: %s", drive.ErrNotFound, id)
	}
	return fmt.Errorf("%w: %s", errMissing, id)
}

// present notes that a node was found.
func (s *WriteBack) present(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.absent, id)
}

// get gives the node with this id. ErrNotFound says that it is gone, and
// errMissing that it was not found, which is not the same.
func (t *task) get(id string) (drive.Node, error) {
	n, err := t.getOnce(id)
	switch {
	case err == nil:
		t.s.present(id)
		return n, nil
	case !errors.Is(err, drive.ErrNotFound):
		return n, err
	}
	if gone, gerr := t.toldGone(id); gerr != nil || gone {
		return n, errors.Join(gerr, err)
	}
	name, parents, err := t.placeOf(id)
	if err != nil {
		return n, err
	}
	shown := false
	if name != "" && len(parents) > 0 {
		found, err := t.find(parents[0], name)
		if err != nil {
			return n, err
		}
		shown = slices.ContainsFunc(found, func(f drive.Node) bool { return f.ID == id })
	}
	return n, t.s.confirm(id, shown)
}

// toldGone tells whether the feed has told of a node that it is gone: then a
// 404 is no question.
func (t *task) toldGone(id string) (bool, error) {
	ino, err := t.s.tree.InoOf(id)
	if err != nil || ino == 0 {
		return false, err
	}
	_, _, live, err := t.s.tree.NodePlace(id)
	return err == nil && !live, err
}

// placeOf is where a node was last known to be; nothing when that is not known.
func (t *task) placeOf(id string) (name string, parents []string, err error) {
	if e, ok := t.s.j.ByNode(id); ok && e.Base != nil {
		return e.Base.Name, e.Base.Parents, nil
	}
	name, parents, _, err = t.s.tree.NodePlace(id)
	return name, parents, err
}

// getOnce is get for a node of which only the service has told: a 404 is its
// answer.
func (t *task) getOnce(id string) (drive.Node, error) {
	ctx, cancel := t.call("look")
	defer cancel()
	return t.s.r.Get(ctx, id)
}

// placesSent are the names that calls which are on their way may have given to
// new nodes in a folder, and the inodes they are made for.
func (t *task) placesSent(parent string) map[string]uint64 {
	sent := map[string]uint64{}
	for _, ino := range t.s.j.Inos() {
		if e, ok := t.s.j.Get(ino); ok && e.NodeID == "" && e.Sent != nil && e.Sent.ParentID == parent {
			sent[drive.Fold(e.Sent.Name)] = ino
		}
	}
	return sent
}
