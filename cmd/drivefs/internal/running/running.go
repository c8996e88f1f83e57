// Package running answers one question: which running mount is meant, and how is
// it spoken to?
package running

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
)

// Find is the mount that path lies in, or that was mounted there and still
// uploads, whichever profile it has; for "" the profile's only mount. name is how
// to speak of it.
func Find(c *config.Config, path string) (m *control.Client, name string, err error) {
	if path == "" {
		return findProfile(c)
	}
	mountpoint, err := resolve(path)
	if err != nil {
		return nil, "", exit.Fail(exit.NotMounted, "%w", err)
	}
	at, ok, err := mounts.Of(mountpoint)
	if err != nil {
		return nil, "", err
	}
	if ok {
		m, err = Ask(c, at)
		return m, at.Mountpoint, err
	}
	for _, h := range Held(c) {
		if h.Mountpoint == mountpoint {
			return control.NewClient(h.Control), mountpoint, nil
		}
	}
	return nil, "", exit.Fail(exit.NotMounted, "%s: no drive is mounted there", mountpoint)
}

// Mount is one mount, or what is left of one.
type Mount struct {
	Mountpoint string
	Client     *control.Client // nil with Err
	Err        error           // why it cannot be asked
}

// All is every mount that this user may ask, and every process that uploads
// still after its mount was taken away. Other users' mounts are left out.
func All(c *config.Config) (all []Mount, err error) {
	ours, err := mounts.Ours()
	if err != nil {
		return nil, err
	}
	for _, at := range ours {
		m, err := Ask(c, at)
		if err != nil && at.UID != os.Geteuid() {
			continue
		}
		all = append(all, Mount{at.Mountpoint, m, err})
	}
	for _, h := range Held(c) {
		if !slices.ContainsFunc(all, func(m Mount) bool { return m.Mountpoint == h.Mountpoint }) {
			all = append(all, Mount{Mountpoint: h.Mountpoint, Client: control.NewClient(h.Control)})
		}
	}
	return all, nil
}

// resolve is mounts.Resolve, for paths in a mount too, where nothing needs to be
// and where a dead mount cannot be looked at.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, ok, err := mounts.Of(abs); ok || err != nil {
		return abs, err
	}
	if full, err := mounts.Resolve(path); err == nil {
		return full, nil
	}
	full, err := mounts.Resolve(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	return filepath.Join(full, filepath.Base(abs)), nil
}

// Held is every process that has one of the user's state directories, also
// those whose mount is gone and that only upload still.
func Held(c *config.Config) (held []lock.Holder) {
	dirs, _ := filepath.Glob(filepath.Join(c.Places.State, "*"))
	dirs = append(dirs, filepath.Join(c.Places.State, config.DemoDir))
	if !slices.Contains(dirs, c.StateDir) {
		dirs = append(dirs, c.StateDir)
	}
	for _, dir := range dirs {
		if h, ok := lock.Find(dir); ok && h.Control != "" {
			held = append(held, h)
		}
	}
	return held
}

// Ask lets the mount name its socket.
func Ask(c *config.Config, at mounts.Mount) (*control.Client, error) {
	path, err := control.SocketOf(context.Background(), at.Mountpoint)
	switch {
	case err == nil:
		return control.NewClientOf(path, at.UID), nil
	case errors.Is(err, unix.ENOTCONN):
		return nil, &DeadError{at.Mountpoint}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, exit.Fail(exit.Failed, "%s: mounted by another user, who alone may do this", at.Mountpoint)
	}
	// Mounts of this state directory can be found without their help.
	path = control.Path(c.Places.Runtime, c.StateDir, at.Mountpoint)
	if _, serr := os.Lstat(path); serr == nil {
		return control.NewClient(path), nil
	}
	return nil, fmt.Errorf("asking the mount on %s for its control socket: %w", at.Mountpoint, err)
}

// DeadError: the process of a mount is gone, the mount is not.
type DeadError struct{ Mountpoint string }

func (e *DeadError) Error() string {
	return fmt.Sprintf("%s: the drivefs that mounted it is gone: clear it with drivefs unmount %s", e.Mountpoint, e.Mountpoint)
}

func (e *DeadError) Unwrap() error { return control.ErrNoMount }

// findProfile looks into the profile's state directory, and then at every
// mount, since a mount may have been given another one. Profiles of one name
// in two configuration files are two profiles.
func findProfile(c *config.Config) (*control.Client, string, error) {
	if h, ok := lock.Find(c.StateDir); ok && h.Control != "" {
		return control.NewClient(h.Control), h.Mountpoint, nil
	}
	var found []string
	var m *control.Client
	if !c.Given("state-dir") {
		ours, err := mounts.Ours()
		if err != nil {
			return nil, "", err
		}
		for _, at := range ours {
			path, err := control.SocketOf(context.Background(), at.Mountpoint)
			if err != nil {
				continue // another user's, or dead
			}
			client := control.NewClientOf(path, at.UID)
			ctx, cancel := context.WithTimeout(context.Background(), control.Patience)
			var s control.Status
			err = client.Call(ctx, control.VerbStatus, struct{}{}, &s, nil)
			cancel()
			if err == nil && s.Profile == c.Profile && s.Config == c.File {
				found, m = append(found, at.Mountpoint), client
			}
		}
	}
	switch len(found) {
	case 0:
		if c.Profile == config.Demo && filepath.Base(c.StateDir) == config.DemoDir {
			return nil, "", exit.Fail(exit.NotMounted, "no demo runs: drivefs demo")
		}
		return nil, "", exit.Fail(exit.NotMounted, "profile %q is not mounted: drivefs mount --profile %s MOUNTPOINT", c.Profile, c.Profile)
	case 1:
		return m, found[0], nil
	}
	return nil, "", exit.Fail(exit.Usage, "profile %q is mounted several times: name one of %s", c.Profile, strings.Join(found, ", "))
}

// Of is the mount that has the profile's state directory, nil when none has.
func Of(c *config.Config) *control.Client {
	if h, ok := lock.Find(c.StateDir); ok && h.Control != "" {
		return control.NewClient(h.Control)
	}
	return nil
}
