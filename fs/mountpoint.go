package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Errors of mounting: what is wrong with the mount point.
var (
	ErrMissing  = errors.New("the mount point does not exist")
	ErrNotDir   = errors.New("the mount point is not a directory")
	ErrNotEmpty = errors.New("the mount point is not empty")
	ErrMounted  = errors.New("something is mounted there already")
	// ErrBelow: it lies inside a drivefs mount, where the first change from
	// elsewhere would detach it, or its cache would be stored in itself.
	ErrBelow = errors.New("the mount point is inside a drivefs mount")
	// ErrNotWritable: users other than root may mount only on a directory they
	// may write to.
	ErrNotWritable = errors.New("the mount point is not writable for you")
	// ErrNoFuse: the kernel's side is not there.
	ErrNoFuse = errors.New("FUSE is not available: there is no /dev/fuse")
	// ErrAllowOther: sharing a mount needs root, or user_allow_other in
	// /etc/fuse.conf.
	ErrAllowOther = errors.New("sharing with other users needs user_allow_other in /etc/fuse.conf")
)

// ErrBusy: somebody has a file or a directory open in the mount.
var ErrBusy = errors.New("the mount is in use")

// prepare makes sure that mountpoint is fit to be mounted on and gives its
// absolute path without symbolic links; full = it need not be empty. A drivefs mount there whose server
// died is detached.
func prepare(ctx context.Context, mountpoint string, full bool) (string, error) {
	path, err := resolve(mountpoint)
	if Dead(path) {
		if err := clearDead(ctx, path); err != nil {
			return "", err
		}
		err = nil
	}
	if err == nil {
		_, err = os.Stat(path)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("%s: %w", mountpoint, ErrMissing)
	case errors.Is(err, syscall.ENOTDIR):
		return "", fmt.Errorf("%s: %w", mountpoint, ErrNotDir)
	case err != nil:
		return "", fmt.Errorf("mount point: %w", err)
	}
	for _, m := range mountsAt(path) {
		return "", fmt.Errorf("%s: %w (%s, type %s)", path, ErrMounted, m.source, m.fstype)
	}
	if m, ok := mountOf(path); ok && m.fstype == "fuse."+fsType {
		return "", fmt.Errorf("%s: %w (%s)", path, ErrBelow, m.path)
	}
	switch empty, err := emptyDir(path); {
	case errors.Is(err, syscall.ENOTDIR):
		return "", fmt.Errorf("%s: %w", path, ErrNotDir)
	case err != nil:
		return "", fmt.Errorf("mount point: %w", err)
	case !empty && !full:
		return "", fmt.Errorf("%s: %w", path, ErrNotEmpty)
	}
	if os.Geteuid() != 0 && unix.Access(path, unix.W_OK) != nil {
		return "", fmt.Errorf("%s: %w", path, ErrNotWritable)
	}
	if _, err := os.Stat("/dev/fuse"); errors.Is(err, os.ErrNotExist) {
		return "", ErrNoFuse
	}
	return path, nil
}

// Dead reports whether path lies on a FUSE mount whose server died. It asks for
// the filesystem's space, which the kernel never answers from its caches: the
// attributes of a dead mount's root may live on in them for an hour.
func Dead(path string) bool {
	var st unix.Statfs_t
	return errors.Is(unix.Statfs(path, &st), syscall.ENOTCONN)
}

// resolve makes path absolute and follows symbolic links. A dead mount at the
// end of the path cannot be looked at, only its parent can.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	full, err := filepath.EvalSymlinks(path)
	if errors.Is(err, syscall.ENOTCONN) {
		above, aerr := filepath.EvalSymlinks(filepath.Dir(path))
		if aerr != nil {
			return "", aerr
		}
		return filepath.Join(above, filepath.Base(path)), err
	}
	return full, err
}

