// Package doctor answers one question: is this machine ready to mount a profile's
// drive, and if not, what is to be done? Nothing is changed, here or there, but
// what is left of a mount that was killed and hangs is ended.
package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/killed"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/running"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/fs/guard"
)

// Finding is what one check found.
type Finding struct {
	About  string `json:"about"`
	Result string `json:"result"` // "ok", "note" (could be better) or "FAIL"
	Text   string `json:"text"`   // with the remedy, where one is needed
}

// finding is what one check found: what is well, what could be better (note),
// or an error that says what to do, with its exit code. All empty = nothing to
// say.
type finding struct {
	about, well, note string
	err               error
}

// checks are in the order a mount needs what they look at.
var checks = []func(context.Context, io.Writer, *config.Config) []finding{
	one(checkKernel), one(checkFuse), one(checkHelper), one(checkAllowOther), one(checkGuard), one(checkKilled),
	one(checkConfig), one(checkToken), one(checkClock), checkNetwork, checkAccount,
	one(checkDisk), one(checkDeadMounts), one(checkState), checkJournal,
}

func one(check func(context.Context, io.Writer, *config.Config) finding) func(context.Context, io.Writer, *config.Config) []finding {
	return func(ctx context.Context, p io.Writer, c *config.Config) []finding { return []finding{check(ctx, p, c)} }
}

// Examine checks everything, tells each finding in order, and gives the worst
// of them as an error. Notes of the client's go to stderr.
func Examine(ctx context.Context, stderr io.Writer, c *config.Config, tell func(Finding)) error {
	var worst error
	for _, check := range checks {
		for _, f := range check(ctx, stderr, c) {
			switch {
			case f.err != nil:
				tell(Finding{f.about, "FAIL", exit.Message(f.err)})
				if worst == nil || gravity(f.err) > gravity(worst) {
					worst = exit.Fail(exit.Code(f.err), "%s: %w", f.about, f.err)
				}
			case f.note != "":
				tell(Finding{f.about, "note", f.note})
			case f.well != "":
				tell(Finding{f.about, "ok", f.well})
			}
		}
	}
	return worst
}

// gravity orders findings: what keeps a mount from beginning is worse than
// uploads that are left.
func gravity(err error) int {
	if code := exit.Code(err); code != exit.Pending {
		return code
	}
	return exit.Done
}

// leastKernel is the first that lets ordinary users mount without a bug that
// matters here: readdirplus, large writes, and notifications that do not hang.
const leastKernel = 5

func checkKernel(context.Context, io.Writer, *config.Config) finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return finding{about: "kernel", err: err}
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major int
	if _, err := fmt.Sscanf(release, "%d.", &major); err == nil && major < leastKernel {
		return finding{about: "kernel", note: fmt.Sprintf("Linux %s is older than what drivefs is tested with (%d.0)", release, leastKernel)}
	}
	return finding{about: "kernel", well: "Linux " + release}
}

func checkFuse(context.Context, io.Writer, *config.Config) finding {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = exit.Fail(exit.Failed, "there is no /dev/fuse: modprobe fuse, or give the container --device /dev/fuse")
	case errors.Is(err, os.ErrPermission):
		err = exit.Fail(exit.Failed, "/dev/fuse is closed to this user: chmod 666 /dev/fuse as root")
	case err == nil:
		err = f.Close()
	}
	return finding{about: "/dev/fuse", well: "usable", err: err}
}

func checkHelper(context.Context, io.Writer, *config.Config) finding {
	path, err := exec.LookPath("fusermount3")
	if err != nil && os.Geteuid() == 0 {
		return finding{about: "fusermount3"} // root mounts without it
	}
	if err != nil {
		err = exit.Fail(exit.Failed, "not found: apt-get install fuse3")
	}
	return finding{about: "fusermount3", well: path, err: err}
}

func checkAllowOther(_ context.Context, _ io.Writer, c *config.Config) finding {
	const file = "/etc/fuse.conf"
	if !c.AllowOther && !c.AllowRoot || os.Geteuid() == 0 {
		return finding{about: "sharing"}
	}
	text, _ := os.ReadFile(file) // what is not there permits nothing
	for line := range bytes.Lines(text) {
		if string(bytes.TrimSpace(line)) == "user_allow_other" {
			return finding{about: "sharing", well: file + " permits it"}
		}
	}
	return finding{about: "sharing", err: exit.Fail(exit.Usage, "--allow-other and --allow-root need the line user_allow_other in %s: add it as root", file)}
}

// checkGuard tells whether a mount can have a guard.
func checkGuard(context.Context, io.Writer, *config.Config) finding {
	const about = "guard"
	if err := guard.Available(); err != nil {
		return finding{about: about, note: fmt.Sprintf("should a mount be killed (kill -9, no memory left), programs in it may hang until drivefs unmount --force: %v", err)}
	}
	return finding{about: about, well: "ends what waits in a mount that is killed"}
}

// checkKilled comes before anything looks into a mount.
func checkKilled(ctx context.Context, _ io.Writer, c *config.Config) finding {
	found, err := killed.End(ctx, c.StateDir)
	f := finding{about: "killed mount", err: err}
	if found {
		f.note = "one was killed and hung: it was ended"
	}
	return f
}

func checkDeadMounts(ctx context.Context, _ io.Writer, _ *config.Config) finding {
	ours, err := mounts.Ours()
	for _, m := range ours {
		if _, serr := control.SocketOf(ctx, m.Mountpoint); errors.Is(serr, unix.ENOTCONN) {
			err = &running.DeadError{Mountpoint: m.Mountpoint}
		}
	}
	return finding{about: "dead mounts", well: "none", err: err}
}

// leastFree is what edits and the journal need to breathe.
const leastFree = 1 << 30

func checkDisk(_ context.Context, _ io.Writer, c *config.Config) finding {
	f := finding{about: "disk", well: fmt.Sprintf("room for %s of cache", show.Size(c.CacheDisk))}
	free, err := freeAt(c.StateDir)
	if err == nil && free < leastFree {
		err = exit.Fail(exit.Failed, "--state-dir %s has %s free and may need %s for what is not uploaded yet: make room, or choose another directory", c.StateDir, show.Size(free), show.Size(leastFree))
	}
	if err != nil {
		f.err = err
		return f
	}
	if free, err = freeAt(c.CacheDir); err != nil {
		f.err = err
		return f
	}
	// What the cache has already is its own; and it makes do with less.
	if has := used(c.CacheDir); free+has < c.CacheDisk {
		f.note = fmt.Sprintf("--cache-dir %s has %s and %s free: less than --cache-disk %s; the cache makes do with that", c.CacheDir, show.Size(has), show.Size(free), show.Size(c.CacheDisk))
	}
	return f
}

// freeAt is the room for this user on the disk that path will be on.
func freeAt(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(existing(path), &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// used is what is below a directory, in bytes on the disk.
func used(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && !d.IsDir() && unix.Lstat(path, &st) == nil {
			n += st.Blocks * 512
		}
		return nil // what cannot be looked at is not counted
	})
	return n
}

// existing is path, or the nearest directory above it that there is.
func existing(path string) string {
	for !exists(path) && path != "/" {
		path = filepath.Dir(path)
	}
	return path
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
