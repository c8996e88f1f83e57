// Package exit answers one question: how does an error end the program? It is
// the one mapping from errors to exit codes and to the one line that people
// read; it keeps no state.
package exit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/redact"
)

// Exit codes; scripts and unit files rely on them.
const (
	Done        = 0
	Failed      = 1
	Usage       = 2 // flags or configuration
	Login       = 3 // a login is needed
	NotMounted  = 4 // no such mount
	Unreachable = 5 // the drive cannot be reached
	Pending     = 6 // uploads are left for the next mount
)

// failure is an error whose exit code is known where it happens.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// Fail makes an error whose exit code is known; %w works as in fmt.Errorf.
func Fail(code int, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

// Code is the one mapping from errors to exit codes.
func Code(err error) int {
	var own *failure
	var bad *config.Error
	var far *control.Fault
	switch {
	case err == nil:
		return Done
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &far):
		return far.Exit
	case errors.As(err, &bad):
		return Usage
	case errors.Is(err, drive.ErrAuth):
		return Login
	case errors.Is(err, drive.ErrUnavailable), errors.Is(err, drive.ErrThrottled), errors.Is(err, drive.ErrProtocol):
		return Unreachable
	case errors.Is(err, control.ErrNoMount):
		return NotMounted
	default:
		return Failed
	}
}

// Message is an error as one line without secrets that does nothing to a
// terminal, "" when nothing is to be said.
func Message(err error) string {
	if err == nil || errors.Is(err, context.Canceled) && Code(err) == Failed {
		return ""
	}
	return Line(strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; "))
}

// Line makes a text that the service, a library or the drive wrote fit for a
// terminal: one line, no secrets, no control characters.
func Line(s string) string { return redact.Printable(redact.Text(s)) }

// MaskAttr takes secrets out of a log, as slog.HandlerOptions.ReplaceAttr.
func MaskAttr(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case string:
		a.Value = slog.StringValue(redact.Text(v))
	case error:
		a.Value = slog.StringValue(strings.ReplaceAll(redact.Text(v.Error()), "\n", "; "))
	}
	return a
}
