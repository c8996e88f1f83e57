package journal

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/drivefs/drivefs/drive"
)

// Check looks for broken invariants: the index says what the entries say, the
// files of all content are there and long enough. It returns what it finds,
// nil when all is well. It changes nothing; call it when nothing else is
// being done, since it holds the lock for as long as it takes.
func (j *Journal) Check() []error {
	j.mu.RLock()
	defer j.mu.RUnlock()
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("journal: "+format, args...)) }

	want := newIndex()
	for ino, e := range j.index.items {
		if e.Ino != ino {
			bad("inode %d has the entry of %d", ino, e.Ino)
		}
		want.set(ino, e)
	}
	if want.bytes != j.index.bytes {
		bad("%d bytes pending, the entries say %d", j.index.bytes, want.bytes)
	}
	if !slices.Equal(want.inos.all(), j.index.inos.all()) {
		bad("the ordered inodes are not those of the entries")
	}
	if len(want.nodes.one) != len(j.index.nodes.one) {
		bad("%d nodes in the index, the entries have %d", len(j.index.nodes.one), len(want.nodes.one))
	}
	if len(want.dirs) != len(j.index.dirs) {
		bad("%d directories in the index, the entries have %d", len(j.index.dirs), len(want.dirs))
	}
	for dir, w := range want.dirs {
		d := j.index.dirs[dir]
		if d == nil {
			bad("directory %d is not in the index", dir)
			continue
		}
		if !slices.Equal(w.inos.all(), d.inos.all()) || len(w.names.one) != len(d.names.one) {
			bad("directory %d: the index differs from the entries", dir)
		}
		for name := range d.names.more {
			bad("directory %d shows %q more than once", dir, name)
		}
	}
	for id := range j.index.nodes.more {
		bad("node %s has several inodes", id)
	}
	if !maps.Equal(want.vacated.one, j.index.vacated.one) {
		bad("the vacated places are not those of the entries")
	}
	for ino, u := range j.unwritten {
		if u.records <= 0 {
			bad("inode %d: %d unwritten records", ino, u.records)
		}
	}
	for _, ino := range j.index.inos.all() {
		for _, err := range j.checkEntry(j.index.items[ino]) {
			bad("inode %d: %w", ino, err)
		}
	}
	return errs
}

func (j *Journal) checkEntry(e *Entry) []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if (e.NodeID == "") != (e.Base == nil) {
		bad("node %q, but base is nil: %t", e.NodeID, e.Base == nil)
	}
	if len(e.Place.Parents) == 0 && !e.Removed && (e.Base == nil || len(e.Base.Parents) > 0) {
		bad("live, without a parent")
	}
	for i, p := range e.Place.Parents {
		if slices.Contains(e.Place.Parents[:i], p) {
			bad("parent %d twice", p)
		}
		if !e.Removed && !j.shownIn(p, e) {
			bad("not shown in %d", p)
		}
	}
	if e.Ino > j.maxIno {
		bad("beyond the largest inode number %d", j.maxIno)
	}
	if e.Draft == nil {
		return errs
	}
	switch {
	case e.Folder:
		bad("a folder with content")
	case !e.Draft.sane():
		bad("impossible draft state")
	case e.Draft.Gen > j.gen:
		bad("generation %d was never given out", e.Draft.Gen)
	}
	if d := j.drafts[e.Ino]; d != nil && d.file == e.Draft.File && d.dirty.Load() {
		return errs // being changed: the file may be anything
	}
	if e.Draft.c != nil && e.Draft.c.data != nil || j.small.has(e.Draft.File) {
		return errs
	}
	fi, err := os.Stat(j.draftPath(e.Ino, e.Draft.File))
	if err != nil {
		bad("%w", err)
	} else if fi.Size() < e.Draft.Size {
		bad("the draft has %d bytes of %d", fi.Size(), e.Draft.Size)
	}
	return errs
}

// shownIn reports whether dir has something under e's name.
func (j *Journal) shownIn(dir uint64, e *Entry) bool {
	d := j.index.dirs[dir]
	if d == nil {
		return false
	}
	_, ok := d.names.get(drive.Fold(e.Place.Shown))
	return ok
}
