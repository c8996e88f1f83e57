package drivetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// Bulk makes a tree of n nodes quickly: folders "bulk-0000000", "bulk-0000001"
// … in the root, of perDir files "file-000000.txt" … each, past the calls of
// the API but in the feed. All files share one small content.
func (s *Server) Bulk(n, perDir int) error {
	if perDir < 1 {
		return errors.New("bulk: perDir must be positive")
	}
	ct, err := s.bulkContent()
	if err != nil {
		return err
	}
	const step = 20_000
	var dir *node
	var inDir []string // parents of its files, one list for all
	for made, dirs, files := 0, 0, 0; made < n; {
		t, e := s.st.begin()
		if e != nil {
			return e
		}
		for ; made < n && len(t.dirty) < step; made++ {
			if dir == nil || files == perDir {
				name := fmt.Sprintf("bulk-%07d", dirs)
				for t.names[nameKey{t.root.id, name}] != nil {
					dirs++
					name = fmt.Sprintf("bulk-%07d", dirs)
				}
				dir = t.create(&node{name: name, kind: KindFolder, parents: []string{t.root.id}, createdBy: elseOwner})
				dirs, files, inDir = dirs+1, 0, []string{dir.id}
				continue
			}
			t.create(&node{name: fmt.Sprintf("file-%06d.txt", files), kind: KindFile, parents: inDir, createdBy: elseOwner, content: ct})
			files++
		}
		if err := t.load(); err != nil {
			return err
		}
	}
	return nil
}

// bulkContent is the content that all files of a bulk share.
func (s *Server) bulkContent() (*content, error) {
	now := s.st.stamp()
	in, err := s.st.blobs.create()
	if err != nil {
		return nil, err
	}
	if _, err := in.Write([]byte("a small synthetic content\n")); err != nil {
		in.drop()
		return nil, err
	}
	ct := &content{size: in.size, contentType: "text/plain", ext: "txt", version: 1, date: now, blob: "shared-" + randomName()}
	copy(ct.md5[:], in.sum.Sum(nil))
	if err := in.place(ct.blob); err != nil {
		return nil, err
	}
	if err := s.st.settle(); err != nil {
		return nil, err
	}
	return ct, nil
}

// load is end for many new nodes: their numbers grow, so the records are
// appended to full pages.
func (t *tx) load() error {
	defer t.mu.Unlock()
	err := t.write(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketNodes)
		b.FillPercent = 0.95
		var buf []byte
		for _, n := range t.dirty {
			buf = n.encode(buf[:0])
			if err := b.Put(binary.BigEndian.AppendUint64(nil, n.num), append([]byte(nil), buf...)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.giveUpLocked(err)
	}
	return err
}

// Import copies a local tree into the root of the drive: folders and regular
// files, the rest is skipped. What is there already by name and is a file
// gets the new content.
func (s *Server) Import(dir string) error {
	c := s.Else()
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil || rel == "." {
			return err
		}
		to := filepath.ToSlash(rel)
		switch {
		case d.IsDir():
			_, err = c.MkdirAll(to)
		case d.Type().IsRegular():
			err = c.importFile(p, to)
		}
		if err != nil {
			return fmt.Errorf("import %s: %w", p, err)
		}
		return nil
	})
}

func (c *Client) importFile(local, to string) error {
	f, err := os.Open(local)
	if err != nil {
		return err
	}
	defer f.Close()
	if n, err := c.Lookup(to); err == nil {
		_, err = c.Overwrite(n.ID, f)
		return err
	}
	dir, err := c.MkdirAll(filepath.Dir(to))
	if err != nil {
		return err
	}
	_, err = c.Put(dir.ID, filepath.Base(to), f)
	return err
}
