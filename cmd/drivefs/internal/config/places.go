package config

import (
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
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
// "" when the user has none: sockets then live below the state directory.
type Places struct{ Config, State, Cache, Runtime string }

// FindPlaces follows the XDG base directory specification, and the places of
// system services where there is no HOME.
func FindPlaces(env Env) Places {
	home := env.dir("HOME")
	if home == "" && os.Geteuid() != 0 { // env -i, and some services: the system's places are not this user's
		if u, err := user.Current(); err == nil && filepath.IsAbs(u.HomeDir) {
			home = u.HomeDir
		}
	}
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
	case ownDir(env.dir("XDG_RUNTIME_DIR")):
		p.Runtime = filepath.Join(env.dir("XDG_RUNTIME_DIR"), "drivefs")
	case home == "":
		p.Runtime = "/run/drivefs"
	}
	return p
}

// ownDir reports whether there is such a directory and it is this user's: su and
// containers leave another one's in the environment.
func ownDir(path string) bool {
	var st syscall.Stat_t
	return path != "" && syscall.Stat(path, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFDIR && int(st.Uid) == os.Geteuid()
}

// System are the places of a mount that belongs to the machine: mount(8) as root
// has the HOME of whoever called it, and none at boot.
func System() Places {
	return Places{Config: "/etc/drivefs", State: "/var/lib/drivefs", Cache: "/var/cache/drivefs", Runtime: "/run/drivefs"}
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
