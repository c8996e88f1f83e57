package mirror

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive"
)

func rebuild(t testing.TB, m *Mirror) *Rebuild {
	t.Helper()
	rb, err := m.BeginRebuild()
	if err != nil {
		t.Fatal(err)
	}
	return rb
}

func tell(t testing.TB, rb *Rebuild, checkpoint string, nodes ...drive.Node) {
	t.Helper()
	if err := rb.Apply(drive.Batch{Checkpoint: checkpoint, Nodes: nodes, Reset: true}); err != nil {
		t.Fatal(err)
	}
}

func commit(t testing.TB, m *Mirror, rb *Rebuild) []string {
	t.Helper()
	var all []Change
	if err := rb.Commit(func(c []Change) { all = append(all, c...) }); err != nil {
		t.Fatal(err)
	}
	return words(t, m, all)
}

// TestRebuild: what differs is told, what does not keeps everything.
func TestRebuild(t *testing.T) {
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
	rb := rebuild(t, m)
	tell(t, rb, "r1", content(leaf("same", "same", 4, "d"), 2, md5B), leaf("renamed", "new name", 2, "d"))
	tell(t, rb, "r2", dir("d", "dir", 1), content(leaf("changed", "changed", 2), 2, md5C), leaf("two", "two", 1, rootID, "d"), leaf("fresh", "fresh", 1))
	// Nothing of it shows before the exchange, and the live one goes on.
	wantPaths(t, m, "/dir=d", "/dir/same=same", "/dir/old name=renamed", "/changed=changed", "/gone=gone", "/gone dir=gonedir", "/gone dir/inside=inside", "/two=two", "/dir/two=two")
	mine := newIno(t, m)
	told(t, m)(m.Answer(leaf("mine", "mine", 1), true, mine)) // younger than the full feed
	saved := newIno(t, m)
	told(t, m)(m.Rebind("two", saved))
	told(t, m)(m.Gone("gone", 0))
	commit(t, m, rb)
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
	if _, err := os.Stat(sidePath(m.o.Path)); !errors.Is(err, os.ErrNotExist) {
		t.Error("the side file is there:", err)
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

// TestRebuildTells: the difference, in words.
func TestRebuildTells(t *testing.T) {
	m := open(t, Options{})
	apply(t, m, dir("d", "dir", 1), leaf("same", "same", 3, "d"), leaf("renamed", "old", 1, "d"), leaf("changed", "changed", 1), leaf("gone", "gone", 1), leaf("a1", "Twin", 1), leaf("a2", "TWIN", 1))
	rb := rebuild(t, m)
	tell(t, rb, "r1", dir("d", "dir", 1), leaf("same", "same", 3, "d"), leaf("renamed", "new", 2, "d"), content(leaf("changed", "changed", 2), 2, md5C), leaf("fresh", "fresh", 1), leaf("a2", "TWIN", 1))
	same(t, "difference", []string{
		"-> /fresh", "/TWIN (a2) -> /TWIN", "/Twin ->", "/changed content attr", "/gone ->", "d/old -> d/new attr",
	}, commit(t, m, rb))
	rb = rebuild(t, m)
	tell(t, rb, "r2", dir("d", "dir", 1), leaf("same", "same", 3, "d"), leaf("renamed", "new", 2, "d"), content(leaf("changed", "changed", 2), 2, md5C), leaf("fresh", "fresh", 1), leaf("a2", "TWIN", 1))
	same(t, "no difference", []string{}, commit(t, m, rb))
}

func TestRebuildEnds(t *testing.T) {
	m := open(t, Options{})
	apply(t, m, leaf("f", "a", 1))
	rb := rebuild(t, m)
	tell(t, rb, "r1", leaf("g", "b", 1))
	if err := rb.Abort(); err != nil {
		t.Fatal(err)
	}
	if err := rb.Abort(); err != nil {
		t.Error("aborted twice:", err)
	}
	if err := rb.Apply(drive.Batch{}); err == nil {
		t.Error("applied after the end")
	}
	if err := rb.Commit(func([]Change) {}); err == nil {
		t.Error("committed after the end")
	}
	wantPaths(t, m, "/a=f")
	// A killed one is dropped: the service will say reset again.
	rebuild(t, m)
	path := filepath.Join(t.TempDir(), "mirror.db")
	copyFile(t, m.o.Path, path)
	copyFile(t, sidePath(m.o.Path), sidePath(path))
	k, err := Open(Options{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if cp, _ := k.Checkpoint(); cp != "c" || k.Nodes() != 2 {
		t.Errorf("at %q with %d nodes", cp, k.Nodes())
	}
	if _, err := os.Stat(sidePath(path)); !errors.Is(err, os.ErrNotExist) {
		t.Error("the side file is there:", err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// TestRebuildUnderReaders: readers see the one or the other, and no error.
func TestRebuildUnderReaders(t *testing.T) {
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
		rb := rebuild(t, m)
		for j := range nodes {
			nodes[j].Version++
		}
		tell(t, rb, fmt.Sprint("r", i), nodes[:150]...)
		tell(t, rb, fmt.Sprint("s", i), nodes[150:]...)
		commit(t, m, rb)
	}
	close(stop)
	wg.Wait()
}

// BenchmarkRebuild is reset:true with 300,000 nodes of which 1 % changed, and
// how long other writers wait for the exchange.
func BenchmarkRebuild(b *testing.B) {
	const total = 300_000
	m, _, _ := benchMirror(b, total, 2000)
	for b.Loop() {
		start := time.Now()
		rb, err := m.BeginRebuild()
		if err != nil {
			b.Fatal(err)
		}
		a := newAccount()
		for a.n < total {
			batch := a.batch(2000)
			for i := range batch.Nodes {
				if i%100 == 0 {
					batch.Nodes[i].Version = int64(b.N) + 100
					batch.Nodes[i].Name += " changed"
				}
			}
			if err := rb.Apply(batch); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(time.Since(start).Seconds(), "s-apply")
		start = time.Now()
		n := 0
		if err := rb.Commit(func(c []Change) {
			if n == 0 {
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-until-shown")
			}
			n += len(c)
		}); err != nil || n != total/100 {
			b.Fatal(n, err)
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-commit")
	}
}
