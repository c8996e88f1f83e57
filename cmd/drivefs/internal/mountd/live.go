package mountd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/fs"
	"github.com/drivefs/drivefs/fs/guard"
)

// unmountAsk is a verb's wish to unmount; live answers it once.
type unmountAsk struct {
	ctx    context.Context // the verb's
	req    control.UnmountRequest
	emit   control.Emit
	answer chan unmountAnswer // holds one
}

type unmountAnswer struct {
	result control.UnmountResult
	err    error
}

// ending is how the mount is about to end: everything that was wished so far,
// of which the strongest counts.
type ending struct {
	asks    []*unmountAsk // verbs that wait for it
	until   time.Time     // nothing is waited for beyond; zero = no limit
	now     bool          // nothing is waited for any more
	why     string        // why not, "" = it was asked for
	lazy    bool          // although it is used
	forced  bool          // there is no way back: a signal, or the mount is gone
	gone    bool          // unmounted already
	say     io.Writer     // who hears of the uploads beside the verbs, nil = nobody
	meter   *show.Meter   // on say
	pending int           // changes left, once it is over
	failed  []cache.Failure
}

// add takes in one more wish.
func (e *ending) add(ask *unmountAsk) {
	e.asks = append(e.asks, ask)
	e.now = e.now || ask.req.NoWait
	e.lazy = e.lazy || ask.req.Lazy
	if ask.req.Timeout > 0 {
		if until := time.Now().Add(ask.req.Timeout); e.until.IsZero() || until.Before(e.until) {
			e.until = until
		}
	}
}

// force takes in the wish of a signal, or of whoever took the mount away.
func (m *mount) force(e *ending) {
	e.forced = true
	if e.say != nil {
		return
	}
	e.say, e.meter = m.stderr, show.NewMeter(m.stderr)
	if n := m.store.Queue().Stats().Pending; n > 0 && !m.limits().Paused {
		fmt.Fprintf(e.say, "%s: %s pending; waiting for the uploads, a second signal leaves them for the next mount\n", m.mountpoint, show.Count(n, "change"))
	}
}

// forget leaves out verbs that went away.
func (e *ending) forget() {
	e.asks = slices.DeleteFunc(e.asks, func(ask *unmountAsk) bool {
		if ask.ctx.Err() == nil {
			return false
		}
		ask.answer <- unmountAnswer{err: ask.ctx.Err()}
		return true
	})
}

func (e *ending) wanted() bool { return e.forced || len(e.asks) > 0 }

// tell says how far the uploads are.
func (e *ending) tell(p control.Progress) {
	for _, ask := range e.asks {
		ask.emit(control.Event{Progress: &p})
	}
	if e.meter != nil {
		e.meter.Update(p)
	}
}

// answer gives every verb the same answer.
func (e *ending) answer(result control.UnmountResult, err error) {
	for _, ask := range e.asks {
		ask.answer <- unmountAnswer{result, err}
	}
	e.asks = nil
}

// live waits for the end of the mount and brings it about: by a verb, by a
// signal, by umount(8), or because what it stands on failed.
func (m *mount) live(first, second context.Context) error {
	for {
		e := &ending{}
		select {
		case ask := <-m.asks:
			m.draining.Store(true) // looking for who uses it may take a while
			m.join(e, ask)
		case <-m.beats: // the service manager's: it is enough to take it
		case <-m.yields: // nothing to yield: it is mounted
		case <-m.server.Done():
			m.log.Info("unmounted by somebody else", "mountpoint", m.mountpoint)
			e.gone = true
			m.force(e)
		case <-first.Done():
			m.force(e)
		case <-m.background.Done():
			// Only a room that failed ends it now; the group has the error.
			return errors.Join(fmt.Errorf("%s: a part of drivefs failed and the mount ends; what was closed is kept", m.mountpoint), m.server.Lazy())
		}
		if !e.wanted() {
			m.draining.Store(false)
			continue
		}
		err := m.end(e, first, second)
		if e.meter != nil {
			e.meter.End()
		}
		result := control.UnmountResult{Pending: e.pending, Failed: failures(e.failed), Why: e.why}
		if !m.lazy.Load() {
			result.Lock = m.lockPath
		}
		e.answer(result, err)
		switch {
		case !e.gone && !e.forced:
			continue // it stays mounted
		case err != nil:
			return err
		}
		if e.say != nil {
			show.Failures(e.say, failures(e.failed))
		}
		return leftBehind(m.mountpoint, e.pending, e.why)
	}
}

