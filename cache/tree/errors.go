package tree

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
	ErrNotPermitted = errors.New("the drive cannot do that")
	ErrInvalid      = errors.New("invalid argument")
	ErrNameTooLong  = errors.New("the name is longer than 255 bytes")
	ErrAttrSpace    = errors.New("no room for more attributes on this node")
	// ErrStale: the version this handle opened cannot be had any more.
	ErrStale = errors.New("the version that was opened is gone from the drive")
	// ErrPanic: a change failed by a fault of this program; nothing was changed.
	ErrPanic = errors.New("internal error")
)
