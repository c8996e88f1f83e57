// Package cache answers one question: where is the truth right now?
//
// It has one type, Store: names, handles, and errors shaped like errno, over
// rooms that do not know each other's insides:
//
//	tree      what is shown: mirror, journal and open files under one lock
//	settle    how the drive gets it: the queue, the uploads, exactly once
//	journal   what the drive lacks: one entry per inode, and drafts of content
//	mirror    what the drive told us: identity, names, index, checkpoint
//	chunk     bytes we have seen: memory, disk, downloads in flight
//
// A local change is in the journal before the call that made it returns. What
// is sent while a file is open (Settler.Stream: new files only, in order, with
// a name that looks final) takes effect only after its close.
//
// # Staying true
//
// The feed is believed, but not blindly: Run compares a few folders an hour
// with the drive (audit.go), Check compares all of them, and the poller has
// everything told anew every four weeks, into a mirror beside the live one. A
// folder that was never told is listed on demand, page by page; a name is
// answered as soon as it is told (listing.go).
//
// # Locks
//
// Store has none of its own but leaves around its small tables. Effects are
// handed to the kernel side with no lock held.
package cache
