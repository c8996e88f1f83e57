package writeback

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// A large file goes up although small ones never stop coming.
func TestLargeBesideSmall(t *testing.T) {
	for _, uploads := range []int{1, 2, 16} {
		bubble(t, fmt.Sprint(uploads), func(t *testing.T) {
			o := fast
			o.Uploads = uploads
			w := newWorld(t, drivetest.Options{Latency: 50 * time.Millisecond}, o).run()
			n := 0
			more := func() {
				for range 4 * uploads {
					w.write(fmt.Sprint("small", n), "x")
					n++
				}
			}
			more()
			synctest.Wait()
			ino, rev := must[uint64, uint64](t)(w.tryWrite("large", []byte(bodies["large"]), nil))
			done := make(chan error, 1)
			go func() { done <- w.s.Wait(w.ctx(), ino, rev) }()
			began := time.Now()
			tick := time.NewTicker(50 * time.Millisecond) // a round of uploads
			defer tick.Stop()
			for {
				select {
				case err := <-done:
					if err != nil {
						t.Fatal(err)
					}
					w.flush()
					return
				case <-tick.C:
					if time.Since(began) > 5*time.Second {
						t.Fatalf("still waiting after %v, %d small files", time.Since(began), n)
					}
					for i := w.j.Len(); i < 2*uploads+4; i += 4 * uploads {
						more()
					}
				}
			}
		})
	}
}

// What a flush hurries is what it was asked for: a file that was open then and
// is closed after settles as long as any other.
func TestFlushHasteEnds(t *testing.T) {
	o := fast
	o.UploadDelay = 10 * time.Minute
	for _, how := range []string{"open then", "saved again", "given up"} {
		bubble(t, how, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, o).run()
			f := w.begin("film.part")
			f.write([]byte("half"))
			if how == "saved again" {
				f.commit()
			}
			if how == "given up" {
				w.write("other", "x")
				w.srv.SetFaults(drivetest.Faults{OverQuota: true})
			}
			if _, err := w.s.Flush(w.ctx()); err != nil {
				t.Fatal(err)
			}
			w.srv.SetFaults(drivetest.Faults{})
			w.srv.ResetRequests()
			f.write([]byte(" and the rest"))
			f.close()
			time.Sleep(5 * time.Minute)
			if n := w.srv.Requests()["content.upload"] + w.srv.Requests()["content.overwrite"]; n > 0 && how != "given up" || n > 1 {
				t.Errorf("sent %d times within its settling time", n)
			}
			time.Sleep(10 * time.Minute)
			w.until("sent", func() bool { return w.j.Len() == 0 })
			if got := w.tree()["film.part"]; got != "half and the rest" {
				t.Errorf("holds %q", got)
			}
		})
	}
}
