package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the Makefile from git describe.
var version = ""

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
	v, commit, modified := buildInfo()
	if commit != "" {
		v += " (" + commit + modified + ")"
	}
	_, err := fmt.Fprintf(p.stdout, "drivefs %s %s %s/%s\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// buildInfo is what the toolchain recorded; the Makefile's version wins.
func buildInfo() (v, commit, modified string) {
	v = "devel"
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" && info.Main.Version != "(devel)" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && len(s.Value) >= 12:
				commit = s.Value[:12]
			case s.Key == "vcs.modified" && s.Value == "true":
				modified = ", modified"
			}
		}
	}
	if version != "" {
		v = version
	}
	return v, commit, modified
}

// userAgent names the program to the service.
func userAgent() string {
	v, _, _ := buildInfo()
	return "drivefs/" + v
}
