package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/version"
)

func newVersion(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Version, commit and what it was built with",
		Example: "  drivefs version",
		Args:    takes(0),
		RunE:    func(*cobra.Command, []string) error { return runVersion(p, asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runVersion(p *program, asJSON bool) error {
	v, commit, modified := version.Build()
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(map[string]any{
			"version": v, "commit": commit, "modified": modified != "", "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
	}
	if commit != "" {
		v += " (" + commit + modified + ")"
	}
	_, err := fmt.Fprintf(p.stdout, "drivefs %s %s %s/%s\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
