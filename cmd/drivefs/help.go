package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/manual"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
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

// complete lets a shell complete what a verb takes: mountpoints, profiles, and
// the words that a setting knows.
func complete(p *program, root *cobra.Command) {
	words := func(list []string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return list, cobra.ShellCompDirectiveNoFileComp
		}
	}
	for _, c := range append(root.Commands(), subcommands(root)...) {
		if strings.Contains(c.Use, "[MOUNTPOINT]") || c.Name() == "status" {
			c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
				ours, _ := mounts.Ours()
				list := make([]string, len(ours))
				for i, m := range ours {
					list[i] = m.Mountpoint
				}
				return list, cobra.ShellCompDirectiveNoFileComp
			}
		}
		for _, s := range config.Settings {
			if f := c.Flags().Lookup(s.Name); f == nil || f.Annotations[config.Annotation] == nil {
				continue
			}
			switch {
			case s.Name == "profile":
				_ = c.RegisterFlagCompletionFunc(s.Name, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
					return config.Profiles(p.env), cobra.ShellCompDirectiveNoFileComp
				})
			case s.Name == "log-level":
				_ = c.RegisterFlagCompletionFunc(s.Name, words([]string{"debug", "info", "warn", "error"}))
			case strings.Contains(s.Meta, "|") && s.Meta == strings.ToLower(s.Meta):
				_ = c.RegisterFlagCompletionFunc(s.Name, words(strings.Split(s.Meta, "|")))
			}
		}
	}
}

func subcommands(root *cobra.Command) (all []*cobra.Command) {
	for _, c := range root.Commands() {
		all = append(all, c.Commands()...)
	}
	return all
}
