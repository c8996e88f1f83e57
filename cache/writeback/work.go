package writeback

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// task is one worker's work on one inode. Only the worker touches it, but
// for what is marked otherwise.
type task struct {
	s       *WriteBack
	ino     uint64
	lane    lane
	ctx     context.Context
	cancel  context.CancelFunc
	started time.Time

	// Given by the queue, not changed after.
	rev     uint64        // of the intent it works on
	node    string        // it had then
	sentAt  time.Time     // Sent.At as it was then, and
	found   time.Time     // when that was first seen in this life
	origin  *journal.Base // place of the node before settling touched it; may be nil
	detour  bool          // bring the node under its temporary name, no further
	others  bool          // further folders are to change parents
	covered []uint64      // removed entries that go with this folder
	live    *live         // of a stream; nil = no stream

	// Learned on the way, and forgotten with the task: the journal has what must last.
	handed   bool              // the mirror has the node as it is now
	uploaded uint64            // draft generation that is on the drive
	props    map[string]string // properties that are on the node
	bare     bool              // the node goes without its properties
	stale    int               // how often the node had another tag or place than thought
	noRename bool              // renaming first met a taken name on the way
	noMove   bool              // moving first did
	viaTemp  bool              // … so a temporary name it is
	moved    bool              // it made a call for the node's place
	sure     bool              // Base tells the node's place although it has no tag
	// What the last calls of this task that changed the node's place asked for.
	askedName, askedParent string
	throttled              bool
	touched                []uint64

	op         atomic.Pointer[string] // for Active
	sent, size atomic.Int64           // for Active: of the body
}

// kind is how a piece of work ended, or a step of it.
type kind int

const (
	next   kind = iota // of a step: read the entry again
	done               // the entry is gone
	again              // more to do, but others may go on with what is done
	later              // at
	waits              // for on
	failed             // with err, and at
)

// report is what a worker tells the queue.
type report struct {
	task    *task
	kind    kind
	at      time.Time
	on      uint64
	slot    bool
	err     error
	final   bool // will not go away by itself soon
	remote  bool // the service as a whole was in trouble
	writing bool // somebody has it open and changed what is to be sent
	touched []uint64
	folder  string // the node that a new folder has become
}

func (t *task) progress(now time.Time) Progress {
	p := Progress{Ino: t.ino, Sent: t.sent.Load(), Size: t.size.Load(), Started: t.started}
	p.Op = t.opName()
	if d := now.Sub(t.started).Seconds(); d > 0 {
		p.Rate = float64(p.Sent) / d
	}
	return p
}

func (t *task) opName() string {
	if op := t.op.Load(); op != nil {
		return *op
	}
	return ""
}

// maxRounds bounds the steps of one task. Each step that goes well makes one
// call or rewrites the entry, so a task that needs more is going in circles.
const maxRounds = 32

func (t *task) run() report {
	if t.live != nil {
		if r := t.stream(); r.kind != next {
			return t.report(r)
		}
	}
	for range maxRounds {
		if t.ctx.Err() != nil {
			return t.report(report{kind: again})
		}
		e, ok := t.entry()
		if !ok {
			return t.report(report{kind: done})
		}
		if e.Rev != t.rev {
			// Another intent by now: what it must wait for is the queue's to say.
			return t.report(report{kind: again})
		}
		if r := t.step(e); r.kind != next {
			return t.report(r)
		}
	}
	return t.report(t.fail(errGoingRound))
}

// runSafely is run for a worker that may meet a mistake of this program: that
// fails the entry, which is tried again ever more rarely, over restarts too.
func (t *task) runSafely() (r report) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		t.s.log.Error("settling panicked", "ino", t.ino, "panic", p, "stack", string(debug.Stack()))
		t.cancel()
		r = t.report(t.panicked(p))
	}()
	return t.run()
}

// errPanic is what such an entry fails with.
var errPanic = errors.New("a mistake of this program")