func emptyDir(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// clearDead detaches the mount of a drivefs that died at path. Somebody else's
// is left alone.
func clearDead(ctx context.Context, path string) error {
	ms := mountsAt(path)
	if len(ms) == 0 {
		return fmt.Errorf("mount point %s: %w", path, syscall.ENOTCONN)
	}
	for _, m := range ms {
		if m.fstype != "fuse."+fsType {
			return fmt.Errorf("%s: %w (%s, type %s, whose server died)", path, ErrMounted, m.source, m.fstype)
		}
	}
	for range ms {
		if err := detach(ctx, path); err != nil {
			return fmt.Errorf("detaching the dead mount on %s: %w", path, err)
		}
	}
	return nil
}

// unmount takes the mount at path away, unless it is in use (ErrBusy).
func unmount(ctx context.Context, path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	switch {
	case err == nil, errors.Is(err, unix.EINVAL):
		return nil // EINVAL: nothing is mounted there any more
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s: %w", path, ErrBusy)
	}
	err = fusermount(ctx, "-u", path)
	if err != nil && mounted(path) {
		// The helper tells the reason in words only; that one is by far the
		// likeliest for a mount of our own.
		return fmt.Errorf("%s: %w (%w)", path, ErrBusy, err)
	}
	return nil
}

// detach takes the mount at path out of the tree of paths, in use or not.
func detach(ctx context.Context, path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return fusermount(ctx, "-u", "-z", path)
}

// fusermount runs the helper that unmounts for users.
func fusermount(ctx context.Context, args ...string) error {
	bin, err := exec.LookPath("fusermount3")
	if err != nil {
		if bin, err = exec.LookPath("fusermount"); err != nil {
			return err
		}
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, bin, append(args[:len(args)-1:len(args)-1], "--", args[len(args)-1])...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(bin), err, strings.TrimSpace(said.String()))
	}
	return nil
}

// mountLine is one line of mountinfo.
type mountLine struct {
	dev    string // MAJOR:MINOR
	path   string
	fstype string
	source string
}

// mounts reads what is mounted in this process's namespace, oldest first. It
// touches no filesystem, so a dead one does not matter.
func mounts() []mountLine {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var ms []mountLine
	for line := range strings.Lines(string(b)) {
		if m, ok := parseMount(line); ok {
			ms = append(ms, m)
		}
	}
	return ms
}

// parseMount reads a line of mountinfo (proc(5)): id, parent, device, root,
// mount point, options, any number of tags, "-", type, source, options.
func parseMount(line string) (mountLine, bool) {
	left, right, ok := strings.Cut(line, " - ")
	if !ok {
		return mountLine{}, false
	}
	l, r := strings.Fields(left), strings.Fields(right)
	if len(l) < 5 || len(r) < 2 {
		return mountLine{}, false
	}
	return mountLine{dev: l[2], path: unescape(l[4]), fstype: r[0], source: unescape(r[1])}, true
}

// unescape undoes mountinfo's \NNN (octal) for blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// mountsAt is what is mounted exactly on path, the lowest first.
func mountsAt(path string) []mountLine {
	var at []mountLine
	for _, m := range mounts() {
		if m.path == path {
			at = append(at, m)
		}
	}
	return at
}

// minorAt is the minor number of the device of the drivefs on path, which is
// the number of its FUSE connection.
func minorAt(path string) (minor uint32, ok bool) {
	for _, m := range mountsAt(path) {
		if _, n, _ := strings.Cut(m.dev, ":"); m.fstype == "fuse."+fsType {
			v, err := strconv.ParseUint(n, 10, 32)
			minor, ok = uint32(v), err == nil
		}
	}
	return minor, ok
}

// mounted tells whether a drivefs is mounted on path.
func mounted(path string) bool {
	for _, m := range mountsAt(path) {
		if m.fstype == "fuse."+fsType {
			return true
		}
	}
	return false
}

// mountOf is the mount that path lies in.
func mountOf(path string) (in mountLine, ok bool) {
	for _, m := range mounts() {
		below := m.path == path || m.path == "/" || strings.HasPrefix(path, m.path+"/")
		if below && len(m.path) >= len(in.path) {
			in, ok = m, true
		}
	}
	return in, ok
}

// stack is the stack of the goroutine that panicked.
func stack() string { return string(debug.Stack()) }
