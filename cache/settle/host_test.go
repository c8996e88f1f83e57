package settle

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// memHost is a Host over maps: a small store with a view, a mirror, and the
// user's operations.
type memHost struct {
	j *journal.Journal

	mu     sync.Mutex
	mirror map[string]*record // by node id
	inos   map[string]uint64
	ids    map[uint64]string
	slots  map[string]string // parent id / folded name → node id, of live nodes
	next   uint64
	root   string
	delay  time.Duration // UploadDelay

	log       []string // conflicts, losses, undos
	uploaded  map[uint64]string
	brought   map[string]map[string]map[string]string // name → Properties of the last answer
	known     map[string]bool                         // MD5s the mirror was ever told
	arrived   map[string]bool                         // contents that were ever on the drive
	complete  func(ctx context.Context, ino uint64, d *journal.Draft) error
	updating  func() (after func()) // nil = nobody wants to know
	uploading func(ino uint64)      // called before each Uploaded, likewise
	undoing   func()                // called before each Undo, likewise

	unreadable error // of every question to the mirror
}

type record struct {
	id, name string
	parents  []string
	folder   bool
	live     bool
	version  int64
	etag     string
	content  int64
	size     int64
	md5      string
}

const rootIno = 1

func newMemHost(j *journal.Journal, root string) *memHost {
	h := &memHost{j: j, mirror: map[string]*record{}, inos: map[string]uint64{root: rootIno}, ids: map[uint64]string{rootIno: root},
		slots: map[string]string{}, next: 2, root: root, uploaded: map[uint64]string{}, brought: map[string]map[string]map[string]string{}, known: map[string]bool{}, arrived: map[string]bool{}}
	h.mirror[root] = &record{id: root, folder: true, live: true}
	return h
}

// copyFor is the host after a kill: the mirror lasts, the rest is new.
func (h *memHost) copyFor(j *journal.Journal) *memHost {
	c := newMemHost(j, h.root)
	c.next, c.delay, c.complete = h.next, h.delay, h.complete
	for id, r := range h.mirror {
		x := *r
		x.parents = slices.Clone(r.parents)
		c.mirror[id] = &x
	}
	c.inos, c.ids, c.slots, c.log = maps.Clone(h.inos), maps.Clone(h.ids), maps.Clone(h.slots), slices.Clone(h.log)
	c.known, c.arrived = maps.Clone(h.known), maps.Clone(h.arrived)
	return c
}

// layWishes is what a store does at its start: a node named by an entry is
// that inode's.
func (h *memHost) layWishes() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ino := range h.j.Inos() {
		e, _ := h.j.Clone(ino)
		switch {
		case e.NodeID == "" && h.ids[ino] != "":
			h.unbindLocked(h.ids[ino])
		case e.NodeID != "":
			h.bindLocked(e.NodeID, ino)
		}
	}
}

func slotKey(parent, name string) string { return parent + "/" + drive.Fold(name) }

func (h *memHost) applyLocked(n drive.Node, live bool) {
	r := h.mirror[n.ID]
	if r == nil {
		r = &record{id: n.ID}
		h.mirror[n.ID] = r
	}
	if n.Version != 0 && n.Version < r.version {
		return
	}
	for _, p := range r.parents {
		if h.slots[slotKey(p, r.name)] == r.id {
			delete(h.slots, slotKey(p, r.name))
		}
	}
	r.live = live
	if n.Version != 0 {
		r.version = n.Version
	}
	if live {
		r.name, r.parents, r.folder, r.etag = n.Name, slices.Clone(n.Parents), n.Kind == drive.Folder, n.ETag
		if n.Content != nil {
			r.content, r.size, r.md5 = n.Content.Version, n.Content.Size, n.Content.MD5
			h.known[r.md5] = true
		}
		for _, p := range r.parents {
			h.slots[slotKey(p, r.name)] = r.id
		}
	}
}

func (h *memHost) bindLocked(id string, ino uint64) {
	if old := h.inos[id]; old != 0 && old != ino {
		delete(h.ids, old)
	}
	if old := h.ids[ino]; old != "" && old != id {
		h.unbindLocked(old)
	}
	h.inos[id], h.ids[ino] = ino, id
}

func (h *memHost) unbindLocked(id string) {
	delete(h.ids, h.inos[id])
	h.inos[id] = h.next
	h.ids[h.next] = id
	h.next++
}

