//go:build docs

package main

import (
	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/manual"
)

func init() { extra = append(extra, newDocs) }

// newDocs is what the build makes the manual and the completions with, from the
// verbs' own words. The program that is shipped does not have it.
func newDocs(*program) *cobra.Command {
	return &cobra.Command{
		Use:     "docs DIR",
		Short:   "Write the manual pages and completions into a directory",
		Example: "  drivefs docs bin/docs",
		Hidden:  true,
		Args:    takes(1, "DIR"),
		RunE:    func(c *cobra.Command, args []string) error { return manual.Write(c.Root(), args[0]) },
	}
}
