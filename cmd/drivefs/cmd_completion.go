package main

import "github.com/spf13/cobra"

func newCompletion(p *program) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "Print the completion script of a shell",
		Example:   "  drivefs completion bash > ~/.local/share/bash-completion/completions/drivefs",
		ValidArgs: shells,
		Args:      takes(1, "bash|zsh|fish"),
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(p.stdout, true)
			case "zsh":
				return c.Root().GenZshCompletion(p.stdout)
			case "fish":
				return c.Root().GenFishCompletion(p.stdout, true)
			}
			return fail(exitUsage, "no completion for %q: bash, zsh and fish are known", args[0])
		},
	}
}
