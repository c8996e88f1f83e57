// Package changes answers: when to look?
//
// A Poller asks the changes feed and gives what it tells, chunk by chunk, to a
// Target, which is the Store's Feed. It owns nothing durable: the checkpoint belongs
// to the Target, which commits it together with the nodes it covers, so that a
// crash repeats a chunk and never skips one (API §9.3).
//
// # Manners
//
// One call when nothing changed. Soon again after activity, here (Poke) or
// there, then ever later up to Options.Interval. With Interval 0 only Refresh
// asks, at the start too: until then folders are listed on demand. When the service throttles,
// is away or wants a login: later and later, with jitter. A stream that was
// cut goes on at once from the last chunk applied, as long as it gets on.
//
// A checkpoint that is refused, or a stream that begins from the start after
// each cut, is started over a few times, ever later; then the poll has failed.
//
// # Refresh
//
// When the service tells everything anew and the Target knows something
// already, and every four weeks by ourselves (in pieces between polls, while
// news go on: renew.go), it is a refresh of the Target, which ends with the end
// line. A first sync goes into the Target as news do.
//
// # Concurrency
//
// Run's goroutine does all the work; while an answer is read, a second one,
// which it owns and waits for, decodes ahead of it. Poller.mu guards the
// status and the round waiting to be run; nothing is called with it held.
package changes
