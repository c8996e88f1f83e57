package journal

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// entryModel is the journal without anything that makes it fast or durable.
type entryModel struct {
	items map[uint64]*Entry
	max   uint64
}

func same(a, b *Entry) bool { return bytes.Equal(appendEntry(nil, a), appendEntry(nil, b)) }

func randomEntry(rng *rand.Rand) *Entry {
	e := full(2 + rng.Uint64N(40))
	e.Draft = nil // drafts have a model of their own
	e.NodeID = ""
	e.Base = nil
	if rng.IntN(2) == 0 {
		e.NodeID, e.Base = fmt.Sprint("node", e.Ino), &Base{Name: "x"}
	}
	e.Folder = rng.IntN(3) == 0
	e.Removed = rng.IntN(4) == 0
	e.Place.Name = fmt.Sprintf("Name%d", rng.IntN(1000))
	e.Place.Shown = fmt.Sprintf("%s.%d", e.Place.Name, e.Ino)
	e.Place.Parents = []uint64{1 + rng.Uint64N(3)}
	if rng.IntN(5) == 0 {
		e.Place.Parents = append(e.Place.Parents, 9)
	}
	return e
}

func TestEntriesAgainstModel(t *testing.T) {
	for seed := range uint64(rounds(8)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			o := Options{Dir: t.TempDir(), GroupCommit: time.Millisecond}
			j := open(t, o)
			m := entryModel{items: map[uint64]*Entry{}}
			for step := range 600 {
				ino := 2 + rng.Uint64N(40)
				switch rng.IntN(12) {
				case 0, 1, 2, 3, 4:
					es := []*Entry{randomEntry(rng)}
					for rng.IntN(3) == 0 {
						if e := randomEntry(rng); e.Ino != es[0].Ino {
							es = []*Entry{es[0], e}
						}
					}
					put(t, j, es...)
					for _, e := range es {
						if old := m.items[e.Ino]; old != nil && e.Rev != old.Rev+1 {
							t.Fatalf("step %d: Rev %d after %d", step, e.Rev, old.Rev)
						}
						m.items[e.Ino] = e.Clone()
						m.max = max(m.max, e.Ino)
					}
				case 5, 6:
					err := j.Update(ino, func(e *Entry) bool { e.Failed, e.Attempts = fmt.Sprint(step), step; return step%2 == 0 })
					if err != nil {
						t.Fatal(err)
					}
					if e := m.items[ino]; e != nil && step%2 == 0 {
						e.Failed, e.Attempts = fmt.Sprint(step), step
					}
				case 7, 8:
					e := m.items[ino]
					rev := uint64(1)
					if e != nil {
						rev = e.Rev - uint64(rng.IntN(2))
					}
					ok, err := j.Done(ino, rev)
					if err != nil || ok != (e != nil && e.Rev == rev) {
						t.Fatalf("step %d: Done = %t, %v", step, ok, err)
					}
					if ok {
						delete(m.items, ino)
					}
				case 9:
					m.max = max(m.max, uint64(step))
					if err := j.ReserveIno(uint64(step)); err != nil {
						t.Fatal(err)
					}
				case 10:
					if err := j.Sync(t.Context()); err != nil {
						t.Fatal(err)
					}
				case 11:
					if rng.IntN(2) == 0 {
						shut(t, j)
					} else {
						kill(t, j)
					}
					j = open(t, o)
					if p := j.Problems(); len(p) > 0 {
						t.Fatalf("step %d: problems %q", step, p)
					}
				}
				m.compare(t, step, j)
			}
		})
	}
}

