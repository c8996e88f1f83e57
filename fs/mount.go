package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/fs/guard"
)

// fsType is the second column of df -T and of mountinfo, after "fuse.".
const fsType = "drivefs"

// MountOptions configures Mount. Store and Mountpoint are required.
type MountOptions struct {
	Store      *cache.Store
	Mountpoint string // an empty directory
	NonEmpty   bool   // or any directory
	FsName     string // first column of df, "" = "drivefs"

	UID, GID   uint32 // who owns every node
	Umask      uint32 // takes away from 0777 and 0666 for nodes without a mode of their own
	AllowOther bool   // every user may enter, as far as the modes allow
	AllowRoot  bool   // root may enter besides the owner
	ReadOnly   bool

	Xattrs     bool // answer extended attributes; the control attribute is answered anyway
	NamesExact bool // names are what they are spelled; must be what the Store was opened with

	// Guard starts this program again as a process that ends the calls which
	// wait in the mount should this one be killed and not be able to go. The
	// program must call guard.Main first thing.
	Guard bool

	Logger  *slog.Logger    // nil = discard
	Debug   bool            // log every request
	Observe func(Operation) // told of every request, from any goroutine, nil = nobody
}

// Server is a mounted filesystem. Its methods are safe for concurrent use.
type Server struct {
	t    *tree
	fuse *fuse.Server
	path string        // of the mount point, absolute and without symbolic links
	done chan struct{} // closed when no request can come any more
}

// Mount mounts o.Store on o.Mountpoint and returns once the mount answers. It
// first makes sure that the mount point is fit (see the Err values), and
// clears away a mount of a drivefs that died there. ctx bounds the mounting
// only. From its return on the Store's effects go to the kernel.
func Mount(ctx context.Context, o MountOptions) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FsName == "" {
		o.FsName = fsType
	}
	path, err := prepare(ctx, o.Mountpoint, o.NonEmpty)
	if err != nil {
		return nil, err
	}
	if (o.AllowOther || o.AllowRoot) && os.Geteuid() != 0 && !mayAllowOther() {
		return nil, ErrAllowOther
	}
	t := &tree{
		store: o.Store, root: o.Store.Root(),
		uid: o.UID, gid: o.GID, umask: o.Umask & 0o777,
		ownerOnly: o.AllowRoot && !o.AllowOther,
		exact:     o.NamesExact, xattrs: o.Xattrs,
		signals: signalsOf, observe: o.Observe,
		log:     o.Logger,
		strange: rate.Sometimes{First: 20, Interval: time.Second},
	}
	t.notify.t = t
	root := &dir{t: t, ino: t.root}
	opts := options(&o, t)
	raw := fusefs.NewNodeFS(root, opts)
	t.index.keep(root)

	// Before the first answer can be cached.
	t.notify.hold()
	o.Store.OnEffects(t.notify.effects)
	srv, err := fuse.NewServer(raw, path, &opts.MountOptions)
	if err != nil {
		o.Store.OnEffects(func([]cache.Effect) {})
		if mounted(path) {
			// Mounted, but the kernel did not greet us.
			_ = detach(context.WithoutCancel(ctx), path)
		}
		return nil, fmt.Errorf("mounting on %s: %w", path, err)
	}
	t.notify.open()
	s := &Server{t: t, fuse: srv, path: path, done: make(chan struct{})}
	guarded := make(chan *guard.Guard, 1)
	go func() {
		srv.Serve()
		if g := <-guarded; g != nil {
			g.End()
		}
		t.open.releaseAll()
		o.Store.OnEffects(func([]cache.Effect) {})
		t.notify.close()
		close(s.done)
	}()
	if err := srv.WaitMount(); err != nil {
		guarded <- nil
		_ = s.Lazy()
		s.Wait()
		return nil, fmt.Errorf("waiting for the mount on %s: %w", path, err)
	}
	s.raiseReadAhead()
	var g *guard.Guard
	if o.Guard {
		g = s.startGuard()
	}
	guarded <- g
	return s, nil
}

// startGuard gives nil when there can be none: the mount is as good without,
// until it is killed in a bad moment.
func (s *Server) startGuard() *guard.Guard {
	minor, ok := minorAt(s.path)
	if !ok {
		return nil // unmounted already
	}
	g, err := guard.Start(minor)
	if err != nil {
		s.t.log.Warn("no guard: should this process be killed, calls that wait in the mount may hang", "err", err)
		return nil
	}
	return g
}

