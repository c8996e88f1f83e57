package fs

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive"
)

// errnos is the one table from errors to errno. The first line that errors.Is
// finds decides, so what is said most precisely comes first.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	// Looking something up.
	{cache.ErrNotExist, syscall.ENOENT},
	{cache.ErrExist, syscall.EEXIST},

	// Changing the tree.
	{cache.ErrNotEmpty, syscall.ENOTEMPTY},
	{cache.ErrIsDir, syscall.EISDIR},
	{cache.ErrNotDir, syscall.ENOTDIR},
	{cache.ErrReadOnly, syscall.EROFS},
	{cache.ErrNotPermitted, syscall.EPERM},
	{cache.ErrInvalid, syscall.EINVAL},
	{cache.ErrNameTooLong, syscall.ENAMETOOLONG},

	// Open files.
	{cache.ErrStale, syscall.ESTALE},
	{cache.ErrTooLarge, syscall.EFBIG},
	{cache.ErrBadHandle, syscall.EBADF},

	// Extended attributes.
	{cache.ErrNoAttr, syscall.ENODATA},
	{cache.ErrNotSupported, syscall.ENOTSUP},
	{cache.ErrAttrSpace, syscall.ENOSPC},

	// The drive. "Connection timed out" says what happened where an I/O error
	// would send people to look for a broken disk.
	{drive.ErrAuth, syscall.EACCES},
	{drive.ErrForbidden, syscall.EACCES},
	{drive.ErrNotFound, syscall.ENOENT},
	{drive.ErrThrottled, syscall.ETIMEDOUT},
	{drive.ErrUnavailable, syscall.ETIMEDOUT},
	{drive.ErrNoAccount, syscall.EACCES},
	{drive.ErrNameExists, syscall.EEXIST},
	{drive.ErrNameTooLong, syscall.ENAMETOOLONG},
	{drive.ErrBadParent, syscall.ENOENT},
	{drive.ErrQuota, syscall.EDQUOT},
	{drive.ErrChanged, syscall.ESTALE},
	{drive.ErrInvalid, syscall.EINVAL},
	{drive.ErrDuplicate, syscall.EIO},
	{drive.ErrConflict, syscall.EIO},
	{drive.ErrPrecondition, syscall.EIO},
	{drive.ErrAmbiguous, syscall.EIO},
	{drive.ErrRange, syscall.EIO},
	{drive.ErrProtocol, syscall.EIO},

	// This machine.
	{os.ErrPermission, syscall.EACCES},
	{os.ErrClosed, syscall.EIO},
	{os.ErrDeadlineExceeded, syscall.ETIMEDOUT},
	{context.DeadlineExceeded, syscall.ETIMEDOUT},
}

// toErrno finds the errno for err; known is false when nothing in the table
// nor an errno in the chain names it. interrupted tells that the caller's wait
// was ended by a signal: only then is a cancelled context EINTR.
func toErrno(err error, interrupted bool) (e syscall.Errno, known bool) {
	if err == nil {
		return 0, true
	}
	if errors.Is(err, context.Canceled) {
		if interrupted {
			return syscall.EINTR, true
		}
		return syscall.EIO, true
	}
	for i := range errnos {
		if errors.Is(err, errnos[i].err) {
			return errnos[i].errno, true
		}
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != 0 {
		if errno == syscall.ENOSYS {
			return syscall.EIO, true
		}
		return errno, true
	}
	return syscall.EIO, false
}

// errno answers the kernel for err. What the table does not know is EIO and
// logged here, once; a burst of the same trouble is thinned out.
func (c *call) errno(err error) syscall.Errno {
	e, known := toErrno(err, c.Err() != nil)
	if !known {
		c.t.strange.Do(func() { c.t.log.Error("answered with an I/O error", "op", c.op, "err", err) })
	} else if e == syscall.EIO {
		c.t.strange.Do(func() { c.t.log.Warn("answered with an I/O error", "op", c.op, "err", err) })
	}
	return e
}

// nodeErrno is errno for calls that name a node by its inode. A node that is
// gone is ESTALE then: the kernel looks the path up again, without its cache,
// and the program gets the answer that is true now.
func (c *call) nodeErrno(err error) syscall.Errno {
	if errors.Is(err, cache.ErrNotExist) {
		return syscall.ESTALE
	}
	return c.errno(err)
}
