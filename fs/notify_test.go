package fs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/drivefs/drivefs/cache"
)

// kernel stands where go-fuse writes notifications, and keeps what it is told.
// Node ids are go-fuse's: 1 for the root, then counting up.
type kernel struct {
	mu    sync.Mutex
	told  []string
	block map[string]chan struct{} // a notification that waits until closed
	most  int                      // notifications at once, at most
	now   int
}

func (k *kernel) tell(format string, args ...any) fuse.Status {
	s := fmt.Sprintf(format, args...)
	k.mu.Lock()
	k.told = append(k.told, s)
	k.now++
	k.most = max(k.most, k.now)
	wait := k.block[s]
	k.mu.Unlock()
	if wait != nil {
		<-wait
	}
	k.mu.Lock()
	k.now--
	k.mu.Unlock()
	return fuse.ENOENT
}

func (k *kernel) DeleteNotify(parent, child uint64, name string) fuse.Status {
	return k.tell("delete %d %d %s", parent, child, name)
}
func (k *kernel) EntryNotify(parent uint64, name string) fuse.Status {
	return k.tell("entry %d %s", parent, name)
}
func (k *kernel) InodeNotify(node uint64, off, n int64) fuse.Status {
	if off < 0 {
		return k.tell("attr %d", node)
	}
	return k.tell("content %d", node)
}
func (k *kernel) InodeRetrieveCache(uint64, int64, []byte) (int, fuse.Status) { return 0, fuse.ENOSYS }
func (k *kernel) InodeNotifyStoreCache(uint64, int64, []byte) fuse.Status     { return fuse.ENOSYS }

func (k *kernel) take() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	got := k.told
	k.told = nil
	return got
}

// forest is a tree without a mount: folders and files as the kernel knows them.
func forest(t *testing.T) (*tree, *kernel, *dir) {
	t.Helper()
	k := &kernel{block: map[string]chan struct{}{}}
	tr := &tree{root: 1, log: slog.New(slog.DiscardHandler)}
	tr.notify.t = tr
	root := &dir{t: tr, ino: 1}
	fusefs.NewNodeFS(root, &fusefs.Options{ServerCallbacks: k, RootStableAttr: &fusefs.StableAttr{Ino: 1}})
	tr.index.keep(root)
	return tr, k, root
}

// grow adds an entry below d, as a lookup of the kernel does.
func grow(d *dir, name string, e cache.Entry) *fusefs.Inode {
	e.Name = name
	n := d.child(context.Background(), name, &e)
	d.AddChild(name, n, true)
	if sub, ok := n.Operations().(*dir); ok {
		d.t.index.keep(sub)
	}
	return n
}

func folder(ino uint64) cache.Entry {
	return cache.Entry{Primary: true, Attr: cache.Attr{Ino: ino, Folder: true}}
}

func regular(ino, gen uint64) cache.Entry {
	return cache.Entry{Primary: true, Attr: cache.Attr{Ino: ino, Gen: gen}}
}

