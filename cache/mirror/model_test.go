package mirror

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/drivefs/drivefs/drive"
)

// model is a second, naive reading of what a mirror is: it keeps every state
// it was told, and answers by looking at all of them.
type model struct {
	best   map[string]modelNode
	recent map[string]bool // told by answers
}

type modelNode struct {
	n    drive.Node
	rank int
}

func newModel() *model {
	return &model{best: map[string]modelNode{}, recent: map[string]bool{}}
}

func modelRank(n *drive.Node) int {
	switch {
	case n.Status == drive.Purged:
		return 3
	case n.Status == drive.Trashed:
		return 2
	case n.Status == drive.Available && n.Name != "" && (n.Kind == drive.File || n.Kind == drive.Folder):
		return 1
	}
	return 0
}

// tell is what feed and listings do.
func (m *model) tell(n drive.Node) {
	r := modelRank(&n)
	old, ok := m.best[n.ID]
	if !ok && n.Kind != drive.File && n.Kind != drive.Folder && r != 3 {
		return
	}
	if ok {
		switch {
		case old.rank == 3:
			return
		case r == 3:
		case n.Version != old.n.Version:
			if n.Version < old.n.Version {
				return
			}
		case r < old.rank:
			return
		}
	}
	if ok && r >= 2 && len(n.Parents) == 0 {
		n.Parents = old.n.Parents
	}
	m.best[n.ID] = modelNode{n, r}
}

// answer is what a call for the id was answered: of equal versions it wins.
func (m *model) answer(n drive.Node) {
	m.recent[n.ID] = true
	r := modelRank(&n)
	old, ok := m.best[n.ID]
	if ok && (old.rank == 3 || n.Version < old.n.Version) {
		return
	}
	if ok && len(n.Parents) == 0 {
		n.Parents = old.n.Parents
	}
	m.best[n.ID] = modelNode{n, r}
}

// live is the node if it is to be shown somewhere, its parents being shown.
func (m *model) live(id string) (drive.Node, bool) {
	x, ok := m.best[id]
	return x.n, ok && x.rank == 1
}

// inside reports whether dir is id or below it.
func (m *model) inside(dir, id string, seen map[string]bool) bool {
	if dir == id {
		return true
	}
	n, ok := m.live(dir)
	if !ok || seen[dir] {
		return false
	}
	seen[dir] = true
	return slices.ContainsFunc(n.Parents, func(p string) bool { return p != dir && m.inside(p, id, seen) })
}

func (m *model) isDir(id string) bool {
	if id == rootID {
		return true
	}
	n, ok := m.live(id)
	return ok && n.Kind == drive.Folder
}

// children of a folder by shown name.
func (m *model) children(dirID string) map[string]string {
	var all []drive.Node
	for id := range m.best {
		n, ok := m.live(id)
		if ok && id != dirID && slices.Contains(n.Parents, dirID) {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b drive.Node) int {
		return cmp.Or(a.Created.Truncate(time.Millisecond).Compare(b.Created.Truncate(time.Millisecond)), cmp.Compare(a.ID, b.ID))
	})
	taken := map[string]bool{}
	shown := map[string]string{}
	left := all
	for level := uint8(0); len(left) > 0 && level < 5; level++ {
		var next []drive.Node
		for _, n := range left {
			name := shownAt(n.Name, n.ID, level)
			if f := strings.ToLower(name); taken[f] {
				next = append(next, n)
			} else {
				taken[f] = true
				shown[name] = n.ID
			}
		}
		left = next
	}
	maps.DeleteFunc(shown, func(_, id string) bool {
		n, _ := m.live(id)
		return n.Kind == drive.Folder && len(places(n)) > 1 && m.inside(dirID, id, map[string]bool{})
	})
	return shown
}

// places are the parents that count.
func places(n drive.Node) []string {
	p := slices.Sorted(slices.Values(n.Parents))
	return slices.DeleteFunc(slices.Compact(p), func(id string) bool { return id == n.ID })
}

// tree is every path below the root with what is there.
func (m *model) tree() map[string]string {
	out := map[string]string{}
	var walk func(dir, path string)
	walk = func(dir, path string) {
		for name, id := range m.children(dir) {
			n, _ := m.live(id)
			out[path+"/"+name] = describe(id, n.Name, n.Kind == drive.Folder, n.Version, n.Content)
			if n.Kind == drive.Folder {
				walk(id, path+"/"+name)
			}
		}
	}
	walk(rootID, "")
	return out
}

func describe(id, name string, folder bool, version int64, c *drive.ContentProperties) string {
	s := fmt.Sprintf("%s %q folder=%v v%d", id, name, folder, version)
	if c == nil {
		c = &drive.ContentProperties{}
	}
	if !folder {
		s += fmt.Sprintf(" content %d %d %s %s", c.Version, c.Size, c.MD5, c.ContentType)
	}
	return s
}

// shout is another spelling of name.
func shout(name string) string {
	return strings.Map(func(r rune) rune {
		if u := unicode.ToUpper(r); unicode.ToLower(u) == unicode.ToLower(r) {
			return u
		}
		return r
	}, name)
}

