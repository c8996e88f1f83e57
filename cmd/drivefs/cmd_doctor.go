package main

import (
	"context"
	"encoding/json"
	"errors"
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
	var asJSON bool
	defer jsonFlag(cmd, &asJSON)
	return accountCommand(p, cmd, config.Mount, func(ctx context.Context, c *config.Config, _ []string) error {
		if asJSON {
			found := []doctor.Finding{}
			err := doctor.Examine(ctx, p.stderr, c, func(f doctor.Finding) { found = append(found, f) })
			return errors.Join(json.NewEncoder(p.stdout).Encode(map[string]any{"findings": found}), err)
		}
		return doctor.Examine(ctx, p.stderr, c, func(f doctor.Finding) {
			fmt.Fprintf(p.stdout, "%-5s %-12s %s\n", f.Result, f.About, f.Text)
		})
	})
}
