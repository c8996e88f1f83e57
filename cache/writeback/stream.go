package writeback

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// A stream is the upload of a new file that is still being written. Its body
// has no length and follows the draft; it ends only after the file was closed
// and the journal knows which generation went out (Sent.Whole), so until then
// the service has half a body at most, which makes no file. Whatever else
// happens to the file, or to the call, cuts the stream off, and the file goes
// up from its draft like any other.
//
// Only new files stream: an overwrite takes the old content away as soon as it
// ends, and cannot be taken back. Each file gets one try.

// streamPace is what a writer must bring within Options.StreamIdle: whoever is
// slower is not worth a connection.
const streamPace = 16 << 20

// Stream tells that a new file is being written, in order as far as is known,
// and is worth uploading from at on while it is still open. Unless it comes to
// that the call has no effect; it may be repeated.
func (s *WriteBack) Stream(ino uint64, at time.Time) {
	s.tell(func(q *queue) { q.stream(ino, at) })
}

// Written tells that nobody has a file open for writing any more for which
// Stream was called: what the journal has of it is all.
func (s *WriteBack) Written(ino uint64) {
	s.tell(func(q *queue) { q.written(ino) })
}

// live is what the queue and the worker of a stream share.
type live struct {
	poke chan struct{} // one slot: look at the entry again
	over atomic.Bool   // what was closed last is the whole file
}

