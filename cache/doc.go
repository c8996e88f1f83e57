// Package cache answers one question: where is the truth right now?
//
// Its Store gives names, handles, and errors shaped like errno, over rooms that
// do not know each other's insides:
//
//	tree      what is shown: mirror, journal and open files under one lock
//	writeback how the drive gets it, exactly once: the write-back
//	journal   what the drive lacks: one entry per inode, and drafts of content
//	mirror    what the drive told us: identity, names, index, checkpoint
//	chunk     bytes we have seen: memory, disk, downloads in flight
//
// Between them work, each with what it needs of the rooms and none with the
// Store; arrows go down:
//
//	Feed      the poller's side: chunks of the feed, refreshes
//	Queue     what the drive lacks and how that goes on, for status and flush
//	lister    asks for what a call wants to know of a folder and the mirror lacks
//	siblings  reads ahead over the small files of a folder
//	filler    fetches the bases of edits
//	checker   compares folders with the drive; the auditor does it all the time
//	source    the drive's bytes, for chunk
//	intake    takes what the drive answers into mirror and tree
//	properties  which properties of nodes of ours the mirror lacks, and who we are
//	events    what the user should know of
//
// A local change is in the journal before the call that made it returns. What
// is sent while a file is open (WriteBack.Stream: new files only, in order, with
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
// Store has none of its own. Those of what works between the rooms are leaves
// around small tables, but siblings' is held while it reads the tree. Effects are
// handed to the kernel side with no lock held.
//
// # Glossary
//
// The words of our own, for all packages below this one. Everything else goes by
// the field's name: intent, observed state, write-back, durable, checkpoint,
// tombstone, quarantine, reserve.
//
//	node      an object of the drive (the service's word): a file or folder, by id
//	entry     the journal's record of one inode: the intent, and the progress with it
//	draft     the bytes of a file that the drive lacks, and which parts they are
//	base      the version of a node that an edit or an intent began from
//	doubt     of a base: a call of ours may have changed the node, so it is got again
//	place     the folders and the name that an entry wants
//	vacated   the place that a removed file left, where a new one may be its heir
//	heir      the new file at a vacated place: it overwrites the node of the removed one
//	echo      the feed telling of what a call of ours did
//	settling  the time after a close in which more changes may come, before it is sent
//	Gen       counts what the kernel must take for another file: content from elsewhere
//	effect    what the kernel must forget after a change that it did not make
//	patience  how long a system call waits for the drive's answer to its intent
//	granule   the part of a chunk that is there, or fetched, as a whole
//	ballast   disk space held to be given up, so that deleting works on a full disk
package cache
