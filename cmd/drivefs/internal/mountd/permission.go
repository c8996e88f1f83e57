package mountd

import (
	"context"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// askAgain is how often a mount whose token permits no changes asks whether
// that is still so.
const askAgain = time.Minute

// A token for reading only makes the mount a read-only one: programs hear of
// it at once (EROFS), not from an upload that fails later. Another token in the
// file makes it writable again.

// askPermission asks what the token permits. asked is false when the drive
// could not tell.
func (m *mount) askPermission(ctx context.Context) (may, asked bool) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	may, err := m.account.Client.MayWrite(ctx)
	if err != nil {
		m.log.Debug("asking what the token permits", "err", err)
	}
	return may, err == nil
}

// permitted takes in what was asked.
func (m *mount) permitted(may bool) {
	if may == m.store.Writable() {
		return
	}
	m.store.SetWritable(may)
	if may {
		m.log.Info("the token permits changes again")
	} else {
		m.log.Warn(noChanges(m.c.Profile))
	}
}

func noChanges(profile string) string {
	s := "the token does not permit changes (clouddrive:write): the mount is read-only until you log in again with drivefs login"
	if profile != "default" {
		s += " --profile " + profile
	}
	return s
}

// watchPermission asks again when there is another token, and when nobody could
// tell before.
func (m *mount) watchPermission(ctx context.Context) error {
	if m.c.ReadOnly {
		return nil
	}
	file := stampOf(m.c.TokenFile)
	tick := time.NewTicker(healEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if m.account.Client.State().Kind != drive.Online {
			continue
		}
		now := stampOf(m.c.TokenFile)
		if now != file {
			m.account.Tokens.Reload() // the healer may not have come to it yet
		}
		if now == file && !m.asked.IsZero() && (m.store.Writable() || time.Since(m.asked) < askAgain) {
			continue
		}
		if may, told := m.askPermission(ctx); told {
			m.permitted(may)
			file, m.asked = now, time.Now()
		}
	}
}
