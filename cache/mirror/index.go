package mirror

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The index of ids. While a first load lasts, new ids are held in memory, and
// a killed one finds them again by a look at the nodes (file.loadIDs).

type idPair struct {
	id  string
	ino Ino
}

// locked runs a step for a caller who holds wmu already.
func locked(step func() error) error { return step() }

// indexIDs moves the ids held in memory into their bucket, sorted, and calls
// then in the transaction that ends it. Each step is run by run, with wmu held;
// nobody adds to the file's ids in between.
func (m *Mirror) indexIDs(f *file, run func(step func() error) error, then func(*bolt.Tx) error) error {
	ids := f.ids.Load()
	ids.mu.RLock()
	type pair struct {
		id  [22]byte
		ino Ino
	}
	usual := make([]pair, 0, len(ids.usual))
	for id, ino := range ids.usual {
		usual = append(usual, pair{id, ino})
	}
	var other []idPair
	for id, ino := range ids.other {
		other = append(other, idPair{id, ino})
	}
	ids.mu.RUnlock()
	slices.SortFunc(usual, func(a, b pair) int { return bytes.Compare(a.id[:], b.id[:]) })
	slices.SortFunc(other, func(a, b idPair) int { return cmp.Compare(a.id, b.id) })
	m.inos.mu.Lock()
	indexed := m.inos.next
	m.inos.mu.Unlock()

	put := func(b *bolt.Bucket, vals []byte, id []byte, ino Ino) ([]byte, error) {
		if cap(vals)-len(vals) < binary.MaxVarintLen64 {
			vals = make([]byte, 0, 64<<10)
		}
		n := len(vals)
		vals = binary.AppendUvarint(vals, ino)
		return vals, b.Put(id, vals[n:len(vals):len(vals)])
	}
	const step = 20_000 // short steps: others wait meanwhile
	for len(usual) > 0 {
		part := usual[:min(step, len(usual))]
		usual = usual[len(part):]
		err := run(func() error {
			return update(f, func(tx *bolt.Tx) (err error) {
				b := tx.Bucket(bID)
				b.FillPercent = 0.95
				var vals []byte
				for i := range part {
					if vals, err = put(b, vals, part[i].id[:], part[i].ino); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	return run(func() error {
		err := update(f, func(tx *bolt.Tx) (err error) {
			var vals []byte
			for _, p := range other {
				if vals, err = put(tx.Bucket(bID), vals, []byte(p.id), p.ino); err != nil {
					return err
				}
			}
			if err := tx.Bucket(bMeta).Put([]byte(keyIndexed), be(indexed)); err != nil {
				return err
			}
			if then != nil {
				return then(tx)
			}
			return nil
		})
		if err != nil {
			return err
		}
		// Readers ask the table first and the bucket in a transaction begun
		// after that, so none misses an id in between.
		if then == nil {
			f.ids.Store(newIDTable())
			return nil
		}
		f.ids.Store(nil)
		f.bulk = false
		f.setSync()
		return nil
	})
}

func update(f *file, fn func(*bolt.Tx) error) error {
	return guard(func() error { return f.bolt.Update(fn) })
}

// finishLoad ends a first load but for the sync: all ids are indexed, and it is
// complete.
func (m *Mirror) finishLoad(f *file, run func(step func() error) error, at time.Time) error {
	return m.indexIDs(f, run, func(tx *bolt.Tx) error {
		meta := tx.Bucket(bMeta)
		for _, key := range []string{keyConfirmed, keyRefreshed} {
			if err := meta.Put([]byte(key), be(uint64(at.UnixMilli()))); err != nil {
				return err
			}
		}
		// All folders are complete now.
		if err := tx.DeleteBucket(bListed); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(bListed); err != nil {
			return err
		}
		return meta.Put([]byte(keyComplete), []byte{1})
	})
}
