package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
)

type limitOptions struct{ pause, resume, json bool }

func newLimit(p *program) *cobra.Command {
	var o limitOptions
	cmd := &cobra.Command{
		Use:   "limit [flags] [MOUNTPOINT]",
		Short: "Change the rate limits of a running mount; pause and resume its uploads",
		Long: "Change the rate limits of a running mount, pause its uploads, or let them go on. What is not named stays as\n" +
			"it is; without flags it says what is in force. Transfers under way follow a new rate; a pause lets them end\n" +
			"and begins no other, while new names, renames and removals go on.\n\n" +
			"All of it holds until the mount ends; what the next one begins with is in the configuration (drivefs config show).\n" +
			"While uploads are paused, flush and unmount do not wait for them: what is pending is kept for later.",
		Example: "  drivefs limit --upload-limit 2MiB ~/Drive\n  drivefs limit --pause",
	}
	mountVerb(p, cmd, config.Limits, func(ctx context.Context, c *config.Config, m *control.Client, _ string) error {
		if o.pause && o.resume {
			return fail(exitUsage, "--pause and --resume exclude each other")
		}
		return runLimit(ctx, p, m, limitRequest(c, o), o.json)
	})
	cmd.Flags().BoolVar(&o.pause, "pause", false, "send no more contents until --resume, or until the mount ends")
	cmd.Flags().BoolVar(&o.resume, "resume", false, "go on with the uploads")
	jsonFlag(cmd, &o.json)
	for _, name := range []string{"upload-limit", "download-limit"} {
		cmd.Flags().Lookup(name).DefValue = "" // what is not given stays
	}
	return cmd
}

// limitRequest is what was asked for on this command line: rates in the file
// or the environment are those of the next mount.
func limitRequest(c *config.Config, o limitOptions) control.LimitRequest {
	var req control.LimitRequest
	if c.Source["upload-limit"] == "flag" {
		req.Upload = &c.UploadLimit
	}
	if c.Source["download-limit"] == "flag" {
		req.Download = &c.DownloadLimit
	}
	if o.pause || o.resume {
		req.Pause = &o.pause
	}
	return req
}

func runLimit(ctx context.Context, p *program, m *control.Client, req control.LimitRequest, asJSON bool) error {
	ctx, cancel := context.WithTimeout(ctx, control.Patience)
	defer cancel()
	var l control.Limits
	if err := m.Call(ctx, control.VerbLimit, req, &l, nil); err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(l)
	}
	_, err := fmt.Fprintln(p.stdout, limitsText(l))
	return err
}

func limitsText(l control.Limits) string {
	state := "running"
	if l.Paused {
		state = "paused"
	}
	return fmt.Sprintf("uploads %s, limit %s; downloads limit %s", state, show.Rate(l.Upload), show.Rate(l.Download))
}
