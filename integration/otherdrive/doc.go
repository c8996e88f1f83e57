// Package otherdrive is a second, independent reading of the Amazon Drive API
// document: a small in-memory server that answers "would the program also work
// against somebody else's server?".
//
// It shares no code with package drive or drive/drivetest and was written from
// the document alone. Wherever the document says that something is unknown, in
// conflict or inferred, the choice is a field of Options whose zero value is
// the plainest reading; Choices lists the other readings by name, so that a
// test can run the same scenario under each of them.
//
// One mutex guards all state; contents are files of a temporary directory and
// never change once written. What a request does wrong on any reading (a token
// on a tempLink, a purge, a malformed upload) is kept as a complaint.
package otherdrive
