package drive

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fold gives the form in which the service compares names: each rune in
// lower case by itself, no normalisation, so composed and decomposed
// spellings stay two names (API §5.5). Bytes that are not UTF-8 are kept as
// they are, so that two different ones never become equal.
func Fold(name string) string {
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		if !(r == utf8.RuneError && n == 1) && unicode.ToLower(r) != r {
			return foldFrom(name, i)
		}
		i += n
	}
	return name
}

func foldFrom(name string, i int) string {
	var b strings.Builder
	b.Grow(len(name) + 4)
	b.WriteString(name[:i])
	for i < len(name) {
		r, n := utf8.DecodeRuneInString(name[i:])
		if r == utf8.RuneError && n == 1 {
			b.WriteByte(name[i])
		} else {
			b.WriteRune(unicode.ToLower(r))
		}
		i += n
	}
	return b.String()
}

// EscapeFilter escapes a value for a filter expression by the rules of API
// §6.4. The result carries no quotes of its own: it may stand bare
// (name:VALUE), but only name:"VALUE" is safe for every text.
func EscapeFilter(s string) string {
	var b strings.Builder
	b.Grow(len(s) + 8)
	for i := 0; i < len(s); i++ {
		if strings.IndexByte("+-&|!(){}[]^'\"~*?:\\ ", s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
