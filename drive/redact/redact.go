package redact

import (
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Removed stands where a secret was.
const Removed = "[secret]"

// Secret is a text that must not be shown: formatting, logging and encoding it
// give [Removed], or nothing when there is none. Reveal is the one way out.
type Secret string

// Reveal is the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String never is the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return Removed
}

// Format is String, whatever the verb. (Package fmt does not ask unexported
// fields: do not print whole structs that hold one there.)
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue is String, for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// shortest is how long a value must be to be looked for, and how much of its
// beginning gives it away.
const shortest, giveaway = 8, 16

// kept is how many values are remembered; tokens live an hour.
const kept = 128

var known struct {
	sync.Mutex
	values []string // oldest first
}

// Hide makes Text take these values out from now on, also in the form they
// have in a URL. Empty and very short ones are passed over. It may be called from any
// goroutine, often with the same value.
func Hide(values ...string) {
	known.Lock()
	defer known.Unlock()
	for _, v := range values {
		if len(v) < shortest {
			continue
		}
		for _, form := range []string{v, url.QueryEscape(v)} {
			if i := slices.Index(known.values, form); i >= 0 {
				known.values = slices.Delete(known.values, i, i+1)
			}
			known.values = append(known.values, form)
		}
	}
	known.values = slices.Delete(known.values, 0, max(0, len(known.values)-kept))
}

// shapes are what cannot be anything but a secret: tokens of Login with Amazon
// (API §2.3), links that grant access, fields of a URL or of a token answer.
var shapes = regexp.MustCompile(`(?i)(\bauthorization(?:=|:\s*)['"]?bearer\s+)[^\s'"<>]+|\bAtz[a-z](?:\||%7c)[^\s"'<>&]+|(/templink/)[^\s'"<>?]+|` +
	`([?&](?:code|secret|token|access_token|refresh_token|client_secret|code_verifier|signature|x-amz-[a-z-]+)=)[^\s&'"<>]+|` +
	`\b((?:access_token|refresh_token|client_secret)=)[^\s&'"<>]+|("(?:access_token|refresh_token|client_secret)"\s*:\s*)"[^"]*"?`)

// Text is s without secrets.
func Text(s string) string {
	known.Lock()
	values := slices.Clone(known.values)
	known.Unlock()
	for _, v := range values {
		s = remove(s, v, values)
	}
	return shapes.ReplaceAllString(s, "${1}${2}${3}${4}${5}"+Removed)
}

// remove takes out v and what else begins as it does, as far as it agrees
// with one of values: a text may be cut.
func remove(s, v string, values []string) string {
	start := v[:min(len(v), giveaway)]
	for from := 0; ; {
		i := strings.Index(s[from:], start)
		if i < 0 {
			return s
		}
		i += from
		end := i
		for _, v := range values {
			end = max(end, i+common(s[i:], v))
		}
		s = s[:i] + Removed + s[end:]
		from = i + len(Removed)
	}
}

// common is how long a and b are the same.
func common(a, b string) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// Printable is s as one line that does nothing to a terminal: line breaks are
// blanks, control characters, marks that turn the direction of writing, and
// bytes that are not UTF-8 are shown as Go writes them (\x1b, \u202e).
func Printable(s string) string {
	if !strings.ContainsFunc(s, odd) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[i])|0x100, 16)[1:])
		case r == '\n' || r == '\t' || r == '\r':
			b.WriteByte(' ')
		case odd(r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// odd characters are not shown as they are: Cc and Cf but the joiners that
// scripts and emoji need, and the separators of lines.
func odd(r rune) bool {
	switch r {
	case '\u200c', '\u200d':
		return false
	case '\u2028', '\u2029':
		return true
	}
	return unicode.In(r, unicode.Cc, unicode.Cf) && !unicode.In(r, unicode.Prepended_Concatenation_Mark) && r != '\u00ad' && (r < 0xe0020 || r > 0xe007f)
}
