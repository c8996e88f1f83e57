// Package fs answers one question: what does the kernel want?
//
// It is the thin side of the house. It turns FUSE requests into calls of
// cache.Store, errors into errno, and effects of the Store into notifications
// of the kernel. It keeps no truth of its own; what the user may rely on is
// written in SEMANTICS.md beside this file, and tests quote it.
//
// # What is in a node
//
// There are two node types, dir and file. A file's kernel inode is one content
// version: StableAttr{Ino, Gen} with the Gen of the Store, so that the page
// cache of one version never meets the bytes of another, and an open file
// keeps the version it opened. A folder's kernel inode is one place: a folder
// with several parents would have two dentries, which the kernel's dentry
// cache cannot hold for a directory, so each place but the first has a number
// hashed from the place above it. Nodes carry nothing else: a million of them
// are known to the kernel at a time.
//
// # Who knows what
//
//   - The kernel caches names, attributes, listings and pages for an hour,
//     because every change is pushed to it; the hour is a safety net. Names in
//     another spelling than the shown one, and absent names, are never cached
//     (with exact names absent ones are).
//   - go-fuse's tree knows what the kernel was told: which name stands for
//     which inode. It is asked (GetChild), not copied.
//   - go-fuse has no way from an inode number to its nodes, and effects name
//     folders by number. So the nodes of folders are indexed, from the first
//     request inside one until the kernel forgets it. A request puts its node
//     into the index before it reads the Store, so no cached answer can be
//     older than an effect that did not find the node (index.go).
//
// # Rules that everything depends on
//
//   - Whatever is answered to the kernel for caching was read from the Store
//     within the same request. The kernel holds the directory's lock meanwhile,
//     and NotifyEntry takes that lock: an old answer is always finished before
//     it is forgotten. Hence a directory handle buffers nothing from one
//     READDIR to the next.
//   - Notifications are sent by the notifier's goroutines only, which hold
//     nothing; never by a handler (it would wait for its own directory) and
//     never by the goroutine that made the change (one hanging call would stop
//     the feed). Names of a folder are told when the requests in it that were
//     under way are answered: a process that is killed while it tells and is
//     waited for cannot end. What that rule misses, package guard ends.
//   - FLUSH and RELEASE do not look at their context: the kernel cancels it
//     when a process is killed, and the commit must happen all the same.
//   - No handler answers ENOSYS for a failure: the kernel would never ask again.
//
// # Lock order
//
//	call.mu, dirHandle.mu, openHandles.mu (leaf each)
//	index.mu  →  go-fuse's inode locks
//	notifier.mu  →  calls.mu
//
// No lock of this package is held over a call of the Store or a notification.
package fs
