package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Dump writes the journal in dir in readable form, one JSON object a line: the
// database's entries, then the newer frames of the tail, then the draft files.
// It changes nothing. The journal must not be open elsewhere (ErrInUse).
func Dump(dir string, w io.Writer) error {
	db, err := bolt.Open(filepath.Join(dir, dbName), 0o600, &bolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return ErrInUse
	}
	if err != nil {
		return fmt.Errorf("journal: dump: %w", err)
	}
	defer db.Close()
	out := dumper{enc: json.NewEncoder(w)}
	var folded uint64
	err = db.View(func(tx *bolt.Tx) error {
		meta, entries := tx.Bucket(bucketMeta), tx.Bucket(bucketEntries)
		if meta == nil || entries == nil {
			return nil
		}
		folded = getMeta(meta, metaFolded)
		out.line(map[string]any{
			"format": getMeta(meta, metaFormat), "folded": folded,
			"maxIno": getMeta(meta, metaMaxIno), "boot": string(meta.Get(metaBoot)),
		})
		return entries.ForEach(func(_, v []byte) error {
			out.record("entry", 0, v)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("journal: dump: %w", err)
	}
	if err := out.tail(dir, folded); err != nil {
		return fmt.Errorf("journal: dump: %w", err)
	}
	files, err := os.ReadDir(filepath.Join(dir, draftsDir))
	if err != nil {
		return fmt.Errorf("journal: dump: %w", err)
	}
	for _, f := range files {
		if fi, err := f.Info(); err == nil {
			out.line(map[string]any{"file": f.Name(), "size": fi.Size()})
		}
	}
	return out.err
}

type dumper struct {
	enc *json.Encoder
	err error
}

func (d *dumper) line(v any) {
	if d.err == nil {
		d.err = d.enc.Encode(v)
	}
}

func (d *dumper) record(kind string, seq uint64, b []byte) {
	m := map[string]any{}
	if seq > 0 {
		m["seq"] = seq
	}
	e, synced, err := decodeRecord(b)
	if err != nil {
		m["error"], m["bytes"] = err.Error(), b
	} else {
		m[kind] = e
		if synced != nil {
			m["synced"] = synced.Gen
		}
	}
	d.line(m)
}

func (d *dumper) tail(dir string, folded uint64) error {
	var found []frameRead
	for _, name := range tailNames {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		found = append(found, readFrames(b)...)
	}
	frames, lost, _ := unfolded(found, folded)
	for _, f := range frames {
		err := forOps(f.ops, func(op byte, ino uint64, record []byte) error {
			switch op {
			case opRecord:
				d.record("put", f.seq, record)
			case opDelete:
				d.line(map[string]any{"seq": f.seq, "delete": ino})
			case opReserve:
				d.line(map[string]any{"seq": f.seq, "reserve": ino})
			}
			return nil
		})
		if err != nil {
			d.line(map[string]any{"seq": f.seq, "error": err.Error()})
		}
	}
	if lost > 0 {
		d.line(map[string]any{"lost": lost})
	}
	return nil
}
