package logs

import (
	"context"
	"io"
	"log/slog"
)

// priorities writes each record through the handler of its level, which puts the
// journal's priority before the line: then journalctl -p warning shows what it
// should. Source: sd-daemon(3).
type priorities struct {
	debug, info, warn, err slog.Handler
}

func leveled(w io.Writer, o *slog.HandlerOptions, asJSON bool) slog.Handler {
	at := func(priority string) slog.Handler {
		if asJSON {
			return slog.NewJSONHandler(prefixed{priority, w}, o)
		}
		return slog.NewTextHandler(prefixed{priority, w}, o)
	}
	return priorities{at("<7>"), at("<6>"), at("<4>"), at("<3>")}
}

// prefixed is a writer of whole lines.
type prefixed struct {
	prefix string
	w      io.Writer
}

func (p prefixed) Write(line []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

func (p priorities) at(l slog.Level) slog.Handler {
	switch {
	case l >= slog.LevelError:
		return p.err
	case l >= slog.LevelWarn:
		return p.warn
	case l >= slog.LevelInfo:
		return p.info
	}
	return p.debug
}

// Enabled is that of any of them.
func (p priorities) Enabled(ctx context.Context, l slog.Level) bool { return p.info.Enabled(ctx, l) }

// Handle writes one record.
func (p priorities) Handle(ctx context.Context, r slog.Record) error {
	return p.at(r.Level).Handle(ctx, r)
}

// WithAttrs is slog.Handler's.
func (p priorities) WithAttrs(attrs []slog.Attr) slog.Handler {
	return p.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup is slog.Handler's.
func (p priorities) WithGroup(name string) slog.Handler {
	return p.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (p priorities) each(fn func(slog.Handler) slog.Handler) slog.Handler {
	return priorities{fn(p.debug), fn(p.info), fn(p.warn), fn(p.err)}
}