// join takes a verb's wish in, unless the mount is used and that matters.
func (m *mount) join(e *ending, ask *unmountAsk) {
	if !e.gone && !ask.req.Lazy {
		if err := m.busy(nil); err != nil {
			ask.answer <- unmountAnswer{err: err}
			return
		}
	}
	e.add(ask)
}

// end waits for the uploads as long as that is wished, and unmounts. The mount
// stays when nobody wishes for its end any more, or it is used: e.gone is
// false then.
func (m *mount) end(e *ending, first, second context.Context) error {
	m.draining.Store(true)
	defer m.draining.Store(false)
	m.await(e, first, second)
	if !e.wanted() {
		return nil
	}
	if err := m.release(e); err != nil {
		return err
	}
	e.gone = true
	if e.pending = m.store.Queue().Stats().Pending; e.pending > len(e.failed) {
		m.await(e, first, second) // what was closed since the first time
		e.pending = m.store.Queue().Stats().Pending
	}
	if n := m.unclosed(); n > 0 && e.why == "" {
		e.why = "of these, " + show.Count(n, "file") + " not closed when drivefs was killed: drivefs flush sends that"
	}
	return nil
}

// unclosed is how many files nobody will close.
func (m *mount) unclosed() (n int) {
	for _, w := range m.store.Queue().Waiting(0) {
		if w.Lost {
			n++
		}
	}
	return n
}

// release takes the mount from its place.
func (m *mount) release(e *ending) error {
	if e.gone {
		return nil
	}
	err := m.server.Unmount()
	if !errors.Is(err, fs.ErrBusy) {
		return err
	}
	switch {
	case e.forced:
		for _, h := range m.holders() {
			m.log.Warn("unmounting although it is used", "by", h.String())
		}
	case e.lazy:
		m.lazy.Store(true)
	default:
		return m.busy(err)
	}
	return m.server.Lazy()
}

// silence is how long the drive may not answer before nothing is waited for.
const silence = 15 * time.Second

// step is how often a wait looks at what nobody tells it.
const step = 100 * time.Millisecond

// await drains until only failures are left, until nothing is to be waited for
// any more, or until nobody wants the end any more.
func (m *mount) await(e *ending, first, second context.Context) {
	if e.now || m.c.ReadOnly {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.background))
	done := m.flush(ctx)
	defer func() {
		cancel()
		if o := <-done; o.failed != nil {
			e.failed = o.failed
		}
	}()
	tick := time.NewTicker(step)
	defer tick.Stop()
	mounted, signal := m.server.Done(), first.Done()
	if e.gone {
		mounted = nil
	}
	if e.forced {
		signal = nil
	}
	for told := time.Now(); ; {
		select {
		case o := <-done:
			done <- o
			return
		case ask := <-m.asks:
			m.join(e, ask)
		case <-m.beats:
		case <-m.yields:
			e.now = e.gone
			e.why = "another mount of the profile takes over"
		case <-mounted:
			mounted, e.gone = nil, true
			m.force(e)
		case <-signal:
			signal = nil
			m.force(e)
		case <-second.Done():
			e.now = true
		case <-m.background.Done():
			e.now, e.why = true, "a part of drivefs failed"
		case <-tick.C:
		}
		if e.forget(); !e.wanted() {
			return
		}
		if why := m.futile(e); why != "" {
			e.now, e.why = true, why
		}
		if e.now = e.now || !e.until.IsZero() && time.Now().After(e.until); e.now {
			return
		}
		if time.Since(told) >= progressEvery {
			told = time.Now()
			e.tell(m.progress())
		}
	}
}

// futile says why waiting for the uploads leads nowhere, "" while it may.
func (m *mount) futile(e *ending) string {
	s := m.account.Client.State()
	if time.Since(s.Since) < silence {
		return ""
	}
	var said *drive.Error
	switch {
	case s.Kind == drive.Offline && (!errors.As(s.Err, &said) || said.Status == 0):
		return "the drive does not answer"
	case s.Kind == drive.AuthRequired && e.forced:
		return "a login is needed"
	}
	return ""
}

