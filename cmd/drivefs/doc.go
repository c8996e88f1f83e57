// Command drivefs mounts Amazon Drive as a local directory. This package
// answers one question: who is asking?
//
// Each verb has a file of its own: its options, newX (the command) and runX
// (what it does). [mountDrive] is the only wiring of the program: mount and
// demo end in it, and differ only in endpoint and token. A verb that asks a
// running mount finds it with find.go and speaks to it over its control
// socket (internal/control). What a mount does by itself to get well again is
// in heal.go. Only [main] ends the process; exit.go chooses
// the exit code and the one line that goes to stderr.
package main
