package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/doctor"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/drive/redact"
)

func newBugreport(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bugreport",
		Short: "What a report of a problem should have: version, doctor, status, settings, the last lines of the log",
		Long: "Print what somebody needs who is to find a problem. Tokens and secrets are taken out; names of files are not:\n" +
			"read it before you pass it on.",
		Example: "  drivefs bugreport > report.txt",
		Args:    takes(0),
	}
	return accountCommand(p, cmd, config.Mount|config.Logging, func(ctx context.Context, c *config.Config, _ []string) error {
		return runBugreport(ctx, p, c)
	})
}

func runBugreport(ctx context.Context, p *program, c *config.Config) error {
	for _, part := range []struct {
		title string
		write func(io.Writer) error
	}{
		{"version", func(w io.Writer) error { return runVersion(p.to(w), false) }},
		{"doctor", func(w io.Writer) error {
			return doctor.Examine(ctx, w, c, func(f doctor.Finding) { fmt.Fprintf(w, "%-5s %-12s %s\n", f.Result, f.About, f.Text) })
		}},
		{"status", func(w io.Writer) error { return allStatus(ctx, p.to(w), w, statusOptions{}, c) }},
		{"settings", func(w io.Writer) error { return runConfigShow(p.to(w), c, false) }},
		{"log", func(w io.Writer) error { return runLog(ctx, w, c, "", 50, false) }},
	} {
		var b strings.Builder
		if err := part.write(&b); err != nil {
			fmt.Fprintf(&b, "(%s)\n", exit.Message(err)) // which is part of the report
		}
		if _, err := fmt.Fprintf(p.stdout, "== %s ==\n%s\n", part.title, redact.Text(b.String())); err != nil {
			return err
		}
	}
	return nil
}

// to is the program, writing elsewhere.
func (p *program) to(w io.Writer) *program {
	q := *p
	q.stdout, q.stderr = w, w
	return &q
}
