package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/running"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/drive/redact"
)

type statusOptions struct{ json, watch bool }

func newStatus(p *program) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [flags] [PATH]",
		Short: "What your mounts are doing",
		Long: "Say what the mount that PATH lies in is doing; without PATH and --profile, all mounts of this user. A mount that\n" +
			"was taken away and uploads still is among them.",
		Example: "  drivefs status --watch\n  drivefs status --json ~/Drive",
		Args:    takes(0, "PATH"),
	}
	verb(p, cmd, config.Which, func(ctx context.Context, c *config.Config, args []string) error {
		show := func(ctx context.Context, w io.Writer) error { return allStatus(ctx, p, w, o, c) }
		if len(args) > 0 || c.Given("profile") || c.Given("state-dir") {
			m, name, err := running.Find(c, first(args))
			if err != nil {
				return err
			}
			show = func(ctx context.Context, w io.Writer) error {
				if err := oneStatus(ctx, p, w, o, m); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				return nil
			}
		}
		if o.watch {
			return p.watch(ctx, o.json, show)
		}
		return show(ctx, p.stdout)
	})
	jsonFlag(cmd, &o.json)
	cmd.Flags().BoolVar(&o.watch, "watch", false, "show it again every second, until Ctrl-C")
	return cmd
}

// watch shows something every second. A terminal gets a screen of its own for
// it, which is drawn when there is something to draw and goes away afterwards.
func (p *program) watch(ctx context.Context, plain bool, draw func(context.Context, io.Writer) error) error {
	screen := show.IsTerminal(p.stdout) && !plain
	if screen {
		fmt.Fprint(p.stdout, "\x1b[?1049h\x1b[?25l")
		defer fmt.Fprint(p.stdout, "\x1b[?25h\x1b[?1049l")
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		var b strings.Builder
		if err := draw(ctx, &b); err != nil && ctx.Err() == nil {
			return err
		}
		text := b.String()
		if screen {
			text = "\x1b[H" + fit(text, p.stdout) + "\x1b[J"
		}
		if _, err := io.WriteString(p.stdout, text); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// fit cuts text to what a terminal shows, so that its top stays where it is.
func fit(text string, w io.Writer) string {
	columns, rows := show.Columns(w), show.Rows(w)
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > rows {
		lines = append(lines[:rows-1], fmt.Sprintf("  … %d more", len(lines)-rows+1))
	}
	for i, l := range lines {
		if r := []rune(l); len(r) > columns && !strings.Contains(l, "\x1b") {
			l = string(r[:columns-1]) + "…"
		}
		lines[i] = l + "\x1b[K"
	}
	return strings.Join(lines, "\r\n")
}

func askStatus(ctx context.Context, m *control.Client) (s control.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, control.Patience)
	defer cancel()
	return s, m.Call(ctx, control.VerbStatus, none{}, &s, nil)
}

func oneStatus(ctx context.Context, p *program, w io.Writer, o statusOptions, m *control.Client) error {
	s, err := askStatus(ctx, m)
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(w).Encode(s)
	}
	return writeStatus(w, &s, time.Now(), p.colours())
}

// allStatus shows every mount of this user. One that does not answer is said so.
func allStatus(ctx context.Context, p *program, w io.Writer, o statusOptions, c *config.Config) error {
	all, err := running.All(c)
	if err != nil {
		return err
	}
	if len(all) == 0 && !o.json {
		return fail(exitNotMounted, "nothing is mounted: drivefs mount MOUNTPOINT")
	}
	list := control.Statuses{Mounts: []control.Status{}}
	var failed []error
	for i, m := range all {
		s, err := control.Status{}, m.Err
		if err == nil {
			s, err = askStatus(ctx, m.Client)
		}
		switch {
		case err != nil:
			failed = append(failed, fmt.Errorf("%s: %w", m.Mountpoint, err))
		case o.json:
			list.Mounts = append(list.Mounts, s)
		default:
			if i > 0 {
				fmt.Fprintln(w)
			}
			if err := writeStatus(w, &s, time.Now(), p.colours()); err != nil {
				return err
			}
		}
	}
	if o.json {
		if err := json.NewEncoder(w).Encode(list); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
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
	waiting := append(slices.Clone(s.Uploads.Unclosed), s.Uploads.Oldest...) // what waits for the user first
	for i, w := range waiting {
		if !slices.Contains(waiting[:i], w) {
			row("", "%s waits for %s (%s)", w.Path, w.WaitsFor, show.Ago(w.Since, now))
		}
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
	if s.Log != "" && len(s.Problems)+len(s.Uploads.Failed) > 0 {
		row("log", "%s", s.Log)
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