func (t *task) panicked(p any) (r report) {
	r = report{kind: failed, err: fmt.Errorf("%w: %v", errPanic, p), final: true}
	r.at = time.Now().Add(t.s.slow())
	defer func() {
		if recover() != nil {
			t.s.log.Error("recording that", "ino", t.ino)
		}
	}()
	err := t.update(func(e *journal.Entry) bool {
		e.Attempts++
		r.at = time.Now().Add(min(t.s.slow()<<min(e.Attempts-1, 16), mostRetry))
		e.Failed, e.FailedAt, e.RetryAt = r.err.Error(), time.Now(), r.at
		return true
	})
	r.err = errors.Join(r.err, err)
	return r
}

// mostRetry is the longest that an entry waits after a failure.
const mostRetry = 24 * time.Hour

var errGoingRound = errors.New("settling does not come to an end")

func (t *task) report(r report) report {
	r.task, r.touched = t, t.touched
	return r
}

// step does the next thing that brings the drive closer to e.
func (t *task) step(e *journal.Entry) report {
	f, err := t.facts(e)
	if err != nil {
		return t.fail(err)
	}
	s := plan(e, &f)
	if s.under != "" {
		if r := t.nesting(e, s.under); r.kind != next {
			return r
		}
	}
	switch s.do {
	case await:
		return report{kind: waits, on: s.on}
	case remove:
		return t.remove(e)
	case untrash:
		return t.untrash(e)
	case lookFolder:
		return t.lookFolder(e)
	case lookFile:
		return t.lookNew(e)
	case makeFolder:
		return t.makeFolder(e)
	case makeFile:
		return t.uploadNew(e)
	case locate:
		return t.ascertain(e)
	case findFolder:
		return t.parentGone(e)
	case strand:
		return t.fail(errNoParent)
	case rename:
		return t.rename(e, s.name, s.last)
	case move:
		return t.move(e, s.to, s.from, s.last)
	case removeParent:
		return t.removeParent(e, s.from)
	case overwrite:
		return t.overwrite(e)
	case finish:
		if r := t.setProps(e); r.kind != next {
			return r
		}
		return t.finish(e, f.ids)
	}
	return report{kind: again} // what waits for its place need not wait for the rest
}

// inPlace reports whether the node of e is where it should be.
func (t *task) inPlace(e *journal.Entry) (bool, error) {
	if e.Base == nil || e.Base.Name != e.Place.Name {
		return false, nil
	}
	ids, wait, gone, err := resolve(t.s.tree, e.Place.Parents, e.Base.Parents)
	return err == nil && wait == 0 && gone == 0 && sameSet(ids, e.Base.Parents), err
}

// targets are the ids of the folders the entry belongs in.
func (t *task) targets(e *journal.Entry) ([]string, report) {
	var home []string
	if e.Base != nil {
		home = e.Base.Parents
	}
	ids, wait, gone, err := resolve(t.s.tree, e.Place.Parents, home)
	switch {
	case err != nil:
		return nil, t.fail(err)
	case gone != 0:
		return nil, t.parentGone(e)
	case wait != 0:
		return nil, report{kind: waits, on: wait}
	case len(ids) == 0 && (e.Base == nil || len(e.Base.Parents) > 0):
		return nil, t.fail(errNoParent)
	}
	return ids, report{} // none for the root, which stays where it is
}

var errNoParent = errors.New("the entry belongs in no folder")

// finish ends an intent that needs no more calls.
func (t *task) finish(e *journal.Entry, ids []string) report {
	known, err := t.known(e, ids)
	if err != nil {
		return t.fail(err)
	}
	if !t.handed && !known {
		// An earlier life made the calls and may have died before the mirror
		// heard of them.
		n, r, ok := t.nodeNow(e)
		if !ok {
			return r
		}
		if err := t.s.noteAnswer(t.ino, n); err != nil {
			return t.fail(err)
		}
		t.handed = true
		return report{kind: next}
	}
	return t.done(e)
}

// known reports whether the mirror knows the node to be as e wants.
func (t *task) known(e *journal.Entry, ids []string) (bool, error) {
	if ino, err := t.s.tree.InoOf(e.NodeID); err != nil || ino != t.ino || e.Draft != nil {
		return false, err
	}
	// To the letter: not another spelling, and not in one folder more.
	name, parents, ok, err := t.s.tree.NodePlace(e.NodeID)
	return ok && (len(ids) == 0 || name == e.Place.Name && sameSet(parents, ids)), err
}

