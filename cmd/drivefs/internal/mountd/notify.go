package mountd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
)

// retell is how often a service manager hears what the mount is doing, if
// that has changed.
const retell = 5 * time.Second

// A manager tells the service manager how a mount is. Protocol: sd_notify(3).
type manager struct {
	watchdog time.Duration                                 // it wants a sign of life that often; 0 = it does not
	tell     func(state string) error                      // sends one message
	answers  func(context.Context) (control.Status, error) // an error is a reason not to seem alive
	log      *slog.Logger
}

// newManager is nil when no service manager started this process.
func newManager(m *mount, socket string) *manager {
	if sent, err := daemon.SdNotify(false, "STATUS=starting"); !sent || err != nil {
		return nil
	}
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn("the service manager's watchdog is not served", "err", err)
	}
	return &manager{
		watchdog: every,
		tell:     func(state string) error { _, err := daemon.SdNotify(false, state); return err },
		answers:  func(ctx context.Context) (control.Status, error) { return m.answers(ctx, socket) },
		log:      m.log,
	}
}

// run tells until ctx ends. A sign of life is given only when the mount just
// proved that it has one: a process whose mount is stuck is to be restarted.
func (n *manager) run(ctx context.Context) error {
	every := retell
	if n.watchdog > 0 {
		every = min(every, n.watchdog/4) // one that comes late does not end the mount
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for said, silent := "", false; ; {
		limited, cancel := context.WithTimeout(ctx, max(every, time.Second))
		s, err := n.answers(limited)
		cancel()
		var states []string
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !silent:
			n.log.Error("the mount does not answer", "err", err)
		case err == nil && n.watchdog > 0:
			states = append(states, daemon.SdNotifyWatchdog)
		}
		silent = err != nil
		if line := serviceLine(&s, err); line != said {
			said = line
			states = append(states, "STATUS="+line)
		}
		if len(states) > 0 {
			if err := n.tell(strings.Join(states, "\n")); err != nil {
				n.log.Debug("telling the service manager", "err", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serviceLine is what systemctl status shows of a mount.
func serviceLine(s *control.Status, err error) string {
	if err != nil {
		return "does not answer: " + exit.Message(err)
	}
	line := fmt.Sprintf("%s on %s; drive %s", s.State, s.Mountpoint, s.Remote.State)
	if way := show.WayOut[s.Remote.State]; way != "" {
		line += " (" + way + ")"
	}
	if u := s.Uploads; u.Pending > 0 {
		line += fmt.Sprintf("; %s pending", show.Count(u.Pending, "change"))
		if len(u.Failed) > 0 {
			line += fmt.Sprintf(", %d failed", len(u.Failed))
		}
	}
	if s.Limits.Paused {
		line += "; uploads paused"
	}
	return line
}

// answers asks the mount the ways its users do: over the control socket, which
// needs the store; through the loop that ends it; and through the kernel.
func (m *mount) answers(ctx context.Context, socket string) (control.Status, error) {
	var s control.Status
	err := control.NewClient(socket).Call(ctx, control.VerbStatus, none{}, &s, nil)
	switch {
	case err != nil && isClosed(m.ended):
		return m.status(), nil // the socket is closed by now, the store is not
	case err != nil:
		return s, fmt.Errorf("control socket: %w", err)
	}
	ended := func() bool {
		return m.draining.Load() || m.lazy.Load() || isClosed(m.ended) || isClosed(m.server.Done())
	}
	if !isClosed(m.mounted) || ended() {
		return s, nil // it begins or ends, which may take its time
	}
	select {
	case m.beats <- none{}:
	case <-m.ended:
		return s, nil
	case <-ctx.Done():
		if ended() {
			return s, nil
		}
		return s, errors.New("the loop that ends the mount is stuck")
	}
	if _, err := control.SocketOf(ctx, m.mountpoint); err != nil && !ended() {
		return s, fmt.Errorf("%s: %w", m.mountpoint, err)
	}
	return s, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
