package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// expect is what the workload was promised up to some moment.
type expect struct {
	// name → contents that may be found. Only the last was promised to
	// survive kill -9. Nil: the entry must be gone after kill -9.
	kill map[string]string
	// name → contents that may be found after a power failure, the fsynced
	// one and everything later. Absent: nothing is promised.
	power map[string][]string
	// everything ever written, by name: nothing else may ever be found.
	ever map[string][]string
	gone map[string]bool // Done returned
	// Cut and then written to again: the bytes behind the cut were
	// overwritten in place, and a power failure may mix those of before and
	// after, on any disk.
	inPlace map[string]bool
}

// written reports whether have is one of the versions, or a mixture of them
// where that may be.
func (x *expect) written(name, have string, versions []string) bool {
	if slices.Contains(versions, have) {
		return true
	}
	sameLength := func(v string) bool { return len(v) == len(have) }
	if !x.inPlace[name] || !slices.ContainsFunc(versions, sameLength) {
		return false
	}
	for i := range len(have) {
		if !slices.ContainsFunc(versions, func(v string) bool { return i < len(v) && v[i] == have[i] }) {
			return false
		}
	}
	return true
}

func newExpect() *expect {
	return &expect{map[string]string{}, map[string][]string{}, map[string][]string{}, map[string]bool{}, map[string]bool{}}
}

// powerWork is a workload whose steps say what they were promised.
type powerWork struct {
	t   *testing.T
	j   *Journal
	fs  *recFS
	rng *rand.Rand
	ino map[string]uint64
}

func (w *powerWork) mark(fn func(*expect)) { w.fs.note(fsOp{kind: kMark, mark: fn}) }

func (w *powerWork) entry(name string) *Entry {
	if e, ok := w.j.Clone(w.ino[name]); ok {
		return e
	}
	if w.ino[name] == 0 {
		w.ino[name] = 10 + uint64(len(w.ino))
	}
	return file1(w.ino[name], name)
}

