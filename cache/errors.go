package cache

import (
	"errors"
	"os"
)

// Errors of looking something up. They are the os values, so that callers
// outside FUSE can use errors.Is with either.
var (
	ErrNotExist = os.ErrNotExist
	ErrExist    = os.ErrExist
)

// Errors of changing the tree.
var (
	ErrNotEmpty     = errors.New("the folder is not empty")
	ErrIsDir        = errors.New("it is a folder")
	ErrNotDir       = errors.New("it is not a folder")
	ErrReadOnly     = errors.New("mounted read-only")
	ErrNotPermitted = errors.New("the drive cannot do that")
	ErrInvalid      = errors.New("invalid argument")
	ErrNameTooLong  = errors.New("the name is longer than 255 bytes")
)

// Errors of an open file.
var (
	// ErrStale: the version this handle opened cannot be had any more.
	ErrStale = errors.New("the version that was opened is gone from the drive")
	// ErrTooLarge: a write beyond the largest file the drive takes.
	ErrTooLarge = errors.New("larger than the drive takes")
	// ErrBadHandle: a write on a handle opened for reading, or the reverse.
	ErrBadHandle = errors.New("the handle was not opened for that")
)

// Errors of extended attributes.
var (
	ErrNoAttr       = errors.New("no such attribute")
	ErrNotSupported = errors.New("not supported")
	ErrAttrSpace    = errors.New("no room for more attributes on this node")
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
