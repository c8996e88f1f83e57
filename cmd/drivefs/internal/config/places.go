package config

import (
	"os"
	"path/filepath"
	"strings"
)

// Env is where variables are looked up; [os.LookupEnv] in the program.
type Env func(key string) (string, bool)

// get treats an empty variable as absent, as the XDG specification does.
func (e Env) get(key string) string {
	v, _ := e(key)
	return v
}

// dir is an XDG variable's directory; relative ones are to be ignored.
func (e Env) dir(key string) string {
	if v := e.get(key); filepath.IsAbs(v) {
		return filepath.Clean(v)
	}
	return ""
}

// Places are the directories of drivefs, each ending in "drivefs". Runtime is
// "" when the user has none: sockets then live in the state directory.
type Places struct{ Config, State, Cache, Runtime string }

// FindPlaces follows the XDG base directory specification, and the places of
// system services where there is no HOME.
func FindPlaces(env Env) Places {
	home := env.dir("HOME")
	pick := func(key, below, system string) string {
		switch {
		case env.dir(key) != "":
			return filepath.Join(env.dir(key), "drivefs")
		case home != "":
			return filepath.Join(home, below, "drivefs")
		}
		return filepath.Join(system, "drivefs")
	}
	p := Places{
		Config: pick("XDG_CONFIG_HOME", ".config", "/etc"),
		State:  pick("XDG_STATE_HOME", ".local/state", "/var/lib"),
		Cache:  pick("XDG_CACHE_HOME", ".cache", "/var/cache"),
	}
	switch {
	case env.dir("XDG_RUNTIME_DIR") != "":
		p.Runtime = filepath.Join(env.dir("XDG_RUNTIME_DIR"), "drivefs")
	case home == "":
		p.Runtime = "/run/drivefs"
	}
	return p
}

// absolute makes a path independent of the working directory, and lets a file
// write ~/ where a shell would have replaced it.
func absolute(path string) (string, error) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			path = filepath.Join(home, rest)
		}
	}
	return filepath.Abs(path)
}
