package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/drive/redact"
)

type statusOptions struct{ json, watch bool }

func newStatus(p *program) *cobra.Command {
	var o statusOptions
	cmd := mountVerb(p, &cobra.Command{
		Use:     "status [MOUNTPOINT]",
		Short:   "What a mount is doing",
		Example: "  drivefs status --watch",
	}, 0, func(ctx context.Context, _ *config.Config, m *control.Client, _ string) error {
		return runStatus(ctx, p, o, m)
	})
	cmd.Flags().BoolVar(&o.json, "json", false, "one JSON object, for scripts")
	cmd.Flags().BoolVar(&o.watch, "watch", false, "show it again every second, until Ctrl-C")
	return cmd
}

func runStatus(ctx context.Context, p *program, o statusOptions, m *control.Client) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if !o.watch {
		return showStatus(ctx, p, o, m)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if show.IsTerminal(p.stdout) && !o.json {
			fmt.Fprint(p.stdout, "\x1b[H\x1b[2J")
		}
		if err := showStatus(ctx, p, o, m); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func showStatus(ctx context.Context, p *program, o statusOptions, m *control.Client) error {
	ctx, cancel := context.WithTimeout(ctx, control.Patience)
	defer cancel()
	var s control.Status
	if err := m.Call(ctx, control.VerbStatus, struct{}{}, &s, nil); err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(p.stdout).Encode(s)
	}
	return writeStatus(p.stdout, &s, time.Now(), p.colours())
}

// colours of what wants attention; empty where they are not wanted.
type colours struct{ good, bad, end escape }

// escape is a text that a terminal acts on, and may.
type escape string

func (p *program) colours() colours {
	if v, _ := p.env("NO_COLOR"); v != "" || !show.IsTerminal(p.stdout) {
		return colours{}
	}
	return colours{good: "\x1b[32m", bad: "\x1b[31m", end: "\x1b[0m"}
}

func writeStatus(w io.Writer, s *control.Status, now time.Time, c colours) error {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		for i, a := range args { // names of the drive, words of the service
			if s, ok := a.(string); ok {
				args[i] = redact.Printable(s)
			}
		}
		fmt.Fprintf(&b, "  %-10s"+format+"\n", append([]any{name}, args...)...)
	}
	mode := ""
	if s.ReadOnly {
		mode = ", read-only"
	}
	fmt.Fprintf(&b, "%s: %s, profile %s%s, process %d, mounted %s\n", redact.Printable(s.Mountpoint), s.State, s.Profile, mode, s.PID, show.Ago(s.Since, now))
	if s.Remote.State == "online" {
		row("drive", "%sonline%s", c.good, c.end)
	} else {
		row("drive", "%s%s%s (%s): %s", c.bad, s.Remote.State, c.end, show.Ago(s.Remote.Since, now), show.WayOut[s.Remote.State])
		if s.Remote.Error != "" {
			row("", "%s", s.Remote.Error)
		}
	}
	age := "never read to its end"
	if s.Mirror.CheckpointAge >= 0 {
		age = "up to date " + show.Ago(now.Add(-time.Duration(s.Mirror.CheckpointAge*float64(time.Second))), now)
	}
	complete := ""
	if !s.Mirror.Complete {
		complete = ", still loading"
	}
	row("mirror", "%s%s, %s", show.Count(int(s.Mirror.Nodes), "node"), complete, age)
	if u := s.Uploads; u.Pending == 0 {
		row("uploads", "none pending, %s uploaded", show.Size(u.Uploaded))
	} else {
		row("uploads", "%s pending (%s), %d active, %d failed", show.Count(u.Pending, "change"), show.Size(u.PendingBytes), u.Active, len(u.Failed))
	}
	if s.Limits.Paused {
		row("", "%spaused%s: nothing new is sent until drivefs limit --resume", c.bad, c.end)
	}
	if s.Limits.Upload > 0 || s.Limits.Download > 0 {
		row("limits", "uploads %s, downloads %s", show.Rate(s.Limits.Upload), show.Rate(s.Limits.Download))
	}
	for _, t := range s.Uploads.Transfers {
		row("", "%s %s", t.Op, transferText(t))
	}
	for _, f := range s.Uploads.Failed {
		row("", "%sfailed%s %s: %s (%s)", c.bad, c.end, f.Path, f.Error, show.Again(f.RetryAt, now))
	}
	hits := "no reads yet"
	if n := s.Cache.Hits + s.Cache.Misses; n > 0 {
		hits = fmt.Sprintf("%.1f %% hits", 100*float64(s.Cache.Hits)/float64(n))
	}
	row("cache", "%s in memory, %s on disk, %s; %s downloaded, %s served", show.Size(s.Cache.Memory), show.Size(s.Cache.Disk), hits, show.Size(s.Cache.Downloaded), show.Size(s.Cache.Served))
	for _, r := range s.Streams {
		row("", "reading %s at %s, %s/s, window %s", r.Name, show.Size(r.Offset), show.Size(int64(r.Rate)), show.Size(r.Window))
	}
	var total control.Request
	for _, r := range s.Requests {
		total.Count, total.Errors, total.Throttled = total.Count+r.Count, total.Errors+r.Errors, total.Throttled+r.Throttled
	}
	busiest := slices.SortedFunc(maps.Keys(s.Requests), func(a, b string) int {
		if d := s.Requests[b].Count - s.Requests[a].Count; d != 0 {
			return int(d)
		}
		return strings.Compare(a, b)
	})
	for i, op := range busiest {
		busiest[i] = fmt.Sprintf("%s %d", op, s.Requests[op].Count)
	}
	row("requests", "%d, %d failed, %d throttled (%s)", total.Count, total.Errors, total.Throttled, strings.Join(busiest[:min(4, len(busiest))], ", "))
	for _, problem := range s.Problems {
		row("note", "%s", problem)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func transferText(t control.Transfer) string {
	s := t.Path
	if t.Size > 0 {
		s += fmt.Sprintf(" %d %% of %s", 100*t.Sent/t.Size, show.Size(t.Size))
	}
	if t.Rate > 0 {
		s += fmt.Sprintf(", %s/s", show.Size(int64(t.Rate)))
		if t.Size > t.Sent {
			s += fmt.Sprintf(", %v left", time.Duration(float64(t.Size-t.Sent)/t.Rate*float64(time.Second)).Round(time.Second))
		}
	}
	return s
}
