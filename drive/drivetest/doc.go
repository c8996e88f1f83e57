// Package drivetest answers one question: what would the service have said?
//
// It is Amazon Drive as API document describes it, on one loopback listener
// and in one directory: discovery and metadata below /drive/v1/, contents
// below /cdproxy/, Login with Amazon at /ap/oa and /auth/o2/, and /admin/ to
// change the faults while it runs. It imports nothing of this module: it is a
// second reading of the document, with JSON types of its own, so that a
// misreading in the client shows as a failing test instead of as an agreement
// of two wrongs. `drivefs serve`, `drivefs demo` and the tests share it.
//
// # Invariants
//
//   - A live name is unique within each of its parents without regard to case
//     (§5.5), whatever the order of calls. Only [Client.PutRaw] can break this.
//   - A node in the store never points at missing bytes: contents are written
//     to a temporary file, synced and renamed before the record is committed,
//     and removed only after the record that let go of them is.
//   - A write is answered after its commit, and the changes feed waits for the
//     commit of what it tells. So no write that was answered is lost by
//     kill -9, and no checkpoint names a future that a crash took back.
//   - Faults change what a caller hears, never the invariants above. They
//     stand around the handlers: at the gateway, at the request's body and the
//     ResponseWriter, and in hooks where it takes to know what is told; no
//     handler knows their kinds.
//
// [Server.Check] verifies what of this can be seen.
//
// # Faults
//
// One hook ([Server.Hook]) and a list of rules ([Faults], the JSON of `serve
// --faults` and of POST /admin/faults) decide per request. Every third upload
// of at least a gibibyte answered with an empty 504 and there after a minute,
// one listing in ten with a 502, and a service that allows five calls a second:
//
//	{"seed": 1, "throttle": {"per_second": 5, "burst": 10, "retry_after": 2}, "rules": [
//	  {"op": "content.upload", "min_size": 1073741824, "every": 3,
//	   "fault": {"status": 504, "body": "empty", "effect": "late", "after": "1m"}},
//	  {"op": "nodes.*", "method": "GET", "probability": 0.1, "fault": {"status": 502, "body": "html"}}]}
//
// [Modes], part of the same JSON, are other readings of the document that hold
// for all calls: a service whose content ETags move with metadata, that tells
// children first, is three hours ahead, answers each call after two seconds,
// hides every node from its first two gets, and whose 409 cannot be read:
//
//	{"content_etag": "node", "feed_order": "children", "clock_skew": "3h", "delay": "2s", "rules": [
//	  {"op": "nodes.get", "per_node": true, "times": 2, "fault": {"status": 404}},
//	  {"fault": {"do": "spoil", "status": 409, "body": "html"}}]}
//
// # Inside
//
// All nodes are in memory, in maps by id, by parent and by name, and in a log
// ordered by their last change, which is the feed. bbolt holds one record a
// node, keyed by a number that grows, and is read once, at the start: a
// million nodes load in seconds, a bulk load appends. Contents are plain
// files.
//
// # Lock order
//
// store.mu, then store.pend.mu. Neither is held while a body is read or
// written or while bbolt works; handlers encode an answer under the read lock
// and send it after. Server.mu (faults, counters, request log) and
// Server.lifeMu are leaves.
//
// What the document calls unknown is a switch in [Options], with the choice
// that the document suggests as its zero value.
package drivetest
