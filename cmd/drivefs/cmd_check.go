package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mountd"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/running"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
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
	var asJSON bool
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&repair, "repair", false, "mend what differs")
	return accountCommand(p, cmd, 0, func(ctx context.Context, c *config.Config, _ []string) error {
		return runCheck(ctx, p, c, repair, asJSON)
	})
}

func runCheck(ctx context.Context, p *program, c *config.Config, repair, asJSON bool) error {
	lines := []string{}
	say := func(line string) {
		if lines = append(lines, exit.Line(line)); !asJSON {
			fmt.Fprintln(p.stdout, exit.Line(line))
		}
	}
	req := control.CheckRequest{Repair: repair}
	var result control.CheckResult
	err := error(control.ErrNoMount)
	if m := running.Of(c); m != nil {
		err = m.Call(ctx, control.VerbCheck, req, &result, func(e control.Event) { say(e.Line) })
	}
	if errors.Is(err, control.ErrNoMount) {
		result, err = mountd.Check(ctx, p.stderr, c, req, say)
	}
	switch {
	case err != nil:
		return err
	case asJSON:
		if err := json.NewEncoder(p.stdout).Encode(map[string]any{"differences": lines, "repaired": repair && len(lines) > 0}); err != nil {
			return err
		}
		if result.Problems == 0 || repair {
			return nil
		}
	case result.Problems == 0:
		say("no differences")
		return nil
	case repair:
		say(show.Count(result.Problems, "difference") + ", mended")
		return nil
	}
	return fail(exitFailed, "%s: drivefs check --repair mends them", show.Count(result.Problems, "difference"))
}
