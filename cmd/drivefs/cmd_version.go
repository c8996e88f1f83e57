package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/version"
)

func newVersion(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Version, commit and what it was built with",
		Example: "  drivefs version",
		Args:    takes(0),
		RunE:    func(*cobra.Command, []string) error { return runVersion(p) },
	}
}

func runVersion(p *program) error {
	v, commit, modified := version.Build()
	if commit != "" {
		v += " (" + commit + modified + ")"
	}
	_, err := fmt.Fprintf(p.stdout, "drivefs %s %s %s/%s\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