// done takes the entry out of the journal.
func (t *task) done(e *journal.Entry) report {
	ok, err := t.s.tree.Fulfil(t.ino, e.Rev)
	if err != nil {
		return t.fail(err)
	}
	if !ok {
		return report{kind: next}
	}
	t.s.fulfilled(t.ino, e.Rev)
	r := report{kind: done}
	if e.Folder && !e.Removed && t.s.j.HasChildren(t.ino) {
		r.folder = e.NodeID
	}
	return r
}

// learn hands an answer to the mirror and writes into the entry what it
// changed there. The mirror goes first: until the entry knows, settling would
// look again, which does no harm.
func (t *task) learn(n drive.Node, fn func(*journal.Entry)) error {
	if err := t.s.noteAnswer(t.ino, n); err != nil {
		return err
	}
	t.handed = true
	t.s.log.Debug("answered", "ino", t.ino, "rev", t.rev, "op", t.opName(), "node", n.ID, "name", n.Name, "parents", n.Parents)
	return t.update(func(e *journal.Entry) bool {
		if e.NodeID == "" && t.node == n.ID {
			return false // another file has taken it over
		}
		adoptName(e, n)
		e.NodeID = n.ID
		if e.Base == nil {
			e.Base = baseOf(n)
		} else {
			e.Base.Version, e.Base.ETag = n.Version, n.ETag
		}
		fn(e)
		e.Failed, e.Attempts = "", 0
		return true
	})
}

// entry is a copy of the task's entry as it is now.
func (t *task) entry() (*journal.Entry, bool) { return t.s.j.Clone(t.ino) }

func (t *task) update(fn func(*journal.Entry) bool) error {
	return t.s.tree.Learn(t.ino, fn)
}

// baseOf is what the journal keeps of a node.
func baseOf(n drive.Node) *journal.Base {
	b := &journal.Base{Parents: slices.Clone(n.Parents), Name: n.Name, Version: n.Version, ETag: n.ETag}
	setContent(b, n)
	return b
}

func setContent(b *journal.Base, n drive.Node) {
	if n.Content != nil {
		b.Content, b.Size, b.MD5 = n.Content.Version, n.Content.Size, n.Content.MD5
	}
}

// adoptName takes over the spelling of a node that others made where we asked
// for the same name in another case.
func adoptName(e *journal.Entry, n drive.Node) {
	if e.NodeID == "" && e.Sent != nil && e.Sent.Name != n.Name && e.Place.Name == e.Sent.Name && drive.Fold(n.Name) == drive.Fold(e.Place.Name) {
		e.Place.Name = n.Name
	}
}

// call names the operation for Active and gives the context for it.
func (t *task) call(op string) (context.Context, context.CancelFunc) {
	t.op.Store(&op)
	return context.WithTimeout(t.ctx, callTime)
}

func (t *task) find(parent, name string) ([]drive.Node, error) {
	ctx, cancel := t.call("look")
	defer cancel()
	return t.s.r.Find(ctx, parent, name)
}

// fail is the end of a task that met err: recorded in the entry, to be tried
// again later. Content is never given up.
func (t *task) fail(err error) report { return t.failClearing(err, false) }

