package writeback

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// look says how a node was met, and what calls of ours may have done to it.
type look struct {
	clue         clue
	kind         drive.Kind
	parent, name string        // where the call put it; of no use with byNode
	c            *content      // what is being sent now; nil = nothing
	sent         *journal.Sent // that call as it was recorded, or the one before; may be nil
	tried        bool          // one of the calls before has an unknown outcome
	claimed      bool          // it was another entry's before it was got
	insisted     bool          // told again and again: the service holds two names for one that are two by our rule (API §5.5)
}

// meet gets a node by its id and judges it. Whether it is another entry's is
// asked before and after: an entry that ended in between may have taken it.
func (t *task) meet(e *journal.Entry, id string, l look) (verdict, drive.Node, error) {
	l.claimed = t.owned(id)
	get := t.getOnce // the node may be as new as the conflict
	if l.clue == byNode {
		get = t.get
	}
	n, err := get(id)
	if errors.Is(err, drive.ErrNotFound) {
		n, err = drive.Node{}, nil
	}
	if err != nil {
		return unclear, n, err
	}
	return t.examine(e, n, l)
}

// examine judges a node; one without an id is none.
func (t *task) examine(e *journal.Entry, n drive.Node, l look) (verdict, drive.Node, error) {
	ev := evidence{
		clue: l.clue, kind: l.kind, tried: l.tried, claimed: l.claimed, base: e.Base, owner: t.s.r.Owner(),
	}
	if l.sent != nil {
		ev.began = l.sent.Began
	}
	if n.ID != "" && l.clue != byNode {
		ino, err := t.s.tree.InoOf(n.ID)
		if err != nil {
			return unclear, n, err
		}
		ev.claimed = ev.claimed || t.owned(n.ID)
		if ev.seen = ino != 0 && ino != t.ino; ev.seen && l.clue == byName {
			// Listings lag (API §13.1), and what is known here may have been moved.
			if n, err = t.getOnce(n.ID); errors.Is(err, drive.ErrNotFound) {
				n, err = drive.Node{}, nil
			}
			if err != nil {
				return unclear, n, err
			}
			ev.claimed = ev.claimed || t.owned(n.ID)
		}
		ev.sits = sits(n, l.parent, l.name) || l.insisted && slices.Contains(n.Parents, l.parent)
	}
	ev.found, ev.node = n.ID != "", n
	var err error
	if ev.holds, err = t.compare(e, n, l); err != nil {
		return unclear, n, err
	}
	return judge(&ev), n, nil
}

// compare tells what the node holds of what was sent, or is to be.
func (t *task) compare(e *journal.Entry, n drive.Node, l look) (match, error) {
	has := n.Content
	if has == nil {
		return noContent, nil
	}
	holds := func(size int64, sum string) bool { return sum != "" && has.Size == size && has.MD5 == sum }
	size := int64(0)
	if l.sent != nil {
		size = l.sent.Size
	}
	if l.c != nil {
		size = l.c.size
		if err := t.sumUp(l.c, has.Size); err != nil {
			return other, err
		}
		if holds(l.c.size, l.c.sum) {
			return whole, nil
		}
	}
	if l.sent != nil {
		if holds(l.sent.Size, l.sent.MD5) {
			if l.c == nil {
				return whole, nil
			}
			return former, nil
		}
		if slices.ContainsFunc(l.sent.Earlier, func(s journal.Sum) bool { return holds(s.Size, s.MD5) }) {
			return former, nil
		}
	}
	switch {
	case has.Size == 0:
		return empty, nil
	case has.Size >= size || !l.tried:
		return other, nil
	}
	sum, err := t.beginningSum(e, l.c, has.Size)
	if err != nil || sum != has.MD5 {
		return other, err
	}
	return beginning, nil
}

// sumUp makes the sum of c known when a node has its size.
func (t *task) sumUp(c *content, size int64) (err error) {
	if c.sum == "" && c.size == size && c.snap != nil {
		c.sum, err = t.prefixSum(c, c.size)
	}
	return err
}

// beginningSum is the MD5 of the first n bytes of c, or of what was sent last;
// "" when those bytes are not there any more.
func (t *task) beginningSum(e *journal.Entry, c *content, n int64) (string, error) {
	if c != nil {
		return t.prefixSum(c, n)
	}
	sent, err := t.s.j.OpenSent(e.Ino)
	if sent == nil || err != nil {
		return "", err
	}
	defer sent.Close()
	sum, err := t.sum(sent, n)
	if errors.Is(err, io.EOF) {
		return "", nil
	}
	return sum, err
}

// newSent is the record of a call that is about to go out. What the calls
// before it may have done is still to be recognised: old is the last of them,
// nil when the outcome of all is known.
func (t *task) newSent(old *journal.Sent, s journal.Sent) *journal.Sent {
	if old == nil {
		s.Began = t.s.r.ServiceTime()
		return &s
	}
	s.Tries, s.Began, s.Earlier = old.Tries, old.Began, slices.Clone(old.Earlier)
	if old.Whole {
		s.Tries++
		if old.MD5 != "" {
			s.Earlier = append(s.Earlier, journal.Sum{Gen: old.Gen, Size: old.Size, MD5: old.MD5})
			s.Earlier = s.Earlier[max(0, len(s.Earlier)-mostEarlier):]
		}
	}
	return &s
}

