package journal

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExtentsAgainstBitmap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		const n = 64
		var x extents
		var bits [n]bool
		for range 60 {
			off := rng.Int64N(n)
			end := off + rng.Int64N(n-off+1)
			if rng.IntN(8) == 0 {
				x.cut(off)
				for i := off; i < n; i++ {
					bits[i] = false
				}
			} else {
				x.add(off, end)
				for i := off; i < end; i++ {
					bits[i] = true
				}
			}
			if !x.sane(n) {
				t.Fatalf("not sorted, disjoint, apart: %v", x)
			}
			off = rng.Int64N(n)
			end = off + rng.Int64N(n-off+1)
			var want []Extent
			for i := off; i < end; i++ {
				switch k := len(want); {
				case bits[i]:
				case k > 0 && want[k-1].End == i:
					want[k-1].End++
				default:
					want = append(want, Extent{i, i + 1})
				}
			}
			if d := cmp.Diff(want, x.missing(off, end)); d != "" {
				t.Fatalf("missing(%d, %d) of %v (-want +got):\n%s", off, end, x, d)
			}
		}
	}
}

func TestSequentialWritesCostNoAllocation(t *testing.T) {
	var x extents
	x.add(0, 1)
	at := int64(1)
	if n := testing.AllocsPerRun(1000, func() { x.add(at, at+4096); at += 4096 }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestInoSetAgainstMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, span := range []uint64{50, 5000, 1 << 40} {
		var s inoSet
		m := make(map[uint64]bool)
		var added []uint64
		for i := range 20000 {
			ino := 1 + rng.Uint64N(span)
			if i%3 == 0 { // numbers that grow, as most do
				ino = span + uint64(i)
			}
			if rng.IntN(3) == 0 && len(added) > 0 {
				ino = added[rng.IntN(len(added))]
				s.remove(ino)
				delete(m, ino)
			} else {
				s.add(ino)
				m[ino] = true
				added = append(added, ino)
			}
		}
		want := make([]uint64, 0, len(m))
		for ino := range m {
			want = append(want, ino)
		}
		slices.Sort(want)
		if !slices.Equal(want, s.all()) || s.len() != len(want) {
			t.Fatalf("span %d: %d numbers, want %d", span, s.len(), len(want))
		}
		for range 50 {
			after := rng.Uint64N(span + 20000)
			var got []uint64
			s.after(after, func(ino uint64) bool { got = append(got, ino); return len(got) < 3 })
			i, _ := slices.BinarySearch(want, after+1)
			if !slices.Equal(got, want[i:min(i+3, len(want))]) {
				t.Fatalf("after %d: %v", after, got)
			}
		}
		for _, ino := range want {
			s.remove(ino)
		}
		if s.len() != 0 || len(s.blocks) != 0 {
			t.Fatalf("%d left in %d blocks", s.len(), len(s.blocks))
		}
	}
}

func TestMultimapAnswersTheLast(t *testing.T) {
	items := map[uint64]*Entry{}
	order := uint64(0)
	var m multimap[string]
	add := func(k string, ino uint64) {
		order++
		m.remove(k, ino, items)
		items[ino] = &Entry{Ino: ino, Order: order}
		m.add(k, ino, items)
	}
	for _, ino := range []uint64{1, 2, 3, 1} {
		add("a", ino)
	}
	for _, want := range []uint64{1, 3, 2} {
		got, ok := m.get("a")
		if !ok || got != want {
			t.Fatalf("%d, want %d", got, want)
		}
		m.remove("a", got, items)
	}
	if _, ok := m.get("a"); ok || len(m.more) != 0 {
		t.Error("something is left")
	}
	add("b", 1)
	add("b", 2)
	m.remove("b", 1, items)
	m.remove("b", 7, items)
	if got, _ := m.get("b"); got != 2 || len(m.more) != 0 {
		t.Errorf("%d, %v", got, m.more)
	}
	// What is put back as it was is where it was.
	add("b", 1)
	former := items[2]
	add("b", 2)
	m.remove("b", 2, items)
	items[2] = former
	m.add("b", 2, items)
	if got, _ := m.get("b"); got != 1 {
		t.Errorf("%d after the change was taken back", got)
	}
}
