package cache

import (
	"errors"

	"github.com/drivefs/drivefs/cache/tree"
)

// Errors of looking something up and of changing the tree. ErrNotExist and
// ErrExist are the os values, so that callers outside FUSE can use errors.Is
// with either.
var (
	ErrNotExist     = tree.ErrNotExist
	ErrExist        = tree.ErrExist
	ErrNotEmpty     = tree.ErrNotEmpty
	ErrIsDir        = tree.ErrIsDir
	ErrNotDir       = tree.ErrNotDir
	ErrNotPermitted = tree.ErrNotPermitted
	ErrInvalid      = tree.ErrInvalid
	ErrNameTooLong  = tree.ErrNameTooLong
	ErrReadOnly     = errors.New("mounted read-only")
)

// Errors of an open file.
var (
	// ErrStale: the version this handle opened cannot be had any more.
	ErrStale = tree.ErrStale
	// ErrTooLarge: a write beyond the largest file the drive takes.
	ErrTooLarge = errors.New("larger than the drive takes")
	// ErrBadHandle: a write on a handle opened for reading, or the reverse.
	ErrBadHandle = errors.New("the handle was not opened for that")
)

// Errors of extended attributes.
var (
	ErrNoAttr       = errors.New("no such attribute")
	ErrNotSupported = errors.New("not supported")
	ErrAttrSpace    = tree.ErrAttrSpace
)

// Errors of starting up.
var (
	// ErrInUse: another mount has this state directory.
	ErrInUse = errors.New("the state directory is in use")
	// ErrNewer: the state directory was written by a newer drivefs.
	ErrNewer = errors.New("the state directory was written by a newer drivefs")
	// ErrNoRoot: --root names something that is not a folder of the drive.
	ErrNoRoot = errors.New("no such folder on the drive")
)
