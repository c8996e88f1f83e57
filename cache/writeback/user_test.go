package writeback

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// The user's side of a world: changes of the tree. Content does not come by open
// files, so that a file has the properties that a test gives it and no others.

// change is tree.Change for one entry, whose inode and revision it returns.
func (w *world) change(fn func(tx *tree.Tx) (*journal.Entry, error)) (ino, rev uint64, err error) {
	var e *journal.Entry
	err = w.t.Change(func(tx *tree.Tx) (err error) {
		e, err = fn(tx)
		return err
	})
	if err != nil || e == nil {
		return 0, 0, err
	}
	return e.Ino, e.Rev, nil
}

// find is what a path shows; the root is "".
func find(v tree.View, p string) (tree.Inode, error) {
	n, _, err := v.Inode(rootIno)
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if err != nil || name == "" {
			break
		}
		n, err = v.Present(n.Ino, name)
	}
	if err != nil {
		return n, fmt.Errorf("%s: %w", p, err)
	}
	return n, nil
}

const rootIno = 1

// split is the folder that a path is in, and its name there.
func split(v tree.View, p string) (dir uint64, name string, err error) {
	d, err := find(v, pathDir(p))
	if err == nil && !d.Folder {
		err = tree.ErrNotDir
	}
	return d.Ino, path.Base(p), err
}

func pathDir(p string) string {
	if d := path.Dir(p); d != "." {
		return d
	}
	return ""
}

// ino is the inode that the user sees under a path, 0 = none.
func (w *world) ino(p string) (ino uint64) {
	w.Helper()
	w.t.Read(func(v tree.View) {
		n, err := find(v, p)
		if err != nil && !errors.Is(err, tree.ErrNotExist) {
			w.Fatal(err)
		}
		ino = n.Ino
		if err != nil {
			ino = 0
		}
	})
	return ino
}

// node is the id of an inode's node, "" = none.
func (w *world) node(ino uint64) (id string) {
	w.t.Read(func(v tree.View) {
		n, _, err := v.Inode(ino)
		if err != nil {
			w.Error(err)
		}
		id = n.ID
	})
	return id
}

func (w *world) newIno() uint64 {
	w.Helper()
	ino, err := w.m.NewIno()
	if err != nil {
		w.Fatal(err)
	}
	return ino
}

// newEntry is that of a new file.
func newEntry(tx *tree.Tx, ino uint64, p string) (*journal.Entry, error) {
	dir, name, err := split(tx.View, p)
	if err == nil {
		err = tx.Free(dir, name)
	}
	return &journal.Entry{
		Ino:      ino,
		Intent:   journal.Intent{Place: journal.Place{Parents: []uint64{dir}, Name: name, Shown: name}, Since: time.Now()},
		Progress: journal.Progress{LocalID: uuid.NewString()},
	}, err
}

func (w *world) tryMkdir(p string) (ino, rev uint64, err error) {
	ino = w.newIno()
	return w.change(func(tx *tree.Tx) (*journal.Entry, error) {
		dir, name, err := split(tx.View, p)
		if err != nil {
			return nil, err
		}
		return tx.Mkdir(ino, dir, name, name, 0)
	})
}

// edit gives a file, new or not, other content, and closes it.
func (w *world) edit(p string, props map[string]string, base *journal.DraftState, fn func(*journal.Draft) error) (ino, rev uint64, err error) {
	w.Helper()
	ino = w.ino(p)
	fresh := ino == 0
	if fresh {
		ino = w.newIno()
	}
	d, err := w.j.OpenDraft(ino, base)
	if err != nil {
		return 0, 0, err
	}
	defer d.Close()
	if err := fn(d); err != nil {
		return 0, 0, err
	}
	st := d.Commit()
	_, rev, err = w.change(func(tx *tree.Tx) (e *journal.Entry, err error) {
		if fresh {
			e, err = newEntry(tx, ino, p)
		} else {
			e, err = tx.Edit(ino)
		}
		if err != nil {
			return nil, err
		}
		w.closes(e, &st)
		e.Props = props
		tx.Put(e)
		return e, nil
	})
	if err != nil {
		d.Abort(st)
	}
	return ino, rev, err
}

// closes makes st the content that an entry wants.
func (w *world) closes(e *journal.Entry, st *journal.DraftState) {
	e.Draft, e.Open, e.Due = st, false, time.Now().Add(w.opt.UploadDelay)
	e.Failed, e.Attempts, e.RetryAt = "", 0, time.Time{}
}

func (w *world) tryWrite(p string, data []byte, props map[string]string) (ino, rev uint64, err error) {
	w.Helper()
	return w.edit(p, props, nil, func(d *journal.Draft) error {
		if err := d.Truncate(0); err != nil {
			return err
		}
		_, err := d.WriteAt(data, 0)
		return err
	})
}

// append adds to a file and closes it.
func (w *world) append(p, more string) {
	w.Helper()
	must[uint64, uint64](w)(w.edit(p, nil, nil, func(d *journal.Draft) error {
		_, err := d.WriteAt([]byte(more), d.Size())
		return err
	}))
}

func (w *world) setProps(p string, props map[string]string) {
	w.Helper()
	must[uint64, uint64](w)(w.change(func(tx *tree.Tx) (*journal.Entry, error) {
		n, err := find(tx.View, p)
		if err != nil {
			return nil, err
		}
		e, err := tx.Edit(n.Ino)
		if err == nil {
			e.Props = props
			tx.Put(e)
		}
		return e, err
	}))
}

