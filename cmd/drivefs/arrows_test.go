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
	{"drive", nil, "it speaks to the service, and knows nobody who listens"},
	{"drive/drivetest", nil, "a second reading of the API: it must not share the first one's mistakes"},
	{"cache/mirror", []string{"drive"}, "what the drive told does not depend on what we want"},
	{"cache/chunk", []string{"drive"}, "bytes do not know names, wishes or the kernel"},
	{"cache/journal", []string{"drive"}, "what must survive depends on as little as possible"},
	{"cache/settle", []string{"drive", "cache/journal"}, "it brings wishes to the drive; the view is its host's"},
	{"cache", []string{"drive", "cache/mirror", "cache/chunk", "cache/journal", "cache/settle"}, "the one place where the rooms meet"},
	{"changes", []string{"drive", "cache"}, "it looks, and leaves what it saw to the Store"},
	{"fs", []string{"drive", "cache", "cache/chunk"}, "what the kernel wants is asked of the Store; of drive only errno.go knows, for its errors"},
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
		if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "integration") {
			continue // they wire everything
		}
		for _, a := range arrows {
			if a.who != name {
				continue
			}
			for _, i := range p.Imports {
				if to, ours := strings.CutPrefix(i, module); ours && !slices.Contains(a.may, to) {
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
		if !strings.HasPrefix(name, "cmd/") && !strings.HasPrefix(name, "integration") {
			t.Errorf("nobody said what %s may import", name)
		}
	}
}
