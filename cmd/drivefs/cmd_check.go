package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
)

func newCheck(p *program) *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Hold the mirror against itself and against the drive",
		Long: "Hold what is known of the drive against itself and against the drive. --repair mends what differs;\n" +
			"it asks the drive again and never changes it.",
		Example: "  drivefs check",
		Args:    takes(0),
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "mend what differs")
	return accountCommand(p, cmd, 0, func(ctx context.Context, c *config.Config, _ []string) error {
		return runCheck(ctx, p, c, repair)
	})
}

func runCheck(ctx context.Context, p *program, c *config.Config, repair bool) error {
	say := func(line string) { fmt.Fprintln(p.stdout, mask(line)) }
	req := control.CheckRequest{Repair: repair}
	var result control.CheckResult
	err := error(control.ErrNoMount)
	if m := running(c); m != nil {
		err = m.Call(ctx, verbCheck, req, &result, func(e control.Event) { say(e.Line) })
	}
	if errors.Is(err, control.ErrNoMount) {
		result, err = checkUnmounted(ctx, p, c, req, say)
	}
	switch {
	case err != nil:
		return err
	case result.Problems == 0:
		say("no differences")
		return nil
	case repair:
		say(count(result.Problems, "difference") + ", mended")
		return nil
	}
	return fail(exitFailed, "%s: drivefs check --repair mends them", count(result.Problems, "difference"))
}

// checkUnmounted opens the state directory as a mount would.
func checkUnmounted(ctx context.Context, p *program, c *config.Config, req control.CheckRequest, say func(string)) (r control.CheckResult, err error) {
	if _, err := os.Stat(c.StateDir); err != nil {
		return r, fail(exitFailed, "profile %q was never mounted here: %w", c.Profile, err)
	}
	held, err := lock.Take(c.StateDir, lock.Holder{PID: os.Getpid()})
	if err != nil {
		return r, fail(exitUsage, "%w", err)
	}
	defer func() { err = errors.Join(err, held.Release()) }()
	a, err := openAccount(c, p.verbLog(c), nil)
	if err != nil {
		return r, err
	}
	defer a.close()
	store, err := cache.Open(ctx, cache.Options{StateDir: c.StateDir, Remote: a.client, Logger: p.verbLog(c)})
	if err != nil {
		return r, storeError(c, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return checkStore(ctx, c, store, req, say)
}

func checkStore(ctx context.Context, c *config.Config, store *cache.Store, req control.CheckRequest, say func(string)) (control.CheckResult, error) {
	n, err := store.Check(ctx, req.Repair, say)
	return control.CheckResult{Problems: n}, remoteError(c, err)
}
