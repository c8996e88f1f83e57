package integration

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// troubles are the faults the model test runs under, one at a time. Each is
// one that the service is known for (API §13).
func troubles(seed uint64) []drivetest.Faults {
	late := func(f drivetest.Fault) drivetest.Fault {
		f.After = 20 * time.Millisecond
		return f
	}
	upload := func(p float64, f drivetest.Fault) []drivetest.Rule {
		return []drivetest.Rule{{Op: "content.upload", Probability: p, Fault: f}, {Op: "content.overwrite", Probability: p, Fault: f}}
	}
	any := func(ops []string, p float64, f drivetest.Fault) (rs []drivetest.Rule) {
		for _, op := range ops {
			rs = append(rs, drivetest.Rule{Op: op, Probability: p, Fault: f})
		}
		return rs
	}
	fs := []drivetest.Faults{
		{},
		{Rules: upload(.2, late(drivetest.Fault{Status: 504, Effect: drivetest.EffectLate}))},
		{Rules: upload(.2, drivetest.Fault{Status: 504, Effect: drivetest.EffectDone})},
		{Rules: upload(.1, drivetest.Fault{Status: 500, Body: "empty"})},
		{Rules: upload(.2, drivetest.Fault{Status: 408})},
		{Rules: upload(.2, drivetest.Fault{Do: drivetest.DoReset, Effect: drivetest.EffectDone})},
		{Rules: upload(.2, drivetest.Fault{Status: 400, Msg: "Cannot complete upload", Effect: drivetest.EffectDone})},
		{Rules: any([]string{"nodes.*", "trash.*"}, .1, drivetest.Fault{Status: 503})},
		{Rules: any([]string{"nodes.create", "nodes.update", "nodes.move", "nodes.addparent", "nodes.removeparent", "trash.put", "nodes.properties"}, .2,
			drivetest.Fault{Status: 502, Body: "html", Effect: drivetest.EffectDone})},
		{ListingLag: 30 * time.Millisecond},
		{FeedLag: 30 * time.Millisecond},
		{Rules: any([]string{"changes"}, .3, drivetest.Fault{Do: drivetest.DoFeedReset})},
		{Rules: any([]string{"changes"}, .3, drivetest.Fault{Do: drivetest.DoDisorder})},
		{Rules: any([]string{"changes"}, .3, drivetest.Fault{Do: drivetest.DoRepeat})},
		{Rules: any([]string{"changes"}, .3, drivetest.Fault{Do: drivetest.DoCut})},
		{Rules: any([]string{"changes"}, .3, drivetest.Fault{Do: drivetest.DoBadTail})},
		{Throttle: &drivetest.Throttle{PerSecond: 200, Burst: 20}},
	}
	for i := range fs {
		fs[i].Seed = seed + uint64(i)
	}
	return fs
}

// step is one operation of the mount's user.
func (w *modelTest) step() {
	switch k := w.rng.IntN(100); {
	case k < 20:
		w.write()
	case k < 30:
		w.edit()
	case k < 34:
		w.truncate()
	case k < 44:
		w.rename()
	case k < 52:
		w.mkdir()
	case k < 55:
		w.rmdir()
	case k < 62:
		w.unlink()
	case k < 64:
		w.removeAll()
	case k < 68:
		w.save()
	case k < 71:
		w.link()
	case k < 77:
		w.meta()
	case k < 82:
		w.openFile()
	case k < 93:
		w.handle()
	case k < 95:
		w.look()
	case k < 97:
		w.did("poll")
		w.poll()
	default:
		<-time.After(time.Duration(w.rng.IntN(8)) * time.Millisecond)
	}
}

