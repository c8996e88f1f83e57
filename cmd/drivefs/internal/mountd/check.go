package mountd

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/account"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
)

// Check opens the state directory as a mount would.
func Check(ctx context.Context, stderr io.Writer, c *config.Config, req control.CheckRequest, say func(string)) (r control.CheckResult, err error) {
	if _, err := os.Stat(c.StateDir); err != nil {
		return r, exit.Fail(exit.Failed, "profile %q was never mounted here: %w", c.Profile, err)
	}
	held, err := lock.Take(c.StateDir, lock.Holder{PID: os.Getpid()})
	if err != nil {
		return r, exit.Fail(exit.Usage, "%w", err)
	}
	defer func() { err = errors.Join(err, held.Release()) }()
	a, err := account.Open(c, account.Log(stderr, c), nil)
	if err != nil {
		return r, err
	}
	defer a.Close()
	store, err := cache.Open(ctx, cache.Options{StateDir: c.StateDir, Remote: a.Client, Origin: account.Origin(c), Logger: account.Log(stderr, c)})
	if err != nil {
		return r, StoreError(c, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := bind(ctx, a, store, true); err != nil {
		return r, StoreError(c, err)
	}
	return checkStore(ctx, c, store, req, say)
}

func checkStore(ctx context.Context, c *config.Config, store *cache.Store, req control.CheckRequest, say func(string)) (control.CheckResult, error) {
	n, err := store.Check(ctx, req.Repair, say)
	return control.CheckResult{Problems: n}, account.RemoteError(c, err)
}
