// Package killed answers one question: how does a mount end whose process cannot
// end it? It was killed while the kernel waited inside of it, and had no guard
// (see package guard), or that was killed too; or it does not answer.
package killed

import (
	"context"
	"os"
	"time"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/fs/guard"
)

// endTime is how long a killed process may take to go once its connection to
// the kernel is ended.
const endTime = 10 * time.Second

// End ends what is left of a mount with the state directory dir whose process
// was killed and cannot go. It must come before anything looks into that mount.
// false: there is none.
func End(ctx context.Context, dir string) (found bool, err error) {
	h, ok := lock.Find(dir)
	if !ok || h.PID == 0 || !guard.Dying(h.PID) {
		return false, nil
	}
	if _, err := abort(h.Mountpoint); err != nil {
		return true, exit.Fail(exit.Failed, "the mount on %s was killed and hangs: %w", h.Mountpoint, err)
	}
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	if err := lock.WaitFree(ctx, lock.Path(dir)); err != nil {
		return true, exit.Fail(exit.Failed, "the mount on %s was killed, and its process %d does not end: %w", h.Mountpoint, h.PID, err)
	}
	return true, nil
}

// Force ends the mount on mountpoint without asking its process: calls that
// wait in it fail, and what is not uploaded is left for the next mount.
func Force(mountpoint string) error {
	mountpoint, err := mounts.Resolve(mountpoint)
	if err != nil {
		return exit.Fail(exit.NotMounted, "%w", err)
	}
	if err := os.Chdir("/"); err != nil { // not to keep it busy
		return err
	}
	found, err := abort(mountpoint)
	if !found {
		return exit.Fail(exit.NotMounted, "%s: no drive is mounted there", mountpoint)
	}
	// Its path is free also where the connection cannot be ended.
	if derr := mounts.Detach(mountpoint); err == nil {
		err = derr
	}
	return err
}

// abort ends the connection of the mount; no request is sent to it.
func abort(mountpoint string) (found bool, err error) {
	at, ok, err := mounts.At(mountpoint)
	if err != nil || !ok || at.FSType != mounts.Type {
		return false, err
	}
	return true, guard.Abort(at.Minor)
}
