// Package changes answers: when to look?
//
// A Poller asks the changes feed and gives what it tells, chunk by chunk, to a
// Target, which is the Store. It owns nothing durable: the checkpoint belongs
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
// # Reset
//
// When the service tells everything anew and the Target knows something
// already, it goes into a Rebuild beside what is shown, which takes its place
// at the end line. A first sync goes into the Target directly.
//
// # Refresh
//
// Every four weeks everything is asked for anew, in pieces between polls, into
// a Rebuild beside what is shown (renew.go). News go to both meanwhile.
//
// # Concurrency
//
// Run's goroutine does all the work; while an answer is read, a second one,
// which it owns and waits for, decodes ahead of it. Poller.mu guards the
// status and the round waiting to be run; nothing is called with it held.
package changes