// TestNotifyTable is the table of what to tell for which change.
func TestNotifyTable(t *testing.T) {
	for _, c := range []struct {
		name string
		e    cache.Effect
		want []string
	}{
		{"created", cache.Effect{Ino: 99, New: []cache.Dentry{{Dir: 10, Name: "new"}}},
			[]string{"entry 2 new", "content 2"}},
		{"deleted", cache.Effect{Ino: 20, Old: []cache.Dentry{{Dir: 10, Name: "f"}}},
			[]string{"attr 4", "entry 2 f", "content 2"}},
		{"renamed", cache.Effect{Ino: 20, Old: []cache.Dentry{{Dir: 10, Name: "f"}}, New: []cache.Dentry{{Dir: 10, Name: "g"}}},
			[]string{"attr 4", "entry 2 f", "content 2"}},
		{"created where the kernel has something else", cache.Effect{Ino: 99, New: []cache.Dentry{{Dir: 10, Name: "f"}}},
			[]string{"entry 2 f", "content 2"}},
		{"content", cache.Effect{Ino: 20, Content: true, Attr: true,
			Old: []cache.Dentry{{Dir: 10, Name: "f"}}, New: []cache.Dentry{{Dir: 10, Name: "f"}}},
			[]string{"attr 4", "entry 2 f"}},
		{"attributes", cache.Effect{Ino: 20, Attr: true,
			Old: []cache.Dentry{{Dir: 10, Name: "f"}}, New: []cache.Dentry{{Dir: 10, Name: "f"}}},
			[]string{"attr 4"}},
		{"attributes of what is known by another spelling", cache.Effect{Ino: 22, Attr: true,
			Old: []cache.Dentry{{Dir: 10, Name: "loud"}}, New: []cache.Dentry{{Dir: 10, Name: "loud"}}},
			[]string{"attr 5"}},
		{"attributes of a folder", cache.Effect{Ino: 11, Folder: true, Attr: true,
			Old: []cache.Dentry{{Dir: 1, Name: "b"}}, New: []cache.Dentry{{Dir: 1, Name: "b"}}},
			[]string{"attr 3", "attr 3"}},
		{"attributes of the root", cache.Effect{Ino: 1, Folder: true, Attr: true},
			[]string{"attr 1"}},
		{"in a folder the kernel has not looked into", cache.Effect{Ino: 99, New: []cache.Dentry{{Dir: 77, Name: "new"}}},
			nil},
		{"of a name that stands for something else", cache.Effect{Ino: 21, Attr: true,
			Old: []cache.Dentry{{Dir: 10, Name: "f"}}, New: []cache.Dentry{{Dir: 10, Name: "f"}}},
			nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, k, root := forest(t)
			a := grow(root, "a", folder(10)).Operations().(*dir) // node 2
			grow(root, "b", folder(11))                          // node 3
			grow(a, "f", regular(20, 0))                         // node 4
			grow(a, "LOUD", regular(22, 0))                      // node 5
			tr.notify.hold()                                     // until all is queued
			tr.notify.effects([]cache.Effect{c.e})
			tr.notify.open()
			if err := tr.notify.settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			tr.notify.close()
			if got := k.take(); !slices.Equal(got, c.want) {
				t.Errorf("told %q, want %q", got, c.want)
			}
		})
	}
}

// TestNotifyArrivals: of many names that came one is told, to wait for the
// listings under way; with exact names each one, where names were asked for that
// the kernel may know as absent.
func TestNotifyArrivals(t *testing.T) {
	for _, exact := range []bool{false, true} {
		tr, k, root := forest(t)
		tr.exact = exact
		a := grow(root, "a", folder(10)).Operations().(*dir) // node 2
		a.asked.Store(exact)
		grow(a, "x", regular(31, 0)) // shown already
		var es []cache.Effect
		for i, name := range []string{"x", "y", "z"} {
			es = append(es, cache.Effect{Ino: 31 + uint64(i), New: []cache.Dentry{{Dir: 10, Name: name}}})
		}
		tr.notify.mu.Lock() // until all is queued
		tr.notify.workers = notifiers
		tr.notify.mu.Unlock()
		tr.notify.effects(es)
		tr.notify.mu.Lock()
		tr.notify.workers = 0
		tr.notify.mu.Unlock()
		tr.notify.effects([]cache.Effect{{Ino: 10, Folder: true, Attr: true}})
		if err := tr.notify.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		tr.notify.close()
		want := []string{"entry 2 x", "content 2"}
		if exact {
			want = []string{"entry 2 x", "entry 2 y", "entry 2 z", "content 2"}
		}
		if got := k.take(); !slices.Equal(got, want) {
			t.Errorf("exact %v: told %q, want %q", exact, got, want)
		}
	}
}

