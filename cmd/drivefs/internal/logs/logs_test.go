package logs

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
)

// lines collects a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take gives what was logged since it was last taken.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}

// A line that comes again and again is written once, and then how often it
// came, ever more seldom.
func TestRepeatedLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b lines
		log, end, err := Open(&config.Config{LogLevel: slog.LevelInfo}, &b)
		if err != nil {
			t.Fatal(err)
		}
		written := func(want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for line := range strings.Lines(b.take()) {
				_, line, _ = strings.Cut(line, "level=")
				got = append(got, strings.TrimSpace(line))
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("%q, want %q", got, want)
			}
		}
		begin := time.Now()
		for i := range 1200 { // every 3 s for an hour
			log.Warn("changes feed", "err", fmt.Errorf("HTTP 503 [request %x-%d]", i*7919, i), "again_in", time.Duration(i)*time.Second)
			time.Sleep(3 * time.Second)
		}
		if got := b.take(); strings.Count(got, "\n") < 5 || strings.Count(got, "\n") > 8 || !strings.Contains(got, " repeated=") {
			t.Errorf("in %v:\n%s", time.Since(begin), got)
		}

		// Other reasons, files and parts are other news; debug lines are not kept.
		log.Warn("changes feed", "err", errors.New("no connection"))
		log.Warn("changes feed", "err", errors.New("no connection"), "path", "/a")
		log.With("part", "x").Warn("changes feed", "err", errors.New("no connection"))
		log.WithGroup("g").Warn("changes feed", "err", errors.New("no connection"))
		log.Error("changes feed", "err", errors.New("no connection"))
		if got := b.take(); strings.Count(got, "\n") != 5 {
			t.Error(got)
		}

		// What has stopped is forgotten, once it was told.
		time.Sleep(3 * time.Hour)
		b.take()
		log.Info("once")
		written(`INFO msg=once`)
		time.Sleep(3 * time.Hour)
		log.Info("once")
		log.Info("once")
		written(`INFO msg=once`)
		end() // tells what it keeps
		written(`INFO msg=once repeated=1`)
		log.Info("after the end")
		log.Info("after the end")
		written(`INFO msg="after the end"`, `INFO msg="after the end"`)
	})
}
