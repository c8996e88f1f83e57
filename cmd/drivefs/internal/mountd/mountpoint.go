package mountd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/fs"
)

// checkMountpoint refuses what fs.Mount would refuse, before anything else is
// opened, and gives the mountpoint as the kernel will name it. A dead mount
// of ours passes: fs.Mount clears it.
func checkMountpoint(c *config.Config, mountpoint string) (string, error) {
	path, err := mounts.Resolve(mountpoint)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", exit.Fail(exit.Usage, "%s: %w: make it first with mkdir", mountpoint, fs.ErrMissing)
	case errors.Is(err, syscall.ENOTDIR):
		return "", exit.Fail(exit.Usage, "%s: %w", mountpoint, fs.ErrNotDir)
	case err != nil:
		return "", exit.Fail(exit.Usage, "%s: %w", mountpoint, err)
	}
	if at, ok, err := mounts.At(path); err != nil {
		return "", err
	} else if ok {
		if at.FSType == mounts.Type && fs.Dead(path) {
			return path, checkPlaces(c, path)
		}
		return "", exit.Fail(exit.Usage, "%s: %w (%s, type %s): unmount it first, or choose another directory", path, fs.ErrMounted, at.Source, at.FSType)
	}
	if in, ok, err := mounts.Of(path); err != nil {
		return "", err
	} else if ok {
		return "", exit.Fail(exit.Usage, "%s: %w (%s): choose a directory outside of it", path, fs.ErrBelow, in.Mountpoint)
	}
	names, err := os.ReadDir(path)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return "", exit.Fail(exit.Usage, "%s: %w", path, fs.ErrNotDir)
	case err != nil:
		return "", exit.Fail(exit.Usage, "mountpoint: %w", err)
	case len(names) > 0 && !c.AllowNonEmpty:
		return "", notEmpty(path, names)
	}
	return path, checkPlaces(c, path)
}

// notEmpty names what lies there. To a service manager it is no final error: who
// put it there may take it away.
func notEmpty(path string, names []os.DirEntry) error {
	const most = 5
	list := make([]string, 0, most)
	for _, n := range names[:min(most, len(names))] {
		list = append(list, strconv.Quote(n.Name()))
	}
	what := strings.Join(list, ", ")
	if n := len(names) - most; n > 0 {
		what += fmt.Sprintf(" and %d more", n)
	}
	code := exit.Usage
	if os.Getenv("NOTIFY_SOCKET") != "" {
		code = exit.Failed
	}
	return exit.Fail(code, "%s: %w: %s: move that elsewhere, choose an empty directory, or mount over it with --allow-non-empty", path, fs.ErrNotEmpty, what)
}

// checkPlaces refuses to keep in the mount what the mount is made of.
func checkPlaces(c *config.Config, mountpoint string) error {
	for _, p := range []struct{ flag, path string }{
		{"--state-dir", c.StateDir}, {"--cache-dir", c.CacheDir}, {"--token-file", c.TokenFile}, {"--log-file", c.LogFile},
	} {
		if p.path == "" {
			continue
		}
		if mounts.Below(realPath(p.path), mountpoint) {
			return exit.Fail(exit.Usage, "%s %s lies below the mountpoint %s: choose a place outside of it", p.flag, p.path, mountpoint)
		}
	}
	return nil
}

// realPath follows the symbolic links in as much of path as there is.
func realPath(path string) string {
	rest := ""
	for dir := path; ; dir = filepath.Dir(dir) {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(real, rest)
		}
		if dir == filepath.Dir(dir) {
			return path
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}

// unfit is what is wrong with a mountpoint, rather than with the machine.
var unfit = []error{fs.ErrMissing, fs.ErrNotDir, fs.ErrNotEmpty, fs.ErrMounted, fs.ErrBelow, fs.ErrNotWritable}

// mountError gives an error of fs.Mount its exit code and its remedy.
func mountError(mountpoint string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNoFuse):
		return exit.Fail(exit.Failed, "%s: %w: load the fuse module, or give the container --device /dev/fuse", mountpoint, err)
	case errors.Is(err, fs.ErrAllowOther):
		return exit.Fail(exit.Usage, "%s: %w: add that line, or leave out --allow-other and --allow-root", mountpoint, err)
	case slices.ContainsFunc(unfit, func(known error) bool { return errors.Is(err, known) }):
		return exit.Fail(exit.Usage, "%w", err)
	}
	if _, lerr := exec.LookPath("fusermount3"); lerr != nil && os.Geteuid() != 0 {
		return fmt.Errorf("%s: %w: fusermount3 is in none of PATH=%s: install fuse3, or add its directory", mountpoint, err, os.Getenv("PATH"))
	}
	return fmt.Errorf("%s: %w: is /dev/fuse open to this user?", mountpoint, err)
}
