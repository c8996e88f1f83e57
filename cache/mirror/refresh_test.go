package mirror

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/drivefs/drivefs/drive"
)

func begin(t testing.TB, m *Mirror) {
	t.Helper()
	if _, err := m.BeginRefresh(); err != nil {
		t.Fatal(err)
	}
}

func tell(t testing.TB, m *Mirror, checkpoint string, nodes ...drive.Node) {
	t.Helper()
	if err := m.ApplyRefresh(drive.Batch{Checkpoint: checkpoint, Nodes: nodes, Reset: true}); err != nil {
		t.Fatal(err)
	}
}

func commit(t testing.TB, m *Mirror) []string {
	t.Helper()
	var all []Change
	if err := m.EndRefresh(func(c []Change) { all = append(all, c...) }); err != nil {
		t.Fatal(err)
	}
	return words(t, m, all)
}

// TestRefresh: what differs is told, what does not keeps everything.
func TestRefresh(t *testing.T) {
	m := open(t, Options{Owner: func() string { return "me" }})
	if err := m.SetMeta("account", "A1"); err != nil {
		t.Fatal(err)
	}
	apply(t, m,
		dir("d", "dir", 1), leaf("same", "same", 3, "d"), leaf("renamed", "old name", 1, "d"), leaf("changed", "changed", 1),
		leaf("gone", "gone", 1), dir("gonedir", "gone dir", 1), leaf("inside", "inside", 1, "gonedir"), leaf("two", "two", 1, rootID, "d"),
		status(leaf("dead", "dead", 4), drive.Trashed),
	)
	apply(t, m, content(leaf("same", "same", 4, "d"), 2, md5B))
	told(t, m)(m.SetProps("same", 4, map[string]string{"m": "1"}))
	if err := m.FeedEnd(day0); err != nil {
		t.Fatal(err)
	}
	inos := map[string]Ino{}
	for _, id := range []string{"d", "same", "renamed", "changed", "gone", "gonedir", "inside", "two", "dead"} {
		inos[id], _ = m.Ino(id)
	}
	begin(t, m)
	tell(t, m, "r1", content(leaf("same", "same", 4, "d"), 2, md5B), leaf("renamed", "new name", 2, "d"))
	tell(t, m, "r2", dir("d", "dir", 1), content(leaf("changed", "changed", 2), 2, md5C), leaf("two", "two", 1, rootID, "d"), leaf("fresh", "fresh", 1))
	// Nothing of it shows before the exchange, and the live one goes on.
	wantPaths(t, m, "/dir=d", "/dir/same=same", "/dir/old name=renamed", "/changed=changed", "/gone=gone", "/gone dir=gonedir", "/gone dir/inside=inside", "/two=two", "/dir/two=two")
	mine := newIno(t, m)
	told(t, m)(m.Answer(leaf("mine", "mine", 1), true, mine)) // younger than the full feed
	saved := newIno(t, m)
	told(t, m)(m.Rebind("two", saved))
	told(t, m)(m.Gone("gone", 0))
	commit(t, m)
	wantPaths(t, m, "/dir=d", "/dir/same=same", "/dir/new name=renamed", "/changed=changed", "/fresh=fresh", "/mine=mine", "/two=two", "/dir/two=two")
	inos["mine"], inos["two"] = mine, saved
	for id, ino := range inos {
		if now, ok := m.Ino(id); !ok || now != ino {
			t.Errorf("%s is inode %d %v, was %d", id, now, ok, ino)
		}
	}
	r := get(t, m, "same")
	same(t, "props", map[string]string{"m": "1"}, r.Props)
	same(t, "generation", uint64(1), r.Gen)
	same(t, "generation of what changed", uint64(1), get(t, m, "changed").Gen)
	same(t, "account", "A1", m.Meta("account"))
	if cp, _ := m.Checkpoint(); cp != "r2" || !m.Complete() {
		t.Errorf("at %q, complete %v", cp, m.Complete())
	}
	same(t, "what was dead stays so", []string{}, apply(t, m, leaf("dead", "dead", 4)))
	same(t, "what the feed tells after all is back", []string{"-> /gone dir"}, apply(t, m, dir("gonedir", "gone dir", 1)))
	if ino := newIno(t, m); ino <= saved {
		t.Errorf("inode %d after %d", ino, saved)
	}
	// And it is what a restart finds.
	want := paths(t, m)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(m.o)
	if err != nil {
		t.Fatal(err)
	}
	m.cur.Store(again.cur.Load()) // closed with m
	same(t, "after a restart", want, paths(t, m))
}

