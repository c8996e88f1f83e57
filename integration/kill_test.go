package integration

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// disk is what a worker's folder holds: content by path, "/" for folders.
type disk map[string]string

const aFolder = "/"

func (d disk) with(edit func(disk)) disk {
	c := maps.Clone(d)
	edit(c)
	return c
}

// under are the paths at and below p.
func (d disk) under(p string) []string {
	var out []string
	for q := range d {
		if q == p || strings.HasPrefix(q, p+"/") {
			out = append(out, q)
		}
	}
	return out
}

// worker makes a mixed workload in a folder of its own, one call after the
// other, so that at any kill exactly one is under way.
type worker struct {
	*proc
	rng   *rand.Rand
	root  string
	now   disk   // what it holds
	maybe []disk // what it may hold once a call did not end
	n     int
	wrote *atomic.Int64 // bytes in files that were closed
	last  string        // the last operation
}

func (w *worker) at(p string) string { return filepath.Join(w.dir, w.root, filepath.FromSlash(p)) }

func (w *worker) choose(folders bool) string {
	var ps []string
	for p, c := range w.now {
		if (c == aFolder) == folders {
			ps = append(ps, p)
		}
	}
	slices.Sort(ps)
	return pick(w.rng, ps)
}

func (w *worker) content() string {
	w.n++
	n := w.rng.IntN(30_000)
	if soak() && w.rng.IntN(60) == 0 {
		n = 1<<20 + w.rng.IntN(2<<20)
	}
	return fmt.Sprintf("%s %d %d %s", w.root, w.n, n, bytes.Repeat([]byte{byte('a' + w.n%26)}, n))
}

func (w *worker) fresh() string {
	w.n++
	return path.Join(w.choose(true), fmt.Sprintf("n%d", w.n))
}

// step makes one operation. It returns false when the mount went away under
// it; maybe then lists what may have come of it.
func (w *worker) step() bool {
	file, dir, fresh, content := w.choose(false), w.choose(true), w.fresh(), w.content()
	k := w.rng.IntN(10)
	if file == "" && (k == 1 || k == 2 || k == 3 || k == 8) {
		k = 0
	}
	if dir == "" && (k == 5 || k == 7) || len(w.now) > 40 && k == 0 {
		k = 9
	}
	did := func(format string, args ...any) { w.last = fmt.Sprintf(format, args...) }
	switch k {
	case 1: // overwrite
		did("overwrite %s", file)
		return w.do(os.WriteFile(w.at(file), []byte(content), 0o644), content,
			w.now.with(func(d disk) { d[file] = content }), w.now.with(func(d disk) { d[file] = "" }))
	case 2: // append
		did("append %s", file)
		return w.do(appendFile(w.at(file), content), content, w.now.with(func(d disk) { d[file] += content }))
	case 3, 4: // save by rename
		tmp := fresh + ".tmp"
		if file == "" {
			file = fresh
		}
		did("save %s by %s", file, tmp)
		half := w.now.with(func(d disk) { d[tmp] = content })
		if !w.do(os.WriteFile(w.at(tmp), []byte(content), 0o644), content, half) {
			return false
		}
		return w.do(os.Rename(w.at(tmp), w.at(file)), "", half.with(func(d disk) { d[file] = content; delete(d, tmp) }))
	case 5: // rename of a folder
		to := fresh
		if to == dir || strings.HasPrefix(to, dir+"/") {
			to = path.Base(fresh)
		}
		did("rename folder %s %s", dir, to)
		return w.do(os.Rename(w.at(dir), w.at(to)), "", w.now.with(func(d disk) {
			for _, p := range d.under(dir) {
				d[to+strings.TrimPrefix(p, dir)] = d[p]
				delete(d, p)
			}
		}))
	case 6:
		did("mkdir %s", fresh)
		return w.do(os.Mkdir(w.at(fresh), 0o755), "", w.now.with(func(d disk) { d[fresh] = aFolder }))
	case 7:
		if len(w.now.under(dir)) > 1 {
			return true
		}
		did("rmdir %s", dir)
		return w.do(os.Remove(w.at(dir)), "", w.now.with(func(d disk) { delete(d, dir) }))
	case 8:
		did("rename %s %s", file, fresh)
		return w.do(os.Rename(w.at(file), w.at(fresh)), "", w.now.with(func(d disk) { d[fresh] = d[file]; delete(d, file) }))
	case 9:
		if file == "" {
			return true
		}
		did("unlink %s", file)
		return w.do(os.Remove(w.at(file)), "", w.now.with(func(d disk) { delete(d, file) }))
	default:
		did("new %s", fresh)
		return w.do(os.WriteFile(w.at(fresh), []byte(content), 0o644), content, w.now.with(func(d disk) { d[fresh] = content }))
	}
}

// do takes what a call said: the first of then is what it makes, the others
// what it may leave when it did not end.
func (w *worker) do(err error, content string, then ...disk) bool {
	if err != nil {
		w.maybe = append(then, w.now)
		w.last += ": " + err.Error()
		return false
	}
	w.now = then[0]
	w.wrote.Add(int64(len(content)))
	return true
}

