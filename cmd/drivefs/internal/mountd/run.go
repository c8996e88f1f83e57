// Package mountd answers one question: how does one mount live? It wires account,
// store, poller, kernel and control socket together, takes them down in the
// reverse order, and decides between signals, verbs and umount(8) which end a
// mount has. It knows no command line.
//
// Everything that could end the mount meets in one loop, live; what works in
// the background ends after the mount is gone, and the store is closed last.
package mountd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/changes"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/account"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/killed"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/logs"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/fs"
)

// How long starting takes at most. Tests are less patient.
var (
	FirstMount = 30 * time.Second // to hear from the drive when nothing is known yet
	// CommitAfter is cache.Options.CommitAfter, for tests too.
	CommitAfter time.Duration
	probeTime   = 3 * time.Second // to hear that the token is refused when there is a mirror
)

// Options of Run.
type Options struct {
	Config     *config.Config
	Mountpoint string
	Stderr     io.Writer               // where the log and its warnings go
	Ready      func(mountpoint string) // called once the mount answers; may be nil
}

// mount is a running mount.
type mount struct {
	c          *config.Config
	log        *slog.Logger
	stderr     io.Writer
	mountpoint string
	place      *place // the mountpoint, when it was made here
	began      time.Time
	socket     string // path of the control socket
	account    *account.Account
	store      *cache.Store
	asked      time.Time // when the drive told last what the token permits, zero = never
	poller     *changes.Poller
	server     *fs.Server
	lockPath   string
	minor      uint32        // of the mount's device
	mounted    chan struct{} // closed when the mount answers: server and minor are set
	ended      chan struct{} // closed when live returned: nobody takes asks any more
	draining   atomic.Bool
	lazy       atomic.Bool      // unmounted lazily: what is open in it may stay open
	asks       chan *unmountAsk // from the control socket to live
	yields     chan none        // likewise: another mount wants the state directory
	observed   *observations    // nil without --metrics
	beats      chan none        // from whoever wants to know that live runs
	limited    limits
	stuck      bool // the kernel did not let go: the store stays open

	work       *errgroup.Group // what works in the background
	background context.Context // of work
	undo       []func() error  // takes down what was built, the last one first
}

