package tree

import (
	"maps"
	"sync"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
)

// A program that keeps a document open, and saves by replacing it, has worked
// on the version that it opened, whatever came from elsewhere meanwhile. That
// version is the base of the save: so what came is not replaced unseen (P3).

// workedOn is the version of a file that was last opened for writing here.
type workedOn struct {
	base   journal.Base // Content, Size and MD5 count
	open   int          // handles for writing
	closed time.Time    // the last of them; zero while open
	unseen bool         // it took the name of a file of ours and was not opened since
}

// unseenBase is no content of any node: what began from it meets a conflict.
var unseenBase = journal.Base{Content: -1, Size: -1}

// noteUnseen notes that a file came under a name that was another's here: what
// a program does to that name is not meant for it.
func (t *Tree) noteUnseen(ino uint64) {
	w := &t.worked
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, has := w.m[ino]; !has {
		w.set(ino, workedOn{base: unseenBase, closed: time.Now(), unseen: true})
	}
}

func (w *workedTable) set(ino uint64, o workedOn) {
	if w.m == nil {
		w.m = map[uint64]workedOn{}
	}
	if len(w.m) >= maxWorked {
		maps.DeleteFunc(w.m, func(_ uint64, o workedOn) bool { return o.open == 0 && time.Since(o.closed) > workedFor })
	}
	if _, has := w.m[ino]; has || len(w.m) < maxWorked {
		w.m[ino] = o
	}
}

// workedFor is how long after its last close a version counts as what a
// program works on. Its lock file makes that longer.
const workedFor = 10 * time.Minute

// workedTable is the guard of Tree.worked: files are opened under the read
// lock of the tree. A leaf.
type workedTable struct {
	mu sync.Mutex
	m  map[uint64]workedOn
}

// noteOpen notes what an open of f means for what is worked on. Who opens a
// newer version, when the older is closed and not locked, has seen that.
func (v View) noteOpen(f *File, n *Inode, flags uint32) {
	w := &v.t.worked
	w.mu.Lock()
	defer w.mu.Unlock()
	was, has := w.m[f.Ino]
	switch {
	case Writes(flags):
		now := workedOn{base: f.base, open: 1}
		if has && was.base.Content == f.base.Content {
			now.open += was.open
		}
		w.set(f.Ino, now)
	case has && was.open == 0 && was.base.Content != f.base.Content && !v.locked(n):
		delete(w.m, f.Ino)
	}
}

const maxWorked = 1 << 12

func (t *Tree) noteClose(ino uint64) {
	w := &t.worked
	w.mu.Lock()
	defer w.mu.Unlock()
	if o, has := w.m[ino]; has && o.open > 0 {
		if o.open--; o.open == 0 {
			o.closed = time.Now()
		}
		w.m[ino] = o
	}
}

// followUpload makes what an upload of ours has brought about the version that
// is worked on, where it began from that.
func (t *Tree) followUpload(old, e *journal.Entry) {
	if old == nil || e.Base == nil || e.Draft == nil {
		return
	}
	var was int64 // of a new file
	if old.Base != nil {
		was = old.Base.Content
	}
	w := &t.worked
	w.mu.Lock()
	defer w.mu.Unlock()
	if o, has := w.m[e.Ino]; has && o.base.Content == was {
		o.base = *e.Base
		w.m[e.Ino] = o
	}
}

// unseen tells whether ino came under the name of another and was not opened
// since.
func (t *Tree) unseen(ino uint64) bool {
	w := &t.worked
	w.mu.Lock()
	defer w.mu.Unlock()
	o, has := w.m[ino]
	return has && o.unseen && time.Since(o.closed) < workedFor
}

func (w *workedTable) get(ino uint64) (o workedOn, has bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, has = w.m[ino]
	return o, has
}

// asWorkedOn makes the version that was worked on the base of an entry that
// replaces or removes the file n.
func (v View) asWorkedOn(e *journal.Entry, n *Inode) {
	if e.Folder || e.Draft != nil || e.Base == nil {
		return
	}
	o, has := v.t.worked.get(e.Ino)
	if has && (o.open > 0 || time.Since(o.closed) < workedFor || v.locked(n)) {
		e.Base.Content, e.Base.Size, e.Base.MD5 = o.base.Content, o.base.Size, o.base.MD5
	}
}

// locked tells whether an office program's lock file of the document is here.
func (v View) locked(n *Inode) bool {
	for _, dir := range n.Parents {
		for _, lock := range []string{".~lock." + n.Shown + "#", "~$" + n.Shown} {
			if _, _, ok, err := v.Lookup(dir, lock); err == nil && ok {
				return true
			}
		}
	}
	return false
}
