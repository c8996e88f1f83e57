package cache

import "strings"

// temporary tells whether a name looks like one that a program gives a file
// while it is not done with it: such names settle before the drive hears of
// them, since the final name usually follows.
func temporary(name string) bool {
	lower := strings.ToLower(name)
	for _, suffix := range []string{".part", ".crdownload", ".tmp", ".partial", ".download", ".swp", ".swo", ".swx", "~"} {
		if strings.HasSuffix(lower, suffix) {
			return true
		}
	}
	if strings.HasPrefix(lower, ".goutputstream-") || strings.HasPrefix(lower, ".~lock.") || strings.HasPrefix(lower, ".fuse_hidden") {
		return true
	}
	// rsync, and many others: .NAME.XXXXXX
	if strings.HasPrefix(name, ".") {
		if i := strings.LastIndexByte(name, '.'); i > 1 && len(name)-i-1 == 6 {
			return true
		}
	}
	return false
}
