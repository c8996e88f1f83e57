package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
)

// newRoot is the whole command line.
func newRoot(p *program) *cobra.Command {
	var asked bool
	root := &cobra.Command{
		Use:   "drivefs",
		Short: "Amazon Drive as a local directory",
		Long: "drivefs mounts Amazon Drive as a local directory.\n" +
			"What is deleted there is moved to the drive's trash. Not made or endorsed by Amazon.",
		Example:                    "  drivefs demo            # try it, no account needed\n  drivefs mount ~/Drive",
		SilenceErrors:              true, // main writes the one line
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true}, // the verb is ours: three shells
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noVerb(c, args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			if asked {
				return runVersion(p, false)
			}
			return c.Help()
		},
	}
	root.Flags().BoolVarP(&asked, "version", "V", false, "say the version")
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fail(exitUsage, "%w%s: see %s --help", err, nearFlag(c, err), c.CommandPath())
	})
	root.AddCommand(
		newMount(p), newUnmount(p), newStatus(p), newRefresh(p), newFlush(p), newLimit(p),
		newLogin(p), newLogout(p), newAbout(p), newTrash(p), newRename(p), newCheck(p),
		newConfig(p), newDoctor(p), newLog(p), newBugreport(p), newServe(p), newDemo(p), newVersion(p), newCompletion(p),
	)
	for _, more := range extra {
		root.AddCommand(more(p))
	}
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() == "help" {
			c.Example = "  drivefs help mount"
			c.Args = func(c *cobra.Command, args []string) error {
				if found, rest, err := c.Root().Find(args); err != nil || len(rest) > 0 && found == c.Root() {
					return noVerb(c.Root(), args[0])
				}
				return nil
			}
		}
	}
	group(root)
	shape(root)
	complete(p, root)
	return root
}

// extra are verbs that only some builds have.
var extra []func(*program) *cobra.Command

// noVerb refuses a verb that there is not, with the one that was meant.
func noVerb(root *cobra.Command, name string) error {
	near := ""
	if s := root.SuggestionsFor(name); len(s) > 0 {
		near = fmt.Sprintf(", did you mean %q?", s[0])
	}
	return fail(exitUsage, "no verb %q%s: see drivefs --help", name, near)
}

// nearFlag names the flag that was meant by an unknown one, "" for none.
func nearFlag(c *cobra.Command, err error) string {
	_, name, ok := strings.Cut(err.Error(), "unknown flag: --")
	if !ok {
		return ""
	}
	best, least := "", 3
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if d := config.Distance(name, f.Name); d < least && !f.Hidden {
			best, least = f.Name, d
		}
	})
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean --%s?", best)
}

// takes checks the number of arguments; names are those of the usage line.
func takes(least int, names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return fail(exitUsage, "%s needs %s: see %s --help", c.CommandPath(), strings.Join(names[len(args):least], " "), c.CommandPath())
		case len(args) > len(names):
			return fail(exitUsage, "%s: too many arguments (%s): see %s --help", c.CommandPath(), quoted(args[len(names):]), c.CommandPath())
		}
		return nil
	}
}

func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(q, " ")
}
