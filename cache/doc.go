// Package cache answers one question: where is the truth right now?
//
// It has one type, Store, over four rooms that do not know each other's
// insides:
//
//	mirror    what the drive told us: identity, names, index, checkpoint
//	journal   what the drive lacks: one wish per inode, and drafts of content
//	settle    how the drive gets it: the queue, the uploads, exactly once
//	chunk     bytes we have seen: memory, disk, downloads in flight
//
// # One view
//
// What a program sees is the mirror with the journal laid over it, merged at
// each read: an inode with a journal entry is where the entry says (or gone),
// everything else is where the mirror says; a name that an entry holds hides
// what the mirror has under the same folded name. Nothing local is ever
// written into the mirror, so the mirror stays a pure function of what the
// service told (it can be lost and rebuilt), and the journal a pure function
// of what the user did (it cannot). This differs from laying intents over the
// mirror's file: there is no second copy of a wish that a crash could leave
// out of step.
//
// # Invariants
//
//   - A wish leaves the journal only after the mirror holds what fulfilled it
//     (Host.Answered, then Host.Done), and both steps look like one to a reader.
//   - A local change is in the journal before the call that made it returns.
//   - An inode number never means another object; the drive's id is an
//     attribute that may come later, and may move to another inode (an
//     editor's save, a conflict copy).
//   - A wish finds its node and its folders without the mirror: the journal
//     keeps their ids beside the inode numbers (identity.go).
//   - What is sent while a file is open (Settler.Stream: new files only, in
//     order, with a name that looks final) takes effect only after its close.
//   - Gen of an inode grows when its content was changed by someone else, and
//     never while a draft or a writing handle pins the version. It neither
//     changes nor comes again with other bytes when a file takes over a node
//     that had another Gen (keepGen).
//
// # Staying true
//
// The feed is believed, but not blindly: Run compares a few folders an hour
// with the drive (audit.go), Check compares all of them, and the poller has
// everything told anew every four weeks, into a mirror beside the live one. A
// folder that was never told is listed on demand, page by page; a name is
// answered as soon as it is told (listing.go).
//
// # Lock order
//
//	file.mu  →  Store.view  →  journal's own lock, one bbolt read transaction of the mirror
//
// Store.view is held for reading over every merged read, and for writing over
// every change of the journal by the user and over Done. Nothing slow happens
// under it: no network, no synced write but the rare Rebind. Effects are
// handed to the kernel side with no lock held.
package cache
