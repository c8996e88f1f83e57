package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// soak tells whether the long random tests run to their full length.
func soak() bool { return os.Getenv("DRIVEFS_SOAK") != "" }

// seed is the seed of a random test: DRIVEFS_SEED, in a soak the time, and
// else always the same, since CI is to find out about the change it runs for.
func seed(t testing.TB) uint64 {
	t.Helper()
	s := uint64(20261120)
	if soak() {
		s = uint64(time.Now().UnixNano())
	}
	if v := os.Getenv("DRIVEFS_SEED"); v != "" {
		var err error
		if s, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal("DRIVEFS_SEED: ", err)
		}
	}
	t.Logf("DRIVEFS_SEED=%d", s)
	return s
}

// mnode is what the model knows of one file or folder.
type mnode struct {
	folder bool
	name   string
	in     []*mnode          // folders it is in
	kids   map[string]*mnode // by folded name

	now    []byte // what a reader sees
	closed []byte // what was closed last
	born   bool   // it was closed at least once
	dirty  bool   // now was written to since
	gone   bool
	past   []string // every content that was closed; a folder's names

	// Zero values are not known, and not compared.
	mode  uint32
	mtime time.Time
	attrs map[string]string
}

func (m *mnode) path() string {
	if len(m.in) == 0 {
		return "/"
	}
	return path.Join(m.in[0].path(), m.name)
}

func (m *mnode) below(anc *mnode) bool {
	for ; ; m = m.in[0] {
		if m == anc {
			return true
		}
		if len(m.in) == 0 {
			return false
		}
	}
}

// commit is what close does.
func (m *mnode) commit() {
	if m.gone || m.folder || m.born && !m.dirty {
		return
	}
	m.closed, m.born, m.dirty = slices.Clone(m.now), true, false
	m.past = append(m.past, string(m.closed))
}

type mhandle struct {
	h        *cache.Handle
	m        *mnode
	writable bool
}

// modelTest is a Store and what it should hold.
type modelTest struct {
	*bare
	rng     *rand.Rand
	root    *mnode
	open    []*mhandle
	removed map[string]bool // contents, and names of folders, that somebody removed
	n       int             // contents made so far
	log     []string        // the last operations
}

const maxNodes = 40

var names = []string{"a", "b", "c", "d.txt", "é", "report.doc", "x y"}