func (h *memHost) Update(ino uint64, fn func(*journal.Entry) bool) error {
	if h.updating != nil {
		if after := h.updating(); after != nil {
			defer after()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.j.Update(ino, fn)
}

// onUpdate calls fn at the n-th Update, before or after it. It is set before
// anything runs.
func (h *memHost) onUpdate(n int, after bool, fn func()) {
	var mu sync.Mutex
	h.updating = func() func() {
		mu.Lock()
		defer mu.Unlock()
		if n--; n != 0 {
			return nil
		}
		if after {
			return fn
		}
		fn()
		return nil
	}
}

func (h *memHost) FolderID(ino uint64) (string, FolderState, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id, st := h.folderLocked(ino)
	return id, st, h.unreadable
}

func (h *memHost) folderLocked(ino uint64) (string, FolderState) {
	if e, ok := h.j.Clone(ino); ok {
		switch {
		case e.Removed:
			return "", Gone
		case e.NodeID == "":
			return "", Waiting
		}
	}
	r := h.mirror[h.ids[ino]]
	for range 100 {
		if r == nil || !r.live {
			return "", Gone
		}
		if r.id == h.root {
			return h.ids[ino], Known
		}
		r = h.mirror[r.parents[0]]
	}
	return "", Gone
}

func (h *memHost) Holder(parent, name string) (uint64, string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := h.slots[slotKey(parent, name)]
	if id == "" {
		return 0, "", h.unreadable
	}
	return h.inos[id], id, h.unreadable
}

func (h *memHost) Tag(_ uint64, b *journal.Base) string { return b.ETag }

func (h *memHost) InoOf(id string) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inos[id], h.unreadable
}

func (h *memHost) Answered(ino uint64, n drive.Node) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bindLocked(n.ID, ino)
	h.applyLocked(n, true)
	h.brought[n.Name] = n.Properties
	return nil
}

func (h *memHost) Foreign(n drive.Node) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inos[n.ID] == 0 {
		h.unbindLocked(n.ID)
	}
	h.applyLocked(n, n.Live())
	return nil
}

func (h *memHost) Gone(id string, version int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.applyLocked(drive.Node{ID: id, Version: version}, false)
	return nil
}

func (h *memHost) Done(ino, rev uint64) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.j.Done(ino, rev)
}

func (h *memHost) Complete(ctx context.Context, ino uint64, d *journal.Draft) error {
	if h.complete == nil {
		return drive.ErrChanged
	}
	return h.complete(ctx, ino, d)
}

func (h *memHost) BaseLost(context.Context, uint64, *journal.Draft, drive.Node) error {
	return drive.ErrChanged
}

func (h *memHost) Uploaded(ino uint64, n drive.Node, d *journal.Draft) {
	if h.uploading != nil {
		h.uploading(ino)
	}
	s, err := d.Snapshot(d.Gen())
	if err != nil {
		return
	}
	defer s.Close()
	b, err := io.ReadAll(s)
	if err != nil {
		return
	}
	h.mu.Lock()
	h.uploaded[ino] = string(b)
	h.arrived[string(b)] = true
	h.mu.Unlock()
}

func (h *memHost) notef(format string, a ...any) { h.log = append(h.log, fmt.Sprintf(format, a...)) }

func (h *memHost) notes(prefix string) (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.log {
		if strings.HasPrefix(l, prefix) {
			out = append(out, l)
		}
	}
	return out
}

func (h *memHost) edit(ino uint64, fn func(*journal.Entry)) error {
	e, ok := h.j.Clone(ino)
	if !ok {
		return nil
	}
	fn(e)
	return h.j.Put(e)
}

func asNew(e *journal.Entry) {
	e.NodeID, e.Base, e.Sent, e.LocalID = "", nil, nil, uuid.NewString()
}

func (h *memHost) Conflict(ino uint64, why string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.edit(ino, func(e *journal.Entry) {
		ext := path.Ext(e.Place.Name)
		name := strings.TrimSuffix(e.Place.Name, ext) + " (conflict HOST)" + ext
		for i := 2; h.childLocked(e.Place.Parents[0], name) != 0; i++ {
			name = fmt.Sprintf("%s (conflict HOST %d)%s", strings.TrimSuffix(e.Place.Name, ext), i, ext)
		}
		h.notef("conflict %s: %s", e.Place.Name, why)
		e.Place.Name, e.Place.Shown = name, name
		if e.Draft != nil {
			if e.NodeID != "" && h.ids[ino] == e.NodeID {
				h.unbindLocked(e.NodeID)
			}
			asNew(e)
		}
	})
}

func (h *memHost) Lost(ino uint64, why string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.edit(ino, func(e *journal.Entry) {
		h.notef("lost %s: %s", e.Place.Name, why)
		if h.ids[ino] == e.NodeID {
			h.unbindLocked(e.NodeID)
		}
		asNew(e)
	})
}