// elsewhere lets somebody else work in the drive, and takes what came of it
// as the new model.
func (w *modelTest) elsewhere() {
	before := w.quiet()
	w.closeAll(w.rng.IntN(2) == 0)
	for range 1 + w.rng.IntN(8) {
		w.foreign()
	}
	w.srv.SetFaults(pick(w.rng, troubles(w.rng.Uint64())[8:]))
	w.did("poll")
	w.poll()
	w.srv.SetFaults(drivetest.Faults{})
	w.settle()
	w.adopt(before)
	w.look()
}

// foreign is one operation of somebody else. It tells what it did.
func (w *modelTest) foreign() {
	have := holds(w.other)
	var files, dirs, all []string
	for _, p := range slices.Sorted(maps.Keys(have)) {
		all = append(all, p)
		if have[p].folder {
			dirs = append(dirs, p)
		} else {
			files = append(files, p)
		}
	}
	dirs = append(dirs, "")
	id := func(p string) string {
		if p == "" {
			return w.other.Root()
		}
		return have[p].id
	}
	parent := func(p string) string { return id(strings.TrimPrefix(path.Dir("/"+p), "/")) }
	one, file, dir, name := pick(w.rng, all), pick(w.rng, files), pick(w.rng, dirs), w.name()
	var err error
	say := func(format string, args ...any) { w.did("elsewhere: "+format, args...) }
	switch k := w.rng.IntN(12); {
	case k < 2:
		content := w.content()
		say("put %s/%s %.8s", dir, name, content)
		_, err = w.other.Put(id(dir), name, bytes.NewReader(content))
	case k == 2:
		say("mkdir %s/%s", dir, name)
		_, err = w.other.Mkdir(id(dir), name)
	case k == 3 && len(have) < maxNodes:
		name = twin + ".txt"
		say("twin %s/%s", dir, name)
		_, err = w.other.PutRaw(drivetest.Node{Name: name, Parents: []string{id(dir)}, Content: &drivetest.Content{Size: int64(w.rng.IntN(50))}})
	case k < 6 && file != "":
		content := w.content()
		say("overwrite %s %.8s", file, content)
		_, err = w.other.Overwrite(id(file), bytes.NewReader(content))
	case k == 6 && one != "":
		say("rename %s %s", one, name)
		_, err = w.other.Rename(id(one), name)
	case k == 7 && one != "":
		say("move %s to %s", one, dir)
		_, err = w.other.Move(id(one), parent(one), id(dir))
	case k == 8 && one != "":
		w.note(id(one))
		say("trash %s", one)
		_, err = w.other.Trash(id(one))
	case k == 9 && file != "" && !strings.HasPrefix(path.Base(file), twin): // whose name may differ from folder to folder
		say("link %s to %s", file, dir)
		_, err = w.other.AddParent(id(file), id(dir))
	case k == 10 && file != "":
		n, _ := w.other.Get(id(file))
		if len(n.Parents) > 1 {
			say("unlink %s", file)
			_, err = w.other.RemoveParent(id(file), parent(file))
		}
	case k == 11:
		if n := pick(w.rng, w.other.TrashList()); n.ID != "" {
			w.closeAll(true)
			say("restore %s", n.Name)
			_, err = w.other.Restore(n.ID)
		}
	}
	if err != nil {
		w.did("… refused: %v", err)
	}
}

// note remembers what somebody else removes.
func (w *modelTest) note(id string) {
	n, err := w.other.Get(id)
	if err != nil {
		return
	}
	if n.Content != nil {
		w.removed[string(contentOf(w, w.other, id))] = true
		return
	}
	w.removed[n.Name] = true
	for _, k := range w.other.Children(id) {
		w.note(k.ID)
	}
}

