package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
)

func newConfig(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config show|path|init",
		Short:   "The configuration: what is in force, where it is, a new one",
		Example: "  drivefs config show --profile work",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fail(exitUsage, "config: no verb %q: show, path and init are known", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			return fail(exitUsage, "config needs show, path or init: see drivefs config --help")
		},
	}
	const all = config.Which | config.Account | config.Mount | config.Logging
	var asJSON bool
	show := verb(p, &cobra.Command{
		Use:     "show",
		Short:   "Every setting, its value and where that comes from",
		Example: "  drivefs config show --profile work",
		Args:    takes(0),
	}, all, func(_ context.Context, c *config.Config, _ []string) error { return runConfigShow(p, c, asJSON) })
	jsonFlag(show, &asJSON)
	cmd.AddCommand(show,
		verb(p, &cobra.Command{
			Use:     "path",
			Short:   "Where the configuration file is",
			Example: "  ${EDITOR:-vi} \"$(drivefs config path)\"",
			Args:    takes(0),
		}, config.Which, func(_ context.Context, c *config.Config, _ []string) error {
			_, err := fmt.Fprintln(p.stdout, c.File)
			return err
		}),
		newConfigInit(p))
	return cmd
}

// newConfigInit does not read the file that it makes.
func newConfigInit(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Write a configuration file with every setting in it, as comments",
		Example: "  drivefs config init",
		Args:    takes(0),
	}
	flags := config.Register(cmd.Flags(), config.Which)
	cmd.RunE = func(*cobra.Command, []string) error {
		c, err := flags.LoadFlags(p.env)
		if err == nil {
			err = runConfigInit(p, c)
		}
		if err != nil {
			return fmt.Errorf("config init: %w", err)
		}
		return nil
	}
	return cmd
}

// shown is one setting, as `drivefs config show --json` prints it.
type shown struct {
	Value  string `json:"value"`
	Source string `json:"source"`
}

func runConfigShow(p *program, c *config.Config, asJSON bool) error {
	settings := map[string]shown{}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintf(w, "# %s\n", c.File)
	}
	for i := range config.Settings {
		s := &config.Settings[i]
		if s.Group == config.Serve {
			continue
		}
		settings[s.Name] = shown{s.Text(c), c.Source[s.Name]}
		if !asJSON {
			fmt.Fprintf(w, "%s\t%s\t(%s)\n", s.Name, s.Text(c), c.Source[s.Name])
		}
	}
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(map[string]any{"file": c.File, "settings": settings})
	}
	return w.Flush()
}

// runConfigInit never replaces a file: it is somebody's work.
func runConfigInit(p *program, c *config.Config) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# drivefs.toml(5). A table is a profile; what is a comment is the default.\n\n[%s]\n", c.Profile)
	for _, s := range config.Settings {
		if s.Name == "profile" || s.Group&config.Serve != 0 {
			continue
		}
		value := s.ShownDefault()
		if s.Name == "uid" || s.Name == "gid" {
			value = ""
		} else if s.Meta == "" {
			value = s.Default
		}
		fmt.Fprintf(&b, "\n# %s\n#%s = %q\n", s.Usage, s.Name, value)
	}
	if err := os.MkdirAll(filepath.Dir(c.File), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fail(exitFailed, "%s is there already", c.File)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.String())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "wrote %s\n", c.File)
	return err
}
