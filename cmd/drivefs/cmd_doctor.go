package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/doctor"
)

func newDoctor(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Is this machine ready? /dev/fuse, fusermount3, token, clock, network, disk, journal",
		Long: "Check in order what a mount needs, and say the remedy for what is missing. The exit code is that of\n" +
			"the worst finding. On the drive nothing is changed.",
		Example: "  drivefs doctor",
		Args:    takes(0),
	}
	return accountCommand(p, cmd, config.Mount, func(ctx context.Context, c *config.Config, _ []string) error {
		return doctor.Examine(ctx, p.stderr, c, func(f doctor.Finding) {
			fmt.Fprintf(p.stdout, "%-5s %-12s %s\n", f.Result, f.About, f.Text)
		})
	})
}
