package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
)

func newDoctor(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Is this machine ready? /dev/fuse, fusermount3, token, clock, network, disk",
		Long: "Check in order what a mount needs, and say the remedy for what is missing. The exit code is that of\n" +
			"the worst finding.",
		Example: "  drivefs doctor",
		Args:    takes(0),
	}
	return accountCommand(p, cmd, config.Mount, func(ctx context.Context, c *config.Config, _ []string) error {
		return runDoctor(ctx, p, c)
	})
}

// finding is what one check found: what is well, or an error that says what
// to do, with its exit code.
type finding struct {
	about, well string
	err         error
}

func runDoctor(ctx context.Context, p *program, c *config.Config) error {
	var worst error
	for _, check := range []func(context.Context, *program, *config.Config) finding{
		checkFuse, checkHelper, checkAllowOther, checkDeadMounts, checkState, checkDisk, checkClock, checkAccount,
	} {
		f := check(ctx, p, c)
		switch {
		case f.err != nil:
			fmt.Fprintf(p.stdout, "FAIL  %-14s %s\n", f.about, message(f.err))
			if worst == nil || exitCode(f.err) > exitCode(worst) {
				worst = fail(exitCode(f.err), "%s: %w", f.about, f.err)
			}
		case f.well != "":
			fmt.Fprintf(p.stdout, "ok    %-14s %s\n", f.about, f.well)
		}
	}
	return worst
}

func checkFuse(context.Context, *program, *config.Config) finding {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = fail(exitFailed, "there is no /dev/fuse: modprobe fuse, or give the container --device /dev/fuse")
	case errors.Is(err, os.ErrPermission):
		err = fail(exitFailed, "/dev/fuse is closed to this user: chmod 666 /dev/fuse as root")
	case err == nil:
		err = f.Close()
	}
	return finding{"/dev/fuse", "usable", err}
}

func checkHelper(context.Context, *program, *config.Config) finding {
	path, err := exec.LookPath("fusermount3")
	if err != nil && os.Geteuid() == 0 {
		return finding{about: "fusermount3"} // root mounts without it
	}
	if err != nil {
		err = fail(exitFailed, "not found: apt-get install fuse3")
	}
	return finding{"fusermount3", path, err}
}

func checkAllowOther(_ context.Context, _ *program, c *config.Config) finding {
	const file = "/etc/fuse.conf"
	if !c.AllowOther && !c.AllowRoot || os.Geteuid() == 0 {
		return finding{about: "sharing"}
	}
	text, err := os.ReadFile(file)
	for line := range bytes.Lines(text) {
		if string(bytes.TrimSpace(line)) == "user_allow_other" {
			return finding{about: "sharing", well: file + " permits it"}
		}
	}
	return finding{"sharing", "", fail(exitUsage, "--allow-other and --allow-root need the line user_allow_other in %s: add it as root (%w)", file, err)}
}

func checkDeadMounts(ctx context.Context, _ *program, _ *config.Config) finding {
	ours, err := mounts.Ours()
	for _, m := range ours {
		if _, serr := socketOf(ctx, m.Mountpoint); errors.Is(serr, unix.ENOTCONN) {
			err = &deadError{m.Mountpoint}
		}
	}
	return finding{"dead mounts", "none", err}
}

func checkState(_ context.Context, _ *program, c *config.Config) finding {
	well := c.StateDir + ", not mounted"
	if h, held := lock.Find(c.StateDir); held {
		well = fmt.Sprintf("%s, mounted on %s (process %d)", c.StateDir, h.Mountpoint, h.PID)
	}
	st, err := os.Stat(c.StateDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return finding{"state", c.StateDir + ", made by the first mount", nil}
	case err == nil && st.Mode().Perm()&0o077 != 0:
		err = fail(exitFailed, "%s is open to others: chmod 700 %s", c.StateDir, shellQuote(c.StateDir))
	}
	return finding{"state", well, err}
}

// leastFree is what edits and the journal need to breathe.
const leastFree = 1 << 30

func checkDisk(_ context.Context, _ *program, c *config.Config) finding {
	for _, d := range []struct {
		flag, path string
		need       int64
	}{{"--state-dir", c.StateDir, leastFree}, {"--cache-dir", c.CacheDir, c.CacheDisk}} {
		var st unix.Statfs_t
		if err := unix.Statfs(existing(d.path), &st); err != nil {
			return finding{"disk", "", fmt.Errorf("%s: %w", d.path, err)}
		}
		if free := int64(st.Bavail) * st.Bsize; free < d.need {
			return finding{"disk", "", fail(exitFailed, "%s %s has %s free and may need %s: make room, choose another directory, or lower --cache-disk", d.flag, d.path, size(free), size(d.need))}
		}
	}
	return finding{"disk", fmt.Sprintf("room for %s of cache", size(c.CacheDisk)), nil}
}

// existing is path, or the nearest directory above it that there is.
func existing(path string) string {
	for !exists(path) && path != "/" {
		path = filepath.Dir(path)
	}
	return path
}

// mostSkew of the clock; beyond it tokens look expired, or too young.
const mostSkew = 2 * time.Minute

func checkClock(ctx context.Context, _ *program, c *config.Config) finding {
	f := finding{about: "clock"}
	ctx, cancel := context.WithTimeout(ctx, direct)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, c.Endpoint, nil)
	if err != nil {
		f.err = err
		return f
	}
	began := time.Now()
	stay := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := stay.Do(req)
	if err != nil {
		f.about = "network"
		f.err = fail(exitUnreachable, "%s cannot be reached: check the network and --endpoint: %w", c.Endpoint, err)
		return f
	}
	resp.Body.Close()
	took := time.Since(began)
	theirs, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return f // it does not say
	}
	if skew := time.Since(theirs).Abs(); skew > mostSkew {
		f.err = fail(exitFailed, "this machine's clock is %v off: switch time synchronisation on", skew.Round(time.Second))
		return f
	}
	f.well = fmt.Sprintf("right; %s answers in %v", c.Endpoint, took.Round(time.Millisecond))
	return f
}

func checkAccount(ctx context.Context, p *program, c *config.Config) finding {
	f := finding{about: "account"}
	a, err := openAccount(c, p.verbLog(c))
	if err != nil {
		f.err = err
		return f
	}
	defer a.close()
	if st, err := os.Stat(c.TokenFile); err == nil && st.Mode().Perm()&0o077 != 0 {
		f.err = fail(exitFailed, "%s is open to others: chmod 600 %s", c.TokenFile, shellQuote(c.TokenFile))
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, direct)
	defer cancel()
	about, err := askAbout(ctx, a.client, none{})
	if err != nil {
		f.err = remoteError(c, err)
		return f
	}
	f.well = fmt.Sprintf("%s, %s free", about.Status, size(about.Quota.Available))
	return f
}