func (h *memHost) Undo(ino, rev uint64, why error) (bool, error) {
	if h.undoing != nil {
		h.undoing()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.j.Clone(ino)
	if !ok || e.Rev != rev {
		return false, nil
	}
	if e.Draft != nil {
		return false, fmt.Errorf("undo of content of inode %d", ino)
	}
	h.notef("undo %s: %v", e.Place.Name, why)
	return h.j.Done(ino, rev)
}

func (h *memHost) Notice(_ uint64, what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notef("notice: %s", what)
}

func (h *memHost) Hidden(uint64) (bool, error) { return false, nil }

func (h *memHost) ParentGone(ino uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.j.Clone(ino)
	if !ok || e.Removed {
		return nil
	}
	for i, p := range e.Place.Parents {
		if _, st := h.folderLocked(p); st == Gone {
			h.notef("parent of %s gone", e.Place.Name)
			e.Place.Parents[i] = rootIno
			return h.j.Put(e)
		}
	}
	return nil
}

// The user's side.

// childLocked finds what the user sees under a name: its inode, 0 = nothing.
func (h *memHost) childLocked(dir uint64, name string) uint64 {
	if e, ok := h.j.Child(dir, drive.Fold(name)); ok {
		return e.Ino
	}
	id := h.slots[slotKey(h.ids[dir], name)]
	if id == "" {
		return 0
	}
	ino := h.inos[id]
	if h.j.Peek(ino, func(*journal.Entry) {}) || h.echoLocked(h.mirror[id]) {
		return 0
	}
	return ino
}

// echoLocked reports whether the node is what a call of ours has made that was
// cut off by a kill: its inode has an entry that does not know so yet, and
// shows where that says.
func (h *memHost) echoLocked(r *record) (echo bool) {
	for _, ino := range h.j.Inos() {
		h.j.Peek(ino, func(e *journal.Entry) {
			echo = echo || e.NodeID == "" && e.Sent != nil && e.Folder == r.folder && ino != h.inos[r.id] &&
				slices.Contains(r.parents, e.Sent.ParentID) && drive.Fold(e.Sent.Name) == drive.Fold(r.name)
		})
	}
	return echo
}

func (h *memHost) walkLocked(p string) uint64 {
	ino := uint64(rootIno)
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if name == "" {
			continue
		}
		if ino = h.childLocked(ino, name); ino == 0 {
			return 0
		}
	}
	return ino
}

// dirLocked finds a folder, 0 when there is none of that name.
func (h *memHost) dirLocked(p string) uint64 {
	ino := h.walkLocked(p)
	if ino == 0 || ino == rootIno {
		return ino
	}
	folder := false
	if !h.j.Peek(ino, func(e *journal.Entry) { folder = e.Folder }) {
		folder = h.mirror[h.ids[ino]].folder
	}
	if !folder {
		return 0
	}
	return ino
}

func (h *memHost) wishLocked(ino uint64) *journal.Entry {
	if e, ok := h.j.Clone(ino); ok {
		return e
	}
	r := h.mirror[h.ids[ino]]
	e := &journal.Entry{
		Ino: ino, Folder: r.folder,
		Intent:   journal.Intent{Since: time.Now()},
		Progress: journal.Progress{NodeID: r.id, LocalID: uuid.NewString(), Base: &journal.Base{Parents: slices.Clone(r.parents), Name: r.name, Version: r.version, ETag: r.etag, Content: r.content, Size: r.size, MD5: r.md5}},
	}
	e.Place = journal.Place{Name: r.name, Shown: r.name}
	for _, p := range r.parents {
		e.Place.Parents = append(e.Place.Parents, h.inos[p])
	}
	return e
}

func (h *memHost) mkdir(p string) (ino, rev uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	dir := h.dirLocked(path.Dir("/" + p))
	if dir == 0 || h.walkLocked(p) != 0 {
		return 0, 0, fmt.Errorf("mkdir %s", p)
	}
	name := path.Base(p)
	e := &journal.Entry{
		Ino: h.next, Folder: true,
		Intent:   journal.Intent{Place: journal.Place{Parents: []uint64{dir}, Name: name, Shown: name}, Since: time.Now()},
		Progress: journal.Progress{LocalID: uuid.NewString()},
	}
	h.next++
	err = h.j.Put(e)
	return e.Ino, e.Rev, err
}

// write closes a file with that content, new or not.
func (h *memHost) write(p string, data []byte, props map[string]string) (ino, rev uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	dir := h.dirLocked(path.Dir("/" + p))
	if dir == 0 {
		return 0, 0, fmt.Errorf("write %s: no folder", p)
	}
	var e *journal.Entry
	if ino = h.walkLocked(p); ino != 0 {
		e = h.wishLocked(ino)
	} else {
		name := path.Base(p)
		e = &journal.Entry{
			Ino:      h.next,
			Intent:   journal.Intent{Place: journal.Place{Parents: []uint64{dir}, Name: name, Shown: name}, Since: time.Now()},
			Progress: journal.Progress{LocalID: uuid.NewString()},
		}
		h.next++
	}
	d, err := h.j.OpenDraft(e.Ino, nil)
	if err != nil {
		return 0, 0, err
	}
	defer d.Close()
	if err := d.Truncate(0); err != nil {
		return 0, 0, err
	}
	if _, err := d.WriteAt(data, 0); err != nil {
		return 0, 0, err
	}
	st := d.Commit()
	e.Draft, e.Due, e.Props = &st, time.Now().Add(h.delay), props
	if err = h.j.Put(e); err != nil {
		d.Abort(st)
	}
	return e.Ino, e.Rev, err
}

