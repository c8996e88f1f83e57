package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/drive"
)

// aboutAnswer is what `drivefs about --json` prints.
type aboutAnswer struct {
	Status     string      `json:"status"`
	TermsOfUse string      `json:"terms_of_use"`
	Quota      drive.Quota `json:"quota"`
	Usage      drive.Usage `json:"usage"`
}

func newAbout(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "about",
		Short:   "Account, quota, and usage by kind of content",
		Example: "  drivefs about",
		Args:    takes(0),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object, for scripts")
	return accountCommand(p, cmd, 0, func(ctx context.Context, c *config.Config, _ []string) error {
		return runAbout(ctx, p, c, asJSON)
	})
}

func runAbout(ctx context.Context, p *program, c *config.Config, asJSON bool) error {
	a, err := answer(ctx, p, c, verbAbout, struct{}{}, askAbout)
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(a)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "account\t%s, profile %s\n", a.Status, c.Profile)
	fmt.Fprintf(w, "quota\t%s, %s free\n", size(a.Quota.Quota), size(a.Quota.Available))
	for _, u := range []struct {
		kind  string
		entry drive.UsageEntry
	}{{"photos", a.Usage.Photo}, {"videos", a.Usage.Video}, {"documents", a.Usage.Document}, {"other", a.Usage.Other}} {
		fmt.Fprintf(w, "%s\t%s in %s, %s of it on the quota\n", u.kind, size(u.entry.Total.Bytes), filesText(u.entry.Total.Count), size(u.entry.Billable.Bytes))
	}
	return w.Flush()
}

func filesText(n int64) string {
	if n == 1 {
		return "1 file"
	}
	return humanize.Comma(n) + " files"
}

func askAbout(ctx context.Context, client *drive.Client, _ struct{}) (a aboutAnswer, err error) {
	info, err := client.AccountInfo(ctx)
	if err != nil {
		return a, err
	}
	a.Status, a.TermsOfUse = info.Status, info.TermsOfUse
	if a.Quota, err = client.Quota(ctx); err != nil {
		return a, err
	}
	a.Usage, err = client.Usage(ctx)
	return a, err
}
