package writeback

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// uploadNew makes the file of e.
func (t *task) uploadNew(e *journal.Entry) report {
	if from := t.s.tree.Ancestor(t.ino); from != 0 && t.s.working(from) {
		return report{kind: waits, on: from}
	}
	if did, err := t.s.tree.Inherit(t.ino, e.Rev); err != nil {
		return t.fail(err)
	} else if did {
		return report{kind: again} // an overwrite now, and what it waits for is the queue's to say
	}
	if in, err := t.inTrash(e); err != nil {
		return t.fail(err)
	} else if in {
		return t.parentGone(e)
	}
	ids, r := t.targets(e)
	if r.kind != next {
		return r
	}
	c, err := t.open(e)
	if err != nil {
		return t.sourceError(err)
	}
	defer c.close()
	parent, name := ids[0], e.Place.Name
	id := t.s.localID(e)
	if r := t.sendingContent(e, c, parent, name, id); r.kind != next || t.ctx.Err() != nil {
		return r
	}
	if c.size >= bigFile {
		// The service answers a taken name only after the whole body (API §7.1).
		found, err := t.find(parent, name)
		if err != nil {
			return t.failClearing(err, true)
		}
		if len(found) > 0 {
			return t.fileInTheWay(c, &drive.Error{Op: "content.upload", Kind: drive.ErrNameExists, NodeID: found[0].ID}, parent, name)
		}
	}
	props := t.propsToSend(e)
	n, sum, err := t.send("upload", c, func(ctx context.Context, b drive.Body) (drive.Node, error) {
		b.ContentType = contentType(name)
		return t.s.r.Upload(ctx, drive.NewNode{Name: name, ParentID: parent, LocalID: id, Properties: props}, b)
	})
	switch {
	case err == nil:
		t.created(&n, props)
		return t.answered(c, n, sum, 0)
	case t.withoutProps(props, err):
		return t.forgetSent()
	case errors.Is(err, drive.ErrNameExists), errors.Is(err, drive.ErrConflict), errors.Is(err, drive.ErrDuplicate):
		return t.fileInTheWay(c, err, parent, name)
	case errors.Is(err, drive.ErrBadParent), errors.Is(err, drive.ErrNotFound):
		if e, ok := t.entry(); ok {
			return t.parentTrouble(e, parent, err)
		}
		return report{kind: next}
	}
	return t.unsent(c, err)
}

// sendingContent records that content is about to leave. Small content counts
// as gone from here on; of large content that is recorded before its last byte.
func (t *task) sendingContent(e *journal.Entry, c *content, parent, name, id string) report {
	now := time.Now()
	ok, err := t.sending(e, func(e *journal.Entry) {
		e.LocalID = id
		e.Sent = t.newSent(e.Sent, journal.Sent{
			Gen: c.gen, Size: c.size, MD5: c.sum, Whole: c.snap == nil,
			At: now, Deadline: now.Add(t.patience(c.size)), ParentID: parent, Name: name,
		})
	})
	switch {
	case err != nil:
		return t.fail(err)
	case !ok:
		return report{kind: again}
	}
	return report{}
}

// patience is how long an upload of that size may take to appear.
func (t *task) patience(size int64) time.Duration {
	return t.s.o.MinWait + time.Duration(float64(t.s.o.WaitPerGB)*float64(size)/(1<<30))
}

// answerWait is how long the service may take to answer to an upload of that
// size. What comes later is found by looking.
func (s *WriteBack) answerWait(size int64) time.Duration {
	return s.o.AnswerWait + time.Duration(float64(s.o.WaitPerGB)/3*float64(size)/(1<<30))
}

