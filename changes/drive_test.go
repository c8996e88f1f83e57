package changes

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// world is a drive, a Store and a Poller between them.
type world struct {
	testing.TB
	srv    *drivetest.Server
	other  *drivetest.Client
	client *drive.Client
	store  *cache.Store
	poller *Poller
}

func newWorld(t testing.TB, prepare func(*drivetest.Server)) *world {
	t.Helper()
	w := &world{TB: t, srv: drivetest.New(t)}
	w.other = w.srv.Else()
	if prepare != nil {
		prepare(w.srv)
	}
	client, err := drive.New(drive.Options{
		Endpoint: w.srv.Endpoint(),
		Tokens:   oauth2.StaticTokenSource(&oauth2.Token{AccessToken: w.srv.Token().AccessToken}),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.client = client
	w.store, err = cache.Open(t.Context(), cache.Options{StateDir: t.TempDir(), Memory: 16 << 20, Remote: client})
	if err != nil {
		client.Close()
		t.Fatal(err)
	}
	w.poller = New(client, w.store.Feed(), Options{})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.poller.Run(ctx) }()
	t.Cleanup(func() {
		for _, err := range w.store.CheckLocal() {
			t.Error(err)
		}
		cancel()
		if err := errors.Join(<-ran, w.store.Close()); err != nil {
			t.Error(err)
		}
		client.Close()
	})
	return w
}

func (w *world) fail(f drivetest.Fault) {
	w.srv.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{{Op: "changes", Times: 1, Fault: f}}})
}

// same: the Store shows what the drive has.
func (w *world) same() {
	w.Helper()
	refresh(w, w.poller)
	tree := w.other.Tree()
	for p, n := range tree {
		if p == "" {
			continue
		}
		dir := w.store.Root()
		var e cache.Entry
		for name := range strings.SplitSeq(p, "/") {
			var err error
			if e, _, err = w.store.Lookup(w.Context(), dir, name); err != nil {
				w.Errorf("%s: %v", p, err)
				break
			}
			dir = e.Ino
		}
		if e.Folder != (n.Kind == drivetest.KindFolder) || n.Content != nil && e.Size != n.Content.Size {
			w.Errorf("%s: %+v, on the drive %+v", p, e, n)
		}
	}
	if got := w.store.Status().Nodes; got != int64(len(tree)) {
		w.Errorf("%d nodes, %d on the drive", got, len(tree))
	}
}

func (w *world) put(path, text string) string {
	w.Helper()
	n, err := w.other.PutPath(path, []byte(text))
	if err != nil {
		w.Fatal(err)
	}
	return n.ID
}

// TestDrive: whatever becomes of the stream, the Store is what the drive is.
func TestDrive(t *testing.T) {
	faults := map[string]drivetest.Fault{
		"none":      {Do: drivetest.DoDelay},
		"cut":       {Do: drivetest.DoCut, At: 1},
		"bad tail":  {Do: drivetest.DoBadTail, At: 1},
		"chunk 503": {Do: drivetest.DoChunkStatus, At: 1, Status: 503},
		"reset":     {Do: drivetest.DoFeedReset},
		"disorder":  {Do: drivetest.DoDisorder},
		"repeat":    {Do: drivetest.DoRepeat, At: 10},
		"400":       {Status: 400},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(s *drivetest.Server) {
				if err := s.Bulk(5000, 100); err != nil {
					t.Fatal(err)
				}
			})
			if name != "400" { // of a call without checkpoint it is final
				w.fail(fault)
			}
			w.same()
			inos := map[string]uint64{}
			for _, name := range []string{"bulk-0000000", "bulk-0000001"} {
				e, _, err := w.store.Lookup(t.Context(), w.store.Root(), name)
				if err != nil {
					t.Fatal(err)
				}
				inos[name] = e.Ino
			}
			w.put("new/a", "text")
			gone := w.put("new/b", "text")
			w.put("bulk-0000000/file-000000.txt", "overwritten")
			w.same()
			if _, err := w.other.Trash(gone); err != nil {
				t.Fatal(err)
			}
			w.put("new/c", "more")
			w.fail(fault)
			w.same()
			if _, err := w.other.Restore(gone); err != nil {
				t.Fatal(err)
			}
			w.same()
			for name, ino := range inos {
				if e, _, err := w.store.Lookup(t.Context(), w.store.Root(), name); err != nil || e.Ino != ino {
					t.Errorf("%s was inode %d and is %d: %v", name, ino, e.Ino, err)
				}
			}
		})
	}
}

// longAgo is a Feed that was told everything long ago.
type longAgo struct{ *cache.Feed }

func (longAgo) Refreshed() time.Time { return time.Now().Add(-renewAfter) }

