package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/drive"
)

// Exit codes; scripts and unit files rely on them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2 // flags or configuration
	exitLogin       = 3 // a login is needed
	exitNotMounted  = 4 // no such mount
	exitUnreachable = 5 // the drive cannot be reached
	exitPending     = 6 // uploads are left for the next mount
)

// failure is an error whose exit code is known where it happens.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// fail makes a failure; %w works as in fmt.Errorf.
func fail(code int, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

// exitCode is the one mapping from errors to exit codes.
func exitCode(err error) int {
	var own *failure
	var bad *config.Error
	var far *control.Fault
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &far):
		return far.Exit
	case errors.As(err, &bad):
		return exitUsage
	case errors.Is(err, drive.ErrAuth):
		return exitLogin
	case errors.Is(err, drive.ErrUnavailable), errors.Is(err, drive.ErrThrottled), errors.Is(err, drive.ErrProtocol):
		return exitUnreachable
	case errors.Is(err, control.ErrNoMount):
		return exitNotMounted
	default:
		return exitFailed
	}
}

// message is an error as one line without secrets, "" when nothing is to be said.
func message(err error) string {
	if err == nil || errors.Is(err, context.Canceled) && exitCode(err) == exitFailed {
		return ""
	}
	return mask(strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; "))
}

// secrets are the shapes a token or a key has in texts of other libraries.
var secrets = regexp.MustCompile(`(?i)(Atz[ar]\|[^\s"']+|(?:bearer|basic)\s+[^\s"']+|(?:access_token|refresh_token|client_secret|signature|x-amz-[a-z-]+)(?:=|%3d|"?\s*:\s*")[^\s"'&]+|\bcode(?:=|%3d|"?\s*:\s*")[^\s"'&]{8,})`)

// mask is the last net below texts that libraries wrote; nothing of ours puts
// a secret into an error.
func mask(s string) string { return secrets.ReplaceAllString(s, "[secret]") }