// options chooses what go-fuse asks of the kernel. Each figure was measured;
// what was not asked for was slower or unsafe.
func options(o *MountOptions, t *tree) *fusefs.Options {
	logger := slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug)
	opts := &fusefs.Options{
		MountOptions: fuse.MountOptions{
			FsName:     o.FsName,
			Name:       fsType,
			AllowOther: o.AllowOther || o.AllowRoot,
			// The kernel checks the modes that we show. Without it
			// allow_other would let everybody do everything.
			Options: []string{"default_permissions"},
			// Needs no helper where it is permitted; else fusermount3 mounts.
			DirectMount: true,

			MaxWrite:            1 << 20,
			MaxBackground:       64,
			CongestionThreshold: 48,
			// Views go out with writev; trying a pipe first only costs.
			DisableSplice: true,
			// Pages are dropped when we say so, not when a time looks changed:
			// each content version has a kernel inode of its own.
			ExplicitDataCacheControl: true,

			Debug:        o.Debug,
			Logger:       logger,
			PanicHandler: t.panicked,
		},
		// Entry and attribute timeouts stay nil: they would replace each 0,
		// which is how a name in another spelling is answered.
		NullPermissions: true,
		RootStableAttr:  &fusefs.StableAttr{Ino: t.root},
		Logger:          logger,
	}
	if o.ReadOnly {
		opts.DirectMountFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY
		opts.Options = append(opts.Options, "ro")
	}
	if o.NamesExact {
		// A created name is told to the kernel, so an absent one may be kept.
		absent := cached
		opts.NegativeTimeout = &absent
	}
	return opts
}

// panicked answers a request whose handler panicked. The others go on: a
// mount that died would take every program's open files with it.
func (t *tree) panicked(v any) fuse.Status {
	t.log.Error("a request failed inside", "panic", fmt.Sprint(v), "stack", stack())
	return fuse.EIO
}

// Mountpoint is the absolute path the filesystem is mounted on.
func (s *Server) Mountpoint() string { return s.path }

// Unmount unmounts and waits until the last request is answered. ErrBusy when
// somebody has something open in it; then it stays mounted. Unmounting what
// is not mounted any more is no error.
func (s *Server) Unmount() error {
	if !s.live() {
		return nil
	}
	if err := unmount(context.Background(), s.path); err != nil && s.live() {
		return err
	}
	s.Wait()
	return nil
}

// Lazy takes the mount out of the tree of paths at once. What is open in it
// goes on; Wait returns when the last of that is closed.
func (s *Server) Lazy() error {
	if !s.live() {
		return nil
	}
	return detach(context.Background(), s.path)
}

// live tells whether the server is still served, and mounted at its path.
func (s *Server) live() bool {
	select {
	case <-s.done:
		return false
	default:
		return mounted(s.path)
	}
}

// Commit puts what was written to files that are still open into the journal, as
// closing them would: for the end of a process whose mount is in use.
func (s *Server) Commit() { s.t.open.commitAll() }

// Wait returns when the filesystem is unmounted, by whomever, and every
// request is answered: the Store may be closed then.
func (s *Server) Wait() { <-s.done }

// Done is closed when Wait would return.
func (s *Server) Done() <-chan struct{} { return s.done }

// Settle returns when the kernel was told all effects that the Store had sent
// before the call, or when ctx ends.
func (s *Server) Settle(ctx context.Context) error { return s.t.notify.settle(ctx) }

// raiseReadAhead lets the kernel ask for 1 MiB at once where it asks for 128
// KiB by itself. Only root may; without it reading is slower and no less
// right, so failing is not worth more than a line.
func (s *Server) raiseReadAhead() {
	for _, m := range mountsAt(s.path) {
		knob := filepath.Join("/sys/class/bdi", m.dev, "read_ahead_kb")
		err := os.WriteFile(knob, []byte("1024"), 0)
		if err != nil && !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrNotExist) &&
			!errors.Is(err, syscall.EROFS) {
			s.t.log.Debug("read-ahead stays as it is", "err", err)
		}
	}
}

// mayAllowOther tells whether /etc/fuse.conf lets users share their mounts.
func mayAllowOther() bool {
	b, err := os.ReadFile("/etc/fuse.conf")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}
