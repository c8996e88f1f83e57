// Package chunk answers one question: what are bytes [a, b) of this version
// of a file? It answers from memory, from disk or from the service, and never
// asks the service twice for what it has or is getting.
//
// # Units
//
// A version (Version) is cut into chunks of 4 MiB. Memory is given out in
// blocks of 256 KiB. What is fetched, checksummed and known to be there is a
// granule of 64 KiB, so that the state of a chunk is one 64-bit word.
//
// # Where bytes are looked for
//
// Every chunk of which anything is in memory, or on its way there, is in the
// table of its content. There is no second place: the windows of the handles,
// ristretto and the running fetches hold chunks, they do not own copies. A
// fetch is entered in its chunks the moment it is decided, so a second reader
// of the same bytes finds it and waits for the same bytes; a read is answered
// when its bytes have arrived, not when the fetch is complete.
//
// ristretto decides which chunks outlive the windows. It may refuse or drop a
// Set, and does so often (its admission compares frequencies), so it is told
// of a chunk when that leaves a window, and nothing depends on the outcome. A
// Set that returns false brings no OnExit: the hold is given back there.
//
// Order: memory, disk tier, network.
//
// # What a READ fetches
//
// Read-ahead is earned by the READs that reach us (see window), so that who
// stops anywhere has cost at most twice what he read, and a place half a MiB:
//
//   - the first read of a place: its bytes, and up to 256 KiB from the granule it
//     is in (look); of a film, a picture or a file of at most 512 KiB up to 512
//     KiB (filmLook). A file of at most 512 KiB is fetched whole.
//   - reads that follow each other: half of what was read so far is fetched
//     ahead, up to 2 MiB (trusting), as much as was read from there on. So a copy
//     takes a round trip for each doubling, some eight of them until all
//     connections are busy. Of a picture it is as much from the beginning, for a
//     picture is looked at whole.
//   - never more than the line carries in a second, nor more than three quarters
//     of the memory divided by those who read.
//   - what was jumped over counts against what was read: looks here and there
//     earn nothing. Reads overtake each other by a few MiB, and what they jumped
//     over is soon read.
//   - a read more than 4 MiB from where the last one ended (nearby) is another
//     place, which begins anew, and gives up what was asked for the one before,
//     unless the reader was seen to come back to it. A Reader has up to four
//     places, so that a tail read between two reads of the head (an index at the
//     end of a film), or two players on one handle, are each sequential.
//   - a reader that finds everything has nothing fetched ahead from the network
//     for its first 8 MiB (foundRun): it is perhaps a library scan that comes
//     again.
//
// What a read needs is asked for together with what is to follow it. Read-ahead
// is planned anew each time from what is there and what is on its way, so a
// fetch that ended early leaves only a hole that the next plan sees. Two chunks
// stay behind.
//
// There are never more connections than Options.Downloads, one of which is for
// reads that somebody waits for. How many of the others read-ahead may use at
// once is told by how fast one is beside so many others (see line): on a line
// that one connection fills, a second one takes the bytes from what is needed
// now, and a film stops although the line is fast enough for it. A request is
// for as much as keeps these connections bringing bytes; where an answer takes
// longer than its bytes, more of them wait for theirs. A connection that is cut
// is not another's before the service can have heard of it.
//
// # Memory
//
// All buffers come from one pool that never grows beyond Options.Memory;
// Views refer to its blocks. A block is pinned by Views, by reads that wait,
// by the fetch that writes to it and by the disk writer; every other block
// can be taken away at any moment, window or not. Read-ahead plans only with
// blocks that are neither pinned nor fetched ahead for others, so that windows
// shrink as readers come; what one reader of a file has read stays for another that
// follows it within 8 MiB. A read somebody waits for takes what it needs, all
// blocks of its range at once or none, first come first served: whoever waits
// for memory holds none, so somebody can always go on.
//
// # One version is never mixed with another
//
// A response is of one version. Which one, its ETag tells: all streams of a
// version must have the same. The first ETag is believed if nothing of the
// version is kept that it could be mixed with; a wrong Total or another ETag
// later means that the content changed (drive.ErrChanged for what is not in
// memory or on disk; the arriving bytes are not used).
//
// A stream that cannot be judged so (no ETag, or the first ETag beside bytes
// that came without one) is settled by Source.Confirm: is this version the
// node's current one? Versions only follow each other, and this one existed
// before the request; so if it is still current after the header of the
// response had come, the response was of it. Asking before the header would
// prove nothing, as the overwrite could fall between. The answer is awaited
// while the body arrives, one question settles every stream whose header came
// before it, and for a small file fetched whole the MD5 does it without a
// question. Until then the bytes belong to their fetch alone: they are not
// given to other readers, not kept, not written to disk.
//
// A content of at most 512 KiB, which comes whole, is seen by nobody before its
// MD5 was found to be the version's. If it is another one although a Confirm says
// that the version is current, the bytes are fetched anew once, and then given
// out as they come; Options.Wrong is told of both.
//
// A version once found changed is not fetched any more. A Reader that is
// opened after that asks once whether it is the current one all the same; if
// so, nothing of what was kept is trusted and the version starts over (for a
// Reader that was given some of what was kept: with the next Reader).
//
// # Failures
//
// A short body, a reset, a stall or a refusal that may pass is followed by
// another request for the first missing byte, at once if bytes had come, else
// after a growing pause, while somebody waits. Read-ahead gives up and pauses.
// A read ends with drive.ErrUnavailable after Options.ReadTimeout without a
// byte, or with hardly any (see leastRate), and at once with its context; both
// leave the fetch to the others who want it. Once the service has answered nothing
// for that long, reads end within a second, and a probe asks until it answers
// (see silence). A fetch that neither a read nor a window wants is cancelled.
//
// # Disk tier
//
// See disk: a file a chunk, no index to lose, checksums a granule, the files
// used last stay open. A read brings the granules it needs on its own goroutine,
// no more; the kernel is told to read the chunk that comes next from the disk.
// Writing happens behind a bounded queue, and stops while the line brings more
// than 1 GB/s, except for heads and tails of media. Whatever is missing, damaged
// or of doubtful origin there is fetched again.
//
// A chunk that comes from there as a whole is let go of behind the window, and
// kept in memory only from the second time on: the kernel has its bytes, and the
// few buffers that are used over and over stay in the processor's cache, which
// makes reading a fifth faster.
//
// # Locks
//
// Cache.mu guards all state in memory and is never held over I/O, calls of
// the Source or calls of ristretto (whose OnExit takes it). Under it disk.mu
// may be taken. disk.writing comes before disk.headers and disk.mu.
package chunk