func (h *memHost) setProps(p string, props map[string]string) (ino, rev uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.wishLocked(h.walkLocked(p))
	e.Props = props
	err = h.j.Put(e)
	return e.Ino, e.Rev, err
}

func (h *memHost) remove(p string) (ino, rev uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ino = h.walkLocked(p); ino == 0 {
		return 0, 0, fmt.Errorf("remove %s", p)
	}
	e := h.removedLocked(ino)
	err = h.j.Put(e)
	return ino, e.Rev, err
}

func (h *memHost) removedLocked(ino uint64) *journal.Entry {
	e := h.wishLocked(ino)
	e.Removed, e.Open, e.Draft, e.Due = true, false, nil, time.Now().Add(h.delay)
	return e
}

// rename moves p to q; a file there is replaced.
func (h *memHost) rename(p, q string) (ino, rev uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ino, dir := h.walkLocked(p), h.dirLocked(path.Dir("/"+q))
	if ino == 0 || dir == 0 {
		return 0, 0, fmt.Errorf("rename %s %s", p, q)
	}
	e := h.wishLocked(ino)
	e.Place.Parents, e.Place.Name, e.Place.Shown = []uint64{dir}, path.Base(q), path.Base(q)
	es := []*journal.Entry{e}
	if target := h.walkLocked(q); target != 0 && target != ino {
		es = append(es, h.removedLocked(target))
	}
	err = h.j.Put(es...)
	return ino, e.Rev, err
}

// link makes p show in these folders.
func (h *memHost) link(p string, dirs ...string) (ino, rev uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.wishLocked(h.walkLocked(p))
	e.Place.Parents = nil
	for _, d := range dirs {
		e.Place.Parents = append(e.Place.Parents, h.dirLocked(d))
	}
	err = h.j.Put(e)
	return e.Ino, e.Rev, err
}

// view is what the user sees: path → inode of files, and the folders.
func (h *memHost) view() (files map[string]uint64, folders []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	type dentry struct {
		dir    uint64
		name   string
		folder bool
	}
	all := map[uint64]dentry{}
	for ino, id := range h.ids {
		if r := h.mirror[id]; r != nil && r.live && len(r.parents) > 0 && !h.echoLocked(r) {
			all[ino] = dentry{h.inos[r.parents[0]], r.name, r.folder}
		}
	}
	for _, ino := range h.j.Inos() {
		e, _ := h.j.Clone(ino)
		if e == nil || e.Removed {
			delete(all, ino)
			continue
		}
		all[ino] = dentry{e.Place.Parents[0], e.Place.Name, e.Folder}
	}
	files = map[string]uint64{}
	for ino, d := range all {
		p, at, ok := d.name, d.dir, true
		for range 100 {
			if at == rootIno {
				break
			}
			var up dentry
			if up, ok = all[at]; !ok {
				break
			}
			p, at = up.name+"/"+p, up.dir
		}
		switch {
		case !ok || at != rootIno || h.walkLocked(p) != ino:
		case d.folder:
			folders = append(folders, p)
		default:
			files[p] = ino
		}
	}
	slices.Sort(folders)
	return files, folders
}

func (h *memHost) Heir(uint64) uint64 { return 0 }

func (h *memHost) Ancestor(uint64) uint64 { return 0 }

func (h *memHost) MayStream(uint64) bool { return true }

func (h *memHost) Inherit(uint64, uint64) (bool, error) { return false, nil }

var _ Host = (*memHost)(nil)

func data(n int, seed byte) []byte {
	b := bytes.Repeat([]byte("drivefs"), n/7+1)[:n]
	for i := range b {
		b[i] += seed + byte(i>>8)
	}
	return b
}

func must[T, U any](t testing.TB) func(a T, b U, err error) (T, U) {
	return func(a T, b U, err error) (T, U) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
}

// asNode is what the feed would tell of a node.
func asNode(n drivetest.Node) drive.Node {
	out := drive.Node{ID: n.ID, Name: n.Name, Kind: drive.Kind(n.Kind), Status: drive.Status(n.Status), Version: n.Version, Parents: n.Parents, ETag: n.ETag}
	if n.Content != nil {
		out.Content = &drive.ContentProperties{Version: n.Content.Version, Size: n.Content.Size, MD5: n.Content.MD5}
	}
	return out
}
