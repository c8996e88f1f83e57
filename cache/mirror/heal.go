package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// heal.go begins the file anew when it cannot be used any more. All it held
// comes again from the drive but the numbers, which are taken from the old one as
// far as they can be read.

// noteDamage has a damaged file healed by a goroutine of its own, since whoever
// met the damage may hold what the writer needs.
func (m *Mirror) noteDamage(f *file, err error) {
	if !errors.Is(err, ErrDamaged) || f.doomed.Swap(true) {
		return
	}
	m.log.Error("the mirror is damaged and is begun anew", "path", f.path, "err", err)
	m.healing.Go(func() { m.heal(f, err) })
}

func (m *Mirror) heal(f *file, damage error) {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	if m.closed || m.cur.Load() != f {
		return
	}
	root := m.root
	m.state.mu.Lock()
	m.state.complete, m.state.checkpoint = false, ""
	m.state.mu.Unlock()
	aside, err := setAside(f.path)
	var anew *file
	if err == nil {
		anew, err = m.beginAnew(f.bolt, root)
	}
	if err != nil {
		m.log.Error("the damaged mirror could not be begun anew; the next start will", "err", err)
		return
	}
	m.cur.Store(anew)
	if err := m.loadState(); err != nil {
		m.log.Error("the mirror that was begun anew", "err", err)
	}
	m.healing.Go(func() { _ = guard(f.bolt.Close) }) // waits for those who read it
	m.damaged(aside, damage)
}

// damaged tells the caller.
func (m *Mirror) damaged(aside string, err error) {
	m.log.Warn("the mirror was damaged and was begun anew", "set_aside", aside, "err", err)
	if m.o.Damaged != nil {
		m.o.Damaged(aside, err)
	}
}

// setAside renames a file and removes what was set aside before it.
func setAside(path string) (string, error) {
	old, err := filepath.Glob(path + ".damaged-*")
	if err != nil {
		return "", err
	}
	aside := path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000")
	if err := os.Rename(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("setting the damaged mirror aside: %w", err)
	}
	for _, o := range old {
		if o != aside {
			err = errors.Join(err, os.Remove(o))
		}
	}
	return aside, err
}

// openFile opens what is at the path, or begins it anew.
func (m *Mirror) openFile() (*file, error) {
	f, err := openFile(m.o.Path, m.log, m.o.NoSync)
	switch {
	case errors.Is(err, ErrDamaged):
		aside, aerr := setAside(m.o.Path)
		if aerr != nil {
			return nil, errors.Join(err, aerr)
		}
		old := salvage(aside)
		anew, aerr := m.beginAnew(old, nil)
		if old != nil {
			_ = guard(old.Close)
		}
		if aerr == nil {
			m.damaged(aside, err)
		}
		return anew, aerr
	case err != nil || !f.old:
		return f, err
	}
	m.log.Info("the mirror is of an older format and is begun anew", "path", f.path)
	aside, err := setAside(m.o.Path)
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	anew, err := m.beginAnew(f.bolt, nil)
	if err != nil {
		return nil, errors.Join(err, f.close(), os.Rename(aside, m.o.Path))
	}
	return anew, errors.Join(f.close(), os.Remove(aside))
}

// salvage opens a damaged file for reading, nil = it cannot be.
func salvage(path string) (db *bolt.DB) {
	err := guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockWait})
		return err
	})
	if err != nil {
		return nil
	}
	return db
}

// beginAnew makes a new file at the path, with the caller's values, the root and
// the numbers that can be read in old, nil = none. root is the root as last
// known, nil = its id in old will do.
func (m *Mirror) beginAnew(old *bolt.DB, root *entry) (_ *file, err error) {
	f, err := openFile(m.o.Path, m.log, m.o.NoSync)
	if err != nil || old == nil && root == nil {
		return f, err
	}
	now := m.cur.Load()
	m.cur.Store(f) // for the writes below; readers see a mirror that knows little
	defer func() {
		if err == nil {
			return
		}
		if now != nil {
			m.cur.Store(now)
		}
		err = errors.Join(err, f.close())
	}()
	t := takeover{m: m, root: root, values: map[string][]byte{}, ids: map[string]Ino{}}
	if old != nil {
		read := guard(func() error { return old.View(t.read) })
		if errors.Is(read, errTake) {
			return nil, read
		}
		if read != nil {
			m.log.Warn("not all inode numbers could be read in the damaged mirror", "err", read)
		}
	}
	if err := t.write(); err != nil {
		return nil, err
	}
	if t.root == nil {
		return f, nil
	}
	_, err = m.writeLocked(sourceAnswer, true, func(w *wtx) error {
		e := *t.root
		e.state = stateLive
		return errors.Join(w.setRoot(e.ID), w.place(&e, &entry{}, true))
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// takeover brings what can be read in a damaged file into a new one.
type takeover struct {
	m      *Mirror
	root   *entry            // nil = not known yet
	values map[string][]byte // the caller's, and the next Gen
	ids    map[string]Ino    // read and not written yet
}

// takeMost is how many numbers are taken over at a time.
const takeMost = 20_000

func (t *takeover) read(tx *bolt.Tx) error {
	meta := tx.Bucket(bMeta)
	c := meta.Cursor()
	for k, v := c.Seek([]byte(userPrefix)); bytes.HasPrefix(k, []byte(userPrefix)); k, v = c.Next() {
		t.values[string(k)] = bytes.Clone(v)
	}
	limit := getNumber(meta, keyInoLimit)
	t.m.raiseInos(limit)
	t.values[keyGen] = be(getNumber(meta, keyGen) + 1<<32)
	if id := meta.Get([]byte(keyRoot)); t.root == nil && len(id) > 0 {
		t.root = &entry{Record: Record{Ino: RootIno, ID: string(id), Folder: true}}
	}
	c = tx.Bucket(bID).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if ino, ok := number(v); ok && ino < limit && len(k) <= idMax {
			t.ids[string(k)] = ino
		}
		if len(t.ids) == takeMost {
			if err := t.write(); err != nil {
				return fmt.Errorf("%w: %w", errTake, err)
			}
		}
	}
	return nil
}

// write writes what was read since the last time.
func (t *takeover) write() error {
	_, err := t.m.writeLocked(sourceAnswer, true, func(w *wtx) error {
		for id, ino := range t.ids {
			if ino > RootIno && w.of(ino) == nil {
				w.bind(id, ino)
				w.set(ino, appendPlaceholder(nil, id))
			}
		}
		for k, v := range t.values {
			if err := w.meta.Put([]byte(k), v); err != nil {
				return err
			}
		}
		return w.meta.Put([]byte(keyInoLimit), be(w.limit))
	})
	clear(t.ids)
	return err
}

var errTake = errors.New("taking numbers over")
