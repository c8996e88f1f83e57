package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/drive/redact"
)

func newFlush(p *program) *cobra.Command {
	var closed, asJSON bool
	cmd := &cobra.Command{
		Use:     "flush [flags] [MOUNTPOINT]",
		Short:   "Upload everything that is pending; returns when it is on the drive",
		Example: "  drivefs flush ~/Drive && echo safe",
	}
	cmd.Long = "Start everything that is pending at once, also what is settling or was to be tried again later, and return when it\n" +
		"is on the drive. What fails is listed, and so are files that a program has written and has open still: exit code 6. What programs had open when drivefs\n" +
		"was killed goes up too."
	mountVerb(p, cmd, 0, func(ctx context.Context, _ *config.Config, m *control.Client, _ string) error {
		return runFlush(ctx, p, m, closed, asJSON)
	})
	cmd.Flags().BoolVar(&closed, "closed", false, "leave out what programs have open still")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runFlush(ctx context.Context, p *program, m *control.Client, closed, asJSON bool) error {
	var r control.FlushResult
	meter := show.NewMeter(p.stderr)
	err := m.Call(ctx, control.VerbFlush, none{}, &r, meter.Event)
	meter.End()
	if err != nil {
		return err
	}
	if closed {
		r.Open = []string{}
	}
	if asJSON {
		if err := json.NewEncoder(p.stdout).Encode(r); err != nil {
			return err
		}
	}
	if len(r.Failed)+len(r.Open) == 0 {
		return nil
	}
	show.Failures(p.stderr, r.Failed)
	for _, path := range r.Open {
		fmt.Fprintf(p.stderr, "%s: open for writing still\n", redact.Printable(path))
	}
	if len(r.Failed) == 0 {
		return fail(exitPending, "%s not closed yet: it goes up when it is; --closed leaves that out", show.Count(len(r.Open), "file"))
	}
	return fail(exitPending, "%s did not reach the drive; kept here and tried again", show.Count(len(r.Failed), "change"))
}
