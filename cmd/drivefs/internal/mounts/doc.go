// Package mounts answers one question: what does this machine say about its
// mounts? It reads /proc only and never asks a mounted filesystem, so a dead
// or hanging mount cannot stop it. It keeps no state.
package mounts
