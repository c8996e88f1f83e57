package writeback

import (
	"testing"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
)

// TestPlan has a row for each step, and for each that may come instead of it.
func TestPlan(t *testing.T) {
	type set func(*journal.Entry, *facts)
	// The base is a file that is where it should be, with everything on the drive.
	removed := func(e *journal.Entry, _ *facts) { e.Removed = true }
	trashed := func(e *journal.Entry, _ *facts) { e.Trashed = true }
	open := func(e *journal.Entry, _ *facts) { e.Open = true }
	folder := func(e *journal.Entry, _ *facts) { e.Folder = true }
	fresh := func(e *journal.Entry, f *facts) { e.NodeID, e.Base, e.LocalID, f.sent = "", nil, "l", false }
	tried := func(e *journal.Entry, _ *facts) { e.Sent = &journal.Sent{} }
	tagless := func(e *journal.Entry, _ *facts) { e.Base.ETag = "" }
	doubted := func(e *journal.Entry, _ *facts) { e.Base.Doubt() }
	sure := func(_ *journal.Entry, f *facts) { f.sure = true }
	named := func(name string) set { return func(e *journal.Entry, _ *facts) { e.Place.Name = name } }
	is := func(name string) set { return func(e *journal.Entry, _ *facts) { e.Base.Name = name } }
	in := func(ids ...string) set { return func(_ *journal.Entry, f *facts) { f.ids = ids } }
	home := func(ids ...string) set { return func(e *journal.Entry, _ *facts) { e.Base.Parents = ids } }
	gone := func(_ *journal.Entry, f *facts) { f.gone = 7 }
	waits := func(_ *journal.Entry, f *facts) { f.wait = 7 }
	unsent := func(_ *journal.Entry, f *facts) { f.sent = false }
	light := func(_ *journal.Entry, f *facts) { f.light = true }
	detour := func(_ *journal.Entry, f *facts) { f.detour = true }
	nameTaken := func(_ *journal.Entry, f *facts) { f.nameTaken = true }
	hereTaken := func(_ *journal.Entry, f *facts) { f.hereTaken = true }
	noRename := func(_ *journal.Entry, f *facts) { f.noRename = true }
	noMove := func(_ *journal.Entry, f *facts) { f.noMove = true }
	viaTemp := func(_ *journal.Entry, f *facts) { f.viaTemp = true }
	others := func(_ *journal.Entry, f *facts) { f.others = true }
	behind := func(_ *journal.Entry, f *facts) { f.behind = 9 }
	const temp = tree.TempPrefix + "n"

	for _, tt := range []struct {
		what string
		sets []set
		want step
	}{
		{"all is done", nil, step{do: finish}},
		{"removed", []set{removed, named("b"), unsent}, step{do: remove}},
		{"removed before it was made", []set{fresh, removed, tried}, step{do: remove}},
		{"removed and in the trash", []set{removed, trashed}, step{do: remove}},
		{"in the trash and wanted", []set{trashed, named("b")}, step{do: untrash}},
		{"being written", []set{fresh, open}, step{}},
		{"being written over the drive's", []set{open, unsent}, step{}},
		{"… and renamed", []set{open, unsent, named("b")}, step{do: rename, name: "b", last: true}},
		{"new", []set{fresh}, step{do: makeFile}},
		{"new, no answer", []set{fresh, tried}, step{do: lookFile}},
		{"new folder", []set{fresh, folder}, step{do: makeFolder}},
		{"new folder, no answer", []set{fresh, folder, tried}, step{do: lookFolder}},
		{"its place is in doubt", []set{doubted, named("b")}, step{do: locate}},
		{"its tag is not known", []set{tagless}, step{do: locate}},
		{"… but it was got", []set{tagless, sure}, step{do: finish}},
		{"its folder is gone", []set{gone, unsent}, step{do: findFolder}},
		{"its folder is not made yet", []set{waits, unsent}, step{do: await, on: 7}},
		{"no folder at all", []set{in()}, step{do: strand}},
		{"the root", []set{in(), home(), folder}, step{do: finish}},
		{"renamed", []set{named("b"), unsent}, step{do: rename, name: "b", last: true}},
		{"renamed, its own name in the way", []set{named("A"), viaTemp}, step{do: rename, name: temp, last: true}},
		{"… and on its way", []set{named("A"), viaTemp, is(temp)}, step{do: rename, name: "A", last: true}},
		{"moved", []set{in("q")}, step{do: move, from: "p", to: "q", last: true}},
		{"linked", []set{in("p", "q")}, step{do: move, to: "q", last: true}},
		{"unlinked from one", []set{home("p", "q")}, step{do: removeParent, from: "q"}},
		{"unlinked from one and renamed", []set{home("p", "q"), named("b")}, step{do: removeParent, from: "q"}},
		{"renamed and moved", []set{named("b"), in("q")}, step{do: rename, name: "b"}},
		{"… the name is taken where it is", []set{named("b"), in("q"), nameTaken}, step{do: move, from: "p", to: "q"}},
		{"… as the drive says", []set{named("b"), in("q"), noRename}, step{do: move, from: "p", to: "q"}},
		{"… and its own where it goes", []set{named("b"), in("q"), nameTaken, hereTaken}, step{do: rename, name: temp}},
		{"… as the drive says", []set{named("b"), in("q"), noRename, noMove}, step{do: rename, name: temp}},
		{"… and on its way", []set{named("b"), in("q"), noRename, noMove, is(temp)}, step{do: move, from: "p", to: "q", last: true}},
		{"a folder that is moved beside others", []set{folder, others, in("q")}, step{do: move, from: "p", to: "q", last: true, under: "q"}},
		{"… and renamed", []set{folder, others, named("b"), in("q")}, step{do: rename, name: "b", under: "q"}},
		{"a folder that is renamed beside others", []set{folder, others, named("b")}, step{do: rename, name: "b", last: true}},
		{"makes way", []set{detour, named("b"), unsent}, step{do: rename, name: temp, last: true}},
		{"has made way", []set{detour, named("b"), is(temp), unsent, behind}, step{}},
		{"changed", []set{unsent}, step{do: overwrite}},
		{"changed, and this is a lane for calls", []set{unsent, light}, step{}},
		{"changed and renamed in a lane for calls", []set{unsent, light, named("b")}, step{do: rename, name: "b", last: true}},
		{"changed, and its name is another's still", []set{unsent, behind}, step{do: overwrite}},
		{"done, and its name is another's still", []set{behind}, step{do: await, on: 9}},
		{"done in a lane for calls", []set{light}, step{do: finish}},
	} {
		e := &journal.Entry{Ino: 3}
		e.NodeID, e.Base = "n", &journal.Base{Name: "a", Parents: []string{"p"}, ETag: "t"}
		e.Place.Name = "a"
		f := facts{ids: []string{"p"}, sent: true}
		for _, s := range tt.sets {
			s(e, &f)
		}
		if got := plan(e, &f); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.what, got, tt.want)
		}
	}
}