// TestNotifyMove: go-fuse's tree follows a move at once, so that what comes
// after it finds the node.
func TestNotifyMove(t *testing.T) {
	tr, k, root := forest(t)
	a := grow(root, "a", folder(10)).Operations().(*dir)
	b := grow(root, "b", folder(11)).Operations().(*dir)
	f := grow(a, "f", regular(20, 0))
	tr.notify.effects([]cache.Effect{{Ino: 20,
		Old: []cache.Dentry{{Dir: 10, Name: "f"}}, New: []cache.Dentry{{Dir: 11, Name: "g"}}}})
	if b.GetChild("g") != f || a.GetChild("f") != nil {
		t.Error("the tree has it at the old place")
	}
	if err := tr.notify.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := k.take()
	slices.Sort(got)
	want := []string{"attr 4", "content 2", "content 3", "entry 2 f", "entry 3 g"}
	if !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	tr.notify.effects([]cache.Effect{{Ino: 20, Attr: true,
		Old: []cache.Dentry{{Dir: 11, Name: "g"}}, New: []cache.Dentry{{Dir: 11, Name: "g"}}}})
	tr.notify.settle(t.Context())
	tr.notify.close()
	if got := k.take(); !slices.Equal(got, []string{"attr 4"}) {
		t.Errorf("after the move: %q", got)
	}
}

// TestNotifyPlaces: a folder at several places is told at each of them.
func TestNotifyPlaces(t *testing.T) {
	tr, k, root := forest(t)
	a := grow(root, "a", folder(10)).Operations().(*dir) // node 2
	grow(root, "shared", folder(12))                     // node 3
	second := folder(12)
	second.Primary = false
	n := grow(a, "shared", second) // node 4
	if n.StableAttr().Ino != place(10, 12) {
		t.Errorf("second place has inode %d", n.StableAttr().Ino)
	}
	tr.notify.effects([]cache.Effect{{Ino: 99, New: []cache.Dentry{{Dir: 12, Name: "x"}}}})
	tr.notify.settle(t.Context())
	tr.notify.close()
	want := []string{"entry 3 x", "content 3", "entry 4 x", "content 4"}
	if got := k.take(); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// TestNotifierWaits: a notification that hangs holds up its own folder only,
// what comes meanwhile is told once, and in no folder two are under way.
func TestNotifierWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, k, root := forest(t)
		grow(root, "a", folder(10)) // node 2
		grow(root, "b", folder(11)) // node 3
		hang := make(chan struct{})
		k.block["entry 2 x"] = hang

		tr.notify.name(10, "x")
		synctest.Wait()
		for range 5 {
			tr.notify.name(10, "y")
			tr.notify.name(10, "z")
		}
		tr.notify.name(11, "w")
		synctest.Wait()
		want := []string{"entry 2 x", "entry 3 w", "content 3"}
		if got := k.take(); !slices.Equal(got, want) {
			t.Errorf("while it hangs: %q, want %q", got, want)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := tr.notify.settle(ctx); err != context.DeadlineExceeded {
			t.Errorf("settle while it hangs: %v", err)
		}
		close(hang)
		if err := tr.notify.settle(t.Context()); err != nil {
			t.Error(err)
		}
		want = []string{"content 2", "entry 2 y", "entry 2 z", "content 2"}
		if got := k.take(); !slices.Equal(got, want) {
			t.Errorf("after it: %q, want %q", got, want)
		}
		tr.notify.close()
		tr.notify.name(10, "late")
		if got := k.take(); got != nil {
			t.Errorf("told after close: %q", got)
		}
	})
}

