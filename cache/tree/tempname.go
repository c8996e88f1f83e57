package tree

import (
	"strings"
	"time"
)

// TemporaryDelay is how long a new file with a temporary name settles: an
// editor's lock or swap file lives as long as somebody edits, and sent to the
// drive it would end in the trash there.
const TemporaryDelay = 10 * time.Minute

// Temporary tells whether a name looks like one that a program gives a file
// while it is not done with it: such names settle before the drive hears of
// them, since the final name usually follows.
func Temporary(name string) bool {
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
	if stem, random, ok := cutLast(name, '.'); ok && len(stem) > 1 && stem[0] == '.' && len(random) == 6 {
		return true
	}
	// Qt's QSaveFile: NAME.EXT.XXXXXX, of letters.
	if stem, random, ok := cutLast(name, '.'); ok && len(random) == 6 && strings.Contains(stem, ".") {
		upper, lower := 0, 0
		for _, r := range random {
			switch {
			case 'A' <= r && r <= 'Z':
				upper++
			case 'a' <= r && r <= 'z':
				lower++
			}
		}
		return upper+lower == 6 && upper > 1 && lower > 0 // no word
	}
	return false
}

// cutLast is strings.Cut at the last sep.
func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
