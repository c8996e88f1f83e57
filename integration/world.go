// Package integration puts the whole house together for tests: a drive that
// speaks the API on loopback, somebody else working in it, a client, a Store
// and a mount. Nothing in it is a stand-in but the drive.
package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/fs"
)

// patience is how long a world waits for what must happen.
const patience = 30 * time.Second

// Config changes what NewWorld builds. The zero value is a mounted, empty
// drive that was heard to the end of its feed.
type Config struct {
	Drive drivetest.Options
	Fill  func(other *drivetest.Client) // what is on the drive before the mount
	Store func(*cache.Options)          // changes the Store's options
	Mount func(*fs.MountOptions)        // changes the mount's options
	Fresh bool                          // the feed was not heard yet: a first mount
	On    *World                        // another machine's mount of the same drive; nil = a drive of its own
}

// World is one drive with one mount of it. Its methods fail the test.
type World struct {
	testing.TB
	Drive  *drivetest.Server
	Else   *drivetest.Client // somebody else in the same drive
	Client *drive.Client
	Store  *cache.Store
	Server *fs.Server
	Mnt    string // the mount point

	cfg    Config
	base   string // state, cache
	log    *testLog
	cancel context.CancelFunc // ends the Store's work
	ran    chan error         // what Run returned
}

// NewWorld builds a world that is taken down with the test. Whatever the test
// was about, its end checks: nothing is left open, it can be unmounted, Store
// and drive keep their invariants, and the drive holds what the mount showed.
func NewWorld(t testing.TB, cfg Config) *World {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse here")
	}
	w := &World{TB: t, cfg: cfg, base: t.TempDir(), log: &testLog{t: t}}
	t.Cleanup(w.log.end)
	if cfg.On != nil {
		w.Drive = cfg.On.Drive
	} else {
		w.Drive = drivetest.New(t, cfg.Drive)
	}
	w.Else = w.Drive.Else()
	if cfg.Fill != nil {
		cfg.Fill(w.Else)
	}
	w.Mnt = filepath.Join(w.base, "mnt")
	w.must(os.Mkdir(w.Mnt, 0o755))
	t.Cleanup(w.down)
	w.up()
	return w
}