// send hands content to a call and returns what the service made of it, and
// the MD5 of what went out.
func (t *task) send(op string, c *content, call func(context.Context, drive.Body) (drive.Node, error)) (drive.Node, string, error) {
	t.op.Store(&op)
	b, src := t.body(c, func(sum string) error {
		return t.update(func(e *journal.Entry) bool {
			if e.Sent == nil || e.Sent.Gen != c.gen {
				return false
			}
			e.Sent.Whole, e.Sent.MD5 = true, sum
			e.Sent.Deadline = time.Now().Add(t.patience(c.size))
			return true
		})
	})
	n, err := call(drive.WithPriority(t.ctx, drive.Uploading), src)
	return n, b.sumOf(), err
}

func contentVersion(n drive.Node) int64 {
	if n.Content == nil {
		return 0
	}
	return n.Content.Version
}

// answered takes in the node that an upload or overwrite made. was is the
// content version before, 0 for a new file: ours should be the next. -1 = an
// earlier try may have made a version of its own since.
func (t *task) answered(c *content, n drive.Node, sum string, was int64) report {
	if n.Content == nil {
		// It is there but not yet whole: as good as no answer.
		return t.unsent(c, drive.ErrAmbiguous)
	}
	if n.Content.Size != c.size || n.Content.MD5 != sum {
		// An answer may be older than what it answers (API §7.2): by id it is not.
		if fresh, err := t.get(n.ID); err == nil && fresh.Content != nil {
			n = fresh
		}
	}
	if n.Content.Size == c.size && n.Content.MD5 == sum {
		if was > 0 && n.Content.Version > was+1 && !madeUp(&n) {
			// Where the service ignores If-Match, nothing could have kept that
			// from happening (API §5.6, §7.2).
			t.s.notice(t.ino, "the file was changed on the drive in the very moment it was sent from here, and that change was replaced")
		}
		return t.stored(c, n, sum)
	}
	if was >= 0 && n.Content.Version > was+1 && !madeUp(&n) {
		holds, err := t.compare(nil, n, look{c: c, tried: was > 0})
		if err != nil {
			return t.sourceError(err)
		}
		if holds != beginning {
			return t.overtaken(n)
		}
	}
	t.s.log.Warn("the drive stored other bytes than were sent, sending again",
		"ino", t.ino, "node", n.ID, "size", n.Content.Size, "want", c.size)
	return t.spoiled(n)
}

// stored: the node holds the generation c, verified.
func (t *task) stored(c *content, n drive.Node, sum string) report {
	t.s.o.Uploaded(t.ino, n, c.draft)
	err := t.learn(n, func(e *journal.Entry) {
		at := time.Now()
		parent, name := "", ""
		if e.Sent != nil {
			at, parent, name = e.Sent.At, e.Sent.ParentID, e.Sent.Name
		}
		// It stays as the mark that this generation is on the drive, until
		// the entry goes.
		e.Sent = &journal.Sent{Gen: c.gen, Size: c.size, MD5: sum, Whole: true, At: at, ParentID: parent, Name: name}
		setContent(e.Base, n)
	})
	if err != nil {
		return t.fail(err)
	}
	t.uploaded = c.gen
	return report{kind: next}
}

// spoiled: the node is ours, but its bytes are not the ones wanted. They
// are overwritten next.
func (t *task) spoiled(n drive.Node) report {
	err := t.learn(n, func(e *journal.Entry) {
		setContent(e.Base, n)
		e.Sent = nil
	})
	if err != nil {
		return t.fail(err)
	}
	if t.stale++; t.stale > 5 {
		return t.fail(errSpoiled)
	}
	return report{kind: next}
}

// overtaken: what was sent was replaced by somebody else at once.
func (t *task) overtaken(n drive.Node) report {
	if err := t.nothingSent(); err != nil {
		return t.fail(err)
	}
	if err := t.s.noteNode(n); err != nil {
		return t.fail(err)
	}
	e, ok := t.entry()
	if !ok {
		return report{kind: next}
	}
	return t.conflict(e, "the file was changed on the drive in the moment it was sent from here")
}

var errSpoiled = errors.New("the drive keeps storing other bytes than were sent")

