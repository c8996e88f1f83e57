package mirror

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drivefs/drivefs/drive"
)

// apply tells nodes by the feed and returns the changes as text: inode numbers
// as the ids they belong to.
func apply(t testing.TB, m *Mirror, nodes ...drive.Node) []string {
	t.Helper()
	changes, err := m.Apply(drive.Batch{Nodes: nodes, Checkpoint: "c"})
	if err != nil {
		t.Fatal(err)
	}
	return words(t, m, changes)
}

func words(t testing.TB, m *Mirror, changes []Change) []string {
	t.Helper()
	place := func(list []Dentry) string {
		var s []string
		for _, d := range list {
			name := "?"
			if d.Dir == RootIno {
				name = ""
			} else if rec, ok, _ := m.Get(d.Dir); ok {
				name = rec.ID
			}
			s = append(s, name+"/"+d.Name)
		}
		slices.Sort(s)
		return strings.Join(s, " ")
	}
	list := []string{}
	for _, c := range changes {
		var s string
		switch old, now := place(c.Old), place(c.New); {
		case old == now:
			s = now
		default:
			s = old + " -> " + now
		}
		if c.Content {
			s += " content"
		}
		if c.Attr && len(c.Old) > 0 && len(c.New) > 0 {
			s += " attr"
		}
		if c.Own {
			s += " own"
		}
		list = append(list, strings.TrimSpace(s))
	}
	slices.Sort(list)
	return list
}

// paths are all that can be reached, with ids.
func paths(t testing.TB, m *Mirror) map[string]string {
	t.Helper()
	all, err := tree(m)
	if err != nil {
		t.Fatal(err)
	}
	for p, s := range all {
		all[p] = strings.Fields(s)[0]
	}
	return all
}

func wantPaths(t testing.TB, m *Mirror, want ...string) {
	t.Helper()
	var got []string
	for p, id := range paths(t, m) {
		got = append(got, p+"="+id)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tree: -want +got\n%s", diff)
	}
}

func with(n drive.Node, fn func(*drive.Node)) drive.Node {
	fn(&n)
	return n
}

func status(n drive.Node, s drive.Status) drive.Node { n.Status = s; return n }

func content(n drive.Node, version int64, md5 string) drive.Node {
	c := *n.Content
	c.Version, c.MD5 = version, md5
	n.Content = &c
	return n
}

func born(n drive.Node, seconds int) drive.Node {
	n.Created = day0.Add(time.Duration(seconds) * time.Second)
	return n
}

const md5B, md5C = "0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f"

