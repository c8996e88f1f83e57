package fs

import (
	"slices"
	"sync"
	"testing"

	"github.com/drivefs/drivefs/cache"
)

func TestPlace(t *testing.T) {
	// Stable over releases: these numbers are shown by stat.
	if got, want := place(10, 12), uint64(0x8000000000000000); got&want == 0 {
		t.Errorf("place without the top bit: %#x", got)
	}
	seen := map[uint64][2]uint64{}
	for above := uint64(1); above < 300; above++ {
		for ino := uint64(1); ino < 300; ino++ {
			p := place(above, ino)
			if p>>63 == 0 || p == ^uint64(0) {
				t.Fatalf("place(%d, %d) = %#x is taken by others", above, ino, p)
			}
			if o, dup := seen[p]; dup {
				t.Fatalf("place(%d, %d) = place(%d, %d)", above, ino, o[0], o[1])
			}
			seen[p] = [2]uint64{above, ino}
		}
	}
	if place(3, 4) == place(4, 3) {
		t.Error("a place does not depend on which folder is above")
	}
}

// TestPlacesBelow: what lies under a second place has places of its own, down
// to the last folder, and files have none.
func TestPlacesBelow(t *testing.T) {
	_, _, root := forest(t)
	second := folder(12)
	second.Primary = false
	at := grow(root, "second", second).Operations().(*dir)
	below := folder(13) // first parent of 13 is 12, but this is another way to it
	if got, want := at.identity(&below).Ino, place(place(1, 12), 13); got != want {
		t.Errorf("below a second place: %#x, want %#x", got, want)
	}
	f := regular(14, 2)
	if got := at.identity(&f); got.Ino != 14 || got.Gen != 2 {
		t.Errorf("a file below a second place: %v", got)
	}
}

// TestIndexForgets: a folder leaves the index when the kernel forgets it, and
// comes back with the next request inside it.
func TestIndexForgets(t *testing.T) {
	tr, _, root := forest(t)
	n := grow(root, "a", folder(10))
	a := n.Operations().(*dir)
	a.OnForget()
	if len(tr.index.of(10)) == 0 {
		t.Fatal("left the index although it is in the tree")
	}
	root.RmChild("a")
	a.OnForget()
	if len(tr.index.of(10)) > 0 || a.kept.Load() {
		t.Fatal("still in the index")
	}
	tr.index.keep(a)
	tr.index.keep(a)
	if got := tr.index.of(10); !slices.Equal(got, []*dir{a}) {
		t.Errorf("back %d times", len(got))
	}
	// Another node took its name over: go-fuse leaves its parent in place then.
	root.AddChild("a", n, true)
	grow(root, "a", folder(30))
	a.OnForget()
	if len(tr.index.of(10)) > 0 {
		t.Error("a node without a name of its own stays for ever")
	}
	root.OnForget()
	if len(tr.index.of(1)) == 0 {
		t.Error("the root left the index")
	}
}

func TestIndexConcurrently(t *testing.T) {
	tr, _, root := forest(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range uint64(200) {
				d := &dir{t: tr, ino: 100 + i%10}
				root.NewInode(t.Context(), d, d.StableAttr())
				tr.index.keep(d)
				tr.index.of(d.ino)
				tr.index.several(d.ino)
				d.OnForget()
			}
		})
	}
	wg.Wait()
	for i := range uint64(10) {
		if len(tr.index.of(100+i)) > 0 {
			t.Errorf("folder %d is left", 100+i)
		}
	}
}

// TestChildIsReused: a lookup of what the kernel has gives the same node; a
// new content version gives another one.
func TestChildIsReused(t *testing.T) {
	_, _, root := forest(t)
	n := grow(root, "f", regular(20, 0))
	same := regular(20, 0)
	if root.child(t.Context(), "f", &same) != n {
		t.Error("the same version has another node")
	}
	newer := regular(20, 1)
	if root.child(t.Context(), "f", &newer) == n {
		t.Error("a new version has the old node")
	}
	other := cache.Entry{Attr: cache.Attr{Ino: 20, Folder: true}, Primary: true}
	if root.child(t.Context(), "f", &other) == n {
		t.Error("a folder has the node of a file")
	}
}
