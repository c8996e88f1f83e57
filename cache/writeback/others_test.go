package writeback

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// TestRandomWithOthers lets somebody else work in the same folders, unseen
// until settling meets it. Whoever wrote what: at the end every last content
// of ours is on the drive, and none of theirs is gone that we had not seen.
func TestRandomWithOthers(t *testing.T) {
	t.Logf("seeds %d to %d", *firstSeed, *firstSeed+*seeds-1)
	for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
		bubbles(t, fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 11))
			o := fast
			so := services[seed%uint64(len(services))]
			so.HonourIfMatch = drivetest.IfMatchAll // without it, what comes between our look and our overwrite is lost
			w := newWorld(t, so, o).run()
			c := &crowd{w: w, r: r, ours: map[uint64]string{}, theirs: map[string]string{}}
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(strings.Join(c.log, "; "))
					t.Log(w.notes(""))
					w.logRequests()
				}
			})
			for round := range 8 {
				if seed/3%2 == 1 {
					w.srv.SetFaults(liars(seed + uint64(round)))
				}
				for range 10 {
					if r.IntN(3) == 0 {
						c.other()
					} else {
						c.us()
					}
				}
				switch r.IntN(3) {
				case 0:
					a := w.arm(1+r.IntN(20), r.IntN(2) == 0)
					if a.died() {
						c.notef("killed at %s", a.killed)
						a.rise()
					}
				case 1:
					w.srv.SetFaults(drivetest.Faults{})
					w.flush()
					c.notef("flushed")
				}
			}
			w.srv.SetFaults(drivetest.Faults{})
			w.flush()
			c.check()
		})
	}
}

type crowd struct {
	w      *world
	r      *rand.Rand
	n      int
	ours   map[uint64]string // by inode: content we closed last
	theirs map[string]string // by node: content they wrote last
	log    []string
}

func (c *crowd) notef(format string, a ...any) { c.log = append(c.log, fmt.Sprintf(format, a...)) }

func pickOne[T any](r *rand.Rand, l []T) (x T) {
	if len(l) == 0 {
		return x
	}
	return l[r.IntN(len(l))]
}

func (c *crowd) fresh(folders []string) string {
	dir := pickOne(c.r, append([]string{""}, folders...))
	return strings.TrimPrefix(path.Join(dir, string(rune('a'+c.r.IntN(5)))), "/")
}

func (c *crowd) us() {
	files, folders := c.w.shown()
	paths := slices.Sorted(maps.Keys(files))
	switch k := c.r.IntN(10); {
	case k < 1:
		p := c.fresh(folders)
		if _, _, err := c.w.tryMkdir(p); err == nil {
			c.notef("mkdir %s", p)
		}
	case k < 6:
		p := c.fresh(folders)
		if c.r.IntN(2) == 0 && len(paths) > 0 {
			p = pickOne(c.r, paths)
		}
		if slices.Contains(folders, p) {
			return
		}
		c.n++
		s := fmt.Sprint("ours ", c.n, ".")
		if ino, _, err := c.w.tryWrite(p, []byte(s), nil); err == nil {
			c.ours[ino] = s
			c.notef("write %s %q", p, s)
		}
	default:
		if len(paths) == 0 {
			return
		}
		p, q := pickOne(c.r, paths), c.fresh(folders)
		if p == q || slices.Contains(folders, q) || files[q] != 0 {
			return // replacing would be an intent to be rid of content
		}
		if _, _, err := c.w.tryRename(p, q); err == nil {
			c.notef("rename %s %s", p, q)
		}
	}
}

func (c *crowd) other() {
	nodes := c.w.other.Tree()
	var files, folders []string
	for p, n := range nodes {
		switch {
		case n.Status != drivetest.StatusAvailable:
		case n.Kind == drivetest.KindFolder:
			folders = append(folders, p)
		default:
			files = append(files, p)
		}
	}
	slices.Sort(files)
	slices.Sort(folders)
	c.n++
	s := fmt.Sprint("theirs ", c.n, ".")
	switch k := c.r.IntN(10); {
	case k < 4:
		p := c.fresh(folders)
		if n, err := c.w.other.Put(nodes[pathDir(p)].ID, path.Base(p), strings.NewReader(s)); err == nil {
			c.theirs[n.ID] = s
			c.notef("they put %s %q", p, s)
		}
	case k < 7 && len(files) > 0:
		p := pickOne(c.r, files)
		if strings.Contains(p, tree.TempPrefix) {
			return
		}
		if n, err := c.w.other.Overwrite(nodes[p].ID, strings.NewReader(s)); err == nil {
			c.theirs[n.ID] = s
			c.notef("they overwrite %s %q", p, s)
		}
	case k < 9 && len(files) > 0:
		p, name := pickOne(c.r, files), string(rune('a'+c.r.IntN(5)))
		if _, err := c.w.other.Rename(nodes[p].ID, name); err == nil {
			c.notef("they rename %s %s", p, name)
		}
	case len(folders) > 0:
		p := c.fresh(folders)
		if _, err := c.w.other.Mkdir(nodes[pathDir(p)].ID, path.Base(p)); err == nil {
			c.notef("they mkdir %s", p)
		}
	}
}

func (c *crowd) check() {
	have, byNode := map[string]bool{}, map[string]string{}
	nodes := c.w.other.Tree()
	for p, s := range c.w.tree() {
		have[s] = true
		byNode[nodes[p].ID] = s
		if strings.Contains(p, tree.TempPrefix) {
			c.w.Errorf("temporary name on the drive: %s", p)
		}
	}
	for ino, s := range c.ours {
		// They may overwrite what they saw.
		now := byNode[c.w.node(ino)]
		if !have[s] && !(c.w.arrived[s] && strings.HasPrefix(now, "theirs")) {
			c.w.Errorf("inode %d: %q is not on the drive, but %q", ino, s, now)
		}
	}
	for id, s := range c.theirs {
		sum := md5.Sum([]byte(s))
		if !have[s] && !c.w.known[hex.EncodeToString(sum[:])] {
			c.w.Errorf("node %s: %q is gone, and we never saw it", id, s)
		}
	}
	if c.w.j.Len() > 0 {
		c.w.dump()
		c.w.Errorf("%d entries left", c.w.j.Len())
	}
}
