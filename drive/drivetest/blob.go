package drivetest

import (
	"crypto/md5"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// blobs are the contents: one file each below content/, named at random and
// never changed. incoming/ holds what is still arriving and is emptied at the
// start. Names beginning with "shared-" belong to several nodes (see
// Server.Bulk) and are never removed.
type blobs struct {
	dir      string
	sync     bool
	arriving atomic.Int64 // bytes in incoming/
}

func openBlobs(dir string, sync bool) (*blobs, error) {
	b := &blobs{dir: dir, sync: sync}
	if err := os.RemoveAll(b.incoming()); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.incoming(), 0o700); err != nil {
		return nil, err
	}
	return b, os.MkdirAll(filepath.Join(dir, "content"), 0o700)
}

func (b *blobs) incoming() string { return filepath.Join(b.dir, "incoming") }

func (b *blobs) path(name string) string {
	return filepath.Join(b.dir, "content", name[len(name)-2:], name)
}

func (b *blobs) private(name string) bool { return !strings.HasPrefix(name, "shared-") }

func (b *blobs) open(name string) (*os.File, error) { return os.Open(b.path(name)) }

func (b *blobs) remove(name string) {
	if name != "" && b.private(name) {
		_ = os.Remove(b.path(name)) // an orphan is swept at the next start
	}
}

// sweep removes the files that no record names: uploads that a crash caught
// between rename and commit, contents whose removal it prevented.
func (b *blobs) sweep(used map[string]bool) error {
	return filepath.WalkDir(filepath.Join(b.dir, "content"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || used[d.Name()] || !b.private(d.Name()) {
			return err
		}
		return os.Remove(path)
	})
}

// incoming content: bytes go to a temporary file and through MD5.
type incoming struct {
	b    *blobs
	f    *os.File
	sum  hash.Hash
	size int64
	most func(size int64) *apiError // refuses a content that would have this size; nil = none is
}

func (b *blobs) create() (*incoming, error) {
	f, err := os.OpenFile(filepath.Join(b.incoming(), randomName()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &incoming{b: b, f: f, sum: md5.New()}, nil
}

func (in *incoming) Write(p []byte) (int, error) {
	in.b.arriving.Add(int64(len(p)))
	if in.most != nil {
		if e := in.most(in.size + int64(len(p))); e != nil {
			in.b.arriving.Add(-int64(len(p)))
			return 0, e
		}
	}
	n, err := in.f.Write(p)
	in.b.arriving.Add(int64(n - len(p)))
	in.sum.Write(p[:n])
	in.size += int64(n)
	return n, err
}

// truncate cuts the content and computes its digest anew.
func (in *incoming) truncate(size int64) error {
	if err := in.f.Truncate(size); err != nil {
		return err
	}
	if _, err := in.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	in.sum.Reset()
	n, err := io.Copy(in.sum, in.f)
	in.b.arriving.Add(n - in.size)
	in.size = n
	return err
}

// keep gives the content its place; the caller commits a record for it or
// removes it.
func (in *incoming) keep(contentType, name string, now int64) (*content, error) {
	c := &content{size: in.size, contentType: contentType, ext: extension(name), version: 1, date: now, blob: randomName()}
	copy(c.md5[:], in.sum.Sum(nil))
	return c, in.place(c.blob)
}

func (in *incoming) place(name string) error {
	defer func() { in.b.arriving.Add(-in.size) }()
	var err error
	if in.b.sync {
		err = in.f.Sync()
	}
	err = errors.Join(err, in.f.Close())
	if err == nil {
		err = in.rename(in.b.path(name))
	}
	if err != nil {
		_ = os.Remove(in.f.Name())
	}
	return err
}

func (in *incoming) rename(to string) error {
	dir := filepath.Dir(to)
	if err := os.Mkdir(dir, 0o700); err == nil && in.b.sync {
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	} else if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Rename(in.f.Name(), to); err != nil || !in.b.sync {
		return err
	}
	return syncDir(dir)
}

func (in *incoming) drop() {
	in.b.arriving.Add(-in.size)
	_ = in.f.Close()
	_ = os.Remove(in.f.Name())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// extension of a name: lower case, without the dot, "" when it has none (§5.2).
func extension(name string) string {
	if i := strings.LastIndexByte(name, '.'); i > 0 && i < len(name)-1 {
		return strings.ToLower(name[i+1:])
	}
	return ""
}
