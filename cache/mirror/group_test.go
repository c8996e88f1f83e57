package mirror

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// loaded is a mirror after its first sync, when every commit counts.
func loaded(t testing.TB) *Mirror {
	t.Helper()
	m := open(t, Options{})
	if err := m.FeedEnd(time.Now()); err != nil {
		t.Fatal(err)
	}
	return m
}

// lastTx is the id of the last transaction.
func lastTx(t testing.TB, m *Mirror) (id int) {
	t.Helper()
	if err := m.view(func(v *view) error { id = v.tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

// together makes calls that find the writer busy until all have come.
func together(m *Mirror, calls ...func()) {
	var wg sync.WaitGroup
	m.wmu.Lock()
	for i, call := range calls {
		wg.Go(call)
		for {
			m.group.mu.Lock()
			n := len(m.group.waiting)
			m.group.mu.Unlock()
			if n == i+1 {
				break
			}
			runtime.Gosched()
		}
	}
	m.wmu.Unlock()
	wg.Wait()
}

type answer struct {
	changes []Change
	err     error
}

func TestGroupIsOneTransaction(t *testing.T) {
	m := loaded(t)
	const n = 20
	inos := make([]Ino, n)
	got := make([]answer, n)
	calls := make([]func(), n)
	for i := range calls {
		inos[i] = newIno(t, m)
		calls[i] = func() {
			got[i].changes, got[i].err = m.Answer(leaf(fmt.Sprint("f", i), fmt.Sprint("name ", i), 1), true, inos[i])
		}
	}
	before := lastTx(t, m)
	together(m, calls...)
	same(t, "transactions", before+1, lastTx(t, m))
	for i, a := range got {
		same(t, fmt.Sprint("answer ", i), []string{fmt.Sprintf("-> /name %d own", i)}, told(t, m)(a.changes, a.err))
		same(t, "inode", inos[i], get(t, m, fmt.Sprint("f", i)).Ino)
	}
}

// TestGroupIsLikeOneAfterTheOther: writes to the same nodes and names in one
// group tell each caller what they would tell alone.
func TestGroupIsLikeOneAfterTheOther(t *testing.T) {
	writes := func(m *Mirror, ino Ino) []func() ([]Change, error) {
		n := leaf("a", "Same", 2)
		n.Created = day0.Add(-time.Hour)
		return []func() ([]Change, error){
			func() ([]Change, error) { return m.Answer(leaf("b", "same", 1), true, ino) },
			func() ([]Change, error) { return m.SetProps("b", 1, map[string]string{"k": "v"}) },
			func() ([]Change, error) { return m.Answer(n, false, 0) }, // older: takes the name
			func() ([]Change, error) { return m.Answer(n, false, 0) },
			func() ([]Change, error) { return m.Answer(dir("d", "dir", 1), true, 0) },
			func() ([]Change, error) { return m.Answer(leaf("c", "in", 1, "d"), true, 0) },
			func() ([]Change, error) { return m.Gone("a", 3) }, // and gives it back
			func() ([]Change, error) { return m.Answer(leaf("a", "again", 4), false, 0) },
		}
	}
	alone, group := loaded(t), loaded(t)
	var want, got [][]string
	for _, w := range writes(alone, newIno(t, alone)) {
		c, err := w()
		want = append(want, told(t, alone)(c, err))
	}
	list := writes(group, newIno(t, group))
	answers := make([]answer, len(list))
	calls := make([]func(), len(list))
	for i, w := range list {
		calls[i] = func() { answers[i].changes, answers[i].err = w() }
	}
	before := lastTx(t, group)
	together(group, calls...)
	same(t, "transactions", before+1, lastTx(t, group))
	for _, a := range answers {
		got = append(got, told(t, group)(a.changes, a.err))
	}
	same(t, "changes", want, got)
	same(t, "props", get(t, alone, "b").Props, get(t, group, "b").Props)
	same(t, "props", map[string]string{"k": "v"}, get(t, group, "b").Props)
}

// TestGroupWithOneThatFails: each gets the error that is its own.
func TestGroupWithOneThatFails(t *testing.T) {
	m := loaded(t)
	taken := newIno(t, m)
	if _, err := m.Answer(leaf("old", "old", 1), true, taken); err != nil {
		t.Fatal(err)
	}
	var first, bad, last answer
	together(m,
		func() { first.changes, first.err = m.Answer(leaf("one", "one", 1), true, 0) },
		func() { bad.changes, bad.err = m.Answer(leaf("two", "two", 1), true, taken) },
		func() { last.changes, last.err = m.Answer(leaf("three", "three", 1), true, 0) },
	)
	same(t, "first", []string{"-> /one own"}, told(t, m)(first.changes, first.err))
	same(t, "last", []string{"-> /three own"}, told(t, m)(last.changes, last.err))
	if !errors.Is(bad.err, ErrBound) || bad.changes != nil {
		t.Errorf("%v, %v", bad.changes, bad.err)
	}
	if _, ok, _ := m.ByID("two"); ok {
		t.Error("the one that failed left something")
	}
}

// TestGroupsBesideFeed has many callers and the feed at work, during a first
// load and after it.
func TestGroupsBesideFeed(t *testing.T) {
	for name, m := range map[string]*Mirror{"first load": open(t, Options{}), "later": loaded(t)} {
		t.Run(name, func(t *testing.T) {
			var wg sync.WaitGroup
			fail := func(err error) {
				if err != nil {
					t.Error(err)
				}
			}
			for g := range 8 {
				wg.Go(func() {
					for i := range 25 {
						id := fmt.Sprintf("n-%d-%d", g, i)
						ino, err := m.NewIno()
						fail(err)
						_, err = m.Answer(leaf(id, id, 1), true, ino)
						fail(err)
						_, err = m.SetProps(id, 1, map[string]string{"of": id})
						fail(err)
						if i%5 == 0 {
							_, err = m.Gone(id, 2)
							fail(err)
						}
						// Nobody is told of a write before readers see it.
						r, ok, err := m.Get(ino)
						fail(err)
						if ok != (i%5 != 0) || ok && r.Props["of"] != id {
							t.Errorf("%s: %v %v", id, ok, r.Props)
						}
					}
				})
			}
			wg.Go(func() {
				for i := range 50 {
					_, err := m.Apply(drive.Batch{Nodes: []drive.Node{leaf(fmt.Sprint("feed", i), fmt.Sprint("feed", i), 1)}})
					fail(err)
				}
			})
			wg.Wait()
			same(t, "nodes", int64(1+8*20+50), m.Nodes())
		})
	}
}

// BenchmarkAnswer is how many answers a second become durable when 16 callers
// have one at a time.
func BenchmarkAnswer(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			m, err := Open(Options{Path: filepath.Join(b.TempDir(), "mirror.db")})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			if _, err := m.SetRoot(root()); err != nil {
				b.Fatal(err)
			}
			if err := m.FeedEnd(time.Now()); err != nil {
				b.Fatal(err)
			}
			work := make(chan int)
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for i := range work {
						id := fmt.Sprintf("%022d", i)
						if _, err := m.Answer(leaf(id, id, 1), true, 0); err != nil {
							b.Error(err)
						}
					}
				})
			}
			i := 0
			for b.Loop() {
				i++
				work <- i
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
		})
	}
}
