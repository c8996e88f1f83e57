// Package mirror answers: what has the drive told us?
//
// It keeps one record for every live node of the account in one bbolt file,
// under inode numbers that it hands out and never reuses, with indexes by
// folder and name and by id, and the checkpoint of the changes feed. It knows
// nothing of local edits: those lie in the journal and are laid over what is
// read here. So the mirror is a function of what the service said and of the
// identity id → inode; a lost or damaged one is built anew and loses no edit.
//
// # Truth
//
//   - A node's version never goes back. Of equal versions, gone wins over
//     live and live over pending, except that an answer to a call for the id
//     is believed; so the order in which things are told does not matter
//     (API §9.3, §13.1).
//   - What is gone leaves a tombstone with its version and all that was known,
//     for two days at least, and returns under its number with its history.
//   - A node stands in its folders also when these are hidden or unknown. An
//     unknown parent gets a number at once and is a ghost until it is told. So
//     children may come first, a trashed folder hides its subtree without a
//     touch, and its restoration brings it back. Cycles are never reached.
//   - Nodes without a name, PENDING ones, assets and unknown kinds are not shown.
//   - Each folder shows a folded name once; claims.go tells who gets it.
//   - A folder with several parents is shown in each, under one number; a
//     place that would put it inside itself is not shown.
//   - Applying the same thing again changes nothing and reports nothing.
//
// # Files and failures
//
// Nodes and the checkpoint that covers them are one transaction. After the
// first sync every commit is durable, but for chunks of many news, which are
// with the feed's end. During the first sync none is. The file is nevertheless
// as a killed process left it, since the kernel has it; only if the machine
// itself stops then, the next Open says ErrDamaged (see file.mark). Damage found
// later, a panic of bbolt or a fault in its map, is ErrDamaged too. A rebuild
// fills a second file beside the live one and takes its place by rename.
//
// # Concurrency
//
// Reads are bbolt read transactions and wait for no writer: the address space
// for growing is reserved, so the file need not be mapped anew. Small writes
// that come while another is on its way to the disk share the next transaction
// and its sync (group.go). Check looks at one moment and keeps nobody waiting. Writers take the token of Mirror.group if they are
// small, then Mirror.wmu, then bbolt's locks; Mirror.group.mu, Mirror.inos.mu
// and Mirror.state.mu are leaves. Nobody may call the mirror from inside a
// callback of Options.
package mirror
