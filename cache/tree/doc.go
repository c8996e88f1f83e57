// Package tree answers one question: what is shown?
//
// It lays the journal over the mirror, and what open files hold over both, at
// each read: an inode with a journal entry is where the entry says (or gone),
// everything else is where the mirror says; a name that an entry holds hides
// what the mirror has under the same folded name. Nothing local is ever written
// into the mirror, so the mirror stays a pure function of what the service told
// (it can be lost and rebuilt), and the journal a pure function of what the
// user did (it cannot).
//
// # One way in, one way out
//
// Read shows the tree at one moment. Change is the only way to change it: what
// its function puts takes place at once or not at all. In this order: the
// journal takes the entries in memory, the tables beside it follow (they are
// functions of the entries), the lock is given up, the log gets the bytes, and
// only then the call returns, its effects go to the kernel and the write-back
// acts. Where the log fails, every change it had not taken is undone, newest
// first, and the kernel forgets what lookups saw meanwhile. A panic inside a
// Change fails that Change and nothing else.
//
// Change hands its effects out itself, instead of returning them, so that no
// caller can forget to.
//
// # Identity
//
// That a node belongs to an inode is a fact of the journal, shown at once; the
// mirror learns it with the next answer. So an editor's save needs no write to
// the mirror: rename over a file, backup and new file, unlink and create all
// leave the same pair, a removed file that Vacated a place and a new one at
// that place, and the write-back makes one overwrite of it (Inherit) when the
// content is about to be sent. That is a function of the journal: neither a
// slow service nor a crash changes it.
//
// # Invariants
//
//   - An intent leaves the journal only after the mirror holds what fulfilled
//     it, and both steps look like one to a reader (Fulfil).
//   - An inode number never means another object.
//   - An entry finds its node and its folders without the mirror (bind.go).
//   - One name shows one file, for listing, lookup and every change alike.
//   - What a program writes to a file that it keeps open is in the journal after
//     CommitAfter, as content that nobody has closed (CommitOpen). A writer's close
//     or fsync, and nothing else, makes it content to be sent; CloseUnclosed stands
//     for the close that a crash prevented.
//   - Gen of an inode grows when its content was changed elsewhere, and never
//     while a draft pins the version: from the first write, not from the open.
//     It neither changes nor comes again with other bytes when a file takes
//     over a node that had another Gen (keepGen).
//
// # Lock order
//
//	File.mu  →  Tree.mu  →  files.mu, workedTable.mu, the journal's lock, one read transaction of the mirror
//
// Under Tree.mu nothing is written, synced, sent or waited for.
package tree
