package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/account"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/drive"
)

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
	a, err := answer(ctx, p, c, control.VerbAbout, struct{}{}, account.AskAbout)
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(aboutJSON(a))
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "account\t%s, profile %s\n", a.Status, c.Profile)
	fmt.Fprintf(w, "quota\t%s, %s free\n", show.Size(a.Quota.Quota), show.Size(a.Quota.Available))
	for _, u := range []struct {
		kind  string
		entry drive.UsageEntry
	}{{"photos", a.Usage.Photo}, {"videos", a.Usage.Video}, {"documents", a.Usage.Document}, {"other", a.Usage.Other}} {
		fmt.Fprintf(w, "%s\t%s in %s, %s of it on the quota\n", u.kind, show.Size(u.entry.Total.Bytes), filesText(u.entry.Total.Count), show.Size(u.entry.Billable.Bytes))
	}
	return w.Flush()
}

func filesText(n int64) string {
	if n == 1 {
		return "1 file"
	}
	return humanize.Comma(n) + " files"
}

// usageJSON is a kind of content, as `drivefs about --json` prints it.
type usageJSON struct {
	Bytes         int64 `json:"bytes"`
	Count         int64 `json:"count"`
	BillableBytes int64 `json:"billable_bytes"`
	BillableCount int64 `json:"billable_count"`
}

// aboutJSON is what scripts read; names stay, whatever the service's are.
func aboutJSON(a account.About) any {
	usage := map[string]usageJSON{}
	for kind, u := range map[string]drive.UsageEntry{"photo": a.Usage.Photo, "video": a.Usage.Video, "document": a.Usage.Document, "other": a.Usage.Other} {
		usage[kind] = usageJSON{u.Total.Bytes, u.Total.Count, u.Billable.Bytes, u.Billable.Count}
	}
	return map[string]any{
		"status": a.Status, "terms_of_use": a.TermsOfUse,
		"quota": map[string]any{"quota": a.Quota.Quota, "available": a.Quota.Available, "last_calculated": a.Quota.LastCalculated},
		"usage": usage,
	}
}