// failClearing also forgets what was sent, when the error says that it had
// no effect.
func (t *task) failClearing(err error, clear bool) report {
	r := report{kind: failed, err: err}
	if t.ctx.Err() != nil && !errors.Is(err, drive.ErrAmbiguous) {
		// We stopped it ourselves. That is no failure; only what it leaves matters.
		if clear {
			if uerr := t.update(func(e *journal.Entry) bool { e.Sent = unsend(e.Sent, time.Time{}); return true }); uerr != nil {
				t.s.log.Warn("recording a stopped call", "ino", t.ino, "err", uerr)
			}
		}
		return report{kind: again}
	}
	slow := false
	switch {
	case errors.Is(err, drive.ErrThrottled):
		t.throttled = true
	case errors.Is(err, drive.ErrAuth):
		r.final, r.remote = true, true
	case errors.Is(err, drive.ErrUnavailable), errors.Is(err, drive.ErrAmbiguous), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errMissing):
		r.remote = true
	case errors.Is(err, drive.ErrQuota), errors.Is(err, drive.ErrForbidden), errors.Is(err, drive.ErrInvalid),
		errors.Is(err, drive.ErrNameTooLong), errors.Is(err, journal.ErrDamaged):
		r.final, slow = true, true
	}
	n := 0
	uerr := t.update(func(e *journal.Entry) bool {
		if clear {
			e.Sent = unsend(e.Sent, time.Time{})
		}
		e.Attempts++
		n = e.Attempts
		wait := t.s.after(n)
		if slow {
			wait = t.s.slow()
		}
		var de *drive.Error
		if errors.As(err, &de) && de.RetryAfter > wait {
			wait = de.RetryAfter
		}
		r.at = time.Now().Add(wait)
		e.Failed, e.FailedAt, e.RetryAt = err.Error(), time.Now(), r.at
		return true
	})
	if uerr != nil {
		r.err = errors.Join(err, uerr)
	}
	if r.at.IsZero() {
		r.at = time.Now().Add(t.s.after(4))
	}
	// What neither the service's state nor the answer explains may well be
	// for good; a flush does not wait for it for ever.
	if !r.remote && !t.throttled && n >= 4 {
		r.final = true
	}
	if n <= 1 || r.final {
		t.s.log.Warn("settling failed, will be tried again", "ino", t.ino, "err", err, "at", r.at)
	}
	return r
}

// lookLater is the next look for an upload of unknown outcome. The interval
// grows with the time that has passed.
func (t *task) lookLater(e *journal.Entry, why error) report {
	since := time.Since(e.Sent.At)
	wait := max(t.s.o.Look, min(since/2, maxLook))
	wait = min(wait, max(time.Until(e.Sent.Deadline), t.s.o.Look))
	return report{kind: later, at: time.Now().Add(wait), err: why}
}

// refused is the end of an intent that the drive will not grant: undone when
// somebody waits to hear it, else kept and tried again slowly.
func (t *task) refused(e *journal.Entry, err error) report {
	if e.Draft == nil && t.s.awaited(t.ino, e.Rev) && t.back(e) && t.s.promise(t.ino, e.Rev) {
		return t.undo(e, err)
	}
	return t.failClearing(err, e.NodeID == "")
}

// back brings the node to the place it had before settling touched it, so
// that an Undo leaves nothing half done. It reports whether it is there.
func (t *task) back(e *journal.Entry) bool {
	if e.NodeID == "" || e.Base == nil {
		return true
	}
	if strings.HasPrefix(e.Base.Name, tree.TempPrefix) && (t.origin == nil || t.origin.Name == e.Base.Name) {
		return false // an earlier life took the temporary name; the old one is forgotten
	}
	if t.origin == nil || t.origin.Name == e.Base.Name {
		return true
	}
	if t.unsure(e).kind != next {
		return false
	}
	ctx, cancel := t.call("rename")
	defer cancel()
	n, err := t.s.r.Rename(ctx, e.NodeID, t.origin.Name, "")
	if err != nil {
		return false
	}
	name := t.origin.Name
	return t.learn(n, func(e *journal.Entry) { e.Base.Name = name }) == nil
}

// undo takes the intent back and tells those who wait.
func (t *task) undo(e *journal.Entry, why error) report {
	return t.noted(t.s.refuse(t.ino, e.Rev, why))
}

// nodeNow is e's node as the drive has it now. ok=false: it is not live, or that is
// not known, and r is the end of the step.
func (t *task) nodeNow(e *journal.Entry) (n drive.Node, r report, ok bool) {
	n, err := t.get(e.NodeID)
	switch {
	case err != nil:
		return n, t.nodeError(e, err), false
	case !n.Live():
		return n, t.nodeGone(e, n.Version), false
	}
	return n, report{}, true
}

// nodeError is the end of a task that could not get its node.
func (t *task) nodeError(e *journal.Entry, err error) report {
	if errors.Is(err, drive.ErrNotFound) {
		return t.nodeGone(e, 0)
	}
	return t.fail(err)
}