// unsent ends a task whose upload brought no node.
func (t *task) unsent(c *content, err error) report {
	switch {
	case errors.Is(err, drive.ErrAmbiguous):
		e, ok := t.entry()
		if !ok || e.Sent == nil {
			return report{kind: next}
		}
		uerr := t.update(func(e *journal.Entry) bool {
			if e.Sent == nil {
				return false
			}
			e.Sent.Deadline = time.Now().Add(t.patience(c.size))
			e.Failed, e.FailedAt = err.Error(), time.Now()
			return true
		})
		if uerr != nil {
			return t.fail(uerr)
		}
		if t.ctx.Err() != nil {
			return report{kind: again}
		}
		t.s.log.Info("no answer to a whole upload, looking for it", "ino", t.ino, "err", err)
		return t.lookLater(e, err)
	case errors.Is(err, journal.ErrSuperseded), errors.Is(err, journal.ErrIncomplete), errors.Is(err, journal.ErrDamaged):
		if r := t.forgetSent(); r.kind != next {
			return r
		}
		return t.sourceError(err)
	}
	return t.failClearing(err, true)
}

// sourceError ends a task whose content could not be read.
func (t *task) sourceError(err error) report {
	if errors.Is(err, journal.ErrSuperseded) {
		// It is being written; its close brings a new intent, and wakes us.
		return report{kind: later, at: time.Now().Add(t.s.o.Look), writing: true}
	}
	return t.fail(err)
}

// fileInTheWay settles a conflict that a POST met, or would have met.
func (t *task) fileInTheWay(c *content, cause error, parent, name string) report {
	e, ok := t.entry()
	if !ok || e.Sent == nil {
		return report{kind: next}
	}
	v, n, err := t.meetConflict(e, cause, look{
		kind: drive.File, parent: parent, name: name, c: c, sent: e.Sent, tried: e.Sent.Tries > 0,
	})
	switch {
	case errors.Is(err, journal.ErrSuperseded):
		return t.sourceError(err)
	case err != nil:
		return t.fail(err) // Sent stays: the next round looks again
	case v == ours:
		return t.stored(c, n, c.sum)
	case v == broken:
		return t.spoiled(n)
	}
	return t.notOurs(e, v, n, cause, parent, name)
}

// overwrite brings the content of e onto its node, after a fresh look at
// what is there.
func (t *task) overwrite(e *journal.Entry) report {
	earlier := e.Sent != nil && e.Sent.Whole && !arrived(e) // of unknown outcome
	if earlier {
		if r, resend := t.lookOverwrite(e); !resend {
			return r
		}
	}
	if in, err := t.inTrash(e); err != nil {
		return t.fail(err)
	} else if in {
		return t.noted(t.s.lost(t.ino, "its folder was removed on the drive while it was changed here"))
	}
	n, err := t.get(e.NodeID)
	if err != nil {
		return t.nodeError(e, err)
	}
	switch {
	case n.Status == drive.Pending && n.Kind == drive.File && e.Base.Content == 0:
		// Our own broken upload: the content is what it waits for.
	case n.Status == drive.Pending:
		return t.fail(drive.ErrUnavailable)
	case !n.Live() || n.Kind != drive.File:
		return t.nodeGone(e, n.Version)
	}
	c, err := t.open(e)
	if err != nil {
		return t.sourceError(err)
	}
	defer c.close()
	l := look{clue: byNode, kind: drive.File, c: c, tried: earlier}
	if earlier {
		l.sent = e.Sent
	}
	v, n, err := t.examine(e, n, l)
	switch {
	case err != nil:
		return t.sourceError(err)
	case v == ours:
		return t.stored(c, n, c.sum) // the bytes are there, whoever brought them
	case v == broken:
		return t.spoiled(n)
	case v == foreign:
		return t.contentConflict(e, n)
	}
	return t.sendOver(e, n, c, earlier)
}