func (m *entryModel) compare(t *testing.T, step int, j *Journal) {
	t.Helper()
	var inos []uint64
	for ino := range m.items {
		inos = append(inos, ino)
	}
	slices.Sort(inos)
	if !slices.Equal(inos, j.Inos()) || j.Len() != len(inos) || j.MaxIno() != m.max {
		t.Fatalf("step %d: inodes %v (max %d), want %v (max %d)", step, j.Inos(), j.MaxIno(), inos, m.max)
	}
	for _, ino := range inos {
		want := m.items[ino]
		if got, _ := j.Clone(ino); !same(want, got) {
			t.Fatalf("step %d:\n got %+v\nwant %+v", step, got, want)
		}
		if want.NodeID != "" {
			if got, ok := j.ByNode(want.NodeID); !ok || got.Ino != ino {
				t.Fatalf("step %d: ByNode %s", step, want.NodeID)
			}
		}
	}
	for dir := uint64(1); dir < 10; dir++ {
		var want, got []*Entry
		for _, ino := range inos {
			if e := m.items[ino]; !e.Removed && slices.Contains(e.Place.Parents, dir) {
				want = append(want, e)
			}
		}
		j.Children(dir, func(e *Entry) bool { got = append(got, e); return true })
		if slices.CompareFunc(want, got, func(a, b *Entry) int { return cmp.Compare(a.Ino, b.Ino) }) != 0 {
			t.Fatalf("step %d: children of %d: %d, want %d", step, dir, len(got), len(want))
		}
		if j.HasChildren(dir) != (len(want) > 0) {
			t.Fatalf("step %d: HasChildren(%d)", step, dir)
		}
		for _, e := range want {
			if c, ok := j.Child(dir, drive.Fold(e.Place.Shown)); !ok || c.Ino != e.Ino {
				t.Fatalf("step %d: Child(%d, %s)", step, dir, e.Place.Shown)
			}
		}
	}
}

// draftModel is one file: what the user sees, and what was closed last.
type draftModel struct {
	now    []byte // nil bytes of the base are in it
	base   []byte // of the remote version
	closed []byte // content of the entry
	entry  bool
}