// nodeGone: somebody else trashed the node. A local edit comes back as a new
// node, a removal is done, any other intent has lost its object.
func (t *task) nodeGone(e *journal.Entry, version int64) report {
	if e.Base != nil {
		t.unmask(e, e.Base.Name)
	}
	if err := t.s.noteGone(e.NodeID, version); err != nil {
		return t.fail(err)
	}
	switch {
	case e.Removed:
		return t.done(e)
	case e.Draft != nil:
		return t.noted(t.s.lost(t.ino, "it was removed on the drive while it was changed here"))
	}
	return t.undo(e, fmt.Errorf("%w: removed by someone else", drive.ErrNotFound))
}

// parentGone finds the entry another place. It never returns next: to
// some callers that would mean that there are folders to go on with.
func (t *task) parentGone(e *journal.Entry) report {
	if err := t.s.tree.ParentGone(t.ino); err != nil {
		return t.fail(err)
	}
	if now, ok := t.entry(); ok && now.Rev == e.Rev {
		return t.fail(errNoParent) // it knows nothing better, for now
	}
	return report{kind: again}
}

// inTrash tells whether all folders that e belongs in have left the tree.
// What is below a folder in the trash need not know so itself (API §8.1): the
// drive may take content for it, and nobody would find that.
func (t *task) inTrash(e *journal.Entry) (bool, error) {
	var ids []string
	for _, p := range e.Place.Parents {
		id, st, err := t.s.tree.FolderID(p)
		if err != nil {
			return false, err
		}
		hidden := false
		if st == tree.Known {
			if hidden, err = t.s.tree.OutOfTree(p); err != nil {
				return false, err
			}
		}
		switch {
		case hidden:
		case st == tree.Gone && e.Base != nil:
			for _, home := range e.Base.Parents {
				ino, err := t.s.tree.InoOf(home)
				if err != nil {
					return false, err
				}
				if ino == p {
					id = home
				}
			}
		default:
			id = ""
		}
		if id == "" {
			return false, nil
		}
		ids = append(ids, id)
	}
	// News come in any order (API §9.3): it may as well be that a folder above
	// has not been told yet.
	for _, id := range ids {
		if up, err := t.reachesRoot(id, 0); up || err != nil {
			return false, err
		}
	}
	return len(ids) > 0, nil
}

// reachesRoot asks the drive whether a live path leads up from a folder.
func (t *task) reachesRoot(id string, depth int) (bool, error) {
	n, err := t.get(id)
	switch {
	case errors.Is(err, drive.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case !n.Live():
		return false, nil
	case n.IsRoot, len(n.Parents) == 0, depth > 256:
		return true, nil
	}
	for _, p := range n.Parents {
		if up, err := t.reachesRoot(p, depth+1); up || err != nil {
			return up, err
		}
	}
	return false, nil
}

// parentTrouble is called when the drive says that the folder is not there.
func (t *task) parentTrouble(e *journal.Entry, parent string, err error) report {
	n, gerr := t.get(parent)
	switch {
	case errors.Is(gerr, drive.ErrNotFound):
		n.Version = 0
	case gerr != nil:
		return t.failClearing(gerr, e.NodeID == "")
	case n.Live():
		return t.failClearing(err, e.NodeID == "") // lag; or a folder above it is in the trash
	}
	if e.NodeID == "" && e.Sent != nil {
		if uerr := t.nothingSent(); uerr != nil {
			return t.fail(uerr)
		}
	}
	if herr := t.s.noteGone(parent, n.Version); herr != nil {
		return t.fail(herr)
	}
	return t.parentGone(e)
}

func newLocalID() string { return uuid.NewString() }

// localID is what the service is to know a new node by: the entry's own, which
// bears the state directory it comes from, so that no other machine of the same
// user sends the same.
func (s *WriteBack) localID(e *journal.Entry) string {
	id := e.LocalID
	if id == "" {
		id = newLocalID()
	}
	if s.o.Device == "" || strings.Contains(id, ".") {
		return id // as it was sent before
	}
	return s.o.Device + "." + id
}

// nodeIDOf is the node in the way, as a 409 names it.
func nodeIDOf(err error) string {
	var de *drive.Error
	if errors.As(err, &de) {
		return de.NodeID
	}
	return ""
}
