package drive

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// maxSmallFile bounds the two small files this package keeps.
const maxSmallFile = 64 << 10

var errFileTooLong = errors.New("the file is too long")

func readSmallFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err == nil && len(data) > maxSmallFile {
		err = errFileTooLong
	}
	return data, err
}

// writeFileAtomic replaces path by data, mode 0600: a reader sees the old
// file or the new one, also after a power failure.
func writeFileAtomic(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil // renamed; a directory that cannot be opened cannot be synced
	}
	defer d.Close()
	_ = d.Sync() // not every filesystem can
	return nil
}
