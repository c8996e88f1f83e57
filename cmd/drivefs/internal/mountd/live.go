package mountd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/fs"
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

// live waits for the end of the mount and brings it about: by a verb, by a
// signal, by umount(8), or because what it stands on failed.
func (m *mount) live(first, second, background context.Context) error {
	for {
		select {
		case ask := <-m.asks:
			result, err := m.unmount(ask, first, background)
			ask.answer <- unmountAnswer{result, err}
			if err != nil {
				continue // it stays mounted
			}
			return leftBehind(m.mountpoint, result.Pending)
		case <-m.beats: // the service manager's: it is enough to take it
		case <-m.server.Done():
			m.log.Info("unmounted by somebody else", "mountpoint", m.mountpoint)
			return m.leave(second, m.stderr)
		case <-first.Done():
			return m.leave(second, m.stderr)
		case <-background.Done():
			// Only a room that failed ends it now; the group has the error.
			return errors.Join(fmt.Errorf("%s: a part of drivefs failed and the mount ends; what was closed is kept", m.mountpoint), m.server.Lazy())
		}
	}
}

// unmount does what a verb asks for. An error leaves everything mounted. It
// stops waiting when live has something more urgent to see to.
func (m *mount) unmount(ask *unmountAsk, urgent ...context.Context) (control.UnmountResult, error) {
	var result control.UnmountResult
	if !ask.req.Lazy {
		if err := m.busy(nil); err != nil {
			return result, err
		}
	}
	m.draining.Store(true)
	defer m.draining.Store(false)
	ctx, cancel := context.WithCancel(ask.ctx)
	defer cancel()
	for _, u := range urgent {
		defer context.AfterFunc(u, cancel)()
	}
	limited, done := ctx, context.CancelFunc(func() {})
	if ask.req.Timeout > 0 {
		limited, done = context.WithTimeout(ctx, ask.req.Timeout)
	}
	defer done()
	tell := func(p control.Progress) { ask.emit(control.Event{Progress: &p}) }
	var failed []cache.Failure
	if !ask.req.NoWait {
		failed = m.drain(limited, tell)
		switch {
		case ask.ctx.Err() != nil:
			return result, ask.ctx.Err() // the verb went away: stay
		case ctx.Err() != nil:
			return result, exit.Fail(exit.Failed, "the mount is ending by itself now")
		}
	}
	err := m.server.Unmount()
	if errors.Is(err, fs.ErrBusy) && ask.req.Lazy {
		m.lazy.Store(true)
		err = m.server.Lazy()
	}
	if errors.Is(err, fs.ErrBusy) {
		err = m.busy(err)
	}
	if err != nil {
		return result, err
	}
	if !ask.req.NoWait && m.store.Pending().Pending > len(failed) {
		failed = m.drain(limited, tell) // what was closed since the first time
	}
	result.Pending = m.store.Pending().Pending
	result.Failed = failures(failed)
	if !m.lazy.Load() {
		result.Lock = m.lockPath
	}
	return result, nil
}

// leave drains without a limit but the second signal, and unmounts, busy or
// not: who asked wants the process to end.
func (m *mount) leave(second context.Context, w io.Writer) error {
	m.draining.Store(true)
	meter := show.NewMeter(w)
	if n := m.store.Pending().Pending; n > 0 && !m.limits().Paused {
		fmt.Fprintf(w, "%s: %s pending; waiting for the uploads, a second signal leaves them for the next mount\n", m.mountpoint, show.Count(n, "change"))
	}
	failed := m.drain(second, meter.Update)
	if err := m.server.Unmount(); err != nil {
		for _, h := range m.holders() {
			m.log.Warn("unmounting although it is used", "by", h.String())
		}
		if err := m.server.Lazy(); err != nil {
			meter.End()
			return err
		}
	}
	if m.store.Pending().Pending > len(failed) && second.Err() == nil {
		failed = m.drain(second, meter.Update) // what was closed since the first time
	}
	meter.End()
	show.Failures(w, failures(failed))
	return leftBehind(m.mountpoint, m.store.Pending().Pending)
}

func leftBehind(mountpoint string, pending int) error {
	if pending == 0 {
		return nil
	}
	return exit.Fail(exit.Pending, "%s: unmounted with %s pending; kept here, uploaded at the next mount", mountpoint, show.Count(pending, "change"))
}

// progressEvery is how often a drain tells how far it is.
const progressEvery = 300 * time.Millisecond

// drain uploads everything until only failures are left, and what a pause
// holds back, or ctx ends. A read-only mount uploads nothing, not even what an
// earlier one left.
func (m *mount) drain(ctx context.Context, tell func(control.Progress)) (failed []cache.Failure) {
	if m.c.ReadOnly {
		return nil
	}
	type outcome struct {
		failed []cache.Failure
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		f, err := m.store.Flush(ctx)
		done <- outcome{f, err}
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case o := <-done:
			if o.err != nil && ctx.Err() == nil {
				m.log.Error("waiting for the uploads", "err", o.err)
			}
			return o.failed
		case <-tick.C:
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
	if err != nil || !ok {
		return nil
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
	abort(m.minor)
	select {
	case <-m.server.Done():
		return true
	case <-time.After(time.Second):
		m.log.Warn("programs still use what was mounted", "mountpoint", m.mountpoint)
		return false
	}
}

// abort cuts the kernel's connection of a FUSE mount; the minor number of its
// device names it. Source: the kernel's Documentation/filesystems/fuse.rst.
func abort(minor uint32) {
	_ = os.WriteFile(connectionFile(minor, "abort"), []byte("1"), 0)
}

func connectionFile(minor uint32, name string) string {
	return filepath.Join("/sys/fs/fuse/connections", strconv.Itoa(int(minor)), name)
}

// waiting is how many requests the kernel has given us or keeps for us.
func (m *mount) waiting() (n int, ok bool) {
	if !isClosed(m.mounted) {
		return 0, false
	}
	b, err := os.ReadFile(connectionFile(m.minor, "waiting"))
	if err != nil {
		return 0, false // fusectl is not mounted everywhere
	}
	n, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return n, err == nil
}
