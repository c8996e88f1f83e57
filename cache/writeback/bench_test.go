package writeback

import (
	"fmt"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// The service of the measurements: 50 ms to every answer.
const latency = 50 * time.Millisecond

// BenchmarkUpload settles 2,000 files of 10 KB. "ratio" is the time against
// files × one round trip ÷ uploads at once.
func BenchmarkUpload(b *testing.B) {
	const files = 2000
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b, drivetest.Options{Latency: latency}, Options{})
		body := data(10<<10, 1)
		for i := range files {
			must[uint64, uint64](b)(w.tryWrite(fmt.Sprintf("f%04d", i), body, nil))
		}
		b.StartTimer()
		began := time.Now()
		w.run()
		w.flushLong()
		b.StopTimer()
		took := time.Since(began)
		b.ReportMetric(float64(took)/float64(files*latency/16), "ratio")
		b.ReportMetric(float64(files)/took.Seconds(), "files/s")
		b.StartTimer()
	}
}

// BenchmarkRemoveTree settles the removal of 5,000 files in 50 folders.
func BenchmarkRemoveTree(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b, drivetest.Options{}, Options{UploadDelay: time.Hour})
		w.run()
		w.mkdir("top")
		for d := range 50 {
			w.mkdir(fmt.Sprintf("top/d%d", d))
			for f := range 100 {
				w.write(fmt.Sprintf("top/d%d/f%d", d, f), "")
			}
		}
		w.flushLong()
		w.srv.ResetRequests()
		slow := w.srv
		slow.Hook(func(drivetest.Op) *drivetest.Fault { return &drivetest.Fault{Do: drivetest.DoDelay, Delay: latency} })
		w.removeTree("top", 50, 100)
		b.StartTimer()
		w.flushLong()
		b.StopTimer()
		n := 0
		for _, c := range slow.Requests() {
			n += c
		}
		b.ReportMetric(float64(n)/51, "calls/folder")
		slow.Hook(nil)
		b.StartTimer()
	}
}

// BenchmarkStart is how long 100,000 pending files take to be looked at.
func BenchmarkStart(b *testing.B) {
	const files = 100_000
	w := newWorld(b, drivetest.Options{}, Options{UploadDelay: time.Hour})
	w.mkdir("d")
	for i := range files {
		w.mkdir(fmt.Sprintf("d/%d", i))
	}
	for b.Loop() {
		w.s = New(w.t, w.m, w.j, w.client, w.functions(Options{}))
		w.s.Pause(true)
		ready := make(chan struct{})
		w.s.tell(func(*queue) { close(ready) })
		w.start()
		<-ready
		w.stop()
	}
}

func (w *world) flushLong() {
	w.Helper()
	failed, err := w.s.Flush(w.Context())
	if err != nil || len(failed) > 0 {
		w.Fatalf("flush: %v, failed: %v", err, failed)
	}
}