// tree reads the same out of a mirror, by List, and looks every name up.
func tree(m *Mirror) (map[string]string, error) {
	out := map[string]string{}
	var walk func(dir Ino, path string) error
	walk = func(dir Ino, path string) error {
		var recs []Record
		last := Ino(0)
		for {
			n := 0
			err := m.List(dir, last, 3, func(r *Record) bool {
				n++
				last = r.Ino
				c := *r
				c.Parents = slices.Clone(r.Parents)
				recs = append(recs, c)
				return true
			})
			if err != nil {
				return err
			}
			if n < 3 {
				break
			}
		}
		lent, err := scanned(m, dir)
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(lent, recs) {
			return fmt.Errorf("folder %d: %v are scanned, %v listed", dir, lent, recs)
		}
		for _, r := range recs {
			p := path + "/" + r.Shown
			if _, dup := out[p]; dup {
				return fmt.Errorf("%s is listed twice", p)
			}
			out[p] = describe(r.ID, r.Name, r.Folder, r.Version, &drive.ContentProperties{
				Version: r.Content, Size: r.Size, MD5: r.MD5, ContentType: r.ContentType,
			})
			other := shout(r.Shown)
			if got, exact, ok, err := m.Lookup(dir, other); len(other) <= NameMax && (err != nil || !ok || got.ID != r.ID || exact != (other == r.Shown)) {
				return fmt.Errorf("lookup of %q in %d: %v %v %v", r.Shown, dir, got, ok, err)
			}
			if !m.Reachable(r.Ino) {
				return fmt.Errorf("%s cannot be reached", p)
			}
			if !slices.Contains(r.Parents, dir) {
				return fmt.Errorf("%s has parents %d and is in %d", p, r.Parents, dir)
			}
			if r.Folder {
				if err := walk(r.Ino, p); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return out, walk(RootIno, "")
}

// dentryView is what a kernel could have cached: for every reachable folder its
// names. dirs are the reachable folders.
func dentryView(m *Mirror) (names map[Dentry]Ino, gens map[Ino]uint64, err error) {
	names, gens = map[Dentry]Ino{}, map[Ino]uint64{}
	var walk func(dir Ino) error
	walk = func(dir Ino) error {
		var dirs []Ino
		err := m.List(dir, 0, 1<<30, func(r *Record) bool {
			names[Dentry{dir, r.Shown}] = r.Ino
			gens[r.Ino] = r.Gen
			if r.Folder {
				dirs = append(dirs, r.Ino)
			}
			return true
		})
		for _, d := range dirs {
			if err == nil {
				err = walk(d)
			}
		}
		return err
	}
	return names, gens, walk(RootIno)
}

// unexplained is the first difference between two views that the changes do not
// tell of.
func unexplained(before, after map[Dentry]Ino, gensBefore, gensAfter map[Ino]uint64, changes []Change) error {
	told := map[Dentry]bool{}
	moved := map[Ino]bool{}
	content := map[Ino]bool{}
	for _, c := range changes {
		if len(c.Old) == 0 && len(c.New) == 0 {
			return fmt.Errorf("a change of %d without places", c.Ino)
		}
		for _, d := range c.Old {
			told[d] = true
		}
		for _, d := range c.New {
			told[d] = true
		}
		if c.Folder && !sameDentries(c.Old, c.New) {
			moved[c.Ino] = true
		}
		// What went and came back is looked up anew.
		content[c.Ino] = content[c.Ino] || c.Content || len(c.Old) == 0
	}
	// What hangs below a folder that moved, came or went is dropped with it.
	below := func(view map[Dentry]Ino, dir Ino) bool {
		seen := map[Ino]bool{}
		todo := []Ino{dir}
		for len(todo) > 0 {
			d := todo[0]
			todo = todo[1:]
			if moved[d] {
				return true
			}
			if seen[d] {
				continue
			}
			seen[d] = true
			for e, ino := range view {
				if ino == d {
					todo = append(todo, e.Dir)
				}
			}
		}
		return false
	}
	for d, ino := range before {
		if after[d] != ino && !told[d] && !below(before, d.Dir) {
			return fmt.Errorf("%d %q was inode %d and is %d, untold in %v", d.Dir, d.Name, ino, after[d], changes)
		}
	}
	for d, ino := range after {
		if before[d] != ino && !told[d] && !below(after, d.Dir) {
			return fmt.Errorf("%d %q is inode %d and was %d, untold in %v", d.Dir, d.Name, ino, before[d], changes)
		}
	}
	for d, ino := range after {
		// What went and came back with a folder above it is looked up anew too.
		content[ino] = content[ino] || below(after, d.Dir)
	}
	for ino, g := range gensAfter {
		if old, ok := gensBefore[ino]; ok && old != g && !content[ino] {
			return fmt.Errorf("inode %d went from generation %d to %d, untold", ino, old, g)
		}
	}
	return nil
}
