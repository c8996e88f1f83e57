package mirror

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/drivefs/drivefs/drive"
)

// NameMax is the longest name Linux is shown, in bytes (f_namemax).
const NameMax = 255

// ErrNameInvalid is a name that the service, or any filesystem, refuses.
var ErrNameInvalid = errors.New("the name is not possible on the drive")

// Stand-ins for what a Linux name cannot hold.
const (
	slashShown = '／' // U+FF0F
	nulShown   = '␀' // U+2400
	dotShown   = "．" // U+FF0E
)

// Fold is the form in which the service compares names, see drive.Fold. Two
// names that fold to the same string are one name on the drive.
func Fold(name string) string { return drive.Fold(name) }

// appendFold appends Fold(name) to b, for building keys without garbage.
func appendFold(b []byte, name string) []byte {
	for i := 0; i < len(name); {
		c := name[i]
		if c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			b = append(b, c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(name[i:])
		if r == utf8.RuneError && n == 1 {
			b = append(b, c)
		} else {
			b = utf8.AppendRune(b, unicode.ToLower(r))
		}
		i += n
	}
	return b
}

// Shown is the name under which Linux sees the node id that the drive calls
// name. '/' becomes '／', NUL '␀', the names "." and ".." full-width dots. A
// name over NameMax bytes is cut at a rune and gets a suffix from the id,
// which is the same each time; taken asks for that suffix in any case, since
// another node shows under the plain name. The extension stays at the end.
func Shown(name, id string, taken bool) string {
	if taken {
		return shownAt(name, id, 1)
	}
	return shownAt(name, id, 0)
}

// shownAt is Shown by level: 0 the plain name, 1 with eight characters of the
// id, 2 with the whole id, above that with a number too. A node climbs a level
// when another one holds the name; see claims.go.
func shownAt(name, id string, level uint8) string {
	if needsMapping(name) {
		name = mapped(name)
	}
	if level == 0 && len(name) <= NameMax {
		return name
	}
	tag := id
	switch {
	case level <= 1 && len(id) > 8:
		tag = id[:8]
	case level > 2:
		tag = id + " " + strconv.Itoa(int(level))
	}
	if needsMapping(tag) || !utf8.ValidString(tag) || len(tag) > 100 {
		// No id of the service looks so, but nothing may follow from one.
		tag = fmt.Sprintf("%x", tag[:min(len(tag), 32)])
	}
	stem, ext := splitExt(name)
	suffix := " (" + tag + ")" + ext
	return cutRunes(stem, NameMax-len(suffix)) + suffix
}

// isCut reports whether the plain shown name of name is not a function of name
// alone: it is too long, so its suffix comes from the id.
func isCut(name string) bool {
	if len(name) <= NameMax && !needsMapping(name) {
		return false
	}
	return len(mapped(name)) > NameMax
}

func needsMapping(name string) bool {
	if name == "." || name == ".." {
		return true
	}
	for i := 0; i < len(name); i++ {
		if name[i] == '/' || name[i] == 0 {
			return true
		}
	}
	return false
}

func mapped(name string) string {
	switch name {
	case ".":
		return dotShown
	case "..":
		return dotShown + dotShown
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return slashShown
		case 0:
			return nulShown
		}
		return r
	}, name)
}

// splitExt splits off what a user would call the extension: the last dot and
// up to 16 bytes without a blank behind it, never the whole name.
func splitExt(name string) (stem, ext string) {
	i := strings.LastIndexByte(name, '.')
	if i <= 0 || len(name)-i > 17 || i == len(name)-1 || strings.ContainsAny(name[i:], " ") {
		return name, ""
	}
	return name[:i], name[i:]
}

// cutRunes is at most n bytes of s, not ending inside a rune.
func cutRunes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// DriveName is the drive's name for a name typed by a user. It is the name as
// typed, '／', '␀' and full-width dots included: those are legal on the drive,
// common in some languages, and a file must be found again under the name it
// was made with. So Shown(DriveName(s)) = s for every ValidName s. The way back
// from a name that Shown had to change leads over the index: a Record carries
// both, and whoever renames only the folder of a node keeps Record.Name.
func DriveName(shown string) string { return shown }

// ValidName reports whether a new node may get this name: drive.ErrNameTooLong
// beyond NameMax bytes (the service's own limit, 256 characters, is above it;
// API §5.5), ErrNameInvalid for what can never be a name.
func ValidName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("empty: %w", ErrNameInvalid)
	case len(name) > NameMax:
		return fmt.Errorf("%d bytes: %w", len(name), drive.ErrNameTooLong)
	case needsMapping(name):
		return fmt.Errorf("%q: %w", name, ErrNameInvalid)
	case !utf8.ValidString(name):
		return fmt.Errorf("%q is not UTF-8: %w", name, ErrNameInvalid)
	}
	return nil
}
