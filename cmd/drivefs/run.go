package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/changes"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/fs"
)

// How long starting takes at most. Tests are less patient.
var (
	firstMount = 30 * time.Second // to hear from the drive when nothing is known yet
	probeTime  = 3 * time.Second  // to hear that the token is refused when there is a mirror
)

// mount is a running mount.
type mount struct {
	c          *config.Config
	log        *slog.Logger
	mountpoint string
	began      time.Time
	account    *account
	store      *cache.Store
	poller     *changes.Poller
	server     *fs.Server
	lockPath   string
	minor      uint32        // of the mount's device
	mounted    chan struct{} // closed when the mount answers: server and minor are set
	ended      chan struct{} // closed when live returned: nobody takes asks any more
	draining   atomic.Bool
	lazy       atomic.Bool      // unmounted lazily: what is open in it may stay open
	asks       chan *unmountAsk // from the control socket to live
	observed   *observations    // nil without --metrics
	beats      chan none        // from whoever wants to know that live runs
	limited    limits
}

// mountDrive is the one wiring of the program: it mounts the drive of c on
// mountpoint, calls ready once the mount answers, and returns when the mount
// is gone and everything is closed. The first signal, or the end of ctx, asks
// for the end as `unmount` does, without a limit; a second signal leaves what
// is pending for the next mount.
//
// What is built here is taken down by defer in the reverse order.
func mountDrive(ctx context.Context, p *program, c *config.Config, mountpoint string, ready func(*mount)) (err error) {
	first, second, stop := twoSignals(ctx)
	defer stop()
	if err := noCore(); err != nil {
		return err
	}
	mountpoint, err = checkMountpoint(c, mountpoint)
	if err != nil {
		return err
	}
	log, closeLog, err := openLog(c, p.stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	socket := control.Path(c.Places.Runtime, c.StateDir, mountpoint)
	held, err := lock.Take(c.StateDir, lock.Holder{PID: os.Getpid(), Mountpoint: mountpoint, Control: socket})
	if err != nil {
		if busy := (*lock.HeldError)(nil); errors.As(err, &busy) {
			return fail(exitUsage, "%w: unmount that first, or use another profile or --state-dir", busy)
		}
		return fail(exitUsage, "--state-dir: %w", err)
	}
	defer func() { err = errors.Join(err, held.Release()) }()

	m := &mount{c: c, log: log, mountpoint: mountpoint, began: time.Now(), lockPath: lock.Path(c.StateDir),
		mounted: make(chan struct{}), ended: make(chan struct{}), asks: make(chan *unmountAsk), beats: make(chan none)}
	m.limited.now = control.Limits{Upload: c.UploadLimit, Download: c.DownloadLimit}
	var observeTry func(drive.Try)
	var observeOperation func(fs.Operation)
	if c.Metrics != "" {
		m.observed = newObservations()
		observeTry, observeOperation = m.observed.try, m.observed.operation
	}
	if m.account, err = openAccount(c, log, observeTry); err != nil {
		return err
	}
	defer m.account.close()
	asked := time.Time{}
	if m.store, err = m.openStore(first, socket, &asked); err != nil {
		return err
	}
	clean := true // nothing calls into the store any more
	defer func() {
		if clean {
			err = errors.Join(err, m.store.Close())
		}
	}()

	// What works in the background ends after the mount is gone.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	work, background := errgroup.WithContext(background)
	defer func() {
		cancel()
		if werr := work.Wait(); werr != nil && !errors.Is(werr, context.Canceled) {
			err = errors.Join(err, werr)
		}
	}()
	m.poller = changes.New(m.account.client, m.store, changes.Options{Interval: c.PollInterval, Checkpoint: c.Checkpoint, Logger: log})
	m.store.OnActivity(m.poller.Poke)
	if c.Metrics != "" {
		end, merr := serveMetrics(m)
		if merr != nil {
			return merr
		}
		defer end()
	}

	// The socket is there before the mount names it.
	ctl, err := control.Listen(socket, m.calls(), asFault)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	defer func() { err = errors.Join(err, ctl.Close()) }()
	defer close(m.ended)
	service := newManager(m, socket)

	m.server, err = fs.Mount(first, fs.MountOptions{
		Store: m.store, Mountpoint: mountpoint, FsName: c.Profile,
		UID: c.UID, GID: c.GID, Umask: c.Umask,
		AllowOther: c.AllowOther, AllowRoot: c.AllowRoot, ReadOnly: c.ReadOnly,
		Xattrs: c.Xattrs, NamesExact: c.NamesExact, Logger: log, Observe: observeOperation,
	})
	if err != nil {
		return mountError(mountpoint, err)
	}
	defer func() { clean = m.goneWithin(first, second) }()
	// Both send the kernel what changes, so they begin when it listens.
	work.Go(func() error { return m.store.Run(background) })
	work.Go(func() error { return m.poller.Run(background) })
	work.Go(func() error { return newHealer(m).run(background) })
	work.Go(func() error { return m.watchPermission(background, asked) })
	if at, ok, merr := mounts.At(mountpoint); merr == nil && ok {
		m.minor = at.Minor
	}
	if c.NoExec {
		if err := mounts.NoExec(mountpoint, c.ReadOnly); err != nil {
			log.Warn("programs can be run from the mount: only root can forbid it", "err", err)
		}
	}
	close(m.mounted)

	level := slog.LevelDebug // in the foreground a line on stdout says it
	if c.Background {
		level = slog.LevelInfo
	}
	log.Log(first, level, "mounted", "mountpoint", mountpoint, "profile", c.Profile, "state_dir", c.StateDir)
	if ready != nil {
		ready(m)
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	if service != nil {
		work.Go(func() error { return service.run(background) })
	}
	err = m.live(first, second, background, p)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	return err
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
// asked is set when the drive told what the token permits.
func (m *mount) openStore(ctx context.Context, socket string, asked *time.Time) (*cache.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, firstMount)
	defer cancel()
	probe, done := context.WithTimeout(ctx, probeTime)
	_, err := m.account.client.AccountInfo(probe)
	done()
	if errors.Is(err, drive.ErrAuth) || errors.Is(err, drive.ErrNoAccount) {
		return nil, remoteError(m.c, err)
	}
	may := true
	permission := make(chan none)
	go func() { // beside what is asked at opening
		defer close(permission)
		if err != nil || m.c.ReadOnly {
			return
		}
		if writes, told := m.askPermission(ctx); told {
			may, *asked = writes, time.Now()
		}
	}()
	defer func() { <-permission }()
	for {
		store, err := cache.Open(ctx, cache.Options{
			StateDir: m.c.StateDir, CacheDir: m.c.CacheDir, Remote: m.account.client,
			Memory: m.c.CacheMemory, Disk: m.c.CacheDisk,
			ReadOnly: m.c.ReadOnly, NamesExact: m.c.NamesExact, RootPath: m.c.Root,
			Uploads: m.c.Uploads, Downloads: m.c.Downloads,
			UploadDelay: m.c.UploadDelay, FsyncDrive: m.c.FsyncDrive,
			TempLinkThreshold: m.c.TempLinkThreshold, UploadWaitPerGB: m.c.UploadWaitPerGB,
			MaxFileSize: m.c.MaxFileSize, Control: socket, Logger: m.log,
		})
		if err == nil || !errors.Is(err, drive.ErrUnavailable) && !errors.Is(err, drive.ErrThrottled) {
			<-permission
			if err == nil && !may {
				store.SetWritable(false)
				m.log.Warn(noChanges(m.c.Profile))
			}
			return store, storeError(m.c, err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, storeError(m.c, err)
		}
	}
}

// storeError gives an error of cache.Open its exit code and its remedy.
func storeError(c *config.Config, err error) error {
	switch {
	case errors.Is(err, cache.ErrInUse):
		return fail(exitUsage, "%s: %w: end the other program first", c.StateDir, err)
	case errors.Is(err, cache.ErrNewer):
		return fail(exitUsage, "%s: %w: use that version, or another --state-dir", c.StateDir, err)
	case errors.Is(err, cache.ErrNoRoot):
		return fail(exitUsage, "%w: check --root", err)
	}
	return remoteError(c, err)
}
