package main

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Who may import whom inside the module, and why nobody else. A new package
// has to be named here. Imports of tests do not count.
var arrows = []struct {
	who       string
	may       []string
	otherwise string // why nothing else
}{
	{"drive/local", nil, "this machine's own"},
	{"drive/redact", nil, "what may be shown depends on nothing"},
	{"drive", nil, "it speaks to the service, and knows nobody who listens"},
	{"drive/drivetest", nil, "a second reading of the API: it must not share the first one's mistakes"},
	{"cache/recent", nil, "it is a map"},
	{"cache/mirror", []string{"drive"}, "what the drive told does not depend on what we want"},
	{"cache/chunk", []string{"drive"}, "bytes do not know names, wishes or the kernel"},
	{"cache/journal", []string{"drive"}, "what must survive depends on as little as possible"},
	{"cache/writeback", []string{"drive", "cache/chunk", "cache/journal", "cache/mirror", "cache/tree"}, "it brings what the tree wants to the drive"},
	{"cache/tree", []string{"drive", "cache/recent", "cache/mirror", "cache/chunk", "cache/journal"}, "what is shown does not depend on how the drive gets it"},
	{"cache", []string{"drive", "cache/recent", "cache/mirror", "cache/chunk", "cache/journal", "cache/writeback", "cache/tree"}, "the one place where the rooms meet"},
	{"changes", []string{"drive", "cache"}, "it looks, and leaves what it saw to the Store"},
	{"fs/guard", nil, "it knows of a mount its number, and must work when nothing else does"},
	{"fs", []string{"drive", "cache", "cache/chunk", "fs/guard"}, "what the kernel wants is asked of the Store; of drive only errno.go knows, for its errors"},

	{"cmd/drivefs", append(inner("account", "clock", "config", "control", "doctor", "exit", "killed", "lock", "logs", "manual", "mountd", "mounts", "running", "sample", "show", "state", "trash", "version"), "drive", "drive/drivetest", "fs/guard"), "verbs ask the mount, the drive, or a package that knows: never the cache"},
	{in + "account", append(inner("config", "exit", "version"), "drive", "drive/drivetest"), "how a drive is reached does not depend on who asks"},
	{in + "clock", inner("show"), "it compares two times"},
	{in + "config", nil, "what the user asked for, before anything is done"},
	{in + "control", nil, "the language between a verb and a mount"},
	{in + "doctor", append(inner("account", "clock", "config", "control", "exit", "killed", "lock", "mounts", "running", "show", "state", "version"), "drive", "cache/journal", "fs/guard"), "it looks, and ends what was killed"},
	{in + "exit", append(inner("config", "control"), "drive"), "it knows every package's errors, and nothing of what they do"},
	{in + "killed", append(inner("exit", "lock", "mounts"), "fs/guard"), "it must not ask what it ends"},
	{in + "lock", nil, "one file"},
	{in + "logs", inner("config", "exit"), "everybody writes a log"},
	{in + "manual", inner("config", "exit", "version"), "the words of the verbs, which it is handed"},
	{in + "mountd", append(inner("account", "config", "control", "exit", "killed", "lock", "logs", "mounts", "show", "trash", "version"), "drive", "cache", "changes", "fs", "fs/guard"), "the mount daemon has no command line: it never imports a verb"},
	{in + "mounts", nil, "what the kernel says"},
	{in + "running", inner("config", "control", "exit", "lock", "mounts"), "it finds mounts from outside"},
	{in + "sample", nil, "files of no account"},
	{in + "show", inner("control", "exit"), "words for people"},
	{in + "state", append(inner("config", "exit", "lock", "show"), "cache/journal"), "a state directory at rest"},
	{in + "trash", append(inner("control", "exit"), "drive"), "the drive's trash, with or without a mount"},
	{in + "version", nil, "what the linker knows"},
}

// leaves are for everybody: one helper each, which knows nothing of drives.
var leaves = []string{"drive/local", "drive/redact"}

const in = "cmd/drivefs/internal/"

func inner(names ...string) []string {
	for i, name := range names {
		names[i] = in + name
	}
	return names
}

func TestImportArrows(t *testing.T) {
	const module = "github.com/drivefs/drivefs/"
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	type pkg struct {
		ImportPath string
		Imports    []string
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		seen[name] = true
		if strings.HasPrefix(name, "integration") {
			continue // they wire everything
		}
		for _, a := range arrows {
			if a.who != name {
				continue
			}
			for _, i := range p.Imports {
				if to, ours := strings.CutPrefix(i, module); ours && !slices.Contains(leaves, to) && !slices.Contains(a.may, to) {
					t.Errorf("%s imports %s: %s", name, to, a.otherwise)
				}
			}
		}
	}
	for _, a := range arrows {
		if !seen[a.who] {
			t.Errorf("there is no package %s", a.who)
		}
		delete(seen, a.who)
	}
	for name := range seen {
		if !strings.HasPrefix(name, "integration") {
			t.Errorf("nobody said what %s may import", name)
		}
	}
}
