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
// # Windows
//
// A Reader recognises up to four sequential streams, so that a tail read
// between two reads of the head (an index at the end of a film), or two players
// on one handle, are each sequential. The first read of a stream fetches 256
// KiB, of a film some more (see lookSize); the window grows with what is read
// one after the other (see growth), to 64 MiB after 2 MiB, because each step
// costs a round trip; two chunks stay behind. More than 128 MiB only a reader
// gets that waits for the line: with a window that deep, a request is for 16
// MiB and a connection spends its time on bytes instead of waiting for answers.
// Requests are smaller for what is read soon and towards the end of the file,
// and of different sizes where many begin together (see requestLocked).
// Who begins at the beginning with reads of 512 KiB copies the file, which no
// player or scanner does (see eagerRead): it has the deepest window at once, and
// all connections as soon as the first bytes show that one is far from enough.
// Reads overtake each other by a few MiB; what was jumped over is no part of
// what was read until it is. What a read needs is asked for together with what
// is to follow it. A jump to another place begins a stream and gives up the
// fetches of those before it, unless the reader was seen to come back to them.
// Read-ahead is planned anew each time from what is there and what is on its
// way, so a fetch that ended early leaves only a hole that the next plan sees.
//
// How many connections read-ahead may use is measured for the whole line (see
// line): few at first, more while each goes on bringing as much as before. On
// a line that one connection fills, a second one takes the bytes from what is
// needed now, and a film stops although the line is fast enough for it. A
// request whose last bytes are a round trip away does not count: the next one
// is sent then, so that no connection waits between two. One connection is
// nobody's but of reads that somebody waits for; beyond it they take one from
// read-ahead.
//
// # Memory
//
// All buffers come from one pool that never grows beyond Options.Memory;
// Views refer to its blocks. A block is pinned by Views, by reads that wait,
// by the fetch that writes to it and by the disk writer; every other block
// can be taken away at any moment, window or not. Read-ahead plans only with
// blocks that are neither pinned nor fetched ahead for others, so that windows
// shrink as readers come. A read somebody waits for takes what it needs, all
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
// Waiting for it would make the first byte after an open or a seek take two
// round trips. So one thing is allowed before: a read that lies wholly in one
// such stream is answered from it if the reader's stream has had no bytes
// yet, or only bytes of that same response. That read mixes nothing, and
// neither does a file read from its beginning: everything given before the
// first Confirm is one response. Should the Confirm fail, later reads get
// drive.ErrChanged.
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
// leave the fetch to the others who want it. A fetch that neither a read nor a
// window wants is cancelled.
//
// # Disk tier
//
// A reader that finds everything is not read ahead for from the network until
// it has read 8 MiB (see foundRun): a library scan that comes again would else
// ask for what comes after that which it read the first time.
//
// See disk: a file a chunk, no index to lose, checksums a granule. Writing
// happens behind a bounded queue, and nearly stops while the line brings more
// than 200 MB/s or readers get more than 1 GB/s, except for heads and tails of
// media. Whatever is missing, damaged or of doubtful origin there is fetched
// again.
//
// Reading from it goes one chunk ahead. A chunk that comes from there as a whole
// is let go of behind the window, and kept in memory only from the second time
// on: the kernel has its bytes, and the few buffers that are used over and over
// stay in the processor's cache, which makes reading a fifth faster.
//
// # Locks
//
// Cache.mu guards all state in memory and is never held over I/O, calls of
// the Source or calls of ristretto (whose OnExit takes it). Under it disk.mu
// may be taken. disk.writing comes before disk.headers and disk.mu.
package chunk
