// Package recent answers one question: what was noted lately? A Map holds a
// bounded number of notes that it costs little to lose: it forgets the oldest,
// and never all at once.
//
// It has no lock: whoever holds one guards it.
package recent

// Map is a map of at most Max entries, the oldest of which it forgets. An entry
// is as young as its last Put. The zero value holds 65,536.
type Map[K comparable, V any] struct {
	Max int // 0 = 1<<16

	// young takes what is put; when it has half of Max it becomes old, and what
	// was old is forgotten. An entry may be in both; young has the last word.
	young, old map[K]V
}

const usual = 1 << 16

// Put notes v for k.
func (m *Map[K, V]) Put(k K, v V) {
	most := m.Max
	if most == 0 {
		most = usual
	}
	if m.young == nil || len(m.young) >= max(most/2, 1) {
		m.young, m.old = map[K]V{}, m.young
	}
	m.young[k] = v
}

// Get is what was noted for k; false: nothing, or it is forgotten.
func (m *Map[K, V]) Get(k K) (v V, ok bool) {
	if v, ok = m.young[k]; !ok {
		v, ok = m.old[k]
	}
	return v, ok
}

// Delete forgets k.
func (m *Map[K, V]) Delete(k K) {
	delete(m.young, k)
	delete(m.old, k)
}

// Len is how many entries there are, those that were noted twice perhaps
// counted twice.
func (m *Map[K, V]) Len() int { return len(m.young) + len(m.old) }
