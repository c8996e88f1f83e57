package writeback

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// misdated moves all times of the journal, as a clock that was wrong then and is
// right now leaves them.
func (w *world) misdated(by time.Duration) {
	w.Helper()
	for _, ino := range w.j.Inos() {
		err := w.t.Learn(ino, func(e *journal.Entry) bool {
			for _, at := range []*time.Time{&e.Due, &e.Since, &e.RetryAt, &e.FailedAt} {
				if !at.IsZero() {
					*at = at.Add(by)
				}
			}
			if e.Sent != nil {
				e.Sent.At, e.Sent.Deadline = e.Sent.At.Add(by), e.Sent.Deadline.Add(by)
			}
			return true
		})
		if err != nil {
			w.Fatal(err)
		}
	}
}

// A clock that was hours off and was set right while drivefs was not running
// neither holds a closed file up nor makes two of what was sent.
func TestClockWasWrong(t *testing.T) {
	o := Options{Seed: 1, UploadDelay: 5 * time.Second}
	for name, fault := range map[string]*drivetest.Fault{
		"closed":           nil,
		"throttled":        {Status: 429},
		"never stored":     {Status: 504, Body: "empty"},
		"stored":           {Status: 504, Body: "empty", Effect: drivetest.EffectDone},
		"stored cut short": {Status: 504, Body: "empty", Effect: drivetest.EffectTruncated},
	} {
		for _, by := range []time.Duration{3 * time.Hour, -3 * time.Hour} {
			bubble(t, fmt.Sprint(name, by), func(t *testing.T) {
				w := newWorld(t, drivetest.Options{}, o).run()
				if fault != nil {
					w.srv.Hook(once("content.upload", func() *drivetest.Fault { return fault }))
				}
				w.write("a", "hello, drive")
				if fault != nil {
					w.until("it was sent", func() bool { return w.srv.Requests()["content.upload"] > 0 })
					time.Sleep(time.Second)
				}
				w.srv.Hook(nil)
				w.reopen()
				w.misdated(by)
				w.run()
				began := time.Now()
				for w.j.Len() > 0 && time.Since(began) < 2*time.Minute {
					time.Sleep(time.Second)
				}
				if took := time.Since(began); w.j.Len() > 0 || took > 65*time.Second {
					t.Errorf("took %v, %d entries left", took, w.j.Len())
				}
				w.wantTree(map[string]string{"a": "hello, drive"})
				if n := w.notes(""); len(n) > 0 {
					t.Errorf("reported: %q", n)
				}
			})
		}
	}
}

// After a restart, what the drive refused is not sent again before its time.
func TestRefusedBeforeRestart(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, Options{Seed: 1}).run()
		w.srv.SetFaults(drivetest.Faults{OverQuota: true})
		w.write("a", "x")
		w.until("refused", func() bool { return w.s.Stats().Failed > 0 })
		w.reopen()
		w.srv.ResetRequests()
		w.run()
		time.Sleep(time.Minute)
		if n := w.srv.Requests()["content.upload"]; n > 0 {
			t.Errorf("sent %d times in the first minute", n)
		}
		w.srv.SetFaults(drivetest.Faults{})
		w.flush() // asked for, it goes
		w.wantTree(map[string]string{"a": "x"})
	})
}

// A mistake of this program fails the entry that it is about, is said, and is
// not run into again and again, also not over restarts. Others go on.
func TestPanic(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, Options{Seed: 1}).run()
		w.s.Pause(true)
		bad, _ := must[uint64, uint64](t)(w.tryWrite("bad", []byte("x"), nil))
		tried := 0
		w.uploading = func(ino uint64) {
			if ino == bad {
				tried++
				panic("a mistake")
			}
		}
		w.s.Pause(false)
		for restart := range 3 {
			if restart > 0 {
				w.reopen()
				w.run()
			}
			w.write(fmt.Sprint("good", restart), "x")
			time.Sleep(time.Minute)
			e, _ := w.j.Clone(bad)
			if !strings.Contains(e.Failed, "a mistake") || e.Attempts == 0 || w.j.Len() != 1 {
				t.Fatalf("failed %q, %d times; %d entries", e.Failed, e.Attempts, w.j.Len())
			}
		}
		if tried == 0 || tried > 3 {
			t.Errorf("run into %d times", tried)
		}
		w.uploading = nil
		w.flush()
		w.wantTree(map[string]string{"bad": "x", "good0": "x", "good1": "x", "good2": "x"})
	})
}

// The service's clock may be anything: what it dates compares with its own
// dates, and never with ours.
func TestServiceClockIsWrong(t *testing.T) {
	for _, skew := range []time.Duration{-3 * time.Hour, 3 * time.Hour} {
		for name, fault := range map[string]drivetest.Fault{
			"stored":           {Status: 504, Body: "empty", Effect: drivetest.EffectDone},
			"stored cut short": {Status: 504, Body: "empty", Effect: drivetest.EffectTruncated},
		} {
			bubble(t, fmt.Sprint(name, skew), func(t *testing.T) {
				w := newWorld(t, drivetest.Options{Faults: drivetest.Faults{Modes: drivetest.Modes{ClockSkew: skew}}}, fast).run()
				w.write("first", "tells who we are, and what time it is")
				w.flush()
				w.srv.Hook(once("content.upload", func() *drivetest.Fault { return &fault }))
				w.write("a", "hello, drive")
				w.flush()
				w.srv.Hook(once("nodes.create", func() *drivetest.Fault { return &drivetest.Fault{Status: 504, Effect: drivetest.EffectDone} }))
				w.mkdir("d")
				w.flush()
				w.wantTree(map[string]string{"first": "tells who we are, and what time it is", "a": "hello, drive", "d": "/"})
				w.wantTrash()
				if n := w.notes(""); len(n) > 0 {
					t.Errorf("reported: %q", n)
				}
			})
		}
	}
}
