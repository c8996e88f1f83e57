package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/version"
)

// newMan is what the build makes the manual with, from the verbs' own words.
func newMan(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages into a directory",
		Example: "  drivefs man /tmp/man && man /tmp/man/man1/drivefs.1",
		Hidden:  true,
		Args:    takes(1, "DIR"),
		RunE:    func(c *cobra.Command, args []string) error { return runMan(c.Root(), args[0]) },
	}
}

func runMan(root *cobra.Command, dir string) error {
	for _, section := range []string{"man1", "man8"} {
		if err := os.MkdirAll(filepath.Join(dir, section), 0o755); err != nil {
			return err
		}
	}
	v, _, _ := version.Build()
	root.DisableAutoGenTag = true // the same verbs make the same pages
	header := &doc.GenManHeader{Section: "1", Source: "drivefs " + v, Manual: "drivefs"}
	if err := doc.GenManTree(root, header, filepath.Join(dir, "man1")); err != nil {
		return err
	}
	// mount(8) looks for its helper's page by the helper's name.
	return os.WriteFile(filepath.Join(dir, "man8", "mount.drivefs.8"), []byte(".so man1/drivefs-mount.1\n"), 0o644)
}
