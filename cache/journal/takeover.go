package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Earlier versions kept the entries in a bbolt database, journal.db, and what
// was newer in two files of frames. Such a state is taken over once; from then
// on the database only says that it is of a later format, so that those
// versions refuse the directory.
const (
	guardName    = "journal.db"
	formatLegacy = 1
	formatOurs   = 2
	legacyHeader = 4 + 4 + 4 + 8 + 8
)

var (
	legacyTails   = [2]string{"journal.tail", "journal.tail2"}
	legacyMagic   = [4]byte{'d', 'j', 't', '1'}
	legacyEntries = []byte("entries") // inode number, big endian → record
	guardMeta     = []byte("meta")
	guardFormat   = []byte("format")
)

type guardState int

const (
	guardNone guardState = iota
	guardLegacy
	guardOurs
)

// readGuard finds out what the database says of the directory. One that cannot
// be read is set aside.
func (r *recovery) readGuard() (guardState, error) {
	path := r.j.path(guardName)
	if fi, err := os.Stat(path); err != nil || fi.Size() == 0 {
		return guardNone, nil
	}
	state := guardNone
	err := viewBolt(path, func(tx *bolt.Tx) error {
		meta := tx.Bucket(guardMeta)
		if meta == nil {
			return nil
		}
		switch f := boltUint(meta, "format"); {
		case f > formatOurs:
			return fmt.Errorf("%w: format %d", ErrNewer, f)
		case f == formatOurs:
			state = guardOurs
		default:
			state = guardLegacy
		}
		return nil
	})
	if err == nil || !errors.Is(err, errDamagedDB) {
		return state, err
	}
	to, aerr := r.aside(guardName, path)
	if aerr != nil {
		return guardNone, fmt.Errorf("journal: the database is damaged and cannot be set aside: %w", errors.Join(err, aerr))
	}
	r.problem("the database was damaged (%v) and is set aside as %s", err, to)
	return guardNone, nil
}

// guard makes earlier versions refuse the directory, and ends a takeover.
func (r *recovery) guard() error {
	path := r.j.path(guardName)
	write := func() error {
		db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout})
		if err != nil {
			return err
		}
		return errors.Join(db.Update(func(tx *bolt.Tx) error {
			if err := tx.DeleteBucket(legacyEntries); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
				return err
			}
			meta, err := tx.CreateBucketIfNotExists(guardMeta)
			if err != nil {
				return err
			}
			return meta.Put(guardFormat, binary.AppendUvarint(nil, formatOurs))
		}), db.Close())
	}
	switch err := write(); {
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrInUse
	case err != nil && r.legacy:
		return fmt.Errorf("journal: take over: %w", err)
	case err != nil:
		r.problem("earlier versions cannot be told that the state is of a later format: %v", err)
	}
	for _, name := range legacyTails {
		if err := r.j.fs.Remove(r.j.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("journal: take over: %w", err)
		}
	}
	return nil
}

var errDamagedDB = errors.New("damaged")

// viewBolt reads a database through fn. bbolt panics on pages that make no
// sense, and the memory map faults when the file was cut; both are damage. A
// read-only database looks at nothing by itself, in a goroutine where a panic
// would end the process.
func viewBolt(path string, fn func(*bolt.Tx) error) (err error) {
	var db *bolt.DB
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamagedDB, p)
			if db != nil {
				err = errors.Join(err, db.Close())
			}
		}
	}()
	db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, ReadOnly: true})
	switch {
	case err == nil:
		return errors.Join(db.View(fn), db.Close())
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrInUse
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("journal: open database: %w", err)
	}
	return fmt.Errorf("%w: %w", errDamagedDB, err)
}

// boltUint reads a number; 0 when there is none.
func boltUint(b *bolt.Bucket, key string) uint64 {
	v, _ := binary.Uvarint(b.Get([]byte(key)))
	return v
}