// Run mounts the drive and returns when the mount is gone and everything is
// closed. The first signal, or the end of ctx, asks for the end as `unmount`
// does, without a limit; a second signal leaves what is pending for the next
// mount.
func Run(ctx context.Context, o Options) (err error) {
	// Who reads our words may go away; the mount stays.
	signal.Ignore(syscall.SIGPIPE)
	first, second, stop := twoSignals(ctx)
	defer stop()
	if err := noCore(); err != nil {
		return err
	}
	m := &mount{
		c: o.Config, stderr: o.Stderr, began: time.Now(), lockPath: lock.Path(o.Config.StateDir),
		mounted: make(chan struct{}), ended: make(chan struct{}), asks: make(chan *unmountAsk), yields: make(chan none), beats: make(chan none),
	}
	m.limited.now = control.Limits{Upload: m.c.UploadLimit, Download: m.c.DownloadLimit}
	defer func() {
		for i := len(m.undo) - 1; i >= 0; i-- {
			err = errors.Join(err, m.undo[i]())
		}
	}()
	for _, step := range []func() error{
		func() error { return m.take(o.Mountpoint) },
		func() error { return m.open(first) },
		func() error { return m.serve(ctx) },
		func() error { return m.mount(first, second) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	m.catchUp(first)
	if o.Ready != nil {
		o.Ready(m.mountpoint)
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	err = m.live(first, second)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	return err
}

// firstLook is how long a mount that answers may wait for the changes that were
// made since the last one, before it says that it is mounted.
const firstLook = 2 * time.Second

// catchUp lets what happened meanwhile be seen by whoever waits for "mounted".
func (m *mount) catchUp(ctx context.Context) {
	if m.c.PollInterval == 0 || m.account.Client.State().Kind != drive.Online {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	err := m.poller.Refresh(ctx)
	if err == nil {
		err = m.server.Settle(ctx)
	}
	if err != nil {
		m.log.Debug("the first look at the changes is not over", "err", err)
	}
}

func (m *mount) later(undo func() error) { m.undo = append(m.undo, undo) }

// take opens the log and takes the state directory.
func (m *mount) take(mountpoint string) (err error) {
	if _, err := killed.End(context.Background(), m.c.StateDir); err != nil {
		return err
	}
	if mountpoint == "" {
		return exit.Fail(exit.Usage, "the MOUNTPOINT is empty: name a directory")
	}
	if m.c.Mkdir {
		if m.place, err = makePlace(mountpoint); err != nil {
			return err
		}
		m.later(m.place.close)
	}
	if m.mountpoint, err = checkMountpoint(m.c, mountpoint); err != nil {
		return err
	}
	log, closeLog, err := logs.Open(m.c, m.stderr)
	if err != nil {
		return err
	}
	m.log = log
	m.later(func() error { closeLog(); return nil })
	m.socket = control.Path(m.c.Places.Runtime, m.c.StateDir, m.mountpoint)
	held, err := m.lock()
	if err != nil {
		return err
	}
	m.later(held.Release)
	return nil
}

// yieldTime is how long a mount that is gone may take to let go of its state
// directory.
const yieldTime = 30 * time.Second

// lock takes the state directory. A process whose mount is gone, and which
// stays for its uploads, is asked to leave them to this one.
func (m *mount) lock() (*lock.Lock, error) {
	mine := lock.Holder{PID: os.Getpid(), Mountpoint: m.mountpoint, Control: m.socket}
	held, err := lock.Take(m.c.StateDir, mine)
	busy := (*lock.HeldError)(nil)
	if errors.As(err, &busy) && busy.Holder.Control != "" {
		m.log.Debug("asking the process that still uploads for the state directory", "pid", busy.Holder.PID)
		ctx, cancel := context.WithTimeout(context.Background(), yieldTime)
		defer cancel()
		var refused *control.Fault
		switch yerr := control.NewClient(busy.Holder.Control).Call(ctx, control.VerbYield, none{}, nil, nil); {
		case errors.As(yerr, &refused):
			return nil, exit.Fail(exit.Usage, "%w: %s, or use another profile or --state-dir", busy, refused.Message)
		case yerr == nil, errors.Is(yerr, control.ErrNoMount), errors.Is(yerr, io.ErrUnexpectedEOF), errors.Is(yerr, io.EOF):
			if lock.WaitFree(ctx, m.lockPath) == nil {
				held, err = lock.Take(m.c.StateDir, mine)
			}
		}
	}
	switch {
	case errors.As(err, &busy):
		return nil, exit.Fail(exit.Usage, "%w: unmount that first, or use another profile or --state-dir", busy)
	case err != nil:
		return nil, exit.Fail(exit.Usage, "--state-dir: %w", err)
	}
	return held, nil
}

// open opens what is mounted: the account and the store.
func (m *mount) open(first context.Context) (err error) {
	var observeTry func(drive.Try)
	if m.c.Metrics != "" {
		m.observed = newObservations()
		observeTry = m.observed.try
	}
	if m.account, err = account.Open(m.c, m.log, observeTry); err != nil {
		return err
	}
	m.later(func() error { m.account.Close(); return nil })
	if m.store, err = m.openStore(first); err != nil {
		return err
	}
	m.later(func() error {
		if m.stuck {
			return nil // something calls into the store still
		}
		return m.store.Close()
	})
	return nil
}

// serve begins what answers beside the kernel: metrics and the control socket,
// which is there before the mount names it.
func (m *mount) serve(ctx context.Context) error {
	// What works in the background ends after the mount is gone.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.work, m.background = errgroup.WithContext(background)
	m.later(func() error {
		cancel()
		if err := m.work.Wait(); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	m.poller = changes.New(m.account.Client, m.store.Feed(), changes.Options{Interval: m.c.PollInterval, Checkpoint: m.c.Checkpoint, Logger: m.log})
	m.store.Feed().OnActivity(m.poller.Poke)
	if m.c.Metrics != "" {
		end, err := serveMetrics(m)
		if err != nil {
			return err
		}
		m.later(func() error { end(); return nil })
	}
	ctl, err := control.Listen(m.socket, guest(m.c), m.calls(), asFault)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	m.later(ctl.Close)
	m.later(func() error { close(m.ended); return nil })
	return nil
}

// guest is whom the mount is made for: root may mount for another user, who may
// then ask how it is.
func guest(c *config.Config) int {
	if os.Geteuid() == 0 && c.AllowOther {
		return int(c.UID)
	}
	return os.Geteuid()
}

// mount lets the kernel in, and begins the work in the background.
func (m *mount) mount(first, second context.Context) (err error) {
	service := newManager(m, m.socket)
	var observe func(fs.Operation)
	if m.observed != nil {
		observe = m.observed.operation
	}
	m.server, err = fs.Mount(first, fs.MountOptions{
		Store: m.store, Mountpoint: m.mountpoint, NonEmpty: m.c.AllowNonEmpty, FsName: m.c.Profile,
		UID: m.c.UID, GID: m.c.GID, Umask: m.c.Umask,
		AllowOther: m.c.AllowOther, AllowRoot: m.c.AllowRoot, ReadOnly: m.c.ReadOnly,
		Xattrs: m.c.Xattrs, NamesExact: m.c.NamesExact, Guard: true, Logger: m.log, Observe: observe,
	})
	if err != nil {
		return mountError(m.mountpoint, err)
	}
	m.later(func() error { m.stuck = !m.goneWithin(first, second); return nil })
	if err := m.place.close(); err != nil {
		m.log.Warn("closing the directory below the mount", "err", err)
	}
	// Both send the kernel what changes, so they begin when it listens.
	for _, run := range []func(context.Context) error{m.store.Run, m.poller.Run, newHealer(m).run, m.watchPermission} {
		m.work.Go(func() error { return run(m.background) })
	}
	if at, ok, merr := mounts.At(m.mountpoint); merr == nil && ok {
		m.minor = at.Minor
	}
	if m.c.NoExec {
		if err := mounts.NoExec(m.mountpoint, m.c.ReadOnly); err != nil {
			m.log.Warn("programs can be run from the mount: only root can forbid it", "err", err)
		}
	}
	close(m.mounted)
	level := slog.LevelDebug // in the foreground a line on stdout says it
	if m.c.Background {
		level = slog.LevelInfo
	}
	m.log.Log(first, level, "mounted", "mountpoint", m.mountpoint, "profile", m.c.Profile, "state_dir", m.c.StateDir)
	if service != nil {
		m.work.Go(func() error { return service.run(m.background) })
	}
	return nil
}

// noCore keeps the token out of cores, whatever the shell's limit is.
func noCore() error {
	var l unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_CORE, &l)
	if err == nil {
		l.Cur = 0
		err = unix.Setrlimit(unix.RLIMIT_CORE, &l)
	}
	if err != nil {
		return fmt.Errorf("forbidding cores: %w", err)
	}
	return nil
}

// twoSignals gives two contexts: the first ends at the first signal, or with
// parent; the second at the second signal.
func twoSignals(parent context.Context) (first, second context.Context, stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup means it
		signal.Notify(signals, syscall.SIGHUP)
	}
	first, endFirst := context.WithCancel(parent)
	second, endSecond := context.WithCancel(context.WithoutCancel(parent))
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, end := range []context.CancelFunc{endFirst, endSecond} {
			select {
			case <-signals:
				end()
			case <-done:
				return
			}
		}
	}()
	return first, second, func() {
		signal.Stop(signals)
		close(done)
		<-ended
		endFirst()
		endSecond()
	}
}

// openStore opens the state directory. On a first mount that needs the drive,
// which gets half a minute to answer: at boot the network may come a little
// later than we do.
func (m *mount) openStore(ctx context.Context) (*cache.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, FirstMount)
	defer cancel()
	probe, done := context.WithTimeout(ctx, probeTime)
	_, err := m.account.Client.AccountInfo(probe)
	done()
	if errors.Is(err, drive.ErrAuth) || errors.Is(err, drive.ErrNoAccount) {
		return nil, account.RemoteError(m.c, err)
	}
	online, may := err == nil, true
	permission := make(chan none)
	go func() { // beside what is asked at opening
		defer close(permission)
		if err != nil || m.c.ReadOnly {
			return
		}
		if writes, told := m.askPermission(ctx); told {
			may, m.asked = writes, time.Now()
		}
	}()
	defer func() { <-permission }()
	asked := false
	for {
		store, err := cache.Open(ctx, m.storeOptions(m.c.Root))
		if errors.Is(err, cache.ErrNoRoot) && online && !asked {
			asked = true // it may have been made elsewhere since the last mount
			if m.look(ctx) == nil {
				continue
			}
		}
		if err == nil || !errors.Is(err, drive.ErrUnavailable) && !errors.Is(err, drive.ErrThrottled) {
			<-permission
			if err != nil {
				return nil, StoreError(m.c, err)
			}
			if err := bind(ctx, m.account, store, online); err != nil {
				return nil, errors.Join(StoreError(m.c, err), store.Close())
			}
			if !may {
				store.SetWritable(false)
				m.log.Warn(noChanges(m.c.Profile))
			}
			return store, nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, StoreError(m.c, err)
		}
	}
}

func (m *mount) storeOptions(root string) cache.Options {
	return cache.Options{
		StateDir: m.c.StateDir, CacheDir: m.c.CacheDir, Remote: m.account.Client, Origin: account.Origin(m.c),
		Memory: m.c.CacheMemory, Disk: m.c.CacheDisk,
		ReadOnly: m.c.ReadOnly, NamesExact: m.c.NamesExact, RootPath: root,
		Uploads: m.c.Uploads, Downloads: m.c.Downloads,
		UploadDelay: m.c.UploadDelay, CommitAfter: CommitAfter, FsyncDrive: m.c.FsyncDrive,
		TempLinkThreshold: m.c.TempLinkThreshold, UploadWaitPerGB: m.c.UploadWaitPerGB,
		MaxFileSize: m.c.MaxFileSize, Control: m.socket, Logger: m.log,
	}
}

// look brings the mirror up to date, without a mount.
func (m *mount) look(ctx context.Context) error {
	store, err := cache.Open(ctx, m.storeOptions("/"))
	if err != nil {
		return err
	}
	if err := bind(ctx, m.account, store, true); err != nil {
		return errors.Join(err, store.Close())
	}
	poller := changes.New(m.account.Client, store.Feed(), changes.Options{Interval: time.Hour, Logger: m.log})
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { _ = poller.Run(ctx) }) // ends with ctx
	err = poller.Refresh(ctx)
	cancel()
	work.Wait()
	return errors.Join(err, store.Close())
}

// bind makes the store's account the only one whose tokens are used. While the
// drive cannot be reached that is found out later, at the first call.
func bind(ctx context.Context, a *account.Account, store *cache.Store, online bool) error {
	a.Want(func(root string) error {
		err := store.ConfirmAccount(root)
		if other := (*cache.AccountError)(nil); errors.As(err, &other) {
			return fmt.Errorf("%w: %w", account.ErrOther, err)
		}
		return err
	})
	if !online {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if err := a.Confirm(ctx); errors.Is(err, account.ErrOther) {
		return err
	}
	return nil
}

// StoreError gives an error of cache.Open its exit code and its remedy.
func StoreError(c *config.Config, err error) error {
	var other *cache.AccountError
	switch {
	case errors.As(err, &other):
		return exit.Fail(exit.Usage, "%w: use another --profile for it, or forget the first one with drivefs logout%s --purge-local", other, account.ProfileFlag(c))
	case errors.Is(err, cache.ErrInUse):
		return exit.Fail(exit.Usage, "%s: %w: end the other program first", c.StateDir, err)
	case errors.Is(err, cache.ErrNewer):
		return exit.Fail(exit.Usage, "%s: %w: use that version, or another --state-dir", c.StateDir, err)
	case errors.Is(err, cache.ErrNoRoot):
		return exit.Fail(exit.Usage, "%w: check --root", err)
	}
	return account.RemoteError(c, err)
}
