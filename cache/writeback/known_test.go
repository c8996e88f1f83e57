package writeback

import (
	"fmt"
	"testing"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// TestToldAfterKill: a call whose answer was lost with the process is told to
// the mirror by the next life, also where only the case of a name, or a folder
// that the node left, differs from what the mirror has.
func TestToldAfterKill(t *testing.T) {
	for _, tt := range []struct {
		name       string
		setup, ops func(w *world)
		path       string
	}{
		{
			name:  "another case",
			setup: func(w *world) { w.mkdir("d") },
			ops:   func(w *world) { w.rename("d", "D") },
			path:  "D",
		},
		{
			name:  "one folder less",
			setup: func(w *world) { w.mkdir("d"); w.write("d/f", "f"); w.link("d/f", "", "d") },
			ops:   func(w *world) { w.link("d/f", "") },
			path:  "f",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, after := range []bool{false, true} {
				for at := 1; ; at++ {
					killed := false
					if !t.Run(fmt.Sprintf("%d,after=%v", at, after), func(t *testing.T) {
						w := newWorld(t, drivetest.Options{}, fast).run()
						tt.setup(w)
						w.flush()
						a := w.arm(at, after)
						tt.ops(w)
						if killed = a.died(); killed {
							a.rise()
						}
						w.flush()
						n, err := w.other.Lookup(tt.path)
						if err != nil {
							t.Fatal(err)
						}
						if name, parents, ok, err := w.t.NodePlace(n.ID); err != nil || !ok || name != n.Name || !sameSet(parents, n.Parents) {
							t.Errorf("the mirror has %q in %q (%v), the drive %q in %q", name, parents, ok, n.Name, n.Parents)
						}
					}) || !killed {
						break
					}
				}
			}
		})
	}
}
