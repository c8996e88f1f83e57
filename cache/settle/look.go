package settle

import (
	"errors"
	"io"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// lookNew settles a POST of content whose outcome is not known (API §13.2):
// adopt what appeared, wait for what may, and only then send again.
func (t *task) lookNew(e *journal.Entry) report {
	if !e.Sent.Whole {
		return t.forgetSent() // the body did not go out to its end: nothing will appear
	}
	n, whole, err := t.findSent(e)
	switch {
	case err != nil:
		return t.fail(err)
	case n != nil && whole:
		return t.appeared(e, *n)
	case n != nil:
		return t.spoiled(*n)
	case !t.mayAppear(e.Sent), t.resendable(e):
		return t.forgetSent()
	}
	return t.lookLater(e, errLooking)
}

var errLooking = errors.New("looking for an upload that was not answered")

// mayAppear reports whether what was sent must still be looked for. When we
// died over it and were back soon, the service's lag counts from then.
func (t *task) mayAppear(s *journal.Sent) bool {
	until := s.Deadline
	if back := t.s.started; s.At.Before(back) && back.Sub(until) < t.s.o.MinWait && back.Add(t.s.o.MinWait).After(until) {
		until = back.Add(t.s.o.MinWait)
	}
	return time.Now().Before(until)
}

func (t *task) forgetSent() report {
	if err := t.update(func(e *journal.Entry) bool { e.Sent = nil; return true }); err != nil {
		return t.fail(err)
	}
	return report{kind: next}
}

// resendable reports whether sending again can do no harm, whatever became of
// the first time: the connection died with an earlier life of ours, the file
// is small, and the same bytes go to the same name, where a second POST meets
// the first (409), and a second overwrite repeats it.
func (t *task) resendable(e *journal.Entry) bool {
	if !e.Sent.At.Before(t.s.started) || e.Sent.Size >= smallFile || e.Removed ||
		e.Draft == nil || e.Draft.Gen != e.Sent.Gen {
		return false
	}
	if e.NodeID != "" {
		return true
	}
	ids, wait, gone := resolve(t.s.h, e.Place.Parents, nil)
	return wait == 0 && gone == 0 && len(ids) > 0 && ids[0] == e.Sent.ParentID && e.Place.Name == e.Sent.Name
}

// appeared takes in a node that holds what was sent.
func (t *task) appeared(e *journal.Entry, n drive.Node) report {
	if e.Draft != nil && e.Draft.Gen == e.Sent.Gen {
		d, err := t.s.j.OpenDraft(t.ino, nil)
		if err != nil {
			return t.fail(err)
		}
		defer d.Close()
		return t.stored(&content{draft: d, gen: e.Sent.Gen, size: e.Sent.Size}, n, e.Sent.MD5)
	}
	// An older generation arrived; it is ours, and what the next one begins from.
	err := t.learn(n, func(e *journal.Entry) {
		setContent(e.Base, n)
		e.Sent = nil
	})
	if err != nil {
		return t.fail(err)
	}
	return report{kind: next}
}

// findSent looks for the file that a POST of unknown outcome may have made,
// whole or truncated; nil when it is not to be seen. Nodes of other entries
// are not it.
func (t *task) findSent(e *journal.Entry) (made *drive.Node, whole bool, err error) {
	found, err := t.find(e.Sent.ParentID, e.Sent.Name)
	if err != nil {
		return nil, false, err
	}
	for _, n := range found {
		if n.Kind != drive.File || n.Content == nil {
			continue
		}
		if ok, err := t.adoptable(n, e.Sent); err != nil {
			return nil, false, err
		} else if !ok {
			continue
		}
		if n.Content.Size == e.Sent.Size && n.Content.MD5 == e.Sent.MD5 {
			return &n, true, nil
		}
		if ours, err := t.truncated(e, n); err != nil {
			return nil, false, err
		} else if ours {
			return &n, false, nil
		}
	}
	return nil, false, nil
}

// truncated reports whether the node holds the beginning of what was sent.
// Every content begins with the empty one: that says nothing.
func (t *task) truncated(e *journal.Entry, n drive.Node) (bool, error) {
	if n.Content.Size == 0 || n.Content.Size >= e.Sent.Size || e.NodeID == "" && !t.byUs(n) {
		return false, nil
	}
	sent, err := t.s.j.OpenSent(e.Ino)
	if sent == nil || err != nil {
		return false, err
	}
	defer sent.Close()
	sum, err := t.sum(sent, n.Content.Size)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return sum == n.Content.MD5, err
}

// lookOverwrite settles an overwrite whose outcome is not known. resend: it
// surely had no effect, or a second one does no harm.
func (t *task) lookOverwrite(e *journal.Entry) (r report, resend bool) {
	n, err := t.get(e.NodeID)
	if err != nil {
		return t.nodeError(e, err), false
	}
	switch {
	case n.Status == drive.Pending:
		if !t.mayAppear(e.Sent) {
			return report{}, true
		}
		return t.lookLater(e, errLooking), false
	case !n.Live() || n.Kind != drive.File || n.Content == nil:
		return t.nodeGone(e, n.Version), false
	case n.Content.MD5 == e.Sent.MD5 && n.Content.Size == e.Sent.Size:
		return t.appeared(e, n), false
	case n.Content.Version == e.Base.Content:
		if !t.mayAppear(e.Sent) || t.resendable(e) {
			return report{}, true
		}
		return t.lookLater(e, errLooking), false
	}
	ours, err := t.truncated(e, n)
	switch {
	case err != nil:
		return t.fail(err), false
	case ours:
		return t.spoiled(n), false
	}
	// Neither what was there nor what was sent: somebody else's.
	return report{}, true // overwrite finds the conflict
}
