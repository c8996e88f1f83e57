// Package state answers one question: what lies in a state directory that no mount
// has? It counts what the drive lacks, and removes it all when that is wanted.
package state

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
)

// Aside is where drivefs puts what it saved from damage.
func Aside(c *config.Config) string { return filepath.Join(c.StateDir, "aside") }

// What drivefs keeps in its directories; they may be anybody's, with other
// things in them, which stay.
var (
	stateNames = []string{"journal.*", "mirror.*", "drafts", "ballast", "aside", "endpoints.json*", "drivefs.log*", "run", strings.Repeat("[0-9a-f]", 16) + ".sock"}
	cacheNames = []string{"[0-9a-f][0-9a-f]"}
)

// Purge removes state and cache, unless something would be lost.
func Purge(c *config.Config, force bool) (err error) {
	if _, serr := os.Stat(c.StateDir); serr == nil {
		held, err := lock.Take(c.StateDir, lock.Holder{PID: os.Getpid()})
		if err != nil {
			return exit.Fail(exit.Usage, "%w", err)
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
	if aside, err := os.ReadDir(Aside(c)); err == nil && len(aside) > 0 {
		return exit.Fail(exit.Pending, "%s in %s was saved from damage and is not on the drive: look at it first, %s",
			show.Count(len(aside), "file"), Aside(c), anyway)
	}
	if _, err := os.Stat(filepath.Join(c.StateDir, "journal.db")); errors.Is(err, os.ErrNotExist) {
		return nil // never mounted
	}
	j, err := journal.Open(journal.Options{Dir: c.StateDir})
	if err != nil {
		return exit.Fail(exit.Failed, "cannot tell what is not on the drive yet: %w: mount it once more, %s", err, anyway)
	}
	n := j.Len()
	problems := j.Problems()
	if err := j.Close(); err != nil {
		return err
	}
	switch {
	case n > 0:
		return exit.Fail(exit.Pending, "%s not on the drive yet: mount it once more, %s", show.Count(n, "change"), anyway)
	case len(problems) > 0:
		return exit.Fail(exit.Pending, "the journal was damaged (%s): look at %s first, %s", strings.Join(problems, "; "), c.StateDir, anyway)
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
