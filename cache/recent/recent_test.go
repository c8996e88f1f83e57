package recent

import (
	"math/rand/v2"
	"testing"
)

// TestMap: the last half of what was put is there, with its last value, what was
// deleted is not, and there is never more than Max.
func TestMap(t *testing.T) {
	const most = 64
	m := Map[int, int]{Max: most}
	rng := rand.New(rand.NewPCG(1, 2))
	var puts []int // keys, oldest first, each once
	last := map[int]int{}
	for i := range 10_000 {
		k := rng.IntN(200)
		at := -1
		for j, p := range puts {
			if p == k {
				at = j
			}
		}
		if at >= 0 {
			puts = append(puts[:at], puts[at+1:]...)
		}
		if rng.IntN(5) == 0 {
			m.Delete(k)
			delete(last, k)
			if _, ok := m.Get(k); ok {
				t.Fatalf("step %d: %d was deleted and is there", i, k)
			}
			continue
		}
		m.Put(k, i)
		last[k] = i
		puts = append(puts, k)
		if m.Len() > most {
			t.Fatalf("step %d: %d entries", i, m.Len())
		}
		for _, k := range puts[max(0, len(puts)-most/2):] {
			if v, ok := m.Get(k); !ok || v != last[k] {
				t.Fatalf("step %d: %d is %d, %v, want %d", i, k, v, ok, last[k])
			}
		}
		for k := range 200 {
			if v, ok := m.Get(k); ok && v != last[k] {
				t.Fatalf("step %d: %d has the value %d of before", i, k, v)
			}
		}
	}
}

func TestZeroMap(t *testing.T) {
	var m Map[string, bool]
	m.Delete("x")
	if _, ok := m.Get("x"); ok || m.Len() != 0 {
		t.Error("something is in an empty map")
	}
	m.Put("x", true)
	if v, ok := m.Get("x"); !v || !ok {
		t.Error("not kept")
	}
	for m, i := (Map[int, int]{Max: 1}), 0; i < 10; i++ {
		m.Put(i, i)
		if v, ok := m.Get(i); !ok || v != i {
			t.Errorf("of one entry, the last is %d, %v", v, ok)
		}
	}
}
