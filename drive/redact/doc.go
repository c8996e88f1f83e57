// Package redact answers one question: what of a text may be shown?
//
// Secrets are values of type [Secret], which no way of printing tells. Texts
// that others wrote (the service, libraries) go through [Text], which takes
// out the values it was told of by [Hide] and what has the unmistakable form of
// a token; names of files are never touched, whatever words they are made of.
// [Printable] makes what came from the network or the drive harmless to a
// terminal.
package redact
