package mountd

import (
	"errors"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// A service that takes connections again is asked at once, whatever the
// back-off; what takes them and answers badly is not.
func TestAway(t *testing.T) {
	refused, taken := func() error { return errors.New("refused") }, func() error { return nil }
	since := time.Now()
	offline := drive.State{Kind: drive.Offline, Since: since, Err: errors.New("connection refused")}
	var a away
	for i, step := range []struct {
		state     drive.State
		reachable func() error
		want      bool
	}{
		{drive.State{Kind: drive.Online, Since: since}, refused, false},
		{offline, taken, true}, // it may have come back before we looked
		{offline, taken, false},
		{offline, refused, false},
		{offline, refused, false},
		{offline, taken, true},
		{offline, taken, false},
		{drive.State{Kind: drive.Throttled, Since: since.Add(1)}, taken, false},
		{drive.State{Kind: drive.Offline, Since: since.Add(2), Err: &drive.Error{Status: 503}}, taken, false},
		{drive.State{Kind: drive.Offline, Since: since.Add(2), Err: &drive.Error{}}, refused, false},
		{drive.State{Kind: drive.Offline, Since: since.Add(2)}, taken, true},
	} {
		if got := a.over(step.state, step.reachable); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
}