// TestRefreshTells: the difference, in words.
func TestRefreshTells(t *testing.T) {
	m := open(t, Options{})
	if err := m.FeedEnd(time.Now()); err != nil {
		t.Fatal(err)
	}
	apply(t, m, dir("d", "dir", 1), leaf("same", "same", 3, "d"), leaf("renamed", "old", 1, "d"), leaf("changed", "changed", 1), leaf("gone", "gone", 1), leaf("a1", "Twin", 1), leaf("a2", "TWIN", 1))
	begin(t, m)
	tell(t, m, "r1", dir("d", "dir", 1), leaf("same", "same", 3, "d"), leaf("renamed", "new", 2, "d"), content(leaf("changed", "changed", 2), 2, md5C), leaf("fresh", "fresh", 1), leaf("a2", "TWIN", 1))
	same(t, "difference", []string{
		"-> /fresh", "/TWIN (a2) -> /TWIN", "/Twin ->", "/changed content attr", "/gone ->", "d/old -> d/new attr",
	}, commit(t, m))
	begin(t, m)
	tell(t, m, "r2", dir("d", "dir", 1), leaf("same", "same", 3, "d"), leaf("renamed", "new", 2, "d"), content(leaf("changed", "changed", 2), 2, md5C), leaf("fresh", "fresh", 1), leaf("a2", "TWIN", 1))
	same(t, "no difference", []string{}, commit(t, m))
}

func TestRefreshEnds(t *testing.T) {
	m := open(t, Options{})
	apply(t, m, leaf("f", "a", 1))
	if err := m.FeedEnd(time.Now()); err != nil {
		t.Fatal(err)
	}
	begin(t, m)
	if _, err := m.BeginRefresh(); !errors.Is(err, ErrRefreshing) {
		t.Error("two at a time:", err)
	}
	tell(t, m, "r1", leaf("g", "b", 1))
	for range 2 {
		if err := m.AbortRefresh(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.ApplyRefresh(drive.Batch{}); err == nil {
		t.Error("applied after the end")
	}
	if err := m.EndRefresh(nil); err == nil {
		t.Error("ended after the end")
	}
	wantPaths(t, m, "/a=f")
	// One that a killed process left is dropped: the service will say reset again.
	begin(t, m)
	tell(t, m, "r2", leaf("g", "b", 1))
	if err := m.full.spool.flush("r2"); err != nil {
		t.Fatal(err)
	}
	m.full = nil
	if from, err := m.BeginRefresh(); from != "" || err != nil {
		t.Error("goes on at", from, err)
	}
	if err := m.EndRefresh(nil); err == nil {
		t.Error("all there is is nothing")
	}
	wantPaths(t, m, "/a=f")
	begin(t, m)
	tell(t, m, "r3", leaf("h", "c", 1))
	commit(t, m)
	wantPaths(t, m, "/c=h")
	if left, _ := filepath.Glob(m.o.Path + ".told-*"); len(left) > 0 {
		t.Error("left behind:", left)
	}
}

// TestFirstSyncGoesOn: a killed first sync goes on behind the last run that is
// whole, whatever became of the others.
func TestFirstSyncGoesOn(t *testing.T) {
	for name, damage := range map[string]struct {
		do   func(run func(int) string) error
		from string
	}{
		"killed":     {func(func(int) string) error { return nil }, "c3"},
		"last torn":  {func(run func(int) string) error { return os.Truncate(run(2), 50) }, "c2"},
		"first lost": {func(run func(int) string) error { return os.Remove(run(0)) }, ""},
		"bit rot": {func(run func(int) string) error {
			b, err := os.ReadFile(run(1))
			b[20] ^= 1
			return errors.Join(err, os.WriteFile(run(1), b, 0o600))
		}, "c1"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Path: filepath.Join(t.TempDir(), "mirror.db"), NoSync: true}
			m, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.SetRoot(root()); err != nil {
				t.Fatal(err)
			}
			begin(t, m)
			told := [][]drive.Node{{leaf("f", "a", 1, "d")}, {dir("d", "dir", 1)}, {leaf("g", "b", 1, "d"), leaf("f", "c", 2)}, {leaf("h", "lost", 1)}}
			for i, nodes := range told {
				tell(t, m, fmt.Sprint("c", i+1), nodes...)
				if i < 3 {
					if err := m.full.spool.flush(fmt.Sprint("c", i+1)); err != nil {
						t.Fatal(err)
					}
				}
			}
			run := m.full.spool.run
			m.full = nil // killed
			if err := errors.Join(m.Close(), damage.do(run)); err != nil {
				t.Fatal(err)
			}
			m = open(t, o)
			from, err := m.BeginRefresh()
			if err != nil || from != damage.from {
				t.Errorf("goes on at %q, %v", from, err)
			}
			for i, nodes := range told {
				if fmt.Sprint("c", i+1) > from {
					tell(t, m, fmt.Sprint("c", i+1), nodes...)
				}
			}
			commit(t, m)
			wantPaths(t, m, "/dir=d", "/c=f", "/dir/b=g", "/lost=h")
			if cp, _ := m.Checkpoint(); cp != "c4" || !m.Complete() {
				t.Errorf("at %q, complete %v", cp, m.Complete())
			}
		})
	}
}

