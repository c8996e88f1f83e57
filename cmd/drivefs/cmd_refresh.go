package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
)

func newRefresh(p *program) *cobra.Command {
	return mountVerb(p, "refresh [MOUNTPOINT]", "Ask for changes now; returns when they are visible", "  drivefs refresh ~/Drive", runRefresh)
}

func runRefresh(ctx context.Context, m *control.Client, _ string) error {
	return m.Call(ctx, verbRefresh, struct{}{}, nil, nil)
}