func TestDraftAgainstModel(t *testing.T) {
	for seed := range uint64(rounds(120)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 11))
			o := Options{Dir: t.TempDir(), GroupCommit: time.Millisecond, proveAfter: 3 * time.Millisecond, small: []int64{0, -1, 100}[seed%3], segment: 2000}
			j := open(t, o)
			const ino, maxLen = 42, 300
			m := draftModel{base: make([]byte, 50+rng.IntN(150))}
			for i := range m.base {
				m.base[i] = byte(1 + rng.IntN(255))
			}
			m.now = slices.Clone(m.base)
			var d *Draft
			reopen := func() {
				t.Helper()
				n := int64(len(m.base))
				var err error
				d, err = j.OpenDraft(ino, &DraftState{Size: n, Limit: n, BaseID: "b", BaseGen: 1, BaseLen: n})
				if err != nil {
					t.Fatal(err)
				}
			}
			reopen()
			fill := func(off, n int64) {
				t.Helper()
				for _, x := range d.Missing(off, n) {
					if x.End > int64(len(m.base)) {
						t.Fatalf("misses %v of a base of %d", x, len(m.base))
					}
					if err := d.Fill(m.base[x.Off:x.End], x.Off); err != nil {
						t.Fatal(err)
					}
				}
				if got := d.Missing(off, n); got != nil {
					t.Fatalf("still misses %v", got)
				}
			}
			for step := range 400 {
				off := rng.Int64N(maxLen)
				n := 1 + rng.Int64N(40)
				switch rng.IntN(14) {
				case 0, 1, 2, 3:
					p := make([]byte, n)
					for i := range p {
						p[i] = byte(1 + rng.IntN(255))
					}
					if w, err := d.WriteAt(p, off); err != nil || w != len(p) {
						t.Fatal(w, err)
					}
					m.now = grow(m.now, off+n)
					copy(m.now[off:], p)
				case 4:
					if err := d.Truncate(off); err != nil {
						t.Fatal(err)
					}
					m.now = grow(m.now, off)[:off]
				case 5:
					if err := d.Truncate(0); err != nil {
						t.Fatal(err)
					}
					m.now = m.now[:0]
				case 6:
					keep := rng.IntN(2) == 0
					if err := d.Allocate(off, n, keep); err != nil {
						t.Fatal(err)
					}
					if !keep {
						m.now = grow(m.now, off+n)
					}
				case 7: // base bytes that may be local by now
					if end := min(off+n, int64(len(m.base))); off < end {
						if err := d.Fill(m.base[off:end], off); err != nil {
							t.Fatal(err)
						}
					}
				case 8, 9:
					m.commit(t, j, d, ino)
				case 10:
					if rng.IntN(4) == 0 {
						if err := d.Sync(); err != nil {
							t.Fatal(err)
						}
					}
				case 11:
					if e, ok := j.Clone(ino); ok && rng.IntN(4) == 0 { // uploaded
						fill(0, maxLen*2)
						if ok, err := j.Done(ino, e.Rev); !ok || err != nil {
							t.Fatal(ok, err)
						}
						m.entry = false
					}
				case 12:
					if !d.Dirty() && m.entry { // close and open again
						if err := d.Close(); err != nil {
							t.Fatal(err)
						}
						reopen()
					}
				case 13:
					if rng.IntN(3) > 0 {
						break
					}
					// A crash between closes: what was closed must be found,
					// unless it was changed in place since.
					untouched := !d.Dirty()
					kill(t, j)
					j = open(t, o)
					if p := j.Problems(); len(p) > 0 {
						t.Fatalf("step %d: %q", step, p)
					}
					reopen()
					if !m.entry {
						m.now = slices.Clone(m.base)
					} else if untouched {
						m.now = slices.Clone(m.closed)
					} else {
						fill(0, maxLen*2)
						if d.Size() != int64(len(m.closed)) {
							t.Fatalf("step %d: size %d after a crash, %d were closed", step, d.Size(), len(m.closed))
						}
						m.now = make([]byte, d.Size())
						if len(m.now) > 0 {
							must(d.ReadAt(m.now, 0))
						}
						m.closed = slices.Clone(m.now)
					}
				}
				if d.Size() != int64(len(m.now)) {
					t.Fatalf("step %d: size %d, want %d", step, d.Size(), len(m.now))
				}
				if rng.IntN(3) == 0 {
					end := min(off+n, int64(len(m.now)))
					if off < end {
						fill(off, end-off)
						got := make([]byte, end-off)
						must(d.ReadAt(got, off))
						if !bytes.Equal(got, m.now[off:end]) {
							t.Fatalf("step %d: [%d, %d) is %x, want %x", step, off, end, got, m.now[off:end])
						}
					}
				}
			}
			fill(0, maxLen*2)
			got := make([]byte, len(m.now))
			if len(got) > 0 {
				must(d.ReadAt(got, 0))
			}
			if !bytes.Equal(got, m.now) {
				t.Fatalf("at the end %x, want %x", got, m.now)
			}
			m.commit(t, j, d, ino)
			// What Fill added belongs into the entry, too.
			st, ok := d.State()
			if ok != (d.Gen() != 0) {
				t.Fatalf("State of generation %d: %t", d.Gen(), ok)
			}
			if err := j.Update(ino, func(e *Entry) bool { e.Draft = &st; return true }); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if m.entry {
				if got := readBack(t, j, ino); got != string(m.now) {
					t.Fatalf("snapshot %x, want %x", got, m.now)
				}
			}
			if err := j.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			shut(t, j)
			want := 0
			if m.entry {
				want++
				if p := j.older[ino]; p != nil && p.File != j.index.items[ino].Draft.File {
					want++
				}
			}
			if len(draftFiles(t, j)) > want {
				// The prover may have made a file superfluous after the last
				// commit; the next start tidies up.
				j = open(t, Options{Dir: j.dir})
				if err := j.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
				shut(t, j)
			}
			if got := draftFiles(t, j); len(got) > want {
				t.Errorf("draft files %v, want %d", got, want)
			}
		})
	}
}

func (m *draftModel) commit(t *testing.T, j *Journal, d *Draft, ino uint64) {
	t.Helper()
	was, dirty := d.Gen(), d.Dirty()
	st := d.Commit()
	if dirty && st.Gen <= was || !dirty && st.Gen != was {
		t.Fatalf("generation %d after %d, dirty %t", st.Gen, was, dirty)
	}
	if !dirty {
		return
	}
	e, ok := j.Clone(ino)
	if !ok {
		e = file1(ino, "f")
	}
	e.Draft = &st
	put(t, j, e)
	m.closed, m.entry = slices.Clone(m.now), true
}

func grow(b []byte, n int64) []byte {
	if int64(len(b)) < n {
		return append(b[:len(b):len(b)], make([]byte, n-int64(len(b)))...)
	}
	return b
}
