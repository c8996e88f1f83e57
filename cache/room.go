package cache

import (
	"os"
	"syscall"
)

// makeRoom gives up what the disk tier holds, when that is on the disk where
// local changes have no room; it tells whether there was any.
func (s *Store) makeRoom(bytes int64) bool {
	c := s.yields.Load()
	return c != nil && sameDisk(s.o.StateDir, s.o.CacheDir) && c.Yield(bytes)
}

func sameDisk(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	if err != nil {
		return false
	}
	return x.Sys().(*syscall.Stat_t).Dev == y.Sys().(*syscall.Stat_t).Dev
}