func (w *world) tryRemove(p string) (ino, rev uint64, err error) {
	return w.change(func(tx *tree.Tx) (*journal.Entry, error) {
		n, err := find(tx.View, p)
		if err != nil {
			return nil, err
		}
		dir, name, err := split(tx.View, p)
		switch {
		case err != nil:
		case n.Folder:
			err = tx.Rmdir(dir, name)
		default:
			err = tx.Unlink(dir, name)
		}
		e, _ := tx.Entry(n.Ino)
		return e, err
	})
}

// tryRename moves p to q; a file there is replaced.
func (w *world) tryRename(p, q string) (ino, rev uint64, err error) {
	return w.change(func(tx *tree.Tx) (*journal.Entry, error) {
		odir, from, err := split(tx.View, p)
		if err != nil {
			return nil, err
		}
		ndir, to, err := split(tx.View, q)
		if err != nil {
			return nil, err
		}
		r, err := tx.Rename(odir, from, ndir, to, to, false)
		return r.Entry, err
	})
}

// link makes p show in these folders.
func (w *world) link(p string, dirs ...string) {
	w.Helper()
	must[uint64, uint64](w)(w.change(func(tx *tree.Tx) (*journal.Entry, error) {
		n, err := find(tx.View, p)
		if err != nil {
			return nil, err
		}
		e, err := tx.Edit(n.Ino)
		if err != nil {
			return nil, err
		}
		e.Place.Parents = nil
		for _, d := range dirs {
			dir, err := find(tx.View, d)
			if err != nil {
				return nil, err
			}
			e.Place.Parents = append(e.Place.Parents, dir.Ino)
		}
		tx.Put(e)
		return e, nil
	}))
}

// shown is what the user sees: path → inode of files, and the folders.
func (w *world) shown() (files map[string]uint64, folders []string) {
	files = map[string]uint64{}
	var list func(v tree.View, dir uint64, at string)
	list = func(v tree.View, dir uint64, at string) {
		es, err := v.List(nil, dir, 0, 1000)
		if err != nil {
			w.Error(err)
		}
		for _, e := range es {
			if !e.Folder {
				files[at+e.Name] = e.Ino
				continue
			}
			folders = append(folders, at+e.Name)
			list(v, e.Ino, at+e.Name+"/")
		}
	}
	w.t.Read(func(v tree.View) { list(v, rootIno, "") })
	slices.Sort(folders)
	return files, folders
}

func (w *world) mkdir(p string) { w.Helper(); must[uint64, uint64](w)(w.tryMkdir(p)) }
func (w *world) write(p string, data string) {
	w.Helper()
	must[uint64, uint64](w)(w.tryWrite(p, []byte(data), nil))
}
func (w *world) remove(p string)    { w.Helper(); must[uint64, uint64](w)(w.tryRemove(p)) }
func (w *world) rename(p, q string) { w.Helper(); must[uint64, uint64](w)(w.tryRename(p, q)) }

// writer is a program that has a new file open.
type writer struct {
	w   *world
	ino uint64
	d   *journal.Draft
	all []byte
}

// begin creates a file and keeps it open.
func (w *world) begin(p string) *writer {
	w.Helper()
	f := &writer{w: w, ino: w.newIno()}
	var err error
	if f.d, err = w.j.OpenDraft(f.ino, nil); err != nil {
		w.Fatal(err)
	}
	must[uint64, uint64](w)(w.change(func(tx *tree.Tx) (*journal.Entry, error) {
		e, err := newEntry(tx, f.ino, p)
		e.Open = true
		tx.Put(e)
		return e, err
	}))
	return f
}

func (f *writer) write(b []byte) { f.writeAt(b, len(f.all)) }

func (f *writer) writeAt(b []byte, off int) {
	f.w.Helper()
	if _, err := f.d.WriteAt(b, int64(off)); err != nil {
		f.w.Fatal(err)
	}
	f.all = append(f.all[:off:off], append(append([]byte(nil), b...), f.all[min(len(f.all), off+len(b)):]...)...)
}

// commit is what the close of any descriptor does.
func (f *writer) commit() {
	f.w.Helper()
	if !f.d.Dirty() && f.d.Gen() != 0 {
		return
	}
	st := f.d.Commit()
	ino, _, err := f.w.change(func(tx *tree.Tx) (*journal.Entry, error) {
		e, err := tx.Edit(f.ino)
		if err != nil || e.Removed {
			return nil, err
		}
		f.w.closes(e, &st)
		tx.Put(e)
		return e, nil
	})
	switch {
	case err != nil && !errors.Is(err, tree.ErrNotExist):
		f.w.Fatal(err)
	case ino == 0:
		f.d.Abort(st) // it was removed
	}
}

// close is the close of the last one.
func (f *writer) close() {
	f.w.Helper()
	f.commit()
	f.w.s.Written(f.ino)
	f.drop()
}

func (f *writer) drop() {
	f.w.Helper()
	if err := f.d.Close(); err != nil {
		f.w.Fatal(err)
	}
}

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

// tell lets the mirror and the tree know of a node, as a listing or the feed does.
func (w *world) tell(n drive.Node) {
	w.Helper()
	cs, err := w.m.Answer(n, false, 0)
	if err == nil {
		err = w.t.Told(cs)
	}
	if err != nil {
		w.Error(err)
	}
}
