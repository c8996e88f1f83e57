// Package config answers one question: what did the user ask for, and where?
//
// One table, [Settings], holds every setting once: its name, meaning, default
// and field. The flag --NAME, the variable DRIVEFS_NAME, the key NAME of the
// profile's table in config.toml and the mount option -o NAME are all made
// from that row, so they cannot drift apart, and each value goes through the
// same parser whichever way it came.
//
// Precedence: flag, environment, file, default; -o counts as a flag, and a
// flag beside it wins. Every mistake is an [*Error], which names the place it
// was made in.
package config
