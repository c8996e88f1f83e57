package mountd

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/changes"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/account"
	"github.com/drivefs/drivefs/drive"
)

// How often a mount looks whether it may be well again, and how long it waits
// for a connection then.
const (
	healEvery  = 3 * time.Second
	reachLimit = 2 * time.Second
)

// Asleep is how long this machine has been suspended since its start.
var Asleep = func() time.Duration {
	var awake, all unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &all) != nil {
		return 0
	}
	return time.Duration(all.Nano() - awake.Nano())
}

// A healer ends back-offs that have lost their reason: when the token file has
// changed, when the service takes connections again after it did not or has
// answered somebody, and when the machine was suspended, which moves no timer
// and leaves connections that the other side has forgotten. Everything it looks
// at is on this machine, but for the connections it tries while the service
// cannot be reached; it makes no request of its own beyond one poll of the feed
// for each such change.
type healer struct {
	account *account.Account
	poller  *changes.Poller
	polls   bool // the feed may be asked without being told to
	token   string
	reach   func(context.Context) error // whether the service takes connections
	log     *slog.Logger
}

func newHealer(m *mount) *healer {
	return &healer{account: m.account, poller: m.poller, polls: m.c.PollInterval > 0, token: m.c.TokenFile, reach: m.account.Client.Reachable, log: m.log}
}

func (h *healer) run(ctx context.Context) error {
	// One look at a time; reasons that come meanwhile are one more.
	look := make(chan none, 1)
	ended := make(chan none)
	go func() {
		defer close(ended)
		for range look {
			h.look(ctx)
		}
	}()
	defer func() { close(look); <-ended }()
	again := func() {
		h.account.Client.Wake()
		select {
		case look <- none{}:
		default:
		}
	}
	tick := time.NewTicker(healEvery)
	defer tick.Stop()
	slept, file, gone := Asleep(), stampOf(h.token), away{}
	for {
		changed := h.account.Client.StateChanged()
		select {
		case <-tick.C:
		case <-changed:
			if h.account.Client.State().Kind == drive.Online && h.poller.Status().Err != nil {
				again() // somebody was answered, so the feed will be
			}
			continue
		case <-ctx.Done():
			return nil
		}
		if now := Asleep(); now-slept > time.Second {
			h.log.Info("this machine was suspended", "for", (now - slept).Round(time.Second))
			h.account.Client.Reconnect()
			again()
			slept = now
		}
		if now := stampOf(h.token); now != file {
			file = now
			h.account.Tokens.Reload()
			if h.account.Client.State().Kind == drive.AuthRequired {
				again()
			}
		}
		if gone.over(h.account.Client.State(), func() error {
			limited, cancel := context.WithTimeout(ctx, reachLimit)
			defer cancel()
			return h.reach(limited)
		}) {
			again()
		}
	}
}

// look makes a call, whose answer changes the state of the service and thereby
// wakes whoever waits for that.
func (h *healer) look(ctx context.Context) {
	var err error
	if h.polls {
		err = h.poller.Refresh(ctx)
	} else {
		_, err = h.account.Client.AccountInfo(ctx)
	}
	if err != nil && ctx.Err() == nil {
		h.log.Debug("looking whether the service is back", "err", err)
	}
}

// away notices that a service that could not be reached can be.
type away struct {
	since time.Time // when it became so, zero = it is there
	once  bool      // it took no connection; what takes one and answers badly is left to the back-offs
}

func (a *away) over(s drive.State, reachable func() error) bool {
	if s.Kind != drive.Offline {
		*a = away{}
		return false
	}
	if !a.since.Equal(s.Since) {
		var said *drive.Error
		*a = away{since: s.Since, once: !errors.As(s.Err, &said) || said.Status == 0}
	}
	if reachable() != nil {
		a.once = true
		return false
	}
	over := a.once
	a.once = false
	return over
}

// stamp tells one file from another of the same name.
type stamp struct {
	modified int64 // nanoseconds
	size     int64
	inode    uint64
}

// stampOf is zero for a file that cannot be looked at.
func stampOf(path string) stamp {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return stamp{}
	}
	return stamp{st.Mtim.Nano(), st.Size, st.Ino}
}
