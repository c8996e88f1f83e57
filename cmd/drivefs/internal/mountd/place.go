package mountd

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/fs"
)

// A mountpoint that drivefs makes (--mkdir) is closed, also to its owner, except
// while it is mounted on: a program that writes there after the mount has died
// gets an error, instead of filling the disk below the next mount and keeping
// it from beginning.
const (
	madeOpen   = 0o700
	madeClosed = 0o500
)

// place is a mountpoint that was made here.
type place struct{ dir *os.File }

// makePlace makes the mountpoint when it is missing, and opens one that was made
// so before. nil = it is somebody's own, and left as it is.
func makePlace(path string) (*place, error) {
	if fs.Dead(path) { // what lies below it can be seen only without it
		if err := mounts.Detach(path); err != nil {
			return nil, err
		}
	}
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.Mkdir(path, madeOpen)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, exit.Fail(exit.Usage, "--mkdir: %w", err)
	}
	made := err == nil
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil // not a directory, or a link: the checks that follow say so
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	if _, mounted, err := mounts.At(path); err != nil || mounted || !made && (st.Mode&0o777 != madeClosed || int(st.Uid) != os.Geteuid()) {
		return nil, errors.Join(err, dir.Close())
	}
	return &place{dir}, dir.Chmod(madeOpen)
}

// close closes the directory below the mount, which only the descriptor
// reaches, or which nothing came to be mounted on; once.
func (p *place) close() error {
	if p == nil || p.dir == nil {
		return nil
	}
	dir := p.dir
	p.dir = nil
	return errors.Join(dir.Chmod(madeClosed), dir.Close())
}