// Each step tells nodes and expects the changes and the tree after it.
func TestApply(t *testing.T) {
	type step struct {
		nodes   []drive.Node
		changes []string
		tree    []string
	}
	tell := func(n ...drive.Node) []drive.Node { return n }
	long := strings.Repeat("ä", 200) + ".jpg"
	longShown := func(id string) string { return strings.Repeat("ä", 120) + " (" + id + ").jpg" }
	tests := []struct {
		name  string
		steps []step
	}{
		{"a file comes, changes, goes", []step{
			{tell(leaf("f", "a.txt", 1)), []string{"-> /a.txt"}, []string{"/a.txt=f"}},
			{tell(leaf("f", "a.txt", 1)), []string{}, []string{"/a.txt=f"}},
			{tell(leaf("f", "b.txt", 2)), []string{"/a.txt -> /b.txt attr"}, []string{"/b.txt=f"}},
			{tell(content(leaf("f", "b.txt", 3), 2, md5B)), []string{"/b.txt content attr"}, []string{"/b.txt=f"}},
			{tell(status(leaf("f", "b.txt", 4), drive.Trashed)), []string{"/b.txt ->"}, nil},
		}},
		{"versions never go back", []step{
			{tell(leaf("f", "new", 5)), []string{"-> /new"}, []string{"/new=f"}},
			{tell(leaf("f", "old", 4)), []string{}, []string{"/new=f"}},
			{tell(leaf("f", "older", 3), leaf("f", "newest", 6), leaf("f", "old", 4)), []string{"/new -> /newest attr"}, []string{"/newest=f"}},
			{tell(status(leaf("f", "newest", 5), drive.Trashed)), []string{}, []string{"/newest=f"}},
		}},
		{"a tombstone stands against what is told late", []step{
			{tell(status(leaf("f", "a", 5), drive.Trashed)), []string{}, nil},
			{tell(leaf("f", "a", 4)), []string{}, nil},
			{tell(leaf("f", "a", 5)), []string{}, nil},
			{tell(leaf("f", "a", 6)), []string{"-> /a"}, []string{"/a=f"}},
		}},
		{"purged is for ever", []step{
			{tell(leaf("f", "a", 5)), []string{"-> /a"}, []string{"/a=f"}},
			{tell(drive.Node{ID: "f", Status: drive.Purged}), []string{"/a ->"}, nil},
			{tell(leaf("f", "a", 9)), []string{}, nil},
			{tell(drive.Node{ID: "g", Status: drive.Purged}, leaf("g", "g", 9)), []string{}, nil},
		}},
		{"children before their parents", []step{
			{tell(leaf("f", "a", 1, "d2")), []string{}, nil},
			{tell(dir("d2", "in", 1, "d1")), []string{}, nil},
			{tell(dir("d1", "out", 1)), []string{"-> /out"}, []string{"/out=d1", "/out/in=d2", "/out/in/a=f"}},
		}},
		{"a trashed folder hides what is in it, and brings it back", []step{
			{tell(dir("d1", "out", 1), dir("d2", "in", 1, "d1"), leaf("f", "a", 1, "d2")), []string{"-> /out", "-> d1/in", "-> d2/a"}, []string{"/out=d1", "/out/in=d2", "/out/in/a=f"}},
			{tell(status(dir("d1", "out", 2), drive.Trashed)), []string{"/out ->"}, nil},
			{tell(leaf("f", "b", 2, "d2")), []string{"d2/a -> d2/b attr"}, nil},
			{tell(dir("d1", "back", 3)), []string{"-> /back"}, []string{"/back=d1", "/back/in=d2", "/back/in/b=f"}},
		}},
		{"a move", []step{
			{tell(dir("d1", "one", 1), dir("d2", "two", 1), leaf("f", "a", 1, "d1")), []string{"-> /one", "-> /two", "-> d1/a"}, []string{"/one=d1", "/two=d2", "/one/a=f"}},
			{tell(leaf("f", "a", 2, "d2")), []string{"d1/a -> d2/a attr"}, []string{"/one=d1", "/two=d2", "/two/a=f"}},
			{tell(dir("d2", "two", 2, "d1")), []string{"/two -> d1/two attr"}, []string{"/one=d1", "/one/two=d2", "/one/two/a=f"}},
		}},
		{"several parents", []step{
			{tell(dir("d1", "one", 1), dir("d2", "two", 1), leaf("f", "a", 1, "d1", "d2", "d1", "nobody")), []string{"-> /one", "-> /two", "-> d1/a d2/a"}, []string{"/one=d1", "/two=d2", "/one/a=f", "/two/a=f"}},
			{tell(leaf("f", "a", 2, "d2")), []string{"d1/a d2/a -> d2/a attr"}, []string{"/one=d1", "/two=d2", "/two/a=f"}},
			{tell(leaf("f", "b", 3, "d1", "d2")), []string{"d2/a -> d1/b d2/b attr"}, []string{"/one=d1", "/two=d2", "/one/b=f", "/two/b=f"}},
			{tell(status(dir("d1", "one", 2), drive.Trashed)), []string{"/one ->"}, []string{"/two=d2", "/two/b=f"}},
		}},
		{"a folder of several parents is in each", []step{
			{tell(dir("d1", "one", 1), dir("d2", "two", 1), dir("d3", "both", 1, "d1", "d2"), leaf("f", "a", 1, "d3")), []string{"-> /one", "-> /two", "-> d1/both d2/both", "-> d3/a"},
				[]string{"/one=d1", "/two=d2", "/one/both=d3", "/two/both=d3", "/one/both/a=f", "/two/both/a=f"}},
		}},
		{"cycles", []step{
			{tell(dir("d1", "one", 1, "d2"), dir("d2", "two", 1, "d1"), dir("d3", "self", 1, "d3")), []string{"-> d1/two", "-> d2/one"}, nil},
			{tell(dir("d1", "one", 2, "d2", rootID)), []string{"d2/one -> /one attr"}, []string{"/one=d1", "/one/two=d2"}},
			{tell(dir("d2", "two", 2)), []string{"/one -> /one d2/one attr", "d1/two -> /two attr"}, []string{"/one=d1", "/two=d2", "/two/one=d1"}},
		}},
		{"two nodes of one name: the older keeps it", []step{
			{tell(born(leaf("aaaaaaaa1", "Name.txt", 1), 5)), []string{"-> /Name.txt"}, []string{"/Name.txt=aaaaaaaa1"}},
			{tell(born(leaf("bbbbbbbb2", "NAME.txt", 1), 3)), []string{"-> /NAME.txt", "/Name.txt -> /Name (aaaaaaaa).txt"}, []string{"/NAME.txt=bbbbbbbb2", "/Name (aaaaaaaa).txt=aaaaaaaa1"}},
			{tell(born(leaf("cccccccc3", "name.TXT", 1), 4)), []string{"-> /name (cccccccc).TXT"}, []string{"/NAME.txt=bbbbbbbb2", "/Name (aaaaaaaa).txt=aaaaaaaa1", "/name (cccccccc).TXT=cccccccc3"}},
			{tell(status(born(leaf("bbbbbbbb2", "NAME.txt", 2), 3), drive.Trashed)), []string{"/NAME.txt ->", "/name (cccccccc).TXT -> /name.TXT"}, []string{"/name.TXT=cccccccc3", "/Name (aaaaaaaa).txt=aaaaaaaa1"}},
			{tell(born(leaf("cccccccc3", "other", 2), 4)), []string{"/Name (aaaaaaaa).txt -> /Name.txt", "/name.TXT -> /other attr"}, []string{"/other=cccccccc3", "/Name.txt=aaaaaaaa1"}},
		}},
		{"of one age: the lower id keeps it; ids that look alike", []step{
			{tell(dir("aaaaaaaa2", "n", 1), dir("aaaaaaaa3", "N", 1), dir("aaaaaaaa1", "n", 1)), []string{"-> /N (aaaaaaaa3)", "-> /n", "-> /n (aaaaaaaa)"}, []string{"/n=aaaaaaaa1", "/n (aaaaaaaa)=aaaaaaaa2", "/N (aaaaaaaa3)=aaaaaaaa3"}},
			{tell(born(dir("zzz", "n (aaaaaaaa)", 1), 99)), []string{"-> /n (aaaaaaaa)", "/n (aaaaaaaa) -> /n (aaaaaaaa2)"},
				[]string{"/n=aaaaaaaa1", "/n (aaaaaaaa2)=aaaaaaaa2", "/N (aaaaaaaa3)=aaaaaaaa3", "/n (aaaaaaaa)=zzz"}},
		}},
		{"another case of its own name", []step{
			{tell(leaf("f", "readme", 1)), []string{"-> /readme"}, []string{"/readme=f"}},
			{tell(leaf("f", "README", 2)), []string{"/readme -> /README attr"}, []string{"/README=f"}},
		}},
		{"what is not shown", []step{
			{tell(status(leaf("f", "pending", 1), drive.Pending), leaf("g", "", 1),
				with(leaf("h", "asset", 1), func(n *drive.Node) { n.Kind = drive.Asset }),
				with(leaf("i", "album", 1), func(n *drive.Node) { n.Kind = "ALBUM" }),
				with(leaf("j", "lost", 1), func(n *drive.Node) { n.Parents = nil })), []string{}, nil},
			{tell(leaf("f", "pending", 1), leaf("g", "named", 2), leaf("j", "lost", 2)), []string{"-> /lost", "-> /named", "-> /pending"}, []string{"/pending=f", "/named=g", "/lost=j"}},
			{tell(leaf("g", "", 3)), []string{"/named ->"}, []string{"/pending=f", "/lost=j"}},
			{tell(with(leaf("j", "lost", 3), func(n *drive.Node) { n.Parents = nil })), []string{"/lost ->"}, []string{"/pending=f"}},
		}},
		{"content that comes late is no change of it", []step{
			{tell(with(leaf("f", "a", 1), func(n *drive.Node) { n.Content = nil })), []string{"-> /a"}, []string{"/a=f"}},
			{tell(leaf("f", "a", 2)), []string{"/a attr"}, []string{"/a=f"}},
			{tell(with(leaf("f", "a", 3), func(n *drive.Node) { n.Content = nil })), []string{"/a attr"}, []string{"/a=f"}},
		}},
		{"long names", []step{
			{tell(leaf("ffffffff1", long, 1)), []string{"-> /" + longShown("ffffffff")}, []string{"/" + longShown("ffffffff") + "=ffffffff1"}},
			{tell(leaf("gggggggg1", strings.ToUpper(long), 1)), []string{"-> /" + strings.Repeat("Ä", 120) + " (gggggggg).JPG"}, []string{"/" + longShown("ffffffff") + "=ffffffff1", "/" + strings.Repeat("Ä", 120) + " (gggggggg).JPG=gggggggg1"}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := open(t, Options{})
			for i, s := range tt.steps {
				got := apply(t, m, s.nodes...)
				if diff := cmp.Diff(s.changes, got); diff != "" {
					t.Errorf("step %d: changes: -want +got\n%s", i, diff)
				}
				wantPaths(t, m, s.tree...)
				if again := apply(t, m, s.nodes...); len(again) > 0 {
					t.Errorf("step %d: told again: %v", i, again)
				}
			}
		})
	}
}