// contentConflict: the node got other content from others while it was changed
// here.
func (t *task) contentConflict(e *journal.Entry, n drive.Node) report {
	if err := t.s.noteNode(n); err != nil {
		return t.fail(err)
	}
	if strings.HasPrefix(e.Base.Name, tree.TempPrefix) && !t.back(e) {
		t.handOver(e)
	}
	return t.conflict(e, "the file was changed on the drive while it was changed here")
}

// sendOver sends c over the content of n, which the entry's Base becomes.
func (t *task) sendOver(e *journal.Entry, n drive.Node, c *content, earlier bool) report {
	ok := false
	err := t.update(func(now *journal.Entry) bool {
		if now.Rev != e.Rev || now.NodeID != e.NodeID || now.Removed || now.Base == nil {
			return false
		}
		old := now.Sent
		if !earlier {
			old = nil
		}
		now.Base.Version, now.Base.ETag = n.Version, n.ETag
		setContent(now.Base, n)
		at := time.Now()
		s := journal.Sent{
			Gen: c.gen, Size: c.size, MD5: c.sum, Whole: c.snap == nil,
			At: at, Deadline: at.Add(t.patience(c.size)), Name: n.Name,
		}
		if len(n.Parents) > 0 {
			s.ParentID = n.Parents[0]
		}
		now.Sent, ok = t.newSent(old, s), true
		return true
	})
	if err != nil {
		return t.fail(err)
	}
	if !ok {
		return report{kind: next}
	}
	made, sum, err := t.send("overwrite", c, func(ctx context.Context, b drive.Body) (drive.Node, error) {
		b.ContentType = contentType(n.Name)
		return t.s.r.Overwrite(ctx, e.NodeID, n.ETag, b)
	})
	if err == nil {
		was := contentVersion(n)
		if earlier {
			was = -1
		}
		return t.answered(c, made, sum, was)
	}
	return t.notOver(c, n, err)
}

// notOver ends an overwrite that failed.
func (t *task) notOver(c *content, n drive.Node, err error) report {
	most := 5
	switch {
	case n.Status == drive.Pending && (errors.Is(err, drive.ErrInvalid) || errors.Is(err, drive.ErrNotFound) ||
		errors.Is(err, drive.ErrConflict) || errors.Is(err, drive.ErrForbidden)):
		return t.abandon(n)
	case errors.Is(err, drive.ErrPrecondition), errors.Is(err, drive.ErrConflict):
		// Look again: other content is a conflict, anything else is repeated
		// with the new tag.
	case errors.Is(err, drive.ErrNotFound), errors.Is(err, drive.ErrBadParent):
		most = 2 // it was live a moment ago: only another look tells what this is
	default:
		return t.unsent(c, err)
	}
	if r := t.forgetSent(); r.kind != next {
		return r
	}
	if t.stale++; t.stale > most {
		return t.fail(err)
	}
	return report{kind: next}
}

// handOver names a node that is not ours any more, and must not keep a
// temporary name: as it was wanted, or else after its id.
func (t *task) handOver(e *journal.Entry) {
	for _, name := range []string{e.Place.Name, besideName(e.Place.Name, e.NodeID)} {
		ctx, cancel := t.call("rename")
		_, err := t.s.r.Rename(ctx, e.NodeID, name, "")
		cancel()
		if err == nil {
			return
		}
		t.s.log.Warn("a node keeps a temporary name", "node", e.NodeID, "tried", name, "err", err)
	}
}

// abandon gives up a PENDING node that does not take its content: the file is
// made anew.
func (t *task) abandon(n drive.Node) report {
	if err := t.s.noteGone(n.ID, n.Version); err != nil {
		return t.fail(err)
	}
	err := t.update(func(e *journal.Entry) bool {
		e.NodeID, e.Base, e.Sent, e.LocalID = "", nil, nil, newLocalID()
		return true
	})
	if err != nil {
		return t.fail(err)
	}
	return report{kind: again}
}