func (w *World) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// up opens the Store and mounts it.
func (w *World) up() {
	w.Helper()
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	var err error
	w.Client, err = drive.New(drive.Options{
		Endpoint: w.Drive.Endpoint(),
		Tokens:   drive.StaticTokenSource(w.Drive.Token().AccessToken),
		Logger:   logger,
	})
	w.must(err)
	so := cache.Options{
		StateDir: filepath.Join(w.base, "state"),
		CacheDir: filepath.Join(w.base, "cache"),
		Remote:   w.Client,
		Memory:   64 << 20,
		Disk:     64 << 20,
		Hostname: "here",
		Control:  filepath.Join(w.base, "control"),
		Logger:   logger,
	}
	if w.cfg.Store != nil {
		w.cfg.Store(&so)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w.Store, err = cache.Open(ctx, so)
	w.must(err)
	run, stop := context.WithCancel(context.Background())
	w.cancel, w.ran = stop, make(chan error, 1)
	go func() { w.ran <- w.Store.Run(run) }()
	mo := fs.MountOptions{
		Store: w.Store, Mountpoint: w.Mnt,
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Umask: 0o077,
		Xattrs: true, NamesExact: so.NamesExact, ReadOnly: so.ReadOnly,
		Logger: logger,
	}
	if w.cfg.Mount != nil {
		w.cfg.Mount(&mo)
	}
	if !w.cfg.Fresh {
		w.hear(ctx)
	}
	w.Server, err = fs.Mount(ctx, mo)
	w.must(err)
}

// Unmount takes the mount and the Store down as the program does; what is
// pending stays in the journal.
func (w *World) Unmount() {
	w.Helper()
	if w.Server != nil {
		// Closing is answered before RELEASE is: the last one may be under way.
		err := w.Server.Unmount()
		for end := time.Now().Add(patience); errors.Is(err, fs.ErrBusy) && time.Now().Before(end); {
			<-time.After(10 * time.Millisecond)
			err = w.Server.Unmount()
		}
		if err != nil {
			w.Errorf("unmount: %v\n%s", err, holders(w.Mnt))
			_ = w.Server.Lazy()
		}
		w.Server.Wait()
		w.Server = nil
	}
	if w.Store != nil {
		if n := w.Store.Status().Open; n != 0 {
			w.Errorf("%d handles are open after unmounting", n)
		}
		w.cancel()
		if err := <-w.ran; err != nil && !errors.Is(err, context.Canceled) {
			w.Errorf("the Store's work ended with: %v", err)
		}
		for _, err := range w.Store.CheckLocal() {
			w.Errorf("the Store broke its invariants: %v", err)
		}
		if err := w.Store.Close(); err != nil {
			w.Errorf("closing the Store: %v", err)
		}
		w.Store = nil
	}
	if w.Client != nil {
		w.Client.Close()
		w.Client = nil
	}
}

// Remount unmounts and mounts again on the same state.
func (w *World) Remount() {
	w.Helper()
	w.Unmount()
	w.up()
}

// down ends the world. A test that failed is not asked for more.
func (w *World) down() {
	if w.Server != nil && !w.Failed() {
		w.Drive.SetFaults(drivetest.Faults{})
		if w.Store.Status().Pending > 0 {
			w.Flush()
		}
		w.Poll()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		n, err := w.Store.Check(ctx, false, func(s string) { w.Errorf("mirror and drive differ: %s", s) })
		if err != nil || n > 0 {
			w.Errorf("check: %d differences, %v", n, err)
		}
	}
	w.Unmount()
}

// Flush waits until the drive has everything.
func (w *World) Flush() {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	failed, err := w.Store.Queue().Flush(ctx)
	if err != nil || len(failed) > 0 {
		w.Errorf("flush: %v, %v", err, failed)
	}
}

// Poll hears the feed to its end, and returns when the kernel was told.
func (w *World) Poll() {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w.hear(ctx)
	w.must(w.Server.Settle(ctx))
}

// hear is the poller's round without its clock.
func (w *World) hear(ctx context.Context) {
	w.Helper()
	from := w.Store.Feed().Checkpoint()
	anew := from == ""
	if anew {
		var err error
		from, err = w.Store.Feed().BeginRefresh(ctx)
		w.must(err)
	}
	for b, err := range w.Client.Changes(ctx, drive.ChangesRequest{Checkpoint: from, IncludePurged: true}) {
		w.must(err)
		if b.Reset && !anew {
			anew = true
			_, err = w.Store.Feed().BeginRefresh(ctx)
			w.must(err)
		}
		if anew {
			w.must(w.Store.Feed().ApplyRefresh(ctx, b))
		} else {
			w.must(w.Store.Feed().Apply(ctx, b))
		}
	}
	if anew {
		w.must(w.Store.Feed().EndRefresh(ctx))
	}
	w.must(w.Store.Feed().FeedEnd(ctx))
}

// Path is a path below the mount point.
func (w *World) Path(names ...string) string {
	return filepath.Join(append([]string{w.Mnt}, names...)...)
}

// Write writes a file of the mount and closes it.
func (w *World) Write(name, content string) {
	w.Helper()
	w.must(os.WriteFile(w.Path(name), []byte(content), 0o644))
}

// Want fails unless the file of the mount holds content.
func (w *World) Want(name, content string) {
	w.Helper()
	got, err := os.ReadFile(w.Path(name))
	if err != nil {
		w.Errorf("%s: %v", name, err)
		return
	}
	if string(got) != content {
		w.Errorf("%s holds %s, want %s", name, brief(got), brief([]byte(content)))
	}
}

// WantRemote fails unless the drive's file holds content.
func (w *World) WantRemote(path, content string) {
	w.Helper()
	got, err := w.Else.ReadFile(path)
	if err != nil {
		w.Errorf("on the drive, %s: %v", path, err)
		return
	}
	if string(got) != content {
		w.Errorf("on the drive, %s holds %s, want %s", path, brief(got), brief([]byte(content)))
	}
}

// Put writes a file of the drive as somebody else.
func (w *World) Put(path, content string) drivetest.Node {
	w.Helper()
	n, err := w.Else.PutPath(path, []byte(content))
	w.must(err)
	return n
}

// Node is what the drive has at path.
func (w *World) Node(path string) drivetest.Node {
	w.Helper()
	n, err := w.Else.Lookup(path)
	w.must(err)
	return n
}

// Until waits for a condition that must come true.
func (w *World) Until(what string, cond func() bool) {
	w.Helper()
	for end := time.Now().Add(patience); !cond(); {
		if time.Now().After(end) {
			w.Fatalf("did not happen within %v: %s", patience, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func brief(b []byte) string {
	if len(b) > 64 {
		return fmt.Sprintf("%d bytes %q…", len(b), b[:64])
	}
	return fmt.Sprintf("%q", b)
}

// holders lists the processes with something open below path, for a message.
func holders(path string) string {
	var out strings.Builder
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	cwds, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, l := range append(links, cwds...) {
		if to, err := os.Readlink(l); err == nil && (to == path || strings.HasPrefix(to, path+"/")) {
			fmt.Fprintf(&out, "%s → %s\n", l, to)
		}
	}
	return out.String()
}

// testLog writes log lines to the test; what comes after its end is dropped,
// for t.Log would panic.
type testLog struct {
	mu    sync.Mutex
	t     testing.TB
	ended bool // guarded by mu
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.t.Log(string(bytes.TrimRight(p, "\n")))
	}
	return len(p), nil
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// Dev is the device number of the mount.
func (w *World) Dev() uint64 {
	w.Helper()
	var st unix.Stat_t
	w.must(unix.Stat(w.Mnt, &st))
	return st.Dev
}