func (l *live) look() {
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

func (q *queue) stream(ino uint64, at time.Time) {
	if q.items[ino] == nil {
		q.look(ino)
	}
	it := q.items[ino]
	if it == nil || it.task != nil || it.streamed || q.s.noStream.Load() {
		return
	}
	it.streamFrom = at
	q.look(ino)
}

func (q *queue) written(ino uint64) {
	it := q.items[ino]
	if it == nil {
		return
	}
	if !it.streamFrom.IsZero() {
		it.streamFrom = time.Time{}
		q.look(ino)
	}
	if it.streaming() {
		it.task.live.over.Store(true)
		it.task.live.look()
	}
}

// streams reports whether the item is to be sent while it is written.
func (it *item) streams() bool {
	return !it.streamFrom.IsZero() && it.node == "" && len(it.home) == 0 && !it.removed && !it.folder
}

// streaming reports whether it is, and the writer goes on as far as is known.
func (it *item) streaming() bool {
	return it.task != nil && it.task.live != nil && !it.task.live.over.Load()
}

// mayStream reports whether one more connection may wait for a writer: closed
// files keep at least half of them.
func (q *queue) mayStream() bool {
	return !q.down && !q.s.noStream.Load() && q.streamsRunning < q.limits.large()/2
}

// placeStream is settlePlace for an item that streams; false = it does not.
func (q *queue) placeStream(it *item, now time.Time) bool {
	if !it.streams() {
		return false
	}
	if !q.mayStream() || it.retry.After(now) || !it.open && (it.haste == it.rev || q.flushing(it.ino)) {
		it.streamFrom = time.Time{}
		return false
	}
	if it.streamFrom.After(now) {
		q.schedule(it, it.streamFrom)
		return true
	}
	if on, slot := q.blocker(it); on != 0 {
		q.block(it, on, slot, false)
		return true
	}
	it.lane = laneLarge
	q.enqueue(it)
	return true
}

// stream sends the content while it is being written. next means that the
// drive has all of it.
func (t *task) stream() report {
	e, ok := t.entry()
	if !ok || e.Rev != t.rev || e.NodeID != "" || e.Sent != nil || e.Removed || e.Folder {
		return report{kind: again}
	}
	ids, wait, gone, err := resolve(t.s.tree, e.Place.Parents, nil)
	if err != nil || wait != 0 || gone != 0 || len(ids) == 0 {
		return report{kind: again}
	}
	d, err := t.s.j.ContinueDraft(t.ino)
	if err != nil || d == nil {
		return report{kind: again} // its close will tell
	}
	defer d.Close()
	f, err := d.Follow()
	if err != nil {
		return report{kind: again}
	}
	defer f.Close()
	parent, name := ids[0], e.Place.Name
	if found, err := t.find(parent, name); err != nil || len(found) > 0 {
		return report{kind: again}
	}
	id := t.s.localID(e)
	ok, err = t.sending(e, func(e *journal.Entry) {
		now := time.Now()
		e.LocalID = id
		e.Sent = &journal.Sent{At: now, Deadline: now, ParentID: parent, Name: name}
	})
	if err != nil || !ok {
		return report{kind: again}
	}

	ctx, cancel := context.WithCancel(drive.WithPriority(t.ctx, drive.Uploading))
	defer cancel()
	op, props := "upload", t.propsToSend(e)
	t.op.Store(&op)
	b := &streamBody{task: t, draft: d, src: f, hash: md5.New()}
	ended := make(chan outcome, 1)
	go func() {
		n, err := t.s.r.Upload(ctx, drive.NewNode{Name: name, ParentID: parent, LocalID: id, Properties: props},
			drive.Body{Reader: b, Size: -1, ContentType: contentType(name), AnswerWait: t.s.answerWait})
		ended <- outcome{n, err}
	}()
	o := t.watch(e, b, cancel, ended)
	if whole := b.close(); !whole {
		return t.broke(o.err)
	}
	if o.err == nil {
		t.created(&o.n, props)
	}
	return t.wentWhole(b, o)
}

// outcome is the answer to an upload.
type outcome struct {
	n   drive.Node
	err error
}

// watch waits for the end of the call, tells the body where it ends, and cuts
// it off when it is not what should be sent any more.
func (t *task) watch(e *journal.Entry, b *streamBody, cancel func(), ended <-chan outcome) outcome {
	stop := func() {
		cancel()
		b.src.Close() // also wakes who waits for the writer
	}
	tick := time.NewTicker(t.s.o.StreamIdle)
	defer tick.Stop()
	mark, fixed := b.draft.Size(), false
	superseded, ctxDone := b.src.Superseded(), t.ctx.Done()
	for {
		idle := false
		select {
		case o := <-ended:
			return o
		case <-ctxDone:
			ctxDone = nil
			stop()
			continue
		case <-superseded:
			superseded = nil
			if !fixed { // else the body says so itself if it matters
				stop()
			}
			continue
		case <-t.live.poke:
		case <-tick.C:
			size := b.draft.Size()
			if size-mark >= streamPace || b.src.Sent() < size {
				mark = size
				continue
			}
			// Nobody writes. If it was closed, by one of several who have it
			// open, that is what counts; else the connection is given back.
			idle = true
		}
		if fixed {
			continue
		}
		now, ok := t.entry()
		switch {
		case !ok || now.Removed || now.NodeID != "" || now.Sent == nil:
			stop()
		case !t.samePlace(now, e) && !t.s.tree.MayStream(t.ino):
			stop() // it has taken the place of another, whose node it will take over
		case (idle || t.live.over.Load()) && !now.Open && now.Draft != nil:
			if fixed = b.finish(now.Draft.Gen); !fixed {
				stop()
			}
		case idle, !t.samePlace(now, e):
			stop()
		}
	}
}

func (t *task) samePlace(a, b *journal.Entry) bool {
	return a.Place.Name == b.Place.Name && slices.Equal(a.Place.Parents, b.Place.Parents)
}

// broke ends a stream whose body did not go out to its end: nothing of it can
// take effect.
func (t *task) broke(err error) report {
	t.refusedChunks(err)
	if errors.Is(err, drive.ErrThrottled) {
		t.throttled = true
	}
	t.s.log.Debug("a stream was cut off", "ino", t.ino, "err", err)
	uerr := t.update(func(e *journal.Entry) bool {
		if e.Sent == nil || e.Sent.Whole {
			return false
		}
		e.Sent = nil
		return true
	})
	if uerr != nil {
		return t.fail(uerr)
	}
	return report{kind: again}
}

// wentWhole ends a stream whose body went out to its end.
func (t *task) wentWhole(b *streamBody, o outcome) report {
	c := &content{draft: b.draft, gen: b.gen, size: b.off}
	switch {
	case o.err == nil:
		if r := t.answered(c, o.n, b.sum, 0); r.kind != next {
			return r
		}
		// The intent is another one than the one this work began with, but
		// nothing that it could have to wait for is left.
		e, ok := t.entry()
		if !ok || e.Removed || e.Open || !contentDone(e) {
			return report{kind: again}
		}
		if in, err := t.inPlace(e); err != nil || !in {
			return report{kind: again}
		}
		t.rev = e.Rev
		return report{kind: next}
	case !declined(o.err):
		if !errors.Is(o.err, drive.ErrAmbiguous) {
			o.err = fmt.Errorf("%w: %w", drive.ErrAmbiguous, o.err)
		}
		return t.unsent(c, o.err)
	case errors.Is(o.err, drive.ErrNameExists), errors.Is(o.err, drive.ErrConflict), errors.Is(o.err, drive.ErrDuplicate),
		errors.Is(o.err, drive.ErrBadParent), errors.Is(o.err, drive.ErrNotFound), t.refusedChunks(o.err):
		// Sending it from the draft knows what to do.
		return t.forgetStream()
	}
	return t.failClearing(o.err, true)
}

func (t *task) forgetStream() report {
	if r := t.forgetSent(); r.kind != next {
		return r
	}
	return report{kind: again}
}

// declined reports whether the service said that it has stored nothing.
func declined(err error) bool {
	var de *drive.Error
	return errors.As(err, &de) && de.Kind != drive.ErrAmbiguous &&
		de.Status/100 == 4 && de.Status != http.StatusRequestTimeout
}

// refusedChunks reports whether the service does not take a body without a
// length (API §7.1: 411, or any 400), and remembers it for this mount.
func (t *task) refusedChunks(err error) bool {
	var de *drive.Error
	if !errors.As(err, &de) {
		return false
	}
	switch {
	case de.Status == http.StatusLengthRequired, de.Status == http.StatusNotImplemented:
	case de.Status == http.StatusBadRequest && de.Kind == drive.ErrInvalid:
	default:
		return false
	}
	if !t.s.noStream.Swap(true) {
		t.s.log.Info("the service takes no upload of unknown length; files go up after they are closed", "err", err)
	}
	return true
}

// streamBody is the content of a draft on its way while it grows. It cannot
// be read again, so that no call waits for a Read that waits for a program.
type streamBody struct {
	task  *task
	draft *journal.Draft
	src   *journal.Follower
	gen   uint64 // set before the source ends, which orders it before the last Read

	mu    sync.Mutex // held during Read; guards the rest
	hash  hash.Hash
	off   int64
	sum   string // MD5 of all of it, "" until then
	whole bool   // the end was told: the service may have it all
	over  bool
}

// finish tells that the generation gen is what is being sent. It reports
// whether it can be.
func (b *streamBody) finish(gen uint64) bool {
	b.gen = gen
	_, err := b.src.Finish(gen)
	return err == nil
}

// Read reads on, and waits for the writer. It tells the end only after the
// journal knows what was sent.
func (b *streamBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over:
		return 0, journal.ErrSuperseded
	case b.whole:
		return 0, io.EOF
	}
	n, err := b.src.Read(p)
	b.hash.Write(p[:n])
	b.off += int64(n)
	b.task.sent.Store(b.off)
	b.task.size.Store(max(b.off, b.draft.Size()))
	if err != io.EOF {
		return n, err
	}
	b.sum = hex.EncodeToString(b.hash.Sum(nil))
	if err := b.task.goesWhole(b.gen, b.off, b.sum); err != nil {
		return n, err
	}
	b.whole = true
	return n, io.EOF
}

// close ends all reading and reports whether the end was told. The call must
// have returned.
func (b *streamBody) close() (whole bool) {
	b.src.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	return b.whole
}

// goesWhole records that the last bytes are about to leave.
func (t *task) goesWhole(gen uint64, size int64, sum string) error {
	ok := false
	err := t.update(func(e *journal.Entry) bool {
		if e.Sent == nil || e.Sent.Whole || e.NodeID != "" || e.Removed || e.Draft == nil {
			return false
		}
		now := time.Now()
		e.Sent.Gen, e.Sent.Size, e.Sent.MD5, e.Sent.Whole = gen, size, sum, true
		e.Sent.At, e.Sent.Deadline = now, now.Add(t.patience(size))
		ok = true
		return true
	})
	if err == nil && !ok {
		err = fmt.Errorf("%w: inode %d is not wanted as it was sent", journal.ErrSuperseded, t.ino)
	}
	return err
}
