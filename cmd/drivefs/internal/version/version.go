// Package version answers one question: which build of drivefs is this?
package version

import "runtime/debug"

// tag is set by the Makefile from git describe.
var tag = ""

// Build is what the toolchain recorded; the Makefile's version wins.
func Build() (v, commit, modified string) {
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
	if tag != "" {
		v = tag
	}
	return v, commit, modified
}

// UserAgent names the program to the service.
func UserAgent() string {
	v, _, _ := Build()
	return "drivefs/" + v
}
