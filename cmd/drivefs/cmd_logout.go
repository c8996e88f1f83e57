package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/running"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/state"
)

type logoutOptions struct{ purge, force bool }

func newLogout(p *program) *cobra.Command {
	var o logoutOptions
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Forget a profile's token on this machine",
		Long: "Remove a profile's token from this machine. Nothing else is touched: what is not uploaded yet stays.\n" +
			"--purge-local removes the mirror, the journal, the log and the cached contents too. It refuses to while\n" +
			"something is not on the drive yet, unless --force says that it may be lost. The drive is not touched.\n" +
			"To withdraw the permission at Amazon, remove the app on amazon.com under Login with Amazon.",
		Example: "  drivefs logout --purge-local",
		Args:    takes(0),
	}
	cmd.Flags().BoolVar(&o.purge, "purge-local", false, "remove what is kept on this machine too")
	cmd.Flags().BoolVar(&o.force, "force", false, "with --purge-local: also what the drive does not have")
	return accountCommand(p, cmd, config.Purge, func(_ context.Context, c *config.Config, _ []string) error {
		return runLogout(p, c, o)
	})
}

func runLogout(p *program, c *config.Config, o logoutOptions) error {
	if o.force && !o.purge {
		return fail(exitUsage, "--force is for --purge-local")
	}
	if running.Of(c) != nil {
		return fail(exitFailed, "profile %q is mounted: unmount it first", c.Profile)
	}
	if o.purge {
		if err := state.Purge(c, o.force); err != nil {
			return err
		}
	}
	err := os.Remove(c.TokenFile)
	if errors.Is(err, os.ErrNotExist) && o.purge {
		err = nil // an earlier logout took it
	}
	if errors.Is(err, os.ErrNotExist) {
		return fail(exitLogin, "no token in %s", c.TokenFile)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "the token in %s is gone; the permission itself ends at amazon.com under Login with Amazon\n", c.TokenFile)
	if o.purge {
		fmt.Fprintf(p.stdout, "nothing of profile %q is left in %s and %s\n", c.Profile, c.StateDir, c.CacheDir)
	}
	return nil
}
