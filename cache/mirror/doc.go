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
//   - An inode number is unknown, a placeholder (it has an id and is named as a
//     parent, or bound in advance), pending, live, in the trash, gone or purged;
//     one entry of the inode bucket says which (record.go).
//   - A node's version never goes back. Of equal versions the later state in that
//     list wins, except that an answer to a call for the id is believed; so the
//     order in which things are told does not matter (API §9.3, §13.1). PURGED is
//     believed at once and for ever.
//   - What is in the trash is kept whole until it is purged. What is gone or
//     purged leaves a tombstone for two days at least.
//   - A node stands in its folders also when these are hidden or unknown. So
//     children may come first, a trashed folder hides its subtree without a
//     touch, and its restoration brings it back. Cycles are never reached.
//   - Nodes without a name, PENDING ones, assets and unknown kinds are not shown.
//   - Each folder shows a folded name once; claims.go tells who gets it.
//   - A folder with several parents is shown in each, under one number; a
//     place that would put it inside itself is not shown.
//   - Applying the same thing again changes nothing and reports nothing.
//   - A node that cannot be kept is left out, counted and told (Options.Skipped).
//
// # Everything at once
//
// A first sync, what the service tells after reset:true and the renewal every
// four weeks are one thing, a refresh: what is told is spooled beside the file,
// sorted by folder, and merged in place at its end, in transactions between
// which others write; then what was not told is hidden (refresh.go). So the
// order in which an account is told does not matter, its size does not show in
// memory, and numbers, tombstones, Gen and properties stay where they are.
// Meanwhile the mirror answers with what it has, and folders are listed on demand.
//
// # Files and failures
//
// Nodes and the checkpoint that covers them are one transaction, and each commit
// is durable when it returns. Damage, found at Open or in use (a panic of bbolt, a
// fault in its map), has the file set aside and begun anew at once, with the
// numbers that can still be read; so has an older format (heal.go).
//
// # Concurrency
//
// Reads are bbolt read transactions and wait for no writer: the address space
// for growing is reserved, so the file need not be mapped anew. Small writes
// that come while another is on its way to the disk share the next transaction
// and its sync (group.go). Check looks at one moment and keeps nobody waiting.
// Writers take the token of Mirror.group if they are small, then Mirror.wmu, then
// bbolt's locks; the other mutexes are leaves. Nobody may call the mirror from
// inside a callback of Options.
package mirror
