package writeback

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// author writes several new files at once, and streams them.
type author struct {
	w    *world
	r    *rand.Rand
	m    model
	open map[string]*writer // by path
	n    int
	log  []string
}

func (a *author) pick() string {
	l := slices.Sorted(maps.Keys(a.open))
	if len(l) == 0 {
		return ""
	}
	return l[a.r.IntN(len(l))]
}

func (a *author) step() {
	p := a.pick()
	k := a.r.IntN(20)
	if p == "" || k == 0 && len(a.open) < 4 {
		a.n++
		p = fmt.Sprint("f", a.n)
		a.open[p] = a.w.begin(p)
		k = 1
	}
	f := a.open[p]
	what := "append"
	switch {
	case k < 9:
		f.write(data(1+a.r.IntN(mib), byte(a.r.IntN(256))))
	case k < 13:
		what = "stream"
		a.w.s.Stream(f.ino, time.Now())
	case k < 14 && len(f.all) > 0:
		what = "write behind"
		f.writeAt([]byte("changed"), a.r.IntN(len(f.all)))
	case k < 15 && len(f.all) > 0:
		what = "cut"
		n := a.r.IntN(len(f.all))
		if err := f.d.Truncate(int64(n)); err != nil {
			a.w.Fatal(err)
		}
		f.all = f.all[:n]
	case k < 16:
		what = "close one of two"
		f.commit()
	case k < 17:
		what = "rename"
		q := p + "r"
		a.w.rename(p, q)
		a.open[q] = f
		delete(a.open, p)
	case k < 18:
		what = "remove"
		a.w.remove(p)
		f.drop()
		delete(a.open, p)
	default:
		what = "close"
		f.close()
		a.m[p] = string(f.all)
		delete(a.open, p)
	}
	a.log = append(a.log, time.Now().Format("05.000 ")+what+" "+p)
}

// TestStreamRandom streams at random, with answers that lie and kills at
// random requests in between, and compares the drive with a model.
func TestStreamRandom(t *testing.T) {
	t.Logf("seeds %d to %d", *firstSeed, *firstSeed+*seeds-1)
	for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
		bubbles(t, fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 11))
			o := fast
			o.UploadDelay = time.Duration(r.IntN(3)) * 5 * time.Millisecond
			so := services[seed%uint64(len(services))]
			so.PendingUploads = seed%4 == 3
			w := newWorld(t, so, o).run()
			a := &author{w: w, r: r, m: model{}, open: map[string]*writer{}}
			for round := range 6 {
				if seed%2 == 1 {
					w.srv.SetFaults(liars(seed + uint64(round)))
				}
				for range 20 {
					a.step()
					if r.IntN(3) == 0 {
						w.s.Active() // a moment for the others
					}
				}
				if r.IntN(2) == 0 {
					continue
				}
				// What was never closed would be set aside.
				for _, f := range a.open {
					f.commit()
				}
				k := w.arm(1+r.IntN(12), r.IntN(2) == 0)
				if k.died() {
					for p, f := range a.open {
						a.m[p] = string(f.all)
						f.drop()
					}
					clear(a.open)
					a.log = append(a.log, "killed at "+k.killed)
					k.rise()
				}
			}
			for p, f := range a.open {
				f.close()
				a.m[p] = string(f.all)
			}
			w.srv.SetFaults(drivetest.Faults{})
			w.flush()
			w.wantTree(a.m)
			if n := w.notes(""); len(n) > 0 {
				t.Errorf("reported: %q", n)
			}
			if t.Failed() {
				t.Log(strings.Join(a.log, "; "))
				w.logRequests()
			}
		})
	}
}
