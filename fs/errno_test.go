package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive"
)

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{cache.ErrNotExist, syscall.ENOENT},
		{fmt.Errorf("x: %w", cache.ErrNotEmpty), syscall.ENOTEMPTY},
		{cache.ErrNotPermitted, syscall.EPERM},
		{cache.ErrReadOnly, syscall.EROFS},
		{cache.ErrNoAttr, syscall.ENODATA},
		{cache.ErrTooLarge, syscall.EFBIG},
		{&os.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC}, syscall.ENOSPC},
		{fmt.Errorf("draft: %w", syscall.EDQUOT), syscall.EDQUOT},
		// An errno that would make the kernel stop asking never gets out.
		{fmt.Errorf("ioctl: %w", syscall.ENOSYS), syscall.EIO},
		// What the service said decides, not the socket below it.
		{&drive.Error{Kind: drive.ErrUnavailable, Err: syscall.ECONNREFUSED}, syscall.ETIMEDOUT},
		{&drive.Error{Kind: drive.ErrAuth, Status: 400}, syscall.EACCES},
		{drive.ErrChanged, syscall.ESTALE},
		{context.DeadlineExceeded, syscall.ETIMEDOUT},
	} {
		if got, known := toErrno(c.err, false); got != c.want || !known {
			t.Errorf("%v: got %v (known %v), want %v", c.err, got, known, c.want)
		}
	}
}

func TestErrnoOfCancelled(t *testing.T) {
	err := &drive.Error{Kind: drive.ErrUnavailable, Err: context.Canceled}
	if got, _ := toErrno(err, true); got != syscall.EINTR {
		t.Errorf("after a signal: %v, want EINTR", got)
	}
	// Somebody else's cancellation is no signal of the caller's.
	if got, _ := toErrno(err, false); got != syscall.EIO {
		t.Errorf("without a signal: %v, want EIO", got)
	}
}

// TestErrnoTable: each sentinel must mean itself, whatever comes before it.
func TestErrnoTable(t *testing.T) {
	for _, row := range errnos {
		if got, known := toErrno(fmt.Errorf("while at it: %w", row.err), false); got != row.errno || !known {
			t.Errorf("%v: %v, want %v: a line above takes it", row.err, got, row.errno)
		}
		if row.errno == syscall.ENOSYS {
			t.Errorf("%v is ENOSYS: the kernel would never ask again", row.err)
		}
	}
}

func TestErrnoUnknownIsLogged(t *testing.T) {
	var said strings.Builder
	tr := &tree{log: slog.New(slog.NewTextHandler(&said, nil))}
	tr.strange.First = 1
	for range 3 {
		if got := tr.enter(t.Context(), "lookup").errno(errors.New("odd")); got != syscall.EIO {
			t.Fatalf("got %v, want EIO", got)
		}
	}
	if n := strings.Count(said.String(), "odd"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, said.String())
	}
}

func TestGoneNodeIsStale(t *testing.T) {
	tr := &tree{log: slog.New(slog.DiscardHandler)}
	if got := tr.enter(t.Context(), "open").nodeErrno(fmt.Errorf("%w", cache.ErrNotExist)); got != syscall.ESTALE {
		t.Errorf("got %v, want ESTALE", got)
	}
	if got := tr.enter(t.Context(), "open").nodeErrno(cache.ErrReadOnly); got != syscall.EROFS {
		t.Errorf("got %v, want EROFS", got)
	}
}
