package mounts

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Type is the filesystem type of our mounts in /proc.
const Type = "fuse.drivefs"

// Mount is one line of /proc/self/mountinfo.
type Mount struct {
	Mountpoint, FSType, Source string
	Major, Minor               uint32 // device number; unique to one FUSE mount
	UID                        int    // who mounted it, of a FUSE mount; -1 = not told
}

// List is every mount this process sees, in the kernel's order: of several on
// one mountpoint the last is on top.
func List() ([]Mount, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	return convert(infos), nil
}

func convert(infos []*mountinfo.Info) []Mount {
	all := make([]Mount, len(infos))
	for i, info := range infos {
		all[i] = Mount{
			Mountpoint: info.Mountpoint, FSType: info.FSType, Source: info.Source,
			Major: uint32(info.Major), Minor: uint32(info.Minor), UID: userID(info.VFSOptions),
		}
	}
	return all
}

// userID reads user_id=N of a FUSE mount's options.
func userID(options string) int {
	for o := range strings.SplitSeq(options, ",") {
		if text, ok := strings.CutPrefix(o, "user_id="); ok {
			if uid, err := strconv.Atoi(text); err == nil {
				return uid
			}
		}
	}
	return -1
}

// At is the topmost mount on exactly this path.
func At(path string) (m Mount, ok bool, err error) {
	all, err := List()
	for _, l := range all {
		if l.Mountpoint == path {
			m, ok = l, true
		}
	}
	return m, ok, err
}

// Of is the mount of ours that path lies in.
func Of(path string) (m Mount, ok bool, err error) {
	all, err := List()
	for _, l := range all {
		if Below(path, l.Mountpoint) && (!ok || len(l.Mountpoint) >= len(m.Mountpoint)) {
			m, ok = l, true
		}
	}
	return m, ok && m.FSType == Type, err
}

// Ours is every mount of drivefs.
func Ours() ([]Mount, error) {
	all, err := List()
	var ours []Mount
	for _, m := range all {
		if m.FSType == Type {
			ours = append(ours, m)
		}
	}
	return ours, err
}

// Below reports whether the absolute clean path is dir or lies in it.
func Below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// Resolve makes a path comparable with the kernel's: absolute, clean, without
// symbolic links in what leads to its last element, and in that unless it is a
// mountpoint of ours (which may be dead, and then cannot be looked at).
func Resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, ok, err := At(path); err == nil && ok {
		return path, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return path, err
	}
	path = filepath.Join(dir, filepath.Base(path))
	if _, ok, err := At(path); err == nil && ok {
		return path, nil
	}
	return filepath.EvalSymlinks(path)
}

// Detach takes a mount from its path at once, busy or not; programs that have
// files open keep them as long as its process lives.
func Detach(mountpoint string) error {
	err := unix.Unmount(mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if !errors.Is(err, unix.EPERM) {
		return wrap(mountpoint, err)
	}
	// An ordinary user: the set-uid helper knows who mounted it.
	for _, helper := range []string{"fusermount3", "fusermount"} {
		var path string
		if path, err = exec.LookPath(helper); err == nil {
			var out []byte
			if out, err = exec.Command(path, "-u", "-z", "--", mountpoint).CombinedOutput(); err != nil {
				err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
			}
			break
		}
	}
	return wrap(mountpoint, err)
}

// NoExec lets nobody run programs from a mount; only root may ask for it. What
// our mounts have already, nosuid and nodev, stays; so does read-only.
func NoExec(mountpoint string, readOnly bool) error {
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount("", mountpoint, "", flags, ""); err != nil {
		return fmt.Errorf("noexec on %s: %w", mountpoint, err)
	}
	return nil
}

func wrap(mountpoint string, err error) error {
	if err != nil {
		return fmt.Errorf("unmounting %s: %w", mountpoint, err)
	}
	return nil
}