// TestFirstSyncInAnyOrder: the account is the same, and the numbers of those met
// before stay.
func TestFirstSyncInAnyOrder(t *testing.T) {
	made := newAccount().batch(12_000).Nodes
	var want map[string]string
	for _, order := range orders {
		nodes := slices.Clone(made)
		order.sort(nodes)
		m := open(t, Options{})
		early := made[1:40]
		if _, err := m.Listing(RootIno, made[:1], false); err != nil {
			t.Fatal(err)
		}
		folder := get(t, m, made[0].ID).Ino
		if _, err := m.Listing(folder, early, false); err != nil {
			t.Fatal(err)
		}
		begin(t, m)
		for i, part := range slices.Collect(slices.Chunk(nodes, 700)) {
			tell(t, m, fmt.Sprint("c", i), part...)
			if i%5 == 3 {
				if err := m.full.spool.flush(fmt.Sprint("c", i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		inos := map[string]Ino{made[0].ID: folder}
		for _, n := range early {
			inos[n.ID] = get(t, m, n.ID).Ino
		}
		commit(t, m)
		for id, ino := range inos {
			if now := get(t, m, id).Ino; now != ino {
				t.Errorf("%s: inode %d, was %d", id, now, ino)
			}
		}
		got, err := tree(m)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if len(got) != len(made) {
			t.Errorf("%s: %d nodes", order.name, len(got))
		}
		same(t, order.name, want, got)
	}
}

// TestNodeRoundTrip: what is spooled comes back.
func TestNodeRoundTrip(t *testing.T) {
	for _, n := range []drive.Node{
		{}, root(), dir("d", "dir", 1), leaf("f", "ä", 1<<60, "p", "q", strings.Repeat("r", 256)), {ID: "p", Status: drive.Purged},
		{ID: "a", Kind: "ASSET", Status: "NEW", CreatedBy: "x", Parents: []string{""}},
	} {
		var got drive.Node
		if err := decodeNode(appendNode(nil, &n), &got); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(n, got, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	}
}

// TestRefreshUnderReaders: readers see the one or the other, and no error.
func TestRefreshUnderReaders(t *testing.T) {
	m := open(t, Options{})
	a := newAccount()
	nodes := a.batch(300).Nodes
	apply(t, m, nodes...)
	var ids []string
	for _, n := range nodes {
		ids = append(ids, n.ID)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := ids[i%len(ids)]
				if rec, ok, err := m.ByID(id); err != nil || !ok || rec.ID != id {
					t.Errorf("%s: %v %v", id, ok, err)
					return
				}
				if err := m.List(RootIno, 0, 10, func(*Record) bool { return true }); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 5 {
		begin(t, m)
		for j := range nodes {
			nodes[j].Version++
		}
		tell(t, m, fmt.Sprint("r", i), nodes[:150]...)
		tell(t, m, fmt.Sprint("s", i), nodes[150:]...)
		commit(t, m)
	}
	close(stop)
	wg.Wait()
}

// BenchmarkRefresh is a renewal of 300,000 nodes of which 1 % changed, and how
// long another writer waits at most.
func BenchmarkRefresh(b *testing.B) {
	const total = 300_000
	m, _, _ := benchMirror(b, total, 2000)
	for i := 0; b.Loop(); i++ {
		begin(b, m)
		a := newAccount()
		for a.n < total {
			batch := a.batch(2000)
			for j := range batch.Nodes {
				if j%100 == 0 {
					batch.Nodes[j].Version = int64(i) + 100
					batch.Nodes[j].Name += fmt.Sprint(" changed", i)
				}
			}
			if err := m.ApplyRefresh(batch); err != nil {
				b.Fatal(err)
			}
		}
		var longest time.Duration
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				start := time.Now()
				if _, err := m.Answer(leaf("other", "other", 1), true, 0); err != nil {
					b.Error(err)
				}
				longest = max(longest, time.Since(start))
			}
		}()
		start, n := time.Now(), 0
		if err := m.EndRefresh(func(c []Change) { n += len(c) }); err != nil || n < total/100 {
			b.Fatal(n, err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "s-merge")
		close(stop)
		<-done
		b.ReportMetric(float64(longest.Milliseconds()), "ms-longest-write")
	}
}