// save replaces or extends the content of a file and closes it; with sync it
// calls fsync before, with slow half of it is recorded while it is open.
func (w *powerWork) save(name, data string, add, sync, slow bool) {
	e := w.entry(name)
	d := must(w.j.OpenDraft(e.Ino, nil))
	before := make([]byte, d.Size())
	if len(before) > 0 {
		must(d.ReadAt(before, 0))
	}
	if !add {
		before = nil
		if err := d.Truncate(0); err != nil {
			w.t.Fatal(err)
		}
	}
	now := string(before) + data
	w.mark(func(x *expect) { x.ever[name] = append(x.ever[name], now); x.power[name] = append(x.power[name], now) })
	for i := range len(data) { // byte by byte, so that there is something to tear
		if slow && i == len(data)/2 {
			w.record(name, e, d, now[:len(before)+i], now)
		}
		must(d.WriteAt([]byte(data[i:i+1]), int64(len(before)+i)))
	}
	st := d.Commit()
	e.Draft, e.Open = &st, false
	put(w.t, w.j, e)
	w.mark(func(x *expect) { x.kill[name] = now; delete(x.gone, name) })
	if sync {
		if err := d.Sync(); err != nil {
			w.t.Fatal(err)
		}
		if err := w.j.Sync(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
		w.mark(func(x *expect) { x.power[name] = []string{now}; x.power["fsynced "+name] = nil })
	}
	if err := d.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// record makes half of now the content of the file that is open.
func (w *powerWork) record(name string, e *Entry, d *Draft, half, now string) {
	w.mark(func(x *expect) {
		x.ever[name] = append(x.ever[name], half)
		x.power[name] = append(x.power[name], half)
	})
	st := d.Commit()
	e.Draft, e.Open = &st, true
	put(w.t, w.j, e)
	w.mark(func(x *expect) {
		x.ever[name] = append(x.ever[name], now)
		x.kill[name] = half
		delete(x.gone, name)
	})
}

// cut shortens a file in place and closes it.
func (w *powerWork) cut(name string) {
	e := w.entry(name)
	if e.Draft == nil || e.Draft.Size < 2 {
		return
	}
	d := must(w.j.OpenDraft(e.Ino, nil))
	now := make([]byte, d.Size()/2)
	must(d.ReadAt(now, 0))
	w.mark(func(x *expect) {
		x.inPlace[name] = true
		x.ever[name] = append(x.ever[name], string(now))
		x.power[name] = append(x.power[name], string(now))
	})
	if err := d.Truncate(int64(len(now))); err != nil {
		w.t.Fatal(err)
	}
	st := d.Commit()
	e.Draft = &st
	put(w.t, w.j, e)
	w.mark(func(x *expect) { x.kill[name] = string(now) })
	if err := d.Close(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *powerWork) done(name string) {
	e := w.entry(name)
	w.mark(func(x *expect) { delete(x.kill, name); delete(x.power, "fsynced "+name) })
	if _, err := w.j.Done(e.Ino, e.Rev); err != nil {
		w.t.Fatal(err)
	}
	w.mark(func(x *expect) { x.gone[name] = true })
}

func (w *powerWork) run(steps int) {
	names := []string{"a", "b", "c", "d"}
	for i := range steps {
		name := names[w.rng.IntN(len(names))]
		data := fmt.Sprintf("<%s %d>", name, i)
		switch w.rng.IntN(9) {
		case 8:
			if err := errors.Join(w.j.rewrite(), w.j.clean()); err != nil {
				w.t.Fatal(err)
			}
		case 0:
			w.done(name)
		case 1:
			if err := w.j.Sync(w.t.Context()); err != nil {
				w.t.Fatal(err)
			}
		case 2:
			w.cut(name)
		case 3:
			w.save(name, data, true, w.rng.IntN(2) == 0, w.rng.IntN(2) == 0)
		default:
			w.save(name, data, false, w.rng.IntN(2) == 0, w.rng.IntN(2) == 0)
		}
	}
}

// TestPowerFailure cuts a workload after every single operation on the disk
// and looks at what kill -9 and power failure leave.
func TestPowerFailure(t *testing.T) {
	for seed := range uint64(rounds(6)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { powerFailure(t, seed, 16) })
	}
}

func powerFailure(t *testing.T, seed uint64, steps int) {
	dir := t.TempDir()
	fs := newRecFS(dir)
	j := open(t, Options{Dir: dir, fs: fs, bootID: "one", GroupCommit: time.Millisecond, proveAfter: time.Duration(seed) * time.Millisecond, small: []int64{0, -1, 20}[seed%3], segment: []int64{0, 0, 0, 300, 300, 300}[seed%6]})
	w := &powerWork{t: t, j: j, fs: fs, rng: rand.New(rand.NewPCG(seed, 1)), ino: map[string]uint64{}}
	w.run(steps)
	shut(t, j)

	x := newExpect()
	cuts := 0
	for i, op := range fs.ops {
		if op.kind == kMark {
			op.mark(x)
		}
		// Many single-byte writes in a row leave the same questions.
		if op.kind == kWrite && strings.HasPrefix(op.name, draftsDir) && i%5 != 0 {
			continue
		}
		cuts++
		s := simulate(fs.ops[:i+1])
		kdir := t.TempDir()
		s.killed(t, kdir)
		w.afterKill(i, kdir, x)
		pdir := t.TempDir()
		s.torn(t, pdir, w.rng)
		w.afterPower(i, pdir, x)
		if op.kind != kWrite && op.kind != kCreate && op.kind != kTruncate { // those change nothing for certain
			pdir := t.TempDir()
			s.powerless(t, pdir)
			w.afterPower(i, pdir, x)
		}
		if t.Failed() {
			for k := max(0, i-25); k <= i; k++ {
				t.Logf("op %d: %s %s %d %q", k, kindNames[fs.ops[k].kind], fs.ops[k].name, fs.ops[k].off, fs.ops[k].data[:min(12, len(fs.ops[k].data))])
			}
			return
		}
	}
	t.Logf("%d operations, cut at %d", len(fs.ops), cuts)
}

func (w *powerWork) found(j *Journal) map[string]string {
	got := map[string]string{}
	for _, ino := range j.Inos() {
		e, _ := j.Clone(ino)
		got[e.Place.Shown] = readBack(w.t, j, ino)
	}
	return got
}

func (w *powerWork) afterKill(cut int, dir string, x *expect) {
	j := open(w.t, Options{Dir: dir, bootID: "one"})
	defer func() {
		shut(w.t, j)
		os.RemoveAll(dir)
	}()
	got := w.found(j)
	for name, want := range x.kill {
		have, ok := got[name]
		if !ok {
			w.t.Errorf("kill at %d: %s is gone", cut, name)
		} else if have != want && have != last(x.ever[name]) {
			w.t.Errorf("kill at %d: %s is %q, want %q", cut, name, have, want)
		}
	}
	for name := range x.gone {
		if _, ok := got[name]; ok && x.kill[name] == "" {
			// A save after Done may be under way.
			if got[name] != last(x.ever[name]) {
				w.t.Errorf("kill at %d: %s is back from the dead with %q", cut, name, got[name])
			}
		}
	}
	if p := j.Problems(); len(p) > 0 {
		w.t.Errorf("kill at %d: %q", cut, p)
	}
}

func last(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[len(s)-1]
}

func (w *powerWork) afterPower(cut int, dir string, x *expect) {
	j := open(w.t, Options{Dir: dir, bootID: "two"})
	defer func() {
		shut(w.t, j)
		os.RemoveAll(dir)
	}()
	got := w.found(j)
	for name, have := range got {
		if !x.written(name, have, x.ever[name]) {
			w.t.Errorf("power cut at %d: %s is %q, which nobody wrote; problems %q", cut, name, have, j.Problems())
		}
	}
	for name, ok := range x.power {
		name, synced := strings.CutPrefix(name, "fsynced ")
		if !synced {
			continue
		}
		ok = x.power[name]
		have, found := got[name]
		if !found {
			w.t.Errorf("power cut at %d: %s was fsynced and is gone; problems %q", cut, name, j.Problems())
		} else if !x.written(name, have, ok) {
			w.t.Errorf("power cut at %d: %s is %q, want one of %q; problems %q", cut, name, have, ok, j.Problems())
		}
	}
}
