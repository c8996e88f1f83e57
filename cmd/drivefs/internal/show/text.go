// Package show answers one question: how is something said to people? Sizes,
// times and numbers as text, and the progress of uploads on a terminal.
package show

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/drive/redact"
)

// IsTerminal reports whether somebody looks at what is written to w.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Columns is the width of the terminal w, 80 where that is unknown.
func Columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return columns
		}
	}
	return 80
}

// Rows is the height of the terminal w, 24 where that is unknown.
func Rows(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if _, rows, err := term.GetSize(int(f.Fd())); err == nil && rows > 0 {
			return rows
		}
	}
	return 24
}

// Size is n bytes, as "1.5 MiB".
func Size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// Rate is a limit of n bytes a second; 0 is "none".
func Rate(n int64) string {
	if n == 0 {
		return "none"
	}
	return Size(n) + "/s"
}

// Count is n of what, which takes an s for its plural.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return humanize.Comma(int64(n)) + " " + what + "s"
}

// Duration is d as people say it, in one unit.
func Duration(d time.Duration) string {
	const day = 24 * time.Hour
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"year", 365 * day}, {"month", 30 * day}, {"day", day}, {"hour", time.Hour}, {"minute", time.Minute}} {
		if d >= 2*u.unit {
			return Count(int(d/u.unit), u.name)
		}
	}
	return Count(int(d.Round(time.Second)/time.Second), "second")
}

// Ago is how long before now t was; the zero Time is "never".
func Ago(t, now time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return "never"
	case d < 2*time.Second:
		return "just now"
	default:
		return Duration(d) + " ago"
	}
}

// Again says when something is tried again.
func Again(t, now time.Time) string {
	if t.IsZero() || t.Before(now) {
		return "tried again now"
	}
	return "tried again in " + Duration(t.Sub(now))
}

// Failures lists what failed, a line each.
func Failures(w io.Writer, failed []control.Failure) {
	now := time.Now()
	for _, f := range failed {
		fmt.Fprintf(w, "%s: %s (%s)\n", redact.Printable(f.Path), exit.Line(f.Error), Again(f.RetryAt, now))
	}
}

// WayOut says what the user can do about a state of the service.
var WayOut = map[string]string{
	"offline":       "what is cached can be read, what is written is kept until it is back",
	"throttled":     "the service asks for patience; work goes on slowly",
	"auth-required": "log in again: drivefs login, or put a new token in place",
}

// Quote makes one word for a shell.
func Quote(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool {
		return !(r == '/' || r == '.' || r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
