package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/logs"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mountd"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/sample"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func newDemo(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo [MOUNTPOINT]",
		Short: "A drive of your own with a few sample files, mounted; no account needed",
		Long: "Serve a drive from this machine (see serve) and mount it, with a few sample files in it. Ctrl-C takes\n" +
			"both down; the next demo has what you put there. Without MOUNTPOINT it is drivefs-demo in the home directory.",
		Example: "  drivefs demo",
		Args:    takes(0, "MOUNTPOINT"),
	}
	flags := config.Register(cmd.Flags(), config.Mount|config.Logging)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := flags.LoadFlags(p.env)
		if err == nil {
			err = runDemo(cmd.Context(), p, c, first(args))
		}
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		return nil
	}
	return cmd
}

// runDemo makes a configuration of its own: nothing of an account's profile,
// token or state is touched, and its directories are no profile's.
func runDemo(ctx context.Context, p *program, c *config.Config, mountpoint string) (err error) {
	if c.Background {
		return fail(exitUsage, "--background: the demo lives in the foreground, until Ctrl-C")
	}
	c.Profile = config.Demo
	c.StateDir = filepath.Join(c.Places.State, config.DemoDir) // where --profile demo looks, unless an account has that name
	if h, held := lock.Find(c.StateDir); held {
		return fail(exitUsage, "a demo runs already, on %s (process %d): use that one, or end it with drivefs unmount %s", h.Mountpoint, h.PID, show.Quote(h.Mountpoint))
	}
	c.TokenFile = filepath.Join(c.StateDir, "token.json")
	c.Data = filepath.Join(c.StateDir, "drive")
	c.Listen, c.Faults, c.Import = "127.0.0.1:0", "", ""
	c.TLSCert, c.TLSKey, c.PublicURL = "", "", ""
	if !c.Given("cache-dir") {
		c.CacheDir = filepath.Join(c.Places.Cache, config.DemoDir)
	}
	mountpoint, made, err := demoMountpoint(mountpoint)
	if err != nil {
		return err
	}
	if made {
		defer func() { _ = os.Remove(mountpoint) }() // fails when it is not empty, rightly
	}
	log, closeLog, err := logs.Open(c, p.stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	fresh := !exists(c.Data)
	s, err := startService(c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if fresh {
		if err := fillDemo(s); err != nil {
			return errors.Join(err, s.Close(), os.RemoveAll(c.Data))
		}
	}
	if err := s.WriteToken(c.TokenFile); err != nil {
		return err
	}
	c.Endpoint, c.AuthURL, c.TokenURL = s.Endpoint(), s.AuthURL(), s.TokenURL()
	return mountd.Run(ctx, mountd.Options{Config: c, Mountpoint: mountpoint, Stderr: p.stderr, Ready: func(mountpoint string) {
		fmt.Fprintf(p.stdout, "mounted demo on %s\n%s", mountpoint, demoHints(p.name, mountpoint, s.Endpoint(), c.TokenFile))
	}})
}

// demoMountpoint takes the one given, or makes one that goes away with the demo.
func demoMountpoint(given string) (path string, made bool, err error) {
	path = given
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", false, fail(exitUsage, "no home directory: name a MOUNTPOINT")
		}
		path = filepath.Join(home, "drivefs-demo")
	}
	err = os.Mkdir(path, 0o700)
	if errors.Is(err, os.ErrExist) {
		return path, false, nil
	}
	return path, err == nil, err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// fillDemo puts the samples into the drive.
func fillDemo(s *drivetest.Server) (err error) {
	dir, err := os.MkdirTemp("", "drivefs-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := sample.Write(dir); err != nil {
		return err
	}
	if err := s.Import(dir); err != nil {
		return fmt.Errorf("putting samples into the drive: %w", err)
	}
	return nil
}

func demoHints(program, mountpoint, endpoint, token string) string {
	q := show.Quote(mountpoint)
	something, err := os.Executable() // there is one on every machine
	if err != nil {
		something = "/etc/os-release"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, hint := range [][2]string{
		{"xdg-open " + q, "pictures, music, a video to seek in"},
		{"cp " + show.Quote(something) + " " + q, "copy something in"},
		{program + " status --watch " + q, "see it go up"},
		{"rm " + q + "/Documents/Reading*", "goes to the drive's trash"},
		{program + " trash list --profile demo", "where it can be found"},
		{program + " trash restore --profile demo '/Documents/Reading list.md'", "and put back"},
	} {
		fmt.Fprintf(w, "  %s\t%s\n", hint[0], hint[1])
	}
	_ = w.Flush() // into memory
	return fmt.Sprintf("\nTry, in another terminal or in your file manager:\n%s\n"+
		"The drive itself answers at %s (token: %s).\n"+
		"Ctrl-C ends the demo; what you put there is here again next time.\n", b.String(), endpoint, token)
}
