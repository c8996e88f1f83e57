package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
)

func newConfig(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config show",
		Short:   "Every setting, its value and where that comes from",
		Example: "  drivefs config show --profile work",
		Args:    takes(1, "show"),
	}
	return verb(p, cmd, config.Which|config.Account|config.Mount|config.Logging, func(_ context.Context, c *config.Config, args []string) error {
		if args[0] != "show" {
			return fail(exitUsage, "no verb %q: show is known", args[0])
		}
		return runConfigShow(p, c)
	})
}

func runConfigShow(p *program, c *config.Config) error {
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "# %s\n", c.File)
	for i := range config.Settings {
		s := &config.Settings[i]
		if s.Group != config.Serve {
			fmt.Fprintf(w, "%s\t%s\t(%s)\n", s.Name, s.Text(c), c.Source[s.Name])
		}
	}
	return w.Flush()
}
