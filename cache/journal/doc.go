// Package journal answers one question: which bytes and which wishes does the
// drive lack?
//
// It keeps one [Entry] per inode whose place, existence, content or
// properties on the drive differ from what the user made, and one [Draft] per
// inode whose content does. It knows no network: package settle fulfils the
// wishes, and the store above lays them over the mirror at every read.
//
// # What survives what
//
//   - kill -9 loses nothing that Written vouches for: its checksummed frame is
//     in journal.tail by write(2), and a draft's bytes are in its file when
//     WriteAt returns. Append itself only changes memory; what cannot be
//     written is taken back, with all that was appended after it.
//   - Power failure loses nothing that was synced: Commit and Put, then
//     Draft.Sync, then Journal.Sync. That content stays, with its file, until
//     newer content is synced or the drive has it, whatever is closed after.
//     Without Sync, entries follow in one synced bbolt transaction at most
//     [Options].GroupCommit after the first of them, and content that waits
//     for its upload is synced after some seconds.
//   - Content that was closed, but not synced when the power failed, may have
//     holes that look like zeros somebody wrote. It is set aside with a
//     message when the journal is opened under another boot of the kernel:
//     sending it could replace good bytes on the drive by a torn file.
//   - A crash finds a closed file as it was closed also when it was cut since;
//     what was overwritten in place since is overwritten, as on any disk.
//
// Damage of any kind (a record, a frame, a draft, the whole database) is
// moved to the directory aside, reported by Problems, and never stops Open.
//
// # Files
//
//	journal.db            bbolt: bucket entries (inode → record), bucket meta
//	journal.tail, .tail2  frames newer than the database; one is written while
//	                      the other is being folded into the database
//	drafts/INO-BIRTH      local content, a sparse file
//	aside/                what could not be used
//
// Frames carry consecutive numbers, and the database says up to which number
// it has them; so a frame may be replayed any number of times, a tail file is
// started afresh by writing over it, and a hole in the numbers is damage
// while an incomplete last frame is an unfinished Put.
//
// Draft generations come from one counter that never repeats within the life
// of a draft file. The file of an entry's content is the one with the largest
// BIRTH not above the entry's generation. Nothing is unlinked before the
// transaction that makes it superfluous is on the disk; otherwise a power
// failure could leave an entry with another generation's bytes.
//
// # Locks
//
// What SetRollback's hook takes, then Draft.mu, then Journal.mu. Journal.mu
// guards the index and the table of drafts, and is never held during I/O on
// the log nor while a new draft's file is made. Journal.writing says who writes
// the log: one goroutine at a time, holding no lock.
// Functions passed to Update, Edit, Peek, Children run under it and must call
// neither the journal nor a draft. There are two goroutines, the committer and
// the prover (which syncs content that waits); Close ends them and waits.
package journal
