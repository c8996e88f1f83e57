package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/manual"
)

// Verbs in the order in which somebody needs them.
var groups = []struct {
	title string
	verbs []string
}{
	{"Mounts", []string{"mount", "unmount", "status", "flush", "refresh", "limit", "rename"}},
	{"The drive", []string{"about", "trash", "check"}},
	{"Accounts and settings", []string{"login", "logout", "config"}},
	{"When something is amiss", []string{"doctor", "log", "bugreport"}},
	{"A drive of this machine", []string{"demo", "serve"}},
}

func group(root *cobra.Command) {
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title + ":"})
		for _, name := range g.verbs {
			if c, _, err := root.Find([]string{name}); err == nil && c != root {
				c.GroupID = g.title
			}
		}
	}
}

// flagUsages is what --help says of a verb's flags.
func flagUsages(all *pflag.FlagSet) string {
	var b strings.Builder
	for _, s := range manual.Sections(all) {
		title := s.Title
		if title == "" {
			title = "Flags"
		}
		fmt.Fprintf(&b, "\n%s:\n%s", title, s.Flags.FlagUsages())
	}
	return b.String()
}

// shape lets --help of every verb show its flags by section.
func shape(root *cobra.Command) {
	cobra.AddTemplateFunc("flagUsages", flagUsages)
	text := root.UsageTemplate()
	const plain = "\n\nFlags:\n{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}"
	root.SetUsageTemplate(strings.Replace(text, plain, "\n{{flagUsages .LocalFlags | trimTrailingWhitespaces}}", 1))
}
