// Package journal answers one question: which bytes and which intents does the
// drive lack?
//
// It keeps one [Entry] per inode whose place, existence, content or
// properties on the drive differ from what the user made, and one [Draft] per
// inode whose content does. It knows no network: the write-back fulfils the
// intents, and the tree above lays them over the mirror at every read.
//
// # What survives what
//
//   - kill -9 loses nothing that Written vouches for: its checksummed frame,
//     and the content if it is small, are in the log by write(2), and a
//     draft's bytes are in its file when WriteAt returns. Append itself only
//     changes memory; what cannot be written is taken back, with all that was
//     appended after it.
//   - What is recorded of a file that is open (Intent.Open) is kept like any
//     other content, and stays open: the write-back does not send it.
//   - Power failure loses nothing that was synced: Commit, Append and Written,
//     then Draft.Sync, then Journal.Sync. That content stays, with its file,
//     until newer content is synced or the drive has it, whatever is closed
//     after. Without Sync, entries and small contents follow at most
//     [Options].GroupCommit after the first of them, and longer content that
//     waits for its upload is synced after some seconds.
//   - Content that was closed, but not synced when the power failed, may have
//     holes that look like zeros that were written. What its checksums prove
//     whole is kept; the rest is set aside with a message when the journal is
//     opened under another boot of the kernel: sending it could replace good
//     bytes on the drive by a torn file.
//   - A sync that failed is final: what it covered counts only when it was
//     written anew. The log is rewritten, small contents are moved, and a file
//     whose checksums still hold is copied.
//   - A crash finds a closed file as it was closed also when it was cut since;
//     what was overwritten in place since is overwritten, as on any disk. A
//     file that changed in any other way is never sent.
//
// Damage of any kind (a frame, a segment, a draft, the whole log) is told by
// Problems, what could not be used is in the directory aside, and it never
// stops Open.
//
// # Files
//
//	journal.log/N       the log's segments: frames, numbered; see wal.go
//	journal.log/N.base  all that lived when segment N was begun
//	journal.log/N.small contents up to 16 KiB; see small.go
//	drafts/INO-FILE     longer content, a sparse file
//	ballast             room that the log may have on a full disk
//	aside/              what could not be used
//	journal.db          a bbolt database that only says the format, for
//	                    earlier versions, whose entries were in it
//
// Generations of drafts, files and small contents get their numbers from one
// counter, and a state says which file it is of. Nothing is unlinked before the
// disk has the record that makes it superfluous; otherwise a power failure
// could leave an entry without its bytes.
//
// # Locks
//
// What SetRollback's hook takes, then Draft.mu, then Journal.mu. Journal.mu
// guards the index and the tables, and is never held during I/O on the log or
// a draft. Journal.writing says who writes the log, Journal.hardening who syncs
// it: one goroutine at a time each, holding no lock. Functions passed to
// Children run under Journal.mu and must call neither the journal nor a draft.
// There are two goroutines, the keeper of the log and the prover (which syncs
// content that waits); Close ends them and waits.
package journal
