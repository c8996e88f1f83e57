// Package guard answers one question: who ends the calls that wait in a mount
// when the process that serves it was killed and cannot end itself?
//
// A thread that tells the kernel of a name waits for the lock of its folder,
// and the lock belongs to a caller that waits for the killed process. Neither
// can be killed, the process keeps its descriptors, /dev/fuse and locks among
// them, and the kernel has no bound for any of that. Only the abort file of the
// connection (fusectl) ends it, and only another process can write to it.
//
// # Invariants
//
//   - The abort file is opened while the mount is known to be there, and the
//     guard writes to that descriptor alone: numbers of connections are reused.
//   - A guard aborts only when the process that started it is dead or dying.
//     It holds no other descriptor, no directory, and no terminal.
//   - The guard learns of the death by the kernel's signal for the end of the
//     thread that started it. That thread does nothing else; the end of
//     their socket would not do, since the stuck thread keeps it open.
//
// There are no locks here.
package guard