func appendFile(p, content string) error {
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// found reads what the folder holds after the remount and holds it against
// what may be.
func (w *worker) found() {
	w.Helper()
	got := disk{}
	root := w.at("")
	err := filepath.WalkDir(root, func(p string, e os.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel := filepath.ToSlash(p[len(root)+1:])
		if e.IsDir() {
			got[rel] = aFolder
			return nil
		}
		b, err := os.ReadFile(p)
		got[rel] = string(b)
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	may := append(w.maybe, w.now)
	for _, d := range may {
		if maps.Equal(d, got) {
			w.now, w.maybe = d, nil
			return
		}
	}
	same(w, "after the kill in "+w.last+", shown", got.things(""), may[0].things(""))
	w.FailNow()
}

// things describes a worker's folder as the drive has it.
func (d disk) things(at string) map[string]thing {
	out := map[string]thing{}
	for p, c := range d {
		if c == aFolder {
			out[at+p] = thing{folder: true}
		} else {
			out[at+p] = fileOf([]byte(c))
		}
	}
	return out
}

// uncertain are uploads that do not tell what became of them (API §13.2).
func uncertain(seed uint64) drivetest.Faults {
	f := drivetest.Faults{Seed: seed}
	for _, op := range []string{"content.upload", "content.overwrite"} {
		for _, fault := range []drivetest.Fault{
			{Status: 504, Effect: drivetest.EffectLate, After: 300 * time.Millisecond},
			{Status: 504, Effect: drivetest.EffectDone},
			{Status: 500, Body: "empty", Effect: drivetest.EffectDone},
			{Do: drivetest.DoReset, Effect: drivetest.EffectDone},
		} {
			f.Rules = append(f.Rules, drivetest.Rule{Op: op, Probability: .055, Fault: fault})
		}
	}
	return f
}

// TestKill kills the program at random moments of a mixed workload. At each
// remount the mount holds what was closed, and after a flush the drive holds
// that and nothing else, also when a fifth of the uploads does not tell what
// became of it.
func TestKill(t *testing.T) {
	s := seed(t)
	for _, tt := range []struct {
		name      string
		kills     int
		soak      int
		uncertain bool
	}{
		{"kills", 6, 200, false},
		{"uncertain uploads", 0, 0, true},
		{"kills and uncertain uploads", 3, 200, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kills := tt.kills
			if soak() {
				kills = tt.soak
			} else if testing.Short() {
				kills = min(kills, 2)
			}
			rng := rand.New(rand.NewPCG(s, uint64(len(tt.name))))
			p := newProc(t, nil, "--upload-delay", "30ms")
			var wrote atomic.Int64
			var again int64
			var workers []*worker
			for i := range 3 {
				w := &worker{proc: p, rng: rand.New(rand.NewPCG(s, uint64(i))), root: fmt.Sprintf("w%d", i), now: disk{}, wrote: &wrote}
				if err := os.Mkdir(w.at(""), 0o755); err != nil {
					t.Fatal(err)
				}
				workers = append(workers, w)
			}
			for kill := range kills + 1 {
				begin := time.Now()
				if tt.uncertain {
					p.srv.SetFaults(uncertain(s + uint64(kill)))
				}
				var stop atomic.Bool
				var working sync.WaitGroup
				for _, w := range workers {
					working.Go(func() {
						for !stop.Load() && w.step() {
						}
					})
				}
				<-time.After(time.Duration(10+rng.IntN(500)) * time.Millisecond)
				if kill < kills {
					p.kill()
				}
				stop.Store(true)
				working.Wait()
				if kill < kills {
					p.start()
				}
				want := map[string]thing{}
				for _, w := range workers {
					w.found()
					want[w.root] = thing{folder: true}
					maps.Copy(want, w.now.things(w.root+"/"))
				}
				p.flush()
				if !same(t, "drive", holds(p.other), want) {
					for _, w := range workers {
						t.Log(w.root, " was at ", w.last)
					}
					t.Fatalf("after %d kills; run it again with DRIVEFS_SEED=%d", kill, s)
				}
				noTraces(t, p.other)
				again += repeated(p.srv, begin)
			}
			t.Logf("%d kills; %d bytes were closed, %d uploaded, %d of them again", kills, wrote.Load(), p.srv.BytesReceived(), again)
		})
	}
}

// repeated counts the bytes that were sent since begin and had been sent
// before: the same number of bytes for the same name.
func repeated(srv *drivetest.Server, begin time.Time) (bytes int64) {
	type body struct {
		name string
		size int64
	}
	sent := map[body]bool{}
	for _, e := range srv.RequestLog() {
		if e.Time.Before(begin) || !strings.HasPrefix(e.Op, "content.") || e.In == 0 {
			continue
		}
		b := body{e.Name, e.In}
		if sent[b] {
			bytes += e.In
		}
		sent[b] = true
	}
	return bytes
}
