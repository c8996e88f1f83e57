package writeback

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// Of many new files those that have settled for a moment go up before they
// are due, but not what looks temporary, and never one file alone.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fast
		o.UploadDelay = 4 * time.Second
		w := newWorld(t, drivetest.Options{Latency: 50 * time.Millisecond}, o).run()
		sent := func() int { return w.srv.Requests()["content.upload"] }
		write := func(n int, suffix string) {
			for i := range n {
				w.write(fmt.Sprint(i, suffix), "x")
			}
		}
		write(30, "")
		write(100, ".tmp")
		time.Sleep(2 * time.Second)
		if n := sent(); n != 0 {
			t.Errorf("%d of few files sent before they are due", n)
		}
		write(70, " more")
		time.Sleep(900 * time.Millisecond)
		early := sent()
		if early != 30 {
			t.Errorf("%d sent, of 30 that have settled a while and 70 that have not", early)
		}
		time.Sleep(time.Second)
		// Too few are left for a burst; what is due comes in its time.
		if n := sent(); n < early || n > 100 {
			t.Errorf("%d sent", n)
		}
		w.flush()
		if n := len(w.tree()); n != 200 {
			t.Errorf("%d files on the drive", n)
		}
	})
}