// TestNotifierSparesBusyFolders: a folder is told no name while the requests in
// it are unanswered that were under way when the news came. Requests that come
// later do not keep it waiting, what takes no lock is told at once, and sixteen
// such folders do not delay the seventeenth.
func TestNotifierSparesBusyFolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, k, root := forest(t)
		var busy []*dir
		for i := range uint64(notifiers) {
			busy = append(busy, grow(root, fmt.Sprint(i), folder(100+i)).Operations().(*dir)) // node 2+i
		}
		grow(busy[0], "f", regular(20, 0))  // node 18
		grow(root, "free", folder(200))     // node 19
		two := grow(root, "two", folder(5)) // node 20
		var under []*call
		for _, d := range busy {
			under = append(under, d.hold(t.Context(), "lookup"), d.hold(t.Context(), "lookup"))
		}
		for i := range uint64(notifiers) {
			tr.notify.name(100+i, "x")
		}
		tr.notify.name(200, "x")
		tr.notify.effects([]cache.Effect{{Ino: 101, Folder: true, Attr: true}})
		synctest.Wait()
		want := []string{"entry 19 x", "content 19"}
		if got := k.take(); !slices.Equal(got, want) {
			t.Errorf("told %q while requests are unanswered, want %q", got, want)
		}

		// Half of the requests are answered, and others come.
		late := busy[0].hold(t.Context(), "lookup")
		under[0].end(nil)
		tr.notify.name(100, "y")
		synctest.Wait()
		if got := k.take(); got != nil {
			t.Errorf("told %q before all were answered", got)
		}
		under[1].end(nil)
		synctest.Wait()
		want = []string{"entry 2 x", "entry 2 y", "content 2"}
		if got := k.take(); !slices.Equal(got, want) {
			t.Errorf("told %q when all were answered, want %q", got, want)
		}

		// The next news waits for the late one. Attributes do not.
		tr.notify.effects([]cache.Effect{{Ino: 20, Attr: true,
			Old: []cache.Dentry{{Dir: 100, Name: "f"}}, New: []cache.Dentry{{Dir: 100, Name: "f"}}}})
		synctest.Wait()
		if got := k.take(); !slices.Equal(got, []string{"attr 18"}) {
			t.Errorf("attributes in a busy folder: %q", got)
		}
		tr.notify.name(100, "z")
		synctest.Wait()
		if got := k.take(); got != nil {
			t.Errorf("told %q before the late one was answered", got)
		}
		late.end(nil)
		for _, c := range under[2:] {
			c.end(nil)
		}

		// A rename holds two folders.
		c := busy[0].hold(t.Context(), "lookup")
		c.holds(two.Operations().(*dir))
		synctest.Wait()
		k.take()
		tr.notify.name(5, "x")
		tr.notify.name(100, "w")
		synctest.Wait()
		if got := k.take(); got != nil {
			t.Errorf("told %q during a rename", got)
		}
		c.end(nil)
		if err := tr.notify.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		tr.notify.close()
		if got := k.take(); len(got) != 4 {
			t.Errorf("after the rename: %q", got)
		}
	})
}

// TestNotifierManyFolders: work for many folders at once is told by several,
// not by one each.
func TestNotifierManyFolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, k, root := forest(t)
		hang := make(chan struct{})
		const folders = 100
		for i := range uint64(folders) {
			n := grow(root, fmt.Sprint(i), folder(100+i))
			_ = n
			k.block[fmt.Sprintf("entry %d x", 2+i)] = hang
		}
		for i := range uint64(folders) {
			tr.notify.name(100+i, "x")
		}
		synctest.Wait()
		if k.now != notifiers {
			t.Errorf("%d at once, want %d", k.now, notifiers)
		}
		close(hang)
		if err := tr.notify.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		tr.notify.close()
		if got := len(k.take()); got != 2*folders {
			t.Errorf("%d notifications, want %d", got, 2*folders)
		}
	})
}

// TestNotifierCloses: close lets go of those who wait for it.
func TestNotifierCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, k, root := forest(t)
		grow(root, "a", folder(10))
		hang := make(chan struct{})
		k.block["entry 2 x"] = hang
		tr.notify.name(10, "x")
		synctest.Wait()
		tr.notify.name(10, "y")
		settled := make(chan error, 1)
		go func() { settled <- tr.notify.settle(t.Context()) }()
		go tr.notify.close()
		synctest.Wait()
		close(hang)
		if err := <-settled; err != nil {
			t.Error(err)
		}
	})
}