func (w *modelTest) did(format string, args ...any) {
	w.log = append(w.log, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
	if len(w.log) > 400 {
		w.log = w.log[1:]
	}
}

func (w *modelTest) fail(format string, args ...any) {
	w.Helper()
	w.Fatalf(format, args...)
}

// tell prints what went before a failure.
func (w *modelTest) tell() {
	var calls []string
	for _, e := range w.srv.RequestLog() {
		calls = append(calls, fmt.Sprintf("%s %s %s %q %d %s", e.Time.Format("05.000"), e.Op, e.NodeID, e.Name, e.Status, e.Fault))
	}
	calls = calls[max(0, len(calls)-200):]
	var dump func(ino uint64, at string)
	dump = func(ino uint64, at string) {
		for _, e := range w.children(ino) {
			id, _ := w.s.Getxattr(ctx, e.Ino, e.Gen, "user.drivefs.id")
			state, _ := w.s.Getxattr(ctx, e.Ino, e.Gen, "user.drivefs.state")
			w.Logf("%s%s ino %d gen %d links %d node %s %s", at, e.Name, e.Ino, e.Gen, e.Nlink, id, state)
			if e.Folder {
				dump(e.Ino, at+e.Name+"/")
			}
		}
	}
	dump(w.s.Root(), "/")
	w.Logf("the last operations:\n%s\nthe last calls:\n%s", strings.Join(w.log, "\n"), strings.Join(calls, "\n"))
}

// expect compares what a call said with what the model says.
func (w *modelTest) expect(err, want error) bool {
	w.Helper()
	if !errors.Is(err, want) || want == nil && err != nil {
		w.fail("got %v, want %v", err, want)
	}
	return err == nil
}

func (w *modelTest) all(pick func(*mnode) bool) []*mnode {
	var out []*mnode
	seen := map[*mnode]bool{}
	var walk func(*mnode)
	walk = func(m *mnode) {
		if seen[m] {
			return
		}
		seen[m] = true
		if pick(m) {
			out = append(out, m)
		}
		for _, k := range slices.Sorted(maps.Keys(m.kids)) {
			walk(m.kids[k])
		}
	}
	walk(w.root)
	return out
}

func isFile(m *mnode) bool   { return !m.folder }
func isFolder(m *mnode) bool { return m.folder }

func pick[T any](rng *rand.Rand, from []T) (v T) {
	if len(from) == 0 {
		return v
	}
	return from[rng.IntN(len(from))]
}

// anyFile is any file but one of several with one name: what becomes of the
// others when it goes is the mirror's own model test.
func (w *modelTest) anyFile() *mnode {
	return pick(w.rng, w.all(func(m *mnode) bool { return !m.folder && !isTwin(m) }))
}

func isTwin(m *mnode) bool { return strings.HasPrefix(m.name, twin) }

const twin = "twin"

func (w *modelTest) anyDir() *mnode { return pick(w.rng, w.all(isFolder)) }
func (w *modelTest) any() *mnode {
	return pick(w.rng, w.all(func(m *mnode) bool { return m != w.root && !isTwin(m) }))
}

// spelt is one of the spellings of a name.
func (w *modelTest) spelt(name string) string {
	switch w.rng.IntN(4) {
	case 0:
		return strings.ToUpper(name)
	default:
		return name
	}
}

func (w *modelTest) name() string { return w.spelt(pick(w.rng, names)) }

// content is new bytes that are like no others.
func (w *modelTest) content() []byte {
	w.n++
	s := fmt.Sprintf("<%d>", w.n)
	n := w.rng.IntN(200)
	switch w.rng.IntN(60) {
	case 0:
		n = 1<<20 + w.rng.IntN(1<<20)
	case 1, 2, 3:
		n = 0
	}
	return append([]byte(s), bytes.Repeat([]byte{byte('a' + w.n%26)}, n)...)
}

// ino is the inode of a model's node, found by its path in any spelling.
func (w *modelTest) ino(m *mnode) uint64 { return w.entry(m).Ino }

func (w *modelTest) entry(m *mnode) cache.Entry {
	w.Helper()
	p := "/"
	if len(m.in) > 0 {
		p = path.Join(pick(w.rng, m.in).path(), w.spelt(m.name))
	}
	e, err := w.lookup(p)
	if err != nil {
		w.fail("lookup of %s: %v", p, err)
	}
	return e
}

var ctx = context.Background()

func (w *modelTest) attach(m, dir *mnode, name string) {
	m.name = name
	if m.folder {
		m.past = append(m.past, name) // it may be trashed before a rename of it is carried out
	}
	m.in = append(m.in, dir)
	dir.kids[drive.Fold(name)] = m
}

func (w *modelTest) detach(m, dir *mnode) {
	delete(dir.kids, drive.Fold(m.name))
	m.in = slices.DeleteFunc(slices.Clone(m.in), func(p *mnode) bool { return p == dir })
	if len(m.in) > 0 {
		return
	}
	m.gone = true
	m.in = nil
	for _, was := range m.past {
		w.removed[was] = true
	}
}

// write creates or overwrites a file by path.
func (w *modelTest) write() {
	dir, name, content := w.anyDir(), w.name(), w.content()
	flags := uint32(unix.O_WRONLY | unix.O_CREAT)
	if w.rng.IntN(6) == 0 {
		flags |= unix.O_EXCL
	} else {
		flags |= unix.O_TRUNC
	}
	m := dir.kids[drive.Fold(name)]
	if m == nil && len(w.all(isFile)) > maxNodes {
		return
	}
	w.did("write %s/%s %.8s", dir.path(), name, content)
	_, h, err := w.s.Create(ctx, w.ino(dir), name, flags, cache.ModeSet|0o640)
	var want error
	switch {
	case m == nil:
	case flags&unix.O_EXCL != 0:
		want = cache.ErrExist
	case m.folder:
		want = cache.ErrIsDir
	}
	if !w.expect(err, want) {
		return
	}
	if m == nil {
		m = &mnode{mode: 0o640, attrs: map[string]string{}}
		w.attach(m, dir, name)
	}
	m.resize(0)
	if w.rng.IntN(10) == 0 {
		content = nil
	}
	w.put(h, m, content, 0)
	if w.rng.IntN(5) == 0 && len(w.open) < 5 {
		w.open = append(w.open, &mhandle{h, m, true})
		w.did("… stays open")
		return
	}
	w.closeHandle(&mhandle{h, m, true})
}

func (w *modelTest) put(h *cache.Handle, m *mnode, content []byte, off int64) {
	w.Helper()
	for len(content) > 0 {
		n := min(len(content), 128<<10)
		if _, err := h.Write(ctx, content[:n], off); err != nil {
			w.fail("write: %v", err)
		}
		m.write(content[:n], off)
		content, off = content[n:], off+int64(n)
	}
}

func (m *mnode) write(p []byte, off int64) {
	if grow := off + int64(len(p)) - int64(len(m.now)); grow > 0 {
		m.now = append(m.now, make([]byte, grow)...)
	}
	copy(m.now[off:], p)
	m.dirty, m.mtime = true, time.Time{}
}

func (m *mnode) resize(size int) {
	if size < len(m.now) {
		m.now = m.now[:size]
	}
	m.now = append(m.now, make([]byte, size-len(m.now))...)
	m.dirty, m.mtime = true, time.Time{}
}

func (w *modelTest) closeHandle(o *mhandle) {
	w.Helper()
	if err := o.h.Flush(); err != nil {
		w.fail("close: %v", err)
	}
	if o.writable {
		o.m.commit()
	}
	o.h.Release()
}

func (w *modelTest) openFile() {
	m := w.anyFile()
	if m == nil || len(w.open) >= 5 {
		return
	}
	flags := pick(w.rng, []uint32{unix.O_RDONLY, unix.O_RDWR, unix.O_WRONLY})
	e := w.entry(m)
	w.did("open %s %#o", m.path(), flags)
	h, err := w.s.Open(ctx, e.Ino, e.Gen, flags)
	if w.expect(err, nil) {
		w.open = append(w.open, &mhandle{h, m, flags != unix.O_RDONLY})
	}
}

// handle does something to an open file.
func (w *modelTest) handle() {
	if len(w.open) == 0 {
		return
	}
	i := w.rng.IntN(len(w.open))
	o := w.open[i]
	switch k := w.rng.IntN(6); {
	case k == 0:
		w.did("release %s", o.m.name)
		w.closeHandle(o)
		w.open = slices.Delete(w.open, i, i+1)
	case k == 1:
		w.did("close a copy of %s", o.m.name)
		if err := o.h.Flush(); err != nil {
			w.fail("flush: %v", err)
		}
		if o.writable {
			o.m.commit()
		}
	case k == 2:
		w.did("fsync %s", o.m.name)
		if err := o.h.Fsync(ctx); err != nil {
			w.fail("fsync: %v", err)
		}
		o.m.commit()
	case k == 3 && o.writable:
		off := int64(w.rng.IntN(len(o.m.now) + 20))
		content := w.content()
		w.did("write %s %.8s at %d", o.m.name, content, off)
		w.put(o.h, o.m, content, off)
	case k == 4 && o.writable:
		size := int64(w.rng.IntN(len(o.m.now) + 50))
		w.did("ftruncate %s %d", o.m.name, size)
		if _, err := w.s.Setattr(ctx, o.h.Ino(), o.h.Gen(), o.h, cache.SetAttr{Size: &size}); err != nil {
			w.fail("ftruncate: %v", err)
		}
		o.m.resize(int(size))
	default:
		w.check(o)
	}
}

// check reads an open file through its handle.
func (w *modelTest) check(o *mhandle) {
	w.Helper()
	got, err := readAll(o.h)
	if errors.Is(err, cache.ErrStale) && o.m.gone {
		return // nobody has the bytes any more (SEMANTICS, open and read)
	}
	if err != nil || !bytes.Equal(got, o.m.now) {
		w.fail("reading the open %s (gone %v): %v, %s, want %s", o.m.name, o.m.gone, err, brief(got), brief(o.m.now))
	}
}

func (w *modelTest) closeAll(all bool) {
	w.open = slices.DeleteFunc(w.open, func(o *mhandle) bool {
		if !all && !o.writable {
			return false
		}
		w.check(o)
		w.closeHandle(o)
		return true
	})
}

func (w *modelTest) edit() {
	m := w.anyFile()
	if m == nil {
		return
	}
	e := w.entry(m)
	h, err := w.s.Open(ctx, e.Ino, e.Gen, unix.O_RDWR)
	if !w.expect(err, nil) {
		return
	}
	off := int64(len(m.now))
	if w.rng.IntN(2) == 0 {
		off = int64(w.rng.IntN(len(m.now) + 1))
	}
	content := w.content()
	w.did("edit %s %.8s at %d", m.path(), content, off)
	w.put(h, m, content, off)
	w.closeHandle(&mhandle{h, m, true})
}

func (w *modelTest) truncate() {
	m := w.anyFile()
	if m == nil {
		return
	}
	e := w.entry(m)
	size := int64(w.rng.IntN(len(m.now) + 30))
	w.did("truncate %s %d", m.path(), size)
	a, err := w.s.Setattr(ctx, e.Ino, e.Gen, nil, cache.SetAttr{Size: &size})
	if w.expect(err, nil) {
		m.resize(int(size))
		m.commit()
		if a.Size != size {
			w.fail("size %d after truncating to %d", a.Size, size)
		}
	}
}

func (w *modelTest) mkdir() {
	dir, name := w.anyDir(), w.name()
	if len(w.all(isFolder)) > maxNodes/3 {
		return
	}
	w.did("mkdir %s/%s", dir.path(), name)
	var want error
	if dir.kids[drive.Fold(name)] != nil {
		want = cache.ErrExist
	}
	_, err := w.s.Mkdir(ctx, w.ino(dir), name, 0)
	if w.expect(err, want) {
		w.attach(&mnode{folder: true, kids: map[string]*mnode{}}, dir, name)
	}
}

func (w *modelTest) rmdir() {
	m := pick(w.rng, w.all(func(m *mnode) bool { return m != w.root && (m.folder || w.rng.IntN(10) == 0) }))
	if m == nil {
		return
	}
	var want error
	switch {
	case !m.folder:
		want = cache.ErrNotDir
	case len(m.kids) > 0:
		want = cache.ErrNotEmpty
	}
	dir := pick(w.rng, m.in)
	w.did("rmdir %s/%s", dir.path(), m.name)
	if w.expect(w.s.Rmdir(ctx, w.ino(dir), w.spelt(m.name)), want) {
		w.detach(m, dir)
	}
}

func (w *modelTest) unlink() {
	m := w.any()
	if m == nil || m.folder && w.rng.IntN(5) > 0 {
		return
	}
	var want error
	if m.folder {
		want = cache.ErrIsDir
	}
	dir := pick(w.rng, m.in)
	w.did("unlink %s/%s", dir.path(), m.name)
	if w.expect(w.s.Unlink(ctx, w.ino(dir), w.spelt(m.name)), want) {
		w.detach(m, dir)
	}
}

// removeAll is rm -r.
func (w *modelTest) removeAll() {
	top := pick(w.rng, w.all(func(m *mnode) bool { return m.folder && m != w.root }))
	if top == nil {
		return
	}
	w.did("rm -r %s", top.path())
	var rm func(m, dir *mnode)
	rm = func(m, dir *mnode) {
		for _, k := range slices.Sorted(maps.Keys(m.kids)) {
			rm(m.kids[k], m)
		}
		if m.folder {
			w.expect(w.s.Rmdir(ctx, w.ino(dir), m.name), nil)
		} else {
			w.expect(w.s.Unlink(ctx, w.ino(dir), m.name), nil)
		}
		w.detach(m, dir)
	}
	rm(top, top.in[0])
}

func (w *modelTest) rename() {
	m, to := w.any(), w.anyDir()
	if m == nil || len(m.in) > 1 {
		return
	}
	from, name := m.in[0], w.name()
	switch w.rng.IntN(6) {
	case 0:
		name = m.name
	case 1:
		to, name = from, strings.ToUpper(m.name)
	case 2:
		to, name = from, m.name+"~"
	}
	w.move(m, from, to, name, w.rng.IntN(10) == 0)
}

func (w *modelTest) move(m, from, to *mnode, name string, noReplace bool) {
	w.Helper()
	dst := to.kids[drive.Fold(name)]
	if dst != nil && dst != m && (len(dst.in) > 1 || !m.folder && !m.born) {
		return // what becomes of them is not promised
	}
	var want error
	switch {
	case m.folder && to.below(m):
		want = cache.ErrInvalid
	case dst == m:
	case dst != nil && noReplace:
		want = cache.ErrExist
	case dst != nil && m.folder && !dst.folder:
		want = cache.ErrNotDir
	case dst != nil && !m.folder && dst.folder:
		want = cache.ErrIsDir
	case dst != nil && len(dst.kids) > 0:
		want = cache.ErrNotEmpty
	}
	w.did("rename %s → %s/%s", m.path(), to.path(), name)
	if !w.expect(w.s.Rename(ctx, w.ino(from), m.name, w.ino(to), name, noReplace), want) {
		return
	}
	if dst != nil && dst != m {
		w.detach(dst, to)
	}
	delete(from.kids, drive.Fold(m.name))
	m.in = nil
	w.attach(m, to, name)
}

// save is what editors do: a temporary file renamed over the document, or the
// document moved to a backup and written anew.
func (w *modelTest) save() {
	doc := w.anyFile()
	if doc == nil || len(doc.in) > 1 || !doc.born {
		return
	}
	dir, name := doc.in[0], doc.name
	backup := w.rng.IntN(2) == 0
	if backup {
		w.move(doc, dir, dir, name+"~", false)
		if doc.name != name+"~" {
			return
		}
	}
	tmp := name
	if !backup {
		tmp = "." + name + ".AbCdEf"
	}
	w.did("save %s as %s", name, tmp)
	_, h, err := w.s.Create(ctx, w.ino(dir), tmp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, cache.ModeSet|0o600)
	if !w.expect(err, nil) {
		return
	}
	m := &mnode{mode: 0o600, attrs: map[string]string{}}
	w.attach(m, dir, tmp)
	w.put(h, m, w.content(), 0)
	w.closeHandle(&mhandle{h, m, true})
	if !backup {
		w.move(m, dir, dir, name, false)
	} else if w.rng.IntN(2) == 0 {
		w.did("unlink %s~", name)
		w.expect(w.s.Unlink(ctx, w.ino(dir), doc.name), nil)
		w.detach(doc, dir)
	}
}

func (w *modelTest) link() {
	m, to := w.anyFile(), w.anyDir()
	if m == nil || !m.born {
		return
	}
	var want error
	if to.kids[drive.Fold(m.name)] != nil {
		want = cache.ErrExist
	}
	w.did("link %s to %s", m.path(), to.path())
	_, err := w.s.Link(ctx, w.ino(m), w.ino(to), m.name)
	if w.expect(err, want) {
		w.attach(m, to, m.name)
	}
}

func (w *modelTest) meta() {
	m := w.anyFile()
	if m == nil {
		return
	}
	e := w.entry(m)
	key := pick(w.rng, []string{"user.one", "user.two.three", "user.Ü"})
	switch w.rng.IntN(4) {
	case 0:
		mode := uint32(w.rng.IntN(0o1000))
		w.did("chmod %s %o", m.path(), mode)
		_, err := w.s.Setattr(ctx, e.Ino, e.Gen, nil, cache.SetAttr{Mode: &mode})
		w.expect(err, nil)
		m.mode = mode
	case 1:
		at := time.Unix(int64(w.rng.IntN(2e9)), int64(w.rng.IntN(1e9)))
		w.did("touch %s %v", m.path(), at)
		_, err := w.s.Setattr(ctx, e.Ino, e.Gen, nil, cache.SetAttr{Mtime: &at})
		w.expect(err, nil)
		m.mtime = at
	case 2:
		v := fmt.Sprint("value ", w.rng.IntN(1000))
		w.did("setxattr %s %s=%s", m.path(), key, v)
		w.expect(w.s.Setxattr(ctx, e.Ino, e.Gen, key, []byte(v), 0), nil)
		if m.attrs != nil {
			m.attrs[key] = v
		}
	case 3:
		if m.attrs == nil {
			return
		}
		var want error
		if _, ok := m.attrs[key]; !ok {
			want = cache.ErrNoAttr
		}
		w.did("removexattr %s %s", m.path(), key)
		if w.expect(w.s.Removexattr(ctx, e.Ino, e.Gen, key), want) {
			delete(m.attrs, key)
		}
	}
}

// expected is the tree the model has.
func (w *modelTest) expected() map[string]thing {
	out := map[string]thing{}
	var walk func(m *mnode, at string)
	walk = func(m *mnode, at string) {
		for _, k := range m.kids {
			if k.folder {
				out[at+k.name] = thing{folder: true}
				walk(k, at+k.name+"/")
			} else {
				out[at+k.name] = fileOf(k.now)
			}
		}
	}
	walk(w.root, "")
	return out
}

// look compares what the Store shows with the model.
func (w *modelTest) look() {
	w.Helper()
	if !same(w, "shown", w.shown(), w.expected()) {
		w.fail("the Store shows something else than the model")
	}
	for _, m := range w.all(isFile) {
		// What the feed does not carry may come a moment later.
		wrong := w.wrongAttrs(m)
		for end := time.Now().Add(30 * time.Second); wrong != "" && time.Now().Before(end); wrong = w.wrongAttrs(m) {
			<-time.After(5 * time.Millisecond)
		}
		if wrong != "" {
			w.fail("%s %s", m.path(), wrong)
		}
	}
}

// wrongAttrs tells how a file's attributes differ from the model's.
func (w *modelTest) wrongAttrs(m *mnode) string {
	w.Helper()
	e := w.entry(m)
	if m.mode != 0 && e.Mode != cache.ModeSet|m.mode {
		return fmt.Sprintf("has mode %o, want %o", e.Mode, m.mode)
	}
	if !m.mtime.IsZero() && !e.Mtime.Equal(m.mtime) {
		return fmt.Sprintf("has mtime %v, want %v", e.Mtime, m.mtime)
	}
	if int(e.Nlink) != len(m.in) {
		return fmt.Sprintf("has %d links, want %d", e.Nlink, len(m.in))
	}
	if m.attrs == nil {
		return ""
	}
	got := map[string]string{}
	list, err := w.s.Listxattr(ctx, e.Ino, e.Gen)
	if err != nil {
		return fmt.Sprintf("does not list its attributes: %v", err)
	}
	for _, k := range list {
		if strings.HasPrefix(k, "user.drivefs.") {
			continue
		}
		v, err := w.s.Getxattr(ctx, e.Ino, e.Gen, k)
		if err != nil {
			return fmt.Sprintf("does not give its attribute %s: %v", k, err)
		}
		got[k] = string(v)
	}
	if !maps.Equal(got, m.attrs) {
		return fmt.Sprintf("has attributes %v, want %v", got, m.attrs)
	}
	return ""
}

// inos is the inode number at each path.
func (w *modelTest) inos() map[string]uint64 {
	out := map[string]uint64{}
	for _, m := range w.all(func(m *mnode) bool { return m.folder || m.born }) {
		out[m.path()] = w.ino(m)
	}
	return out
}

func (w *modelTest) keptInos(before map[string]uint64) {
	for p, ino := range before {
		if e, err := w.lookup(p); err != nil || e.Ino != ino {
			w.fail("%s had inode %d before the remount, now %d (%v)", p, ino, e.Ino, err)
		}
	}
}

func (w *modelTest) remount() {
	w.closeAll(true)
	before := w.inos()
	w.did("remount")
	w.down()
	w.up()
	w.keptInos(before)
	w.look()
}

// kill goes on after a crash: what was never closed, and what was written and
// not closed, may be there or not.
func (w *modelTest) kill() {
	before := w.inos()
	w.did("crash")
	w.crash()
	for _, o := range w.open {
		o.h.Release() // of the Store that is gone
	}
	w.open = nil
	if err := w.s.Queue().SendUnclosed(); err != nil {
		w.fail("sending what was not closed: %v", err)
	}
	for _, m := range w.all(isFile) {
		kept := m.born
		if !kept {
			_, err := w.s.Resolve(ctx, m.path())
			kept = err == nil
		}
		switch {
		case !kept:
			for _, dir := range slices.Clone(m.in) {
				w.detach(m, dir)
			}
		case m.dirty || !m.born:
			// Which of the two it is shows when the drive has it.
			w.awaitSynced(m)
			e := w.entry(m)
			h, err := w.s.Open(ctx, e.Ino, e.Gen, unix.O_RDONLY)
			if err != nil {
				w.fail("open of %s after the crash: %v", m.path(), err)
			}
			if m.now, err = readAll(h); err != nil {
				w.fail("reading %s after the crash: %v", m.path(), err)
			}
			h.Release()
			m.closed, m.born, m.dirty, m.mtime = slices.Clone(m.now), true, false, time.Time{}
			m.past = append(m.past, string(m.closed))
		}
	}
	w.keptInos(before)
	w.look()
}

func (w *modelTest) awaitSynced(m *mnode) {
	w.Helper()
	e := w.entry(m)
	if strings.HasSuffix(m.name, "~") {
		// What looks temporary is sent minutes later by itself.
		_, _ = w.s.Queue().Flush(ctx) // failures are tried again
	}
	for end := time.Now().Add(time.Minute); ; {
		state, err := w.s.Getxattr(ctx, e.Ino, e.Gen, "user.drivefs.state")
		if err == nil && string(state) == "synced" {
			return
		}
		if time.Now().After(end) {
			w.fail("%s is %q after the crash (%v)", m.path(), state, err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// wasRemoved tells whether what a node in the trash holds was removed by
// somebody, or is the beginning of that: of an upload that was cut short and
// was not worth repeating.
func (w *modelTest) wasRemoved(id string) bool {
	content := string(contentOf(w, w.other, id))
	if content == "" || w.removed[content] {
		return true
	}
	for was := range w.removed {
		if strings.HasPrefix(was, content) {
			return true
		}
	}
	return false
}

// quiet settles everything and compares drive, Store and model.
func (w *modelTest) quiet() map[string]held {
	w.Helper()
	w.closeAll(false)
	w.did("settle")
	w.srv.SetFaults(drivetest.Faults{})
	w.settle()
	w.look()
	have := holds(w.other)
	if !same(w, "drive", have, w.expected()) {
		w.fail("the drive has something else than the model")
	}
	noTraces(w, w.other)
	for _, n := range w.other.TrashList() {
		if n.Content != nil && !w.wasRemoved(n.ID) || n.Kind == "FOLDER" && !w.removed[n.Name] {
			w.fail("%s (%+v) is in the trash, and nobody removed it", n.Name, n.Content)
		}
	}
	for _, err := range w.s.CheckLocal() {
		w.fail("the Store broke its invariants: %v", err)
	}
	return have
}
