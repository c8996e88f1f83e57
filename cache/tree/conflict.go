package tree

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/drivefs/drivefs/cache/journal"
)

// conflictNote is what ConflictName puts into a name: host, time, and a
// counter from the second on.
var conflictNote = regexp.MustCompile(` \(conflict .+ \d{4}-\d\d-\d\d \d\d\.\d\d\.\d\d( \d+)?\)`)

// IsConflictName tells whether a name is a conflict copy's.
func IsConflictName(name string) bool { return conflictNote.MatchString(name) }

// SplitExt cuts a name before its extension. What follows the last dot is one
// only if it looks like one: a few letters and digits, not all digits.
func SplitExt(name string) (stem, ext string) {
	ext = path.Ext(name)
	stem = strings.TrimSuffix(name, ext)
	letters := false
	for _, r := range strings.TrimPrefix(ext, ".") {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			letters = true
		case r >= '0' && r <= '9', r == '-', r == '_', r == '+':
		default:
			return name, ""
		}
	}
	if stem == "" || !letters || len(ext) > 16 {
		return name, ""
	}
	return stem, ext
}

// ConflictName is a free name beside the place of e: NAME (conflict HOST
// TIME).EXT. A conflict copy that is in conflict again keeps its first stamp
// and gets a counter.
func (v View) ConflictName(e *journal.Entry) (string, error) {
	stem, ext := e.Place.Name, ""
	if !e.Folder {
		stem, ext = SplitExt(stem)
	}
	note := fmt.Sprintf(" (conflict %s %s", v.t.o.Hostname, time.Now().Format("2006-01-02 15.04.05"))
	i := 1
	if at := conflictNote.FindStringIndex(stem); at != nil && at[1] == len(stem) {
		note = strings.TrimSuffix(stem[at[0]:], ")")
		if m := conflictNote.FindStringSubmatch(stem); m[1] != "" {
			note = strings.TrimSuffix(note, m[1])
		}
		stem, i = stem[:at[0]], 2
	}
	for ; ; i++ {
		tail := note + ")" + ext
		if i > 1 {
			tail = fmt.Sprintf("%s %d)%s", note, i, ext)
		}
		cut := stem
		for len(cut)+len(tail) > 255 && cut != "" {
			_, n := utf8.DecodeLastRuneInString(cut)
			cut = cut[:len(cut)-n]
		}
		try := cut + tail
		free := true
		for _, p := range e.Place.Parents {
			_, _, taken, err := v.Lookup(p, try)
			if err != nil {
				return "", err
			}
			free = free && !taken
		}
		if free {
			return try, nil
		}
	}
}
