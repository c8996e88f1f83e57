package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
)

func newFlush(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "flush [MOUNTPOINT]",
		Short:   "Upload everything that is pending; returns when it is on the drive",
		Example: "  drivefs flush ~/Drive && echo safe",
	}
	return mountVerb(p, cmd, 0, func(ctx context.Context, _ *config.Config, m *control.Client, _ string) error {
		return runFlush(ctx, p, m)
	})
}

func runFlush(ctx context.Context, p *program, m *control.Client) error {
	var r control.FlushResult
	meter := show.NewMeter(p.stderr)
	err := m.Call(ctx, control.VerbFlush, none{}, &r, meter.Event)
	meter.End()
	if err != nil {
		return err
	}
	if len(r.Failed) == 0 {
		return nil
	}
	show.Failures(p.stderr, r.Failed)
	return fail(exitPending, "%s did not reach the drive; kept here and tried again", show.Count(len(r.Failed), "change"))
}