func leftBehind(mountpoint string, pending int, why string) error {
	if pending == 0 {
		return nil
	}
	if why != "" {
		why = " (" + why + ")"
	}
	return exit.Fail(exit.Pending, "%s: unmounted with %s pending%s; kept here, uploaded at the next mount", mountpoint, show.Count(pending, "change"), why)
}

// flushed is what came of a flush.
type flushed struct {
	failed []cache.Failure
	err    error
}

// flush uploads everything until only failures are left, and what a pause
// holds back, or ctx ends. The channel has room for the outcome.
func (m *mount) flush(ctx context.Context) chan flushed {
	done := make(chan flushed, 1)
	go func() {
		f, err := m.store.Queue().Flush(ctx)
		if err != nil && ctx.Err() == nil {
			m.log.Error("waiting for the uploads", "err", err)
		}
		done <- flushed{f, err}
	}()
	return done
}

// progressEvery is how often a drain tells how far it is.
const progressEvery = 300 * time.Millisecond

// drain is flush, telling how far it is; stop, which may be nil, ends it early. A
// read-only mount uploads nothing, not even what an earlier one left.
func (m *mount) drain(ctx context.Context, tell func(control.Progress), stop func() bool) (failed []cache.Failure) {
	if m.c.ReadOnly {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := m.flush(ctx)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case o := <-done:
			return o.failed
		case <-tick.C:
			if stop != nil && stop() {
				cancel()
				continue
			}
			tell(m.progress())
		}
	}
}

func (m *mount) progress() control.Progress {
	s := m.store.Status()
	p := control.Progress{Pending: s.Pending, PendingBytes: s.Bytes, Remote: string(m.account.Client.State().Kind), Transfers: transfers(s.Active)}
	for _, t := range s.Active {
		p.Sent += t.Sent
	}
	return p
}

// holders is who uses the mount.
func (m *mount) holders() []mounts.Holder {
	at, ok, err := mounts.At(m.mountpoint)
	if err != nil || isClosed(m.server.Done()) {
		return nil
	}
	if !ok || isClosed(m.mounted) && at.Minor != m.minor { // detached: no path leads there any more
		return mounts.Holders(mounts.Mount{Minor: m.minor})
	}
	return mounts.Holders(at)
}

// busy names the holders; without any, what the kernel said counts.
func (m *mount) busy(said error) error {
	holders := m.holders()
	if len(holders) == 0 {
		if said == nil {
			return nil
		}
		return exit.Fail(exit.Failed, "%w, by something that only root can see: end it, or use --lazy", said)
	}
	const most = 5
	names := make([]string, 0, most)
	for _, h := range holders[:min(most, len(holders))] {
		names = append(names, h.String())
	}
	more := ""
	if n := len(holders) - most; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return exit.Fail(exit.Failed, "%s is in use: %s%s: end that, or use --lazy", m.mountpoint, strings.Join(names, ", "), more)
}

// grace is how long programs that still have files open after a lazy unmount
// may take to close them when the process is to end.
const grace = 10 * time.Second

// goneWithin waits until the kernel asks nothing more: then the store may be
// closed. Who keeps something open beyond the grace, or the second signal, is
// cut off, unless the unmounting was asked to be lazy: then only a signal cuts
// it off. Should even that not help, the store stays open to the end of the
// process, which is as safe as a crash, and false is returned.
func (m *mount) goneWithin(first, second context.Context) bool {
	cut := second.Done()
	patience := time.NewTimer(grace)
	defer patience.Stop()
	if m.lazy.Load() {
		patience.Stop()
		cut = first.Done()
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for open := true; open; {
		select {
		case <-m.server.Done():
			return true
		case <-tick.C:
			open = m.lazy.Load() || m.store.Status().Open > 0
		case <-patience.C:
			open = false
		case <-cut:
			open = false
		}
	}
	m.server.Commit()
	if err := guard.Abort(m.minor); err != nil {
		m.log.Debug("the connection to the kernel is not cut", "err", err)
	}
	select {
	case <-m.server.Done():
		return true
	case <-time.After(time.Second):
		m.log.Warn("programs still use what was mounted", "mountpoint", m.mountpoint)
		return false
	}
}

// waiting is how many requests the kernel has given us or keeps for us.
func (m *mount) waiting() (n int, ok bool) {
	if !isClosed(m.mounted) {
		return 0, false
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/waiting", m.minor))
	if err != nil {
		return 0, false // fusectl is not mounted everywhere
	}
	n, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return n, err == nil
}
