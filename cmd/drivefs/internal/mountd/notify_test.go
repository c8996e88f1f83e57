package mountd

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
)

// Signs of life come often enough while the mount answers, and only then.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards these
		var alive, told int
		var stuck error
		var said string
		n := &manager{
			watchdog: time.Minute,
			tell: func(state string) error {
				mu.Lock()
				defer mu.Unlock()
				told++
				for line := range strings.Lines(state) {
					line = strings.TrimSpace(line)
					if line == "WATCHDOG=1" {
						alive++
					} else if text, ok := strings.CutPrefix(line, "STATUS="); ok {
						said = text
					} else {
						t.Errorf("%q was told", line)
					}
				}
				return nil
			},
			answers: func(context.Context) (control.Status, error) {
				mu.Lock()
				defer mu.Unlock()
				return control.Status{State: "ready", Mountpoint: "/m", Remote: control.Remote{State: "online"}}, stuck
			},
			log: slog.New(slog.DiscardHandler),
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- n.run(ctx) }()
		wait := func(d time.Duration) {
			mu.Unlock()
			time.Sleep(d) // in fake time
			synctest.Wait()
			mu.Lock()
		}
		mu.Lock()
		wait(time.Hour)
		if alive < 60*2 || said != "ready on /m; drive online" {
			t.Errorf("%d signs of life in an hour, the status is %q", alive, said)
		}
		stuck = errors.New("it is stuck")
		wait(time.Minute)
		alive, told = 0, 0
		wait(time.Hour)
		if alive != 0 || told != 0 || !strings.Contains(said, "it is stuck") {
			t.Errorf("%d signs of life, %d messages in an hour without any; the status is %q", alive, told, said)
		}
		stuck = nil
		wait(time.Hour)
		if alive < 60*2 {
			t.Errorf("%d signs of life after it is well again", alive)
		}
		mu.Unlock()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	})
}
