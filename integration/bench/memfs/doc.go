// Package memfs answers one question: how fast could a filesystem be that does
// nothing? It is a bare go-fuse filesystem with the mount options, timeouts and
// open flags of package fs and no thought behind them: names in a slice,
// contents that are one shared piece of memory, writes that go nowhere or
// straight to a file of the same disk. What the benchmark measures on it is
// the limit for this machine, kernel and library.
//
// # Invariants
//
// The tree is built before the mount and changes only by creating files and
// folders; content is never kept in memory, so that a large write measures
// the way and not the store.
//
// # Locks
//
// node.mu guards the children of a folder and the size of a file. No two are
// held at once.
package memfs
