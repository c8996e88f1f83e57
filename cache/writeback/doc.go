// Package writeback answers one question: how does the drive get what the
// journal says it lacks, exactly once?
//
// An entry of the journal is an intent: the state one inode should have. To
// settle it is to compare it with what the drive is known to have (Base), to
// make the fewest calls that close the difference, and to let the entry go.
// Nothing is queued beside the journal, so a crash needs no replay: settling
// starts again from the same comparison.
//
// # Who does what
//
// One goroutine, Run, owns the queue: which inode is due, which waits for
// another, which is being worked on. It makes no calls to the drive. For each
// inode it starts a worker, never two for one inode; the worker reads the
// entry again before each step, has plan say what that is (it alone decides on
// the next call), makes the call, records what it learned, and reports. What the
// other goroutines share with Run (waiters, requests, the list of running work)
// is behind WriteBack.mu.
//
// # Invariants
//
//   - What a call may bring about is in the journal before the call goes out
//     (Sent and LocalID for what is made or sent; for a rename or a move Base
//     is in doubt, and not believed until the node was got), and what it
//     did bring about is handed to the mirror, then recorded in the entry, before
//     the next one. A kill between any two instructions therefore ends in
//     looking, never in a second effect. What earlier calls of unknown outcome
//     sent stays in Sent until one is known to have taken effect.
//   - Whose a node is, judge alone says, from content, from a LocalID that maps
//     to it, and from dates of the service compared with dates of the service.
//   - "Not known" is never taken for "no": an error of the mirror fails the
//     step, and a 404 is a question until a poll later (missing.go).
//   - A body is sent only when it is sure that no earlier one can still take
//     effect, or that a second one could not double it.
//   - Content of others is never overwritten or trashed unseen: the node is
//     got fresh before an overwrite and before a trash, and a folder is
//     trashed only after a listing found nothing in it but what was removed.
//   - Content that no writer has closed is never sent, but for a stream, which does
//     not end before the close. Its file gets its name and place meanwhile.
//   - Bytes that were never written are never sent: content whose base is gone
//     is no content (baseLost).
//   - Times of the journal are waited for no longer than the longest legal wait
//     from when this life saw them first: clocks are set.
//   - Content never leaves the journal because a call was refused. Only intents
//     about names and places are ever undone.
//
// # Order
//
// A worker that finds another intent than the one it was started for stops:
// what that has to wait for is judged here, not there. Four things make an
// entry wait for another: its folder has no node yet; the name it wants is held
// by a node that is to leave; it is removed below a folder that is removed too
// (then that folder's trashing covers it); it is a removed folder out of which
// something is still to be moved. Where such waiting goes around in a circle (a
// and b swap names), a node in the circle that holds a wanted name steps aside
// to a temporary one, derived from its id. Nothing need be remembered of that:
// the entry wants another name still.
//
// # Streams
//
// A large new file goes up while it is still being written: a chunked body
// follows the draft, and its end is told only when the file was closed and the
// journal has what was sent. Until then nothing can come of the call, so
// whatever does not fit (a change of what was sent, another name, an answer
// that comes too early, a writer who rests) cuts it off, and the draft is sent
// after the close as ever. Overwrites do not stream: the old content would be
// gone before the new one is whole. Nor does what looks temporary; whoever calls
// WriteBack.Stream decides that.
//
// # Lock order
//
// WriteBack.mu is a leaf: nothing is called while it is held. Run and the
// workers hold no lock when they call the tree, the mirror, the journal, the drive
// or a function of Options.
package writeback
