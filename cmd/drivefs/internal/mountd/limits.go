package mountd

import (
	"context"
	"sync"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
)

// limits are the rates and the pause of a running mount.
type limits struct {
	mu  sync.Mutex // guards now, and orders the changes of what it tells of
	now control.Limits
}

func (m *mount) limits() control.Limits {
	m.limited.mu.Lock()
	defer m.limited.mu.Unlock()
	return m.limited.now
}

func (m *mount) answerLimit(_ context.Context, req control.LimitRequest, _ control.Emit) (any, error) {
	for _, n := range []*int64{req.Upload, req.Download} {
		if n != nil && *n < 0 {
			return nil, exit.Fail(exit.Usage, "a limit is not below 0")
		}
	}
	l := &m.limited
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.now
	if req.Upload != nil {
		l.now.Upload = *req.Upload
	}
	if req.Download != nil {
		l.now.Download = *req.Download
	}
	if req.Pause != nil {
		l.now.Paused = *req.Pause
	}
	if l.now == before {
		return l.now, nil
	}
	m.account.Client.SetLimits(l.now.Upload, l.now.Download)
	if l.now.Paused != before.Paused {
		m.store.Queue().Pause(l.now.Paused)
	}
	m.log.Info("limits changed", "uploads", show.Rate(l.now.Upload), "downloads", show.Rate(l.now.Download), "paused", l.now.Paused)
	return l.now, nil
}
