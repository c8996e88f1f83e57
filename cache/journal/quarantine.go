package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Quarantine keeps ranges of a content that cannot be completed, and must not
// be sent: a sparse file in the directory aside with those bytes where they
// were, and a text beside it that lists them. read is as Draft.ReadAt. It
// returns the path of the file, which is on the disk.
func (j *Journal) Quarantine(name string, size int64, ranges []Extent, read func(p []byte, off int64) (int, error)) (path string, err error) {
	r := &recovery{j: j}
	to, err := r.asidePath(name)
	if err != nil {
		return "", fmt.Errorf("journal: quarantine: %w", err)
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("journal: quarantine: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("journal: quarantine: %w", errors.Join(err, os.Remove(to)))
		}
	}()
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return "", err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d bytes; written here were [from, to):\n", size)
	buf := make([]byte, 256<<10)
	for _, x := range ranges {
		fmt.Fprintf(&text, "%d %d\n", x.Off, x.End)
		for off := x.Off; off < x.End; {
			n, err := read(buf[:min(int64(len(buf)), x.End-off)], off)
			if n == 0 {
				return "", fmt.Errorf("byte %d: %w", off, errors.Join(err, errShort))
			}
			if _, err := f.WriteAt(buf[:n], off); err != nil {
				return "", err
			}
			off += int64(n)
		}
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	if err := os.WriteFile(to+".ranges", []byte(text.String()), 0o600); err != nil {
		return "", err
	}
	return to, j.fs.SyncDir(filepath.Dir(to))
}

var errShort = errors.New("the content ends before its size")
