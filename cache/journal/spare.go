package journal

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// spares are files without a name that wait to become drafts. On some
// filesystems a new inode takes longer than all else that closing a small file
// costs; here it is made while the program is busy with the file before. What
// is left over vanishes with the process.
type spares struct {
	dir   string
	ready chan *os.File
	use   chan struct{} // one slot: one was taken
	stop  chan struct{}
	wait  sync.WaitGroup
}

// spareFiles is how many wait.
const spareFiles = 16

// newSpares begins to keep files for dir, once the first is asked for.
func newSpares(dir string) *spares {
	s := &spares{dir: dir, ready: make(chan *os.File, spareFiles), use: make(chan struct{}, 1), stop: make(chan struct{})}
	s.wait.Go(s.fill)
	return s
}

func (s *spares) fill() {
	for {
		select {
		case <-s.use:
		case <-s.stop:
			return
		}
		for len(s.ready) < cap(s.ready) {
			select {
			case <-s.stop:
				return
			default:
			}
			if !s.add() {
				return // drafts are made as they are needed
			}
		}
	}
}

// add makes one more; false = this filesystem has no such files, or no room.
// Only one goroutine may call it.
func (s *spares) add() bool {
	fd, err := unix.Open(s.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return false
	}
	s.ready <- os.NewFile(uintptr(fd), "spare draft")
	return true
}

// take gives a spare the name path, which must be in dir; nil when there is
// none, or it cannot have that name.
func (s *spares) take(path string) *os.File {
	wake(s.use)
	select {
	case f := <-s.ready:
		old := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		if err := unix.Linkat(unix.AT_FDCWD, old, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err != nil {
			_ = f.Close() // nothing was written
			return nil
		}
		return f
	default:
		return nil
	}
}

// close gives the files up.
func (s *spares) close() {
	close(s.stop)
	s.wait.Wait()
	close(s.ready)
	for f := range s.ready {
		_ = f.Close() // nothing was written
	}
}