// adopt makes the model what the drive holds. Nodes that did not change keep
// what is known of them.
func (w *modelTest) adopt(before map[string]held) {
	w.Helper()
	old := map[string]*mnode{}
	for _, m := range w.all(func(m *mnode) bool { return m != w.root }) {
		old[before[m.path()[1:]].id] = m
	}
	w.root = &mnode{folder: true, kids: map[string]*mnode{}}
	at, byID := map[string]*mnode{"": w.root}, map[string]*mnode{}
	have := holds(w.other)
	for _, p := range slices.Sorted(maps.Keys(have)) {
		h := have[p]
		m := byID[h.id]
		switch was := old[h.id]; {
		case m != nil:
		case was != nil && !h.folder && fileOf(was.now) == h.thing:
			m = was
			m.in = nil
		case h.folder:
			m = &mnode{folder: true, kids: map[string]*mnode{}}
		default:
			m = &mnode{born: true, now: contentOf(w, w.other, h.id)}
			m.closed = slices.Clone(m.now)
			m.past = []string{string(m.now)}
			if was != nil {
				m.mode, m.attrs = was.mode, was.attrs
				m.past = append(m.past, was.past...)
				was.gone = true
			}
		}
		byID[h.id], at[p] = m, m
		dir, name := path.Split(p)
		w.attach(m, at[strings.TrimSuffix(dir, "/")], name)
	}
	for id, m := range old {
		if byID[id] != m {
			m.gone = true
		}
	}
}

// alone checks the drive from a machine that knows nothing yet: what was set
// here shows there.
func (w *modelTest) alone() {
	w.Helper()
	was, o := w.s, w.o
	client := w.client
	halt := w.halt
	w.o.StateDir, w.o.CacheDir = path.Join(w.base, "elsewhere"), ""
	for _, m := range w.all(isFile) {
		// Another machine asks for the properties of nodes that we made.
		if n, err := w.other.Lookup(m.path()); err != nil || n.CreatedBy != "drivefs" {
			m.mode, m.mtime, m.attrs = 0, time.Time{}, nil
		}
	}
	w.up()
	w.poll()
	w.look()
	w.down()
	w.s, w.o, w.client, w.halt = was, o, client, halt
	if err := os.RemoveAll(path.Join(w.base, "elsewhere")); err != nil {
		w.Error(err)
	}
}

// TestModel runs random operations on a Store, crashes it, lets somebody else
// work in the same drive, and holds Store and drive against a model in
// memory. What happens at both ends at once is TestRace's.
func TestModel(t *testing.T) {
	steps := 500
	if soak() {
		steps = 100_000
	}
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 1))
	crashes, settled, elsewhere := 0, 0, 0
	for done, world := 0, 0; done < steps; world++ {
		t.Run(fmt.Sprint(world), func(t *testing.T) {
			w := &modelTest{rng: rng, removed: map[string]bool{}}
			w.root = &mnode{folder: true, kids: map[string]*mnode{}}
			w.bare = newBare(t, drivetest.Options{}, func(o *cache.Options) {
				o.CallTimeout = pick(rng, []time.Duration{time.Millisecond, 20 * time.Millisecond, time.Second})
				o.UploadDelay = pick(rng, []time.Duration{0, time.Millisecond, 20 * time.Millisecond})
			})
			w.poll()
			defer func() {
				if t.Failed() {
					w.tell()
				}
				for _, o := range w.open {
					o.h.Release()
				}
			}()
			for i := 0; i < 500; i++ {
				w.step()
				done++
				switch k := rng.IntN(400); {
				case k < 8:
					f := pick(rng, troubles(rng.Uint64()))
					w.did("faults %+v", f)
					w.srv.SetFaults(f)
				case k < 14:
					w.quiet()
					settled++
				case k < 19:
					w.kill()
					crashes++
				case k < 21:
					w.srv.SetFaults(drivetest.Faults{})
					w.remount()
				case k < 25:
					w.elsewhere()
					elsewhere++
				}
			}
			w.quiet()
			w.alone()
		})
		if t.Failed() {
			t.Fatalf("after %d steps; run it again with DRIVEFS_SEED=%d", done, s)
		}
	}
	t.Logf("%d steps, settled %d times, %d crashes, %d times somebody else", steps, settled, crashes, elsewhere)
}
