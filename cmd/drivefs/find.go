package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
)

// controlAttr names the control socket of a mount, on its root.
const controlAttr = "user.drivefs.control"

// patience is how long a mount may take to name its socket. It answers from
// memory; one that does not is stopped or stuck.
const patience = 5 * time.Second

// mountVerb makes a verb that is told to one running mount.
func mountVerb(p *program, use, short, example string, run func(ctx context.Context, m *control.Client, name string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: takes(0, "MOUNTPOINT")}
	flags := config.Register(cmd.Flags(), config.Which)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := flags.Load(p.env)
		if err != nil {
			return err
		}
		m, name, err := find(c, first(args))
		if err != nil {
			return fmt.Errorf("%s: %w", cmd.Name(), err)
		}
		if err := run(cmd.Context(), m, name); err != nil {
			return fmt.Errorf("%s %s: %w", cmd.Name(), name, err)
		}
		return nil
	}
	return cmd
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// find is the mount on mountpoint, whichever profile it has; for "" the
// profile's only mount. name is how to speak of it.
func find(c *config.Config, mountpoint string) (m *control.Client, name string, err error) {
	if mountpoint == "" {
		return findProfile(c)
	}
	mountpoint, err = mounts.Resolve(mountpoint)
	if err != nil {
		return nil, "", fail(exitNotMounted, "%w", err)
	}
	at, ok, err := mounts.At(mountpoint)
	switch {
	case err != nil:
		return nil, "", err
	case !ok || at.FSType != mounts.Type:
		return nil, "", fail(exitNotMounted, "%s: no drive is mounted there", mountpoint)
	}
	m, err = ask(c, mountpoint)
	return m, mountpoint, err
}

// ask lets the mount name its socket.
func ask(c *config.Config, mountpoint string) (*control.Client, error) {
	path, err := socketOf(context.Background(), mountpoint)
	switch {
	case err == nil:
		return control.NewClient(path), nil
	case errors.Is(err, unix.ENOTCONN):
		return nil, &deadError{mountpoint}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, fail(exitFailed, "%s: mounted by another user, who alone may do this", mountpoint)
	}
	// Mounts of this state directory can be found without their help.
	path = control.Path(c.Places.Runtime, c.StateDir, mountpoint)
	if _, serr := os.Lstat(path); serr == nil {
		return control.NewClient(path), nil
	}
	return nil, fmt.Errorf("asking the mount on %s for its control socket: %w", mountpoint, err)
}

// deadError: the process of a mount is gone, the mount is not.
type deadError struct{ mountpoint string }

func (e *deadError) Error() string {
	return fmt.Sprintf("%s: the drivefs that mounted it is gone: clear it with drivefs unmount %s", e.mountpoint, e.mountpoint)
}

func (e *deadError) Unwrap() error { return control.ErrNoMount }

func socketOf(ctx context.Context, mountpoint string) (string, error) {
	type answer struct {
		path string
		err  error
	}
	got := make(chan answer, 1)
	go func() { // a stuck mount keeps this one until the process ends
		buf := make([]byte, 4096)
		n, err := unix.Getxattr(mountpoint, controlAttr, buf)
		if err != nil {
			n = 0
		}
		got <- answer{strings.TrimRight(string(buf[:n]), "\x00"), err}
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	select {
	case a := <-got:
		return a.path, a.err
	case <-ctx.Done():
		return "", fmt.Errorf("no answer within %v", time.Since(began).Round(time.Second/10))
	}
}

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
			path, err := socketOf(context.Background(), at.Mountpoint)
			if err != nil {
				continue // another user's, or dead
			}
			client := control.NewClient(path)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			var s control.Status
			err = client.Call(ctx, verbStatus, struct{}{}, &s, nil)
			cancel()
			if err == nil && s.Profile == c.Profile && s.Config == c.File {
				found, m = append(found, at.Mountpoint), client
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, "", fail(exitNotMounted, "profile %q is not mounted: drivefs mount --profile %s MOUNTPOINT", c.Profile, c.Profile)
	case 1:
		return m, found[0], nil
	}
	return nil, "", fail(exitUsage, "profile %q is mounted several times: name one of %s", c.Profile, strings.Join(found, ", "))
}

// running is the mount that has the profile's state directory, nil when none has.
func running(c *config.Config) *control.Client {
	if h, ok := lock.Find(c.StateDir); ok && h.Control != "" {
		return control.NewClient(h.Control)
	}
	return nil
}

// The verbs of the control socket.
const (
	verbStatus  = "status"
	verbRefresh = "refresh"
	verbFlush   = "flush"
	verbLimit   = "limit"
	verbUnmount = "unmount"
	verbRename  = "rename"
	verbAbout   = "about"
	verbTrash   = "trash-list"
	verbRestore = "trash-restore"
	verbCheck   = "check"
)