// mostEarlier bounds Sent.Earlier.
const mostEarlier = 8

// unsend takes a call out of the record that had no effect. Those before it
// stay, and are looked for until a time given.
func unsend(s *journal.Sent, until time.Time) *journal.Sent {
	if s == nil || s.Tries == 0 {
		return nil
	}
	c := *s
	c.Tries--
	c.Deadline, c.Whole, c.Gen, c.Size, c.MD5 = until, true, 0, 0, ""
	if last := len(c.Earlier) - 1; last >= 0 {
		x := c.Earlier[last]
		c.Gen, c.Size, c.MD5, c.Earlier = x.Gen, x.Size, x.MD5, c.Earlier[:last]
	}
	return &c
}

// nothingSent notes that no call may have an effect that is not known.
func (t *task) nothingSent() error {
	return t.update(func(e *journal.Entry) bool { e.Sent = nil; return true })
}

// forgetSent notes that the last call had no effect.
func (t *task) forgetSent() report {
	return t.noted(t.update(func(e *journal.Entry) bool { e.Sent = unsend(e.Sent, time.Time{}); return true }))
}

// lookNew settles a POST of content whose outcome is not known (API §13.2):
// adopt what appeared, wait for what may, and only then send again.
func (t *task) lookNew(e *journal.Entry) report {
	if !e.Sent.Whole {
		return t.forgetSent() // the body did not go out to its end: nothing will appear
	}
	n, v, err := t.findSent(e, drive.File)
	if err != nil {
		return t.fail(err)
	}
	switch v {
	case ours:
		return t.appeared(e, n)
	case broken:
		return t.spoiled(n)
	}
	again, err := t.resendable(e)
	switch {
	case err != nil:
		return t.fail(err)
	case t.mayAppear(e.Sent) && (v == pending || !again):
		return t.lookLater(e, errLooking)
	}
	return t.uploadNew(e)
}

var errLooking = errors.New("looking for an upload that was not answered")

// findSent looks where a POST of unknown outcome put its node: ours or broken
// come with it, and pending stands for all that may still become one of them.
func (t *task) findSent(e *journal.Entry, kind drive.Kind) (drive.Node, verdict, error) {
	found, err := t.find(e.Sent.ParentID, e.Sent.Name)
	if err != nil {
		return drive.Node{}, unclear, err
	}
	best := absent
	for _, n := range found {
		v, n, err := t.examine(e, n, look{clue: byName, kind: kind, parent: e.Sent.ParentID, name: e.Sent.Name, sent: e.Sent, tried: true})
		switch {
		case err != nil || v == ours || v == broken:
			return n, v, err
		case v == pending:
			best = pending
		}
	}
	return drive.Node{}, best, nil
}

// mayAppear reports whether what was sent must still be looked for. When we
// died over it and were back soon, the service's lag counts from then.
func (t *task) mayAppear(s *journal.Sent) bool {
	until := s.Deadline
	if s.At.Equal(t.sentAt) {
		until = earlier(until, t.found.Add(t.patience(s.Size))) // it may be of a clock that was ahead
	}
	if back := t.s.started; s.At.Before(back) && back.Sub(until) < t.s.o.MinWait && back.Add(t.s.o.MinWait).After(until) {
		until = back.Add(t.s.o.MinWait)
	}
	return time.Now().Before(until)
}

// resendable reports whether sending again can do no harm, whatever became of
// the first time: the connection died with an earlier life of ours, the file
// is small, and the same bytes go to the same name, where a second POST meets
// the first (409), and a second overwrite repeats it.
func (t *task) resendable(e *journal.Entry) (bool, error) {
	if !e.Sent.At.Before(t.s.started) || e.Sent.Size >= smallFile || e.Removed ||
		e.Draft == nil || e.Draft.Gen != e.Sent.Gen {
		return false, nil
	}
	if e.NodeID != "" {
		return true, nil
	}
	ids, wait, gone, err := resolve(t.s.tree, e.Place.Parents, nil)
	return err == nil && wait == 0 && gone == 0 && len(ids) > 0 && ids[0] == e.Sent.ParentID && e.Place.Name == e.Sent.Name, err
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
	return t.noted(t.learn(n, func(e *journal.Entry) {
		setContent(e.Base, n)
		e.Sent = nil
	}))
}

// lookOverwrite settles an overwrite whose outcome is not known. resend: it
// surely had no effect, or a second one does no harm.
func (t *task) lookOverwrite(e *journal.Entry) (r report, resend bool) {
	v, n, err := t.meet(e, e.NodeID, look{clue: byNode, kind: drive.File, sent: e.Sent, tried: true})
	if err != nil {
		return t.fail(err), false
	}
	switch v {
	case absent:
		return t.nodeGone(e, n.Version), false
	case ours:
		return t.appeared(e, n), false
	case broken:
		return t.spoiled(n), false
	case pending, untouched:
		again, err := t.resendable(e)
		if err != nil {
			return t.fail(err), false
		}
		if t.mayAppear(e.Sent) && (v == pending || !again) {
			return t.lookLater(e, errLooking), false
		}
	}
	return report{}, true // of others: overwrite finds the conflict
}
