// Command bench answers one question: how far is drivefs from what is
// possible, and from what people would use instead?
//
// One run measures, on one machine and with one fake drive, three subjects:
// the built drivefs program, the limit (package memfs, bare HTTP connections,
// or a formula), and rclone where it is installed and still has the backend
// for this service. Absolute figures of such a machine move by a third from
// hour to hour; the ratios within one run are what counts, and the target
// stands beside each.
//
//	go run ./integration/bench                    # all sections, a few minutes
//	go run ./integration/bench -run 'read|meta'
//	go run ./integration/bench -size full         # sizes of the targets
//	go run ./integration/bench -profile DIR       # CPU profiles of the mount
//
// # How it is kept honest
//
// The drive is a process of its own (this program, started again), so the
// processor time of a mount is that of the mount. Every subject gets a drive
// with the same contents, latency and rate, and a fresh state and cache where
// the row says cold. Nothing drops the machine's caches: pages of one file are
// given up with fadvise, names with a fresh mount. A reading row that fills
// caches finds memory that the machine has touched before: in a virtual
// machine the host's giving it would else be most of what is measured.
//
// # Cleaning up
//
// As root the program runs itself again in a mount namespace of its own, so
// no mount can outlive it. Every process it starts is in the run's list and
// dies with the program; a section that takes longer than its time is ended
// by killing them, which ends every system call that waits for a mount.
package main
