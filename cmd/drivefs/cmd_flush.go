package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
)

func newFlush(p *program) *cobra.Command {
	return mountVerb(p, "flush [MOUNTPOINT]", "Upload everything that is pending; returns when it is on the drive", "  drivefs flush ~/Drive && echo safe",
		func(ctx context.Context, m *control.Client, _ string) error { return runFlush(ctx, p, m) })
}

func runFlush(ctx context.Context, p *program, m *control.Client) error {
	var r control.FlushResult
	meter := newMeter(p.stderr)
	err := m.Call(ctx, verbFlush, struct{}{}, &r, meter.event)
	meter.end()
	if err != nil {
		return err
	}
	if len(r.Failed) == 0 {
		return nil
	}
	listFailures(p.stderr, r.Failed)
	return fail(exitPending, "%s did not reach the drive; kept here and tried again", count(len(r.Failed), "change"))
}

// event takes what a mount sends while it uploads.
func (m *meter) event(e control.Event) {
	if e.Progress != nil {
		m.update(*e.Progress)
	}
}

func listFailures(w io.Writer, failed []control.Failure) {
	now := time.Now()
	for _, f := range failed {
		fmt.Fprintf(w, "%s: %s (%s)\n", f.Path, mask(f.Error), again(f.RetryAt, now))
	}
}
