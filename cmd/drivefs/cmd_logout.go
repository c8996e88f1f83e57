package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
)

type logoutOptions struct{ purge, force bool }

func newLogout(p *program) *cobra.Command {
	var o logoutOptions
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Forget a profile's token on this machine",
		Long: "Remove a profile's token from this machine. Nothing else is touched: what is not uploaded yet stays.\n" +
			"--purge-local removes the mirror, the journal, the log and the cached contents too. It refuses to while\n" +
			"something is not on the drive yet, unless --force says that it may be lost. The drive is not touched.\n" +
			"To withdraw the permission at Amazon, remove the app on amazon.com under Login with Amazon.",
		Example: "  drivefs logout --purge-local",
		Args:    takes(0),
	}
	cmd.Flags().BoolVar(&o.purge, "purge-local", false, "remove what is kept on this machine too")
	cmd.Flags().BoolVar(&o.force, "force", false, "with --purge-local: also what the drive does not have")
	return accountCommand(p, cmd, config.Purge, func(_ context.Context, c *config.Config, _ []string) error {
		return runLogout(p, c, o)
	})
}

func runLogout(p *program, c *config.Config, o logoutOptions) error {
	if o.force && !o.purge {
		return fail(exitUsage, "--force is for --purge-local")
	}
	if running(c) != nil {
		return fail(exitFailed, "profile %q is mounted: unmount it first", c.Profile)
	}
	if o.purge {
		if err := purgeLocal(c, o.force); err != nil {
			return err
		}
	}
	err := os.Remove(c.TokenFile)
	if errors.Is(err, os.ErrNotExist) && o.purge {
		err = nil // an earlier logout took it
	}
	if errors.Is(err, os.ErrNotExist) {
		return fail(exitLogin, "no token in %s", c.TokenFile)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "the token in %s is gone; the permission itself ends at amazon.com under Login with Amazon\n", c.TokenFile)
	if o.purge {
		fmt.Fprintf(p.stdout, "nothing of profile %q is left in %s and %s\n", c.Profile, c.StateDir, c.CacheDir)
	}
	return nil
}

// What drivefs keeps in its directories; they may be anybody's, with other
// things in them, which stay.
var (
	stateNames = []string{"journal.*", "mirror.*", "drafts", "aside", "endpoints.json*", "drivefs.log*", strings.Repeat("[0-9a-f]", 16) + ".sock"}
	cacheNames = []string{"[0-9a-f][0-9a-f]"}
)

// purgeLocal removes state and cache, unless something would be lost.
func purgeLocal(c *config.Config, force bool) (err error) {
	if _, serr := os.Stat(c.StateDir); serr == nil {
		held, err := lock.Take(c.StateDir, lock.Holder{PID: os.Getpid()})
		if err != nil {
			return fail(exitUsage, "%w", err)
		}
		if !force {
			err = wouldLose(c)
		}
		if err == nil {
			err = removeKnown(c.StateDir, stateNames)
		}
		if err == nil {
			err = os.Remove(lock.Path(c.StateDir))
		}
		if err = errors.Join(err, held.Release()); err != nil {
			return err
		}
		_ = os.Remove(c.StateDir) // something else may be in it
	}
	if err := removeKnown(c.CacheDir, cacheNames); err != nil {
		return err
	}
	_ = os.Remove(c.CacheDir)
	return nil
}

// wouldLose is an error when the state directory has what the drive has not.
func wouldLose(c *config.Config) error {
	const anyway = "or lose that with --force"
	if aside, err := os.ReadDir(filepath.Join(c.StateDir, "aside")); err == nil && len(aside) > 0 {
		return fail(exitPending, "%s in %s was saved from damage and is not on the drive: look at it first, %s",
			count(len(aside), "file"), filepath.Join(c.StateDir, "aside"), anyway)
	}
	if _, err := os.Stat(filepath.Join(c.StateDir, "journal.db")); errors.Is(err, os.ErrNotExist) {
		return nil // never mounted
	}
	j, err := journal.Open(journal.Options{Dir: c.StateDir})
	if err != nil {
		return fail(exitFailed, "cannot tell what is not on the drive yet: %w: mount it once more, %s", err, anyway)
	}
	n := j.Len()
	problems := j.Problems()
	if err := j.Close(); err != nil {
		return err
	}
	switch {
	case n > 0:
		return fail(exitPending, "%s not on the drive yet: mount it once more, %s", count(n, "change"), anyway)
	case len(problems) > 0:
		return fail(exitPending, "the journal was damaged (%s): look at %s first, %s", strings.Join(problems, "; "), c.StateDir, anyway)
	}
	return nil
}

// removeKnown removes what matches one of the patterns in dir.
func removeKnown(dir string, patterns []string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		for _, pattern := range patterns {
			if ok, _ := filepath.Match(pattern, e.Name()); ok {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
				break
			}
		}
	}
	return err
}