// takeOver reads the database and the frames of an earlier version.
func (r *recovery) takeOver() error {
	j := r.j
	folded := uint64(0)
	err := viewBolt(j.path(guardName), func(tx *bolt.Tx) error {
		meta := tx.Bucket(guardMeta)
		folded, j.maxIno = boltUint(meta, "folded"), boltUint(meta, "maxino")
		r.last.boot = string(meta.Get([]byte("boot")))
		r.last.account = bytes.Clone(meta.Get([]byte("account")))
		entries := tx.Bucket(legacyEntries)
		if entries == nil {
			return nil
		}
		return entries.ForEach(func(k, v []byte) error {
			e, synced, err := decodeRecord(v)
			switch {
			case errors.Is(err, ErrNewer):
				return err
			case err != nil:
				r.doubtAll = true
				r.problem("the record %x cannot be read: %v", k, err)
				return nil
			}
			r.take(e, synced)
			return nil
		})
	})
	if errors.Is(err, errDamagedDB) {
		r.doubtAll = true
		to, aerr := r.asideCopy(guardName, j.path(guardName))
		r.problem("the database is damaged (%v); what could be read is used, a copy is set aside as %s", err, to)
		if err = aerr; err == nil {
			err = j.fs.Remove(j.path(guardName))
		}
	}
	if err == nil {
		err = r.takeTails(folded)
	}
	return err
}

// legacyFrame is one frame of an earlier version's tail files: magic, CRC of
// the rest, length of ops, number, number that the database had for certain,
// all little endian, then ops.
type legacyFrame struct {
	seq, folded uint64
	ops         []byte
}

func (r *recovery) takeTails(folded uint64) error {
	var frames []legacyFrame
	for _, name := range legacyTails {
		b, err := os.ReadFile(r.j.path(name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("journal: take over: %w", err)
		}
		frames = append(frames, legacyFrames(b)...)
	}
	for _, f := range frames {
		folded = max(folded, f.folded)
	}
	slices.SortFunc(frames, func(a, b legacyFrame) int { return cmp.Compare(a.seq, b.seq) })
	for _, f := range frames {
		if f.seq <= folded {
			continue
		}
		if f.seq > folded+1 {
			r.doubtAll = true
			r.problem("the tail is damaged: %d records before its end cannot be read", f.seq-folded-1)
		}
		folded = f.seq
		switch err := forOps(f.ops, r.apply); {
		case errors.Is(err, ErrNewer):
			return err
		case err != nil:
			r.doubtAll = true
			r.problem("the tail is damaged: record %d makes no sense (%v)", f.seq, err)
		}
	}
	return nil
}

func legacyFrames(b []byte) (out []legacyFrame) {
	for {
		i := bytes.Index(b, legacyMagic[:])
		if i < 0 || len(b)-i < legacyHeader {
			return out
		}
		b = b[i:]
		le := binary.LittleEndian
		n := uint64(le.Uint32(b[8:]))
		if n > uint64(len(b)-legacyHeader) || crc32.Checksum(b[8:legacyHeader+n], castagnoli) != le.Uint32(b[4:]) {
			b = b[1:]
			continue
		}
		out = append(out, legacyFrame{le.Uint64(b[12:]), le.Uint64(b[20:]), b[legacyHeader : legacyHeader+n]})
		b = b[legacyHeader+n:]
	}
}

// nameLegacyFiles says in the entries which files have their contents: that of
// a generation is the one with the largest number not above it.
func (r *recovery) nameLegacyFiles(files map[uint64][]uint64) {
	j := r.j
	fileOf := func(ino, gen uint64) (file uint64) {
		for _, n := range files[ino] {
			if n <= gen {
				file = max(file, n)
			}
		}
		return cmp.Or(file, gen)
	}
	for ino, e := range j.index.items {
		if contentGen(e) != 0 {
			e.Draft.File = fileOf(ino, e.Draft.Gen)
		}
		if p := j.older[ino]; p != nil {
			p.File = fileOf(ino, p.Gen)
		}
		if e.Sent != nil && e.Sent.Gen != 0 {
			e.Sent.File = fileOf(ino, e.Sent.Gen)
		}
	}
}

// draftsIn lists the numbers of the files of each inode.
func draftsIn(names []string) map[uint64][]uint64 {
	files := make(map[uint64][]uint64)
	for _, name := range names {
		if ino, n, ok := parseDraftName(filepath.Base(strings.TrimSpace(name))); ok {
			files[ino] = append(files[ino], n)
		}
	}
	return files
}
