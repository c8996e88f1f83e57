package fs

import (
	"log/slog"

	"golang.org/x/time/rate"

	"github.com/drivefs/drivefs/cache"
)

// tree is what all nodes of a mount share. It is set up by Mount and not
// changed afterwards, but for the index and the notifier.
type tree struct {
	store *cache.Store
	root  uint64 // inode of the mounted folder

	uid, gid  uint32 // who owns everything
	umask     uint32 // gives the mode of nodes without one of their own
	ownerOnly bool   // nobody but owner and root may enter
	exact     bool   // names are taken as they are spelled
	xattrs    bool   // extended attributes are answered
	signals   func(pid uint32) verdict
	observe   func(Operation) // nil = nobody

	log     *slog.Logger
	strange rate.Sometimes // thins out reports of I/O errors

	index  index
	open   openHandles
	notify notifier
}
