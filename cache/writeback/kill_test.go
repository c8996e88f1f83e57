package writeback

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// assassin kills at one request: what the state directory holds then
// is all that is left, and no request after it arrives.
type assassin struct {
	w      *world
	at     int
	after  bool // the request takes effect, its answer is lost
	mu     sync.Mutex
	n      int
	dead   chan struct{}
	dir    string
	killed string
}

func (w *world) arm(at int, after bool) *assassin {
	a := &assassin{w: w, at: at, after: after, dead: make(chan struct{}), dir: filepath.Join(w.TempDir(), "killed")}
	w.srv.Hook(a.hook)
	return a
}

func (a *assassin) hook(op drivetest.Op) *drivetest.Fault {
	if strings.HasPrefix(op.Name, "account.") {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
	switch {
	case a.n < a.at:
		return nil
	case a.n > a.at:
		return &drivetest.Fault{Do: drivetest.DoReset}
	}
	a.kill(op.Name)
	f := &drivetest.Fault{Do: drivetest.DoReset}
	if a.after {
		f.Effect = drivetest.EffectDone
	}
	return f
}

// kill does it.
func (a *assassin) kill(at string) {
	a.w.life.end()
	copyDir(a.w, a.w.dir, a.dir)
	a.killed = at
	close(a.dead)
}

func (w *world) logRequests() {
	for _, e := range w.srv.RequestLog() {
		w.Log(e.Time.Format("05.000"), e.Op, e.NodeID, e.Name, e.Path, e.Status, e.Fault)
	}
}

// rise goes on with what was left; first come the changes that are made before
// settling begins.
func (a *assassin) rise(first ...func()) {
	w := a.w
	w.halt()
	w.disconnect()
	w.srv.Hook(nil)
	w.beforeWrite.Store(nil)
	w.dir = a.dir
	w.connect()
	w.open()
	for _, fn := range first {
		fn()
	}
	w.run()
}

// died waits until the kill, or until everything closed settled without one.
func (a *assassin) died() bool {
	idle := make(chan struct{})
	s, ctx := a.w.s, a.w.ctx()
	go func() {
		defer close(idle)
		_, _ = s.Flush(ctx) // ends with the context when it was killed
	}()
	select {
	case <-a.dead:
	case <-idle:
		a.w.srv.Hook(nil)
		// A file that is still being written is killed while Flush, which is
		// not about it, has nothing to wait for: both are true then.
		if !a.isDead() {
			return false
		}
	}
	a.w.stop()
	a.w.stop = func() {}
	// Flush of a dead one: let it go.
	return true
}

// isDead waits for a kill that is under way.
func (a *assassin) isDead() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.dead:
		return true
	default:
		return false
	}
}

