// Package control answers one question: how does a verb speak to a running
// mount? Over HTTP on a socket of mode 0600 in a directory of mode 0700.
//
// A call is POST /v1/VERB with a JSON body; its answer is a stream of JSON
// lines, [Event]s, of which the last one carries the result or a [Fault].
// Faults carry the exit code the verb ends with, so that the verb does not
// have to understand them. /debug/pprof/ is there too.
//
// The server owns its goroutines: Close stops accepting, cancels calls under
// way and waits for them. There are no locks of its own.
package control
