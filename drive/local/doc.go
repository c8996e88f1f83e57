// Package local answers one question: what concerns this machine alone? A file
// that is replaced at once and for good, and which hosts are this machine.
// There is one such helper each for the whole module.
package local