// TestKill stops settling at every request, before and after its effect, and
// goes on from what the disk has.
func TestKill(t *testing.T) {
	big := string(data(2<<20, 3))
	for _, tt := range []struct {
		name  string
		setup func(w *world)
		ops   func(w *world)
		want  map[string]string
		trash []string
	}{
		{
			name: "new",
			ops: func(w *world) {
				w.mkdir("d")
				w.mkdir("d/e")
				w.write("d/e/f", "x")
				w.write("big", big)
			},
			want: map[string]string{"d": "/", "d/e": "/", "d/e/f": "x", "big": big},
		},
		{
			name:  "overwrite and rename",
			setup: func(w *world) { w.mkdir("d"); w.write("a", "a"); w.write("b", "b"); w.write("c", big) },
			ops: func(w *world) {
				w.write("a", "a2")
				w.rename("b", "d/b2")
				w.write("c", "small now")
				w.rename("c", "d/c")
			},
			want: map[string]string{"d": "/", "a": "a2", "d/b2": "b", "d/c": "small now"},
		},
		{
			name:  "swap and replace",
			setup: func(w *world) { w.write("a", "a"); w.write("b", "b"); w.write("old", "old"); w.write("new", "new") },
			ops: func(w *world) {
				w.rename("a", "t")
				w.rename("b", "a")
				w.rename("t", "b")
				w.rename("new", "old")
			},
			want:  map[string]string{"a": "b", "b": "a", "old": "new"},
			trash: []string{"old"},
		},
		{
			name: "rm -r",
			setup: func(w *world) {
				w.mkdir("top")
				w.mkdir("top/d0")
				w.mkdir("top/d1")
				w.write("top/d0/f0", "x")
				w.write("top/d1/f0", "x")
				w.write("top/d1/f1", "kept")
				w.write("single", "x")
			},
			ops: func(w *world) {
				w.rename("top/d1/f1", "kept")
				w.removeTree("top", 2, 1)
				w.remove("single")
				w.mkdir("top")
			},
			want:  map[string]string{"kept": "kept", "top": "/"},
			trash: []string{"top", "single"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, after := range []bool{false, true} {
				for at := 1; ; at++ {
					killed := ""
					ok := bubble(t, fmt.Sprintf("%d,after=%v", at, after), func(t *testing.T) {
						w := newWorld(t, drivetest.Options{}, fast).run()
						if tt.setup != nil {
							tt.setup(w)
							w.flush()
						}
						w.s.Pause(true)
						a := w.arm(at, after)
						tt.ops(w)
						w.unpause()
						if a.died() {
							killed = a.killed
							a.rise()
						}
						w.flush()
						w.wantTree(tt.want)
						w.wantTrash(tt.trash...)
						if n := w.notes(""); len(n) > 0 {
							t.Errorf("reported: %q", n)
						}
						if t.Failed() {
							t.Logf("killed at %s", killed)
							w.logRequests()
						}
					})
					if !ok || killed == "" {
						break
					}
				}
			}
		})
	}
}

// model is what the user made: path → content, "/" for folders.
type model map[string]string

func (m model) under(p string) (out []string) {
	for q := range m {
		if strings.HasPrefix(q, p+"/") {
			out = append(out, q)
		}
	}
	slices.Sort(out)
	return out
}

func (m model) pick(r *rand.Rand, ok func(p, c string) bool) string {
	var l []string
	for _, p := range slices.Sorted(maps.Keys(m)) {
		if ok(p, m[p]) {
			l = append(l, p)
		}
	}
	if len(l) == 0 {
		return ""
	}
	return l[r.IntN(len(l))]
}

// step does one random thing to the mount and to the model.
func (m model) step(w *world, r *rand.Rand) string {
	isDir := func(_, c string) bool { return c == "/" }
	isFile := func(_, c string) bool { return c != "/" }
	any := func(string, string) bool { return true }
	fresh := func() string {
		dir := ""
		if r.IntN(3) > 0 {
			dir = m.pick(r, isDir)
		}
		return strings.TrimPrefix(path.Join(dir, string(rune('a'+r.IntN(6)))), "/")
	}
	switch k := r.IntN(12); {
	case k < 2:
		p := fresh()
		if _, taken := m[p]; taken {
			return ""
		}
		w.mkdir(p)
		m[p] = "/"
		return "mkdir " + p
	case k < 6:
		p := fresh()
		if r.IntN(2) == 0 {
			p = m.pick(r, isFile)
		}
		if p == "" || m[p] == "/" {
			return ""
		}
		c := fmt.Sprint("content ", r.IntN(1000))
		if r.IntN(12) == 0 {
			c += string(data(smallFile+r.IntN(smallFile), byte(r.IntN(200))))
		}
		w.write(p, c)
		m[p] = c
		return "write " + p
	case k < 10:
		p, q := m.pick(r, any), fresh()
		if p == "" || p == q || strings.HasPrefix(q+"/", p+"/") || m[q] == "/" || m[p] == "/" && m[q] != "" {
			return ""
		}
		w.rename(p, q)
		c := m[p]
		below := m.under(p)
		delete(m, p)
		m[q] = c
		for _, b := range below {
			m[q+strings.TrimPrefix(b, p)] = m[b]
			delete(m, b)
		}
		return "rename " + p + " " + q
	default:
		p := m.pick(r, any)
		if p == "" {
			return ""
		}
		all := append([]string{p}, m.under(p)...)
		for _, b := range slices.Backward(all) {
			w.remove(b)
			delete(m, b)
		}
		return "rm -r " + p
	}
}