// TestRenewDrive: a Store is told everything anew while it is used. What a feed
// never told comes right, and nothing else moves.
func TestRenewDrive(t *testing.T) {
	w := newWorld(t, func(s *drivetest.Server) {
		if err := s.Bulk(700, 100); err != nil {
			t.Fatal(err)
		}
	})
	w.same()
	kept, err := w.store.Resolve(t.Context(), "/bulk-0000003/file-000003.txt")
	if err != nil {
		t.Fatal(err)
	}
	// Three changes of which the feed never tells.
	id := func(path string) string {
		n, err := w.other.Lookup(path)
		if err != nil {
			t.Fatal(err)
		}
		return n.ID
	}
	if _, err := w.other.Rename(id("bulk-0000001/file-000001.txt"), "renamed"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.other.Trash(id("bulk-0000002/file-000002.txt")); err != nil {
		t.Fatal(err)
	}
	w.put("bulk-0000005/new", "text")
	for b, err := range w.client.Changes(t.Context(), drive.ChangesRequest{Checkpoint: w.store.Feed().Checkpoint()}) {
		if err == nil {
			err = w.store.Feed().Apply(t.Context(), drive.Batch{Checkpoint: b.Checkpoint})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	refresh(w, w.poller)
	if _, err := w.store.Resolve(t.Context(), "/bulk-0000001/renamed"); err == nil {
		t.Fatal("the feed told it after all")
	}
	before := w.store.Feed().Refreshed()
	p := New(w.client, longAgo{w.store.Feed()}, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- p.Run(ctx) }()
	refresh(w, p)
	w.put("bulk-0000004/meanwhile", "text")
	refresh(w, p)
	for late := time.Now().Add(time.Minute); !w.store.Feed().Refreshed().After(before); refresh(w, p) {
		if time.Now().After(late) {
			t.Fatal("not refreshed within a minute")
		}
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	w.same()
	if e, err := w.store.Resolve(t.Context(), "/bulk-0000003/file-000003.txt"); err != nil || e.Ino != kept.Ino || e.Gen != kept.Gen {
		t.Errorf("was %+v and is %+v: %v", kept, e, err)
	}
}

// TestPurgedElsewhere: what was purged between two polls is gone after the next.
func TestPurgedElsewhere(t *testing.T) {
	for name, purge := range map[string]func(w *world, id string){
		"purged":             func(w *world, id string) {},
		"trashed and purged": func(w *world, id string) { must(w, func() error { _, err := w.other.Trash(id); return err }) },
		"trashed, told, and purged": func(w *world, id string) {
			must(w, func() error { _, err := w.other.Trash(id); return err })
			w.same()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.put("d/keep", "text")
			file := w.put("d/f", "text")
			w.put("e/sub/f", "text")
			folder, err := w.other.Lookup("e")
			if err != nil {
				t.Fatal(err)
			}
			w.same()
			stale, err := w.client.Get(t.Context(), file) // a lagging answer
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{file, folder.ID} {
				purge(w, id)
				must(w, func() error { return w.other.Purge(id) })
			}
			w.same()
			for _, path := range []string{"/d/f", "/e", "/e/sub/f"} {
				if e, err := w.store.Resolve(t.Context(), path); !errors.Is(err, cache.ErrNotExist) {
					t.Errorf("%s: %+v, %v", path, e, err)
				}
			}
			must(w, func() error { return w.store.Feed().Apply(t.Context(), drive.Batch{Nodes: []drive.Node{stale}}) })
			w.same()
		})
	}
}

func must(t testing.TB, fn func() error) {
	t.Helper()
	if err := fn(); err != nil {
		t.Fatal(err)
	}
}

// TestActivityIsPoked: what is changed here, or met before the feed told it, is
// worth asking soon; what the feed itself tells is not.
func TestActivityIsPoked(t *testing.T) {
	w := newWorld(t, nil)
	var pokes atomic.Int32
	w.store.Feed().OnActivity(func() { pokes.Add(1) })
	refresh(w, w.poller)
	theirs := w.put("theirs/f", "text")
	w.same()
	if n := pokes.Load(); n != 0 {
		t.Errorf("%d pokes by the feed", n)
	}
	if _, err := w.other.Rename(theirs, "g"); err != nil {
		t.Fatal(err)
	}
	n, err := w.client.Get(t.Context(), theirs)
	if err == nil {
		err = w.store.Feed().Answered(n)
	}
	if err != nil {
		t.Error(err)
	}
	// A listing that asks for properties may have been faster.
	for late := time.Now().Add(30 * time.Second); pokes.Load() == 0; runtime.Gosched() {
		if time.Now().After(late) {
			t.Fatal("an answer that was news is no activity")
		}
	}
	pokes.Store(0)
	if err := w.store.Feed().Answered(n); err != nil || pokes.Load() != 0 {
		t.Errorf("an answer that was none: %d pokes, %v", pokes.Load(), err)
	}
	w.same()
}

// BenchmarkFirstSync is a first sync from the fake drive on the same machine,
// which costs as much as drivefs does.
func BenchmarkFirstSync(b *testing.B) {
	for _, n := range []int{200_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				w := newWorld(b, func(s *drivetest.Server) {
					if err := s.Bulk(n, 100); err != nil {
						b.Fatal(err)
					}
				})
				start := time.Now()
				refresh(w, w.poller)
				b.ReportMetric(float64(n)/time.Since(start).Seconds(), "nodes/s")
			}
		})
	}
}

// TestEndlessFeed: a line that never ends is an error, and the next good answer
// brings what was missed.
func TestEndlessFeed(t *testing.T) {
	w := newWorld(t, nil)
	w.put("old", "text")
	w.same()
	w.put("new", "text")
	endless := drivetest.Fault{Do: drivetest.DoEndless}
	w.fail(endless)
	var last error
	for _, err := range w.client.Changes(t.Context(), drive.ChangesRequest{Checkpoint: w.store.Feed().Checkpoint()}) {
		last = err
	}
	if !errors.Is(last, drive.ErrCut) || !strings.Contains(last.Error(), "too long") {
		t.Errorf("the feed ended with %v", last)
	}
	w.fail(endless)
	w.same()
	if err := w.poller.Status().Err; err != nil {
		t.Errorf("after a good one: %v", err)
	}
}
