// Package drive answers one question: how does one speak to Amazon Drive?
// It turns the REST API (version 1) into methods of a Client: HTTP, JSON,
// tokens, retries, pacing. It keeps nothing but the addresses of the account
// and the token, decides nothing about files, and imports nothing of ours.
// "API §n" in comments means the section of the API reference the fact is
// from.
//
// A call (type call: its name, whether a repeat is harmless, which host it is
// for) goes through layers, each of which knows one thing and can be tested
// alone. The first three are functions that send a request of a call; the
// others are http.RoundTrippers, which find the call in the request's context:
//
//	retrier   repeats what may be repeated, with Amazon's back-off
//	followed  follows a download by hand, without Authorization, with Range
//	resolved  knows the two hosts of the account (discovery), asks again when one is gone
//
//	auth      adds the token; a refused token is renewed once
//	pace      one budget and one queue by priority for all calls; connections for content
//	slurp     reads small answers whole, so that a cut one is a failed try
//	stall     gives up on a silent connection
//	observe   logs (never a secret), tells Options.Observe and keeps State
//	base      a tuned http.Transport
//
// Invariants:
//
//   - Authorization goes to the account's hosts and to discovery only, never
//     after a redirect and never to a tempLink. No log line and no error holds a
//     token or a signed address.
//   - Nothing that may have had an effect is repeated unless the repeat is
//     harmless (same localId, same final state). The body of an upload is
//     sent once; it is sent again only when it could be rewound and the service
//     had refused the token.
//   - Everything read from the network has a limit, and every wait ends with
//     the caller's context. A wait that would outlive the context's deadline
//     is not begun: the call returns what the service said, not a context error.
//   - Errors are classified here and judged elsewhere.
//
// Locks: pacer.mu, slots.mu, status.mu, counters.mu, pauses.mu, connections.mu, TokenFile.mu and
// Client.mu are leaves; none is held while another is taken or while the network is used. Client.discovering
// is a one-slot channel held during a discovery call; Client.mu may be
// taken inside it.
package drive
