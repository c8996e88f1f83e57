package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
)

// openLog makes the log the configuration asks for, on stderr unless it names
// a file. Secrets are masked on their way, whoever wrote them.
func openLog(c *config.Config, stderr io.Writer) (*slog.Logger, func(), error) {
	w, end := stderr, func() {}
	if c.LogFile != "" {
		f, err := os.OpenFile(c.LogFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return nil, nil, fail(exitUsage, "--log-file: %w", err)
		}
		w, end = f, func() { _ = f.Close() }
	}
	o := &slog.HandlerOptions{Level: c.LogLevel, ReplaceAttr: maskAttr}
	if c.LogJSON {
		return slog.New(slog.NewJSONHandler(w, o)), end, nil
	}
	return slog.New(slog.NewTextHandler(w, o)), end, nil
}
