// Package logs answers one question: where do the log's lines go, and how many
// of them?
package logs

import (
	"context"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
)

// Open makes the log the configuration asks for, on stderr unless it names
// a file. Secrets are masked on their way, whoever wrote them.
func Open(c *config.Config, stderr io.Writer) (*slog.Logger, func(), error) {
	w, end := stderr, func() {}
	if c.LogFile != "" {
		f, err := openRotating(c.LogFile)
		if err != nil {
			return nil, nil, exit.Fail(exit.Usage, "--log-file: %w", err)
		}
		w, end = f, f.close
	}
	o := &slog.HandlerOptions{Level: c.LogLevel, ReplaceAttr: exit.MaskAttr}
	if c.LogFile == "" && os.Getenv("JOURNAL_STREAM") != "" {
		o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{} // the journal has its own
			}
			return exit.MaskAttr(groups, a)
		}
		return logger(leveled(w, o, c.LogJSON), end)
	}
	var to slog.Handler = slog.NewTextHandler(w, o)
	if c.LogJSON {
		to = slog.NewJSONHandler(w, o)
	}
	return logger(to, end)
}

func logger(to slog.Handler, end func()) (*slog.Logger, func(), error) {
	r := &repeats{seen: map[string]*repeat{}}
	return slog.New(dampened{to, "", r}), func() { r.close(); end() }, nil
}

// How long a line that was written keeps those like it back: doubling from
// the first to the last as long as they come.
const (
	firstHush = time.Minute
	lastHush  = time.Hour
	mostHush  = 1000 // kinds of lines kept back at once
)

// dampened writes a line that comes again and again once, and then how often
// it came. Debug lines are wanted all of them.
type dampened struct {
	slog.Handler
	with string // what WithAttrs and WithGroup added to a line's kind
	all  *repeats
}

// repeats are the lines written lately, by kind.
type repeats struct {
	mu     sync.Mutex
	seen   map[string]*repeat // guarded by mu, with what is in it
	closed bool
}

type repeat struct {
	hush  time.Duration
	timer *time.Timer
	n     int // kept back
	last  slog.Record
	to    slog.Handler
}

func (d dampened) WithAttrs(attrs []slog.Attr) slog.Handler {
	var k kind
	for _, a := range attrs {
		k.add(a)
	}
	return dampened{d.Handler.WithAttrs(attrs), d.with + k.String(), d.all}
}

func (d dampened) WithGroup(name string) slog.Handler {
	return dampened{d.Handler.WithGroup(name), d.with + "\x00" + name, d.all}
}

func (d dampened) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return d.Handler.Handle(ctx, r)
	}
	k := kind{}
	k.WriteString(d.with)
	k.WriteString(r.Level.String() + r.Message)
	r.Attrs(func(a slog.Attr) bool { k.add(a); return true })
	if d.all.keep(k.String(), d.Handler, r) {
		return nil
	}
	return d.Handler.Handle(ctx, r)
}

// kind is what lines have in common that tell the same: words and reasons, but
// no numbers and times.
type kind struct{ strings.Builder }

// numbers also stand in reasons, as do the ids of requests.
var numbers = regexp.MustCompile(`\[request [^\]]*\]|[0-9]+`)

func (k *kind) add(a slog.Attr) {
	if a.Key == "request" {
		return
	}
	switch v := a.Value.Any().(type) {
	case string:
		k.WriteString("\x00" + a.Key + "=" + v)
	case error:
		k.WriteString("\x00" + a.Key + "=" + numbers.ReplaceAllString(v.Error(), "#"))
	}
}

// keep reports whether the line is kept back.
func (s *repeats) keep(kind string, to slog.Handler, r slog.Record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.seen[kind]; p != nil {
		p.n, p.last, p.to = p.n+1, r.Clone(), to
		return true
	}
	if len(s.seen) < mostHush && !s.closed {
		p := &repeat{hush: firstHush}
		p.timer = time.AfterFunc(p.hush, func() { s.tell(kind) })
		s.seen[kind] = p
	}
	return false
}

// tell writes what was kept back of a kind, once its time is over.
func (s *repeats) tell(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.seen[kind]
	if p == nil {
		return
	}
	if p.n == 0 {
		delete(s.seen, kind)
		return
	}
	p.write()
	p.hush = min(2*p.hush, lastHush)
	p.timer.Reset(p.hush)
}

func (p *repeat) write() {
	r := p.last
	r.AddAttrs(slog.Int("repeated", p.n))
	_ = p.to.Handle(context.Background(), r) // as slog does with a log that cannot be written
	p.n = 0
}

// close writes what is kept back still; from then on nothing is.
func (s *repeats) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for kind, p := range s.seen {
		p.timer.Stop()
		if p.n > 0 {
			p.write()
		}
		delete(s.seen, kind)
	}
}
