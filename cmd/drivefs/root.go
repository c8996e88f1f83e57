package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// newRoot is the whole command line.
func newRoot(p *program) *cobra.Command {
	root := &cobra.Command{
		Use:   "drivefs",
		Short: "Amazon Drive as a local directory",
		Long: "drivefs mounts Amazon Drive as a local directory.\n" +
			"What is deleted there is moved to the drive's trash. Not made or endorsed by Amazon.",
		Example:           "  drivefs demo            # try it, no account needed\n  drivefs mount ~/Drive",
		SilenceErrors:     true, // main writes the one line
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true}, // the verb is ours: three shells
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fail(exitUsage, "no verb %q: see drivefs --help", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fail(exitUsage, "%w: see %s --help", err, c.CommandPath())
	})
	root.AddCommand(
		newMount(p), newUnmount(p), newStatus(p), newRefresh(p), newFlush(p), newLimit(p),
		newLogin(p), newLogout(p), newAbout(p), newTrash(p), newRename(p), newCheck(p),
		newConfig(p), newDoctor(p), newServe(p), newDemo(p), newVersion(p), newCompletion(p),
	)
	for _, more := range extra {
		root.AddCommand(more(p))
	}
	group(root)
	shape(root)
	return root
}

// extra are verbs that only some builds have.
var extra []func(*program) *cobra.Command

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