// A longer run: go test -run TestRandom -seeds 1000 -first 100.
var (
	seeds     = flag.Uint64("seeds", 6, "how many random histories")
	firstSeed = flag.Uint64("first", 0, "seed of the first")
)

// TestRandom makes random changes, with answers that lie and kills at random
// requests in between, and compares the drive with a model.
func TestRandom(t *testing.T) {
	t.Logf("seeds %d to %d", *firstSeed, *firstSeed+*seeds-1)
	for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
		bubbles(t, fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			o := fast
			o.UploadDelay = 2 * time.Millisecond
			w := newWorld(t, services[seed%uint64(len(services))], o).run()
			lying := seed/3%2 == 1
			m := model{}
			var log []string
			for round := range 8 {
				if lying {
					w.srv.SetFaults(liars(seed + uint64(round)))
				}
				for range 12 {
					if op := m.step(w, r); op != "" {
						log = append(log, time.Now().Format("05.000 ")+op)
					}
				}
				switch r.IntN(3) {
				case 0:
					a := w.arm(1+r.IntN(20), r.IntN(2) == 0)
					if a.died() {
						log = append(log, "killed at "+a.killed)
						a.rise()
					}
				case 1:
					w.srv.SetFaults(drivetest.Faults{})
					w.flush()
					log = append(log, "flushed")
				}
			}
			w.srv.SetFaults(drivetest.Faults{})
			w.flush()
			w.wantTree(m)
			for _, n := range w.other.TrashList() {
				if strings.HasPrefix(n.Name, tree.TempPrefix) {
					t.Errorf("%s is in the trash", n.Name)
				}
			}
			if n := w.notes(""); len(n) > 0 {
				t.Errorf("reported: %q", n)
			}
			if t.Failed() {
				t.Log(strings.Join(log, "; "))
				w.logRequests()
			}
		})
	}
}

// services are what the document leaves open.
var services = []drivetest.Options{
	{},
	{ListingLag: 30 * time.Millisecond},
	{EarlyConflict: true},
	{HonourIfMatch: drivetest.IfMatchNone},
	{TrashedContent404: true},
	{NameFilterCaseSensitive: true, LastParentOrphans: true, QuietDescendants: true},
}

// liars are the faults of API §13.2, on a fifth of the uploads, and answers
// of metadata calls that are lost although they had effect.
func liars(seed uint64) drivetest.Faults {
	fault := func(op string, p float64, f drivetest.Fault) drivetest.Rule {
		return drivetest.Rule{Op: op, Probability: p, Fault: f}
	}
	return drivetest.Faults{Seed: seed, Rules: []drivetest.Rule{
		fault("content.*", 0.05, drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectDone}),
		fault("content.*", 0.05, drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectLate, After: 20 * time.Millisecond}),
		fault("content.upload", 0.05, drivetest.Fault{Status: 500, Effect: drivetest.EffectTruncated, After: 10 * time.Millisecond}),
		fault("content.*", 0.05, drivetest.Fault{Do: drivetest.DoReset}),
		fault("nodes.create", 0.1, drivetest.Fault{Status: 503, Effect: drivetest.EffectDone}),
		fault("nodes.update", 0.1, drivetest.Fault{Status: 500, Effect: drivetest.EffectDone}),
		fault("nodes.move", 0.1, drivetest.Fault{Status: 502, Effect: drivetest.EffectDone}),
		fault("trash.put", 0.1, drivetest.Fault{Do: drivetest.DoReset, Effect: drivetest.EffectDone}),
	}}
}
