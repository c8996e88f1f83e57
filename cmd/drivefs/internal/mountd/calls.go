package mountd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/account"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/trash"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/version"
	"github.com/drivefs/drivefs/drive"
)

// calls are the verbs a running mount answers.
func (m *mount) calls() map[string]control.Call {
	return map[string]control.Call{
		control.VerbStatus:  control.Handle(m.answerStatus),
		control.VerbRefresh: control.Handle(m.answerRefresh),
		control.VerbFlush:   control.Handle(m.answerFlush),
		control.VerbLimit:   control.Handle(m.answerLimit),
		control.VerbUnmount: control.Handle(m.answerUnmount),
		control.VerbYield:   control.Handle(m.answerYield),
		control.VerbRename:  control.Handle(m.answerRename),
		control.VerbAbout:   control.Handle(m.answerAbout),
		control.VerbTrash:   control.Handle(m.answerTrash),
		control.VerbRestore: control.Handle(m.answerRestore),
		control.VerbCheck:   control.Handle(m.answerCheck),
	}
}

// asFault is an error as it crosses the socket: line, exit code and kind.
func asFault(err error) *control.Fault {
	line := exit.Message(err)
	if line == "" {
		line = "the mount is ending"
	}
	f := &control.Fault{Exit: exit.Code(err), Message: line}
	if inner := (*control.Fault)(nil); errors.As(err, &inner) {
		f.Kind = inner.Kind
	}
	return f
}

type none = struct{}

func (m *mount) answerStatus(_ context.Context, _ none, _ control.Emit) (any, error) {
	return m.status(), nil
}

func (m *mount) status() control.Status {
	s, remote := m.store.Status(), m.account.Client.State()
	v, _, _ := version.Build()
	uploaded, _ := m.account.Client.Bytes()
	out := control.Status{
		Mountpoint: m.mountpoint, PID: os.Getpid(), Profile: m.c.Profile, Since: m.began, State: "ready",
		Version: v, ReadOnly: m.c.ReadOnly, StateDir: m.c.StateDir, Config: m.c.File, Log: m.c.LogFile,
		Remote: control.Remote{State: string(remote.Kind), Since: remote.Since, Endpoint: m.c.Endpoint},
		Mirror: control.Mirror{Nodes: s.Nodes, Complete: s.Complete, CheckpointAge: -1},
		Uploads: control.Uploads{
			Pending: s.Pending, PendingBytes: s.Bytes, Active: len(s.Active), Uploaded: uploaded,
			Failed: failures(s.Failed), Transfers: transfers(s.Active), Oldest: []control.Waiting{}, Unclosed: []control.Waiting{},
		},
		Limits:    m.limits(),
		OpenFiles: s.Open,
		Cache: control.Cache{
			Memory: s.Chunks.MemoryBytes, Disk: s.Chunks.DiskBytes, Hits: s.Chunks.Hits, Misses: s.Chunks.Misses,
			Downloaded: s.Chunks.Downloaded, Served: s.Chunks.Served,
		},
		Streams:  []control.Stream{},
		Requests: map[string]control.Request{},
		Problems: []string{},
	}
	switch {
	case m.draining.Load():
		out.State = "draining"
	case !s.Complete:
		out.State = "syncing"
	}
	if remote.Err != nil {
		out.Remote.Error = exit.Message(remote.Err)
	}
	if !s.Checkpoint.IsZero() {
		out.Mirror.CheckpointAge = time.Since(s.Checkpoint).Seconds()
	}
	if oldest := m.store.Queue().Oldest(); !oldest.IsZero() {
		out.Uploads.OldestAge = max(0, time.Since(oldest).Seconds())
	}
	if feed := m.poller.Status(); feed.Err != nil && remote.Err == nil {
		out.Problems = append(out.Problems, "asking for changes: "+exit.Message(feed.Err))
	}
	if err := m.account.Tokens.Problem(); err != nil {
		out.Problems = append(out.Problems, exit.Message(err))
	}
	for _, w := range m.store.Queue().Waiting(mostOldest) {
		x := control.Waiting{Path: w.Path, Since: w.Since, WaitsFor: m.waitsFor(w)}
		if len(out.Uploads.Oldest) < mostOldest {
			out.Uploads.Oldest = append(out.Uploads.Oldest, x)
		}
		if w.Lost {
			out.Uploads.Unclosed = append(out.Uploads.Unclosed, x)
		}
	}
	for _, r := range s.Chunks.Streams {
		out.Streams = append(out.Streams, control.Stream{Name: r.Name, Offset: r.Off, Window: r.Window, Rate: float64(r.Rate)})
	}
	for op, n := range m.account.Client.Counters() {
		out.Requests[op] = control.Request{Count: n.Count, Errors: n.Errors, Throttled: n.Throttled, Retries: n.Retries}
	}
	if s.Unsaved > 0 {
		out.Problems = append(out.Problems, fmt.Sprintf("disk full or failing: %s not written in %s; kept as long as drivefs runs, and tried again", show.Count(s.Unsaved, "file"), m.c.StateDir))
	}
	if !m.store.Writable() {
		out.Problems = append(out.Problems, noChanges(m.c.Profile))
	}
	for _, e := range s.Events {
		text := e.Text
		if e.Kind == "undone" {
			text = "the change made here is undone: " + text
		}
		switch {
		case e.Path != "":
			text = e.Path + ": " + text
		case e.Kind == "mirror":
			text = "mirror: " + text
		}
		out.Problems = append(out.Problems, e.At.Local().Format(time.DateTime)+" "+exit.Line(text))
	}
	return out
}

