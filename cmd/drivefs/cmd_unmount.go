package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/killed"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/running"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
)

func newUnmount(p *program) *cobra.Command {
	var req control.UnmountRequest
	var force bool
	cmd := &cobra.Command{
		Use:     "unmount [flags] [MOUNTPOINT]",
		Aliases: []string{"umount"},
		Short:   "Wait for pending uploads, then unmount",
		Long: "Wait for pending uploads, then unmount. Ctrl-C while waiting leaves the drive mounted.\n" +
			"What is not uploaded yet is never lost: it goes on at the next mount.",
		Example: "  drivefs unmount ~/Drive",
		Args:    takes(0, "MOUNTPOINT"),
	}
	verb(p, cmd, config.Which, func(ctx context.Context, c *config.Config, args []string) error {
		if req.NoWait && cmd.Flags().Changed("timeout") {
			return fail(exitUsage, "--no-wait and --timeout exclude each other")
		}
		if req.Timeout < 0 || cmd.Flags().Changed("timeout") && req.Timeout == 0 {
			return fail(exitUsage, "--timeout: expected a duration above 0; --no-wait does not wait at all")
		}
		if force {
			if req != (control.UnmountRequest{}) {
				return fail(exitUsage, "--force asks for nothing and waits for nothing: it goes with no other flag")
			}
			return killed.Force(args[0])
		}
		if _, err := killed.End(ctx, c.StateDir); err != nil {
			return err
		}
		if len(args) == 0 && !c.Given("profile") && !c.Given("state-dir") {
			return fail(exitUsage, "needs a MOUNTPOINT, or --profile: see drivefs unmount --help")
		}
		return runUnmount(ctx, p, c, req, first(args))
	})
	cmd.Flags().BoolVar(&req.NoWait, "no-wait", false, "leave pending uploads for the next mount (exit code 6 if there are any)")
	cmd.Flags().DurationVar(&req.Timeout, "timeout", 0, "wait so long at most, then do as --no-wait")
	cmd.Flags().BoolVar(&req.Lazy, "lazy", false, "unmount although programs use it; what they have open goes on")
	cmd.Flags().BoolVar(&force, "force", false, "end a mount that hangs: what waits in it fails; what is not uploaded is left for the next mount")
	return cmd
}

func runUnmount(ctx context.Context, p *program, c *config.Config, req control.UnmountRequest, mountpoint string) error {
	m, name, err := running.Find(c, mountpoint)
	if dead := (*running.DeadError)(nil); errors.As(err, &dead) {
		return detach(dead.Mountpoint)
	}
	if err != nil {
		return err
	}
	// Called from inside the mount, it would itself be one who uses it.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	var r control.UnmountResult
	meter := show.NewMeter(p.stderr)
	err = m.Call(ctx, control.VerbUnmount, req, &r, meter.Event)
	meter.End()
	if errors.Is(err, control.ErrNoMount) { // it died between two questions
		return detach(name)
	}
	if err != nil {
		return err
	}
	if r.Lock != "" { // else lazily: its process lives as long as something is open
		if err := waitGone(ctx, r.Lock); err != nil {
			return err
		}
	}
	if r.Pending == 0 {
		return nil
	}
	show.Failures(p.stderr, r.Failed)
	why := ""
	if r.Why != "" {
		why = " (" + r.Why + ")"
	}
	return fail(exitPending, "%s: unmounted with %s pending%s; kept here, uploaded at the next mount", name, show.Count(r.Pending, "change"), why)
}

// waitGone waits until the mount's process is done with its state directory,
// so that a mount that follows is not refused.
func waitGone(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := lock.WaitFree(ctx, path); err != nil {
		return fmt.Errorf("unmounted, but its process does not end: %w", err)
	}
	return nil
}

// detach clears a mount whose process is gone.
func detach(mountpoint string) error {
	at, ok, err := mounts.At(mountpoint)
	if err != nil || !ok || at.FSType != mounts.Type {
		return err
	}
	return mounts.Detach(mountpoint)
}
