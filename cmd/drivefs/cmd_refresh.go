package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
)

func newRefresh(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "refresh [MOUNTPOINT]",
		Short:   "Ask for changes now; returns when they are visible",
		Example: "  drivefs refresh ~/Drive",
	}
	return mountVerb(p, cmd, 0, func(ctx context.Context, _ *config.Config, m *control.Client, _ string) error {
		return m.Call(ctx, control.VerbRefresh, none{}, nil, nil)
	})
}