// mostOldest is how many of the changes that wait longest are named.
const mostOldest = 10

// waitsFor is what a change waits for, if that is not the change's own matter.
func (m *mount) waitsFor(w cache.Waiting) string {
	state := m.account.Client.State().Kind
	switch {
	case w.Open:
	case m.limits().Paused:
		return "drivefs limit --resume"
	case state == drive.AuthRequired:
		return "a login"
	case state == drive.Offline:
		return "the drive, which is offline"
	}
	return w.For
}

func transfers(active []cache.Transfer) []control.Transfer {
	out := make([]control.Transfer, len(active))
	for i, t := range active {
		out[i] = control.Transfer(t)
	}
	return out
}

func failures(failed []cache.Failure) []control.Failure {
	out := make([]control.Failure, len(failed))
	for i, f := range failed {
		out[i] = control.Failure{Path: f.Path, Error: exit.Line(f.Error), RetryAt: f.RetryAt}
	}
	return out
}

// ready waits until the mount answers.
func (m *mount) ready(ctx context.Context) error {
	select {
	case <-m.mounted:
		return nil
	case <-m.ended:
		return errEnding
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errEnding = errors.New("the mount is ending")

func (m *mount) answerRefresh(ctx context.Context, _ none, _ control.Emit) (any, error) {
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	m.account.Tokens.Reload()
	if err := m.poller.Refresh(ctx); err != nil {
		return nil, account.RemoteError(m.c, err)
	}
	return none{}, m.server.Settle(ctx)
}

func (m *mount) answerFlush(ctx context.Context, _ none, emit control.Emit) (any, error) {
	m.account.Tokens.Reload()
	m.account.Client.Wake()
	if err := m.store.Queue().SendUnclosed(); err != nil {
		return nil, fmt.Errorf("sending what was not closed when drivefs was killed: %w", err)
	}
	why := ""
	failed := m.drain(ctx, func(p control.Progress) { emit(control.Event{Progress: &p}) }, func() bool {
		why = m.futile(&ending{})
		return why != ""
	})
	n := m.store.Queue().Stats().Pending
	switch {
	case n > 0 && why != "":
		return nil, exit.Fail(exit.Pending, "%s with %s pending; kept here, uploaded when it is back", why, show.Count(n, "change"))
	case n > 0 && len(failed) == 0 && m.limits().Paused:
		return nil, exit.Fail(exit.Pending, "uploads are paused with %s pending: drivefs limit --resume %s", show.Count(n, "change"), m.mountpoint)
	}
	open := []string{}
	for _, w := range m.store.Queue().Waiting(0) {
		open = append(open, w.Path)
	}
	return control.FlushResult{Failed: failures(failed), Open: open}, ctx.Err()
}

// answerYield makes way for another mount of the state directory: only where
// this one is gone, and all that keeps it are its uploads.
func (m *mount) answerYield(ctx context.Context, _ none, _ control.Emit) (any, error) {
	if !isClosed(m.mounted) {
		return nil, exit.Fail(exit.Usage, "it is starting: wait a moment")
	}
	if !isClosed(m.server.Done()) {
		if at, ok, err := mounts.At(m.mountpoint); err != nil || ok && at.Minor == m.minor {
			return nil, exit.Fail(exit.Usage, "unmount that first")
		}
		if err := m.busy(nil); err != nil {
			return nil, err
		}
		return nil, exit.Fail(exit.Usage, "files of it are still open: close them first")
	}
	select {
	case m.yields <- none{}:
	case <-m.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return none{}, nil
}

func (m *mount) answerUnmount(ctx context.Context, req control.UnmountRequest, emit control.Emit) (any, error) {
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	if m.lazy.Load() {
		return nil, exit.Fail(exit.Failed, "%s is unmounted already; what is open in it goes on", m.mountpoint)
	}
	ask := &unmountAsk{ctx: ctx, req: req, emit: emit, answer: make(chan unmountAnswer, 1)}
	select {
	case m.asks <- ask:
	case <-m.ended:
		return nil, errEnding
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a := <-ask.answer // live answers always, and soon after ctx ends
	return a.result, a.err
}

func (m *mount) answerRename(ctx context.Context, req control.RenameRequest, _ control.Emit) (any, error) {
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	// Both paths are seen from the mounted folder.
	dir, err := m.store.Resolve(ctx, path.Dir(req.Path))
	if err != nil {
		return nil, localError(err)
	}
	if err := m.store.RenameExact(ctx, dir.Ino, path.Base(req.Path), req.NewName); err != nil {
		return nil, localError(err)
	}
	return none{}, m.server.Settle(ctx)
}

// localError says what an error of the Store means to somebody at a shell.
func localError(err error) error {
	switch {
	case errors.Is(err, cache.ErrNotExist):
		return exit.Fail(exit.Failed, "no such file or folder")
	case errors.Is(err, cache.ErrExist):
		return exit.Fail(exit.Failed, "the new name is taken: choose another one")
	}
	return err
}

func (m *mount) answerAbout(ctx context.Context, req none, _ control.Emit) (any, error) {
	a, err := account.AskAbout(ctx, m.account.Client, req)
	return a, account.RemoteError(m.c, err)
}

// removed sees to it that what was removed a moment ago is in the drive's
// trash: it settles for some seconds by itself.
func (m *mount) removed(ctx context.Context) {
	if m.store.Queue().Stats().Pending == 0 || m.account.Client.State().Kind != drive.Online {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, removedLimit)
	defer cancel()
	m.drain(ctx, func(control.Progress) {}, nil) // who asks for the trash does not ask for failures
}

// removedLimit is how long that may take: large files may be going up.
const removedLimit = 3 * time.Second

func (m *mount) answerTrash(ctx context.Context, req none, _ control.Emit) (any, error) {
	m.removed(ctx)
	list, err := trash.List(ctx, m.account.Client, req)
	return list, account.RemoteError(m.c, err)
}

func (m *mount) answerRestore(ctx context.Context, req control.RestoreRequest, _ control.Emit) (any, error) {
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	if m.c.ReadOnly {
		return nil, exit.Fail(exit.Failed, "the mount on %s is read-only", m.mountpoint)
	}
	where, n, err := trash.Restore(ctx, m.account.Client, req)
	if err != nil {
		return nil, account.RemoteError(m.c, err)
	}
	if err := m.store.Feed().Answered(n); err != nil {
		return nil, fmt.Errorf("restored on the drive, but not shown yet: %w", err)
	}
	// A folder's content comes with the feed.
	if err := m.poller.Refresh(ctx); err != nil {
		m.log.Warn("asking for changes after a restore", "err", err)
	}
	return where, m.server.Settle(ctx)
}

func (m *mount) answerCheck(ctx context.Context, req control.CheckRequest, emit control.Emit) (any, error) {
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	return checkStore(ctx, m.c, m.store, req, func(line string) { emit(control.Event{Line: line}) })
}
