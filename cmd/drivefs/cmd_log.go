package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/running"
)

func newLog(p *program) *cobra.Command {
	var follow bool
	var lines int
	cmd := &cobra.Command{
		Use:     "log [flags] [MOUNTPOINT]",
		Short:   "The last lines of a mount's log, wherever that is",
		Long:    "Show the last lines of a mount's log: of its file, or of the journal of the service manager that started it.",
		Example: "  drivefs log -f",
		Args:    takes(0, "MOUNTPOINT"),
	}
	verb(p, cmd, config.Which|config.Logging, func(ctx context.Context, c *config.Config, args []string) error {
		return runLog(ctx, p.stdout, c, first(args), lines, follow)
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is added, until Ctrl-C")
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "how many `LINES`")
	return cmd
}

// logOf is the file of the log of the mount on mountpoint, or of the profile's
// last one in the background.
func logOf(ctx context.Context, c *config.Config, mountpoint string) (file string, pid int, err error) {
	if m, _, ferr := running.Find(c, mountpoint); ferr == nil {
		s, err := askStatus(ctx, m)
		if err != nil || s.Log != "" {
			return s.Log, s.PID, err
		}
		pid = s.PID
	} else if mountpoint != "" {
		return "", 0, ferr
	}
	if c.LogFile != "" {
		return c.LogFile, pid, nil
	}
	file = filepath.Join(c.StateDir, "drivefs.log")
	if _, err := os.Stat(file); err != nil {
		file = ""
	}
	return file, pid, nil
}

func runLog(ctx context.Context, w io.Writer, c *config.Config, mountpoint string, lines int, follow bool) error {
	file, pid, err := logOf(ctx, c, mountpoint)
	if err != nil {
		return err
	}
	if pid != 0 && (file == "" || mountpoint != "" && !c.Given("log-file")) {
		if ok, err := journal(ctx, w, pid, lines, follow); ok {
			return err
		}
	}
	if file == "" {
		return fail(exitFailed, "profile %q has no log: its mount writes to the terminal it was started in", c.Profile)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := tail(w, f, lines); err != nil || !follow {
		return err
	}
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// tail writes the last lines of f, and leaves it at its end.
func tail(w io.Writer, f io.Reader, lines int) error {
	last := make([]string, 0, lines)
	r := bufio.NewReader(f)
	for {
		l, err := r.ReadString('\n')
		if l != "" {
			if last = append(last, l); len(last) > lines {
				last = last[1:]
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	for _, l := range last {
		if _, err := io.WriteString(w, l); err != nil {
			return err
		}
	}
	return nil
}

// journal shows what a process told the journal; ok is false where that has
// nothing of it.
func journal(ctx context.Context, w io.Writer, pid, lines int, follow bool) (ok bool, err error) {
	args := []string{"--quiet", "--no-pager", "_PID=" + strconv.Itoa(pid), "--lines=" + strconv.Itoa(lines)}
	for _, scope := range []string{"--user", "--system"} {
		out, err := exec.CommandContext(ctx, "journalctl", append(args, scope)...).Output()
		if err != nil || len(out) == 0 {
			continue
		}
		if !follow {
			_, err = w.Write(out)
			return true, err
		}
		cmd := exec.CommandContext(ctx, "journalctl", append(args, scope, "--follow")...)
		cmd.Stdout = w
		if err := cmd.Run(); err != nil && ctx.Err() == nil {
			return true, fmt.Errorf("journalctl: %w", err)
		}
		return true, nil
	}
	return false, nil
}
