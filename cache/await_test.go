package cache

import (
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// TestTreeIsMadeAtLocalSpeed: the first folder of a new tree waits for the
// drive, those within do not, and all of them get there.
func TestTreeIsMadeAtLocalSpeed(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.CallTimeout = time.Minute })
	answer := make(chan struct{})
	w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "nodes.create" {
			<-answer
		}
		return nil
	})
	top := make(chan struct{})
	go func() { defer close(top); w.mkdir("/top") }()
	answer <- struct{}{} // so the caller is told what the drive says
	<-top
	// Nobody answers: a call that waited would do so for a minute.
	w.mkdir("/top/a")
	w.mkdir("/top/a/b")
	w.mkdir("/top/c")
	close(answer)
	w.flush()
	w.want(w.ls("/top"), "a c")
	for _, p := range []string{"/top/a", "/top/a/b", "/top/c"} {
		if n, err := w.other.Lookup(p); err != nil || n.ID == "" {
			t.Error(p, err)
		}
	}
}
