package cache

import (
	"context"
	"runtime"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// BenchmarkStream copies 200 MB to a drive at 50 ms and 50 MB/s, as fast as
// the disk takes it, and at 90 % of the line's rate.
//
//	rate      size ÷ (time from create to "on the drive") ÷ the line's rate
//	stored-rt round trips from the return of close until the drive has it
//	done-rt   … until nothing is left to do for it
//	heap-MB   most memory in use, the service's own included
func BenchmarkStream(b *testing.B) {
	const (
		size    = 200_000_000
		rate    = 50_000_000
		latency = 50 * time.Millisecond
	)
	for name, pace := range map[string]float64{"fast": 0, "paced": 0.9 * rate} {
		b.Run(name, func(b *testing.B) {
			srv := drivetest.New(b, drivetest.Options{Latency: latency, Rate: rate})
			c, err := drive.New(drive.Options{
				Endpoint: srv.Endpoint(),
				Tokens:   oauth2.StaticTokenSource(&oauth2.Token{AccessToken: srv.Token().AccessToken}),
			})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			s, err := Open(b.Context(), Options{StateDir: b.TempDir(), CacheDir: b.TempDir(), Memory: 64 << 20, Remote: c, UploadDelay: time.Millisecond})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			ran := make(chan struct{})
			go func() { defer close(ran); _ = s.Run(ctx) }() // ctx's error
			defer func() {
				cancel()
				<-ran
				if err := s.Close(); err != nil {
					b.Error(err)
				}
			}()
			piece := noise(128<<10, 1)
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			var heap uint64
			n := 0
			for b.Loop() {
				n++
				name := "film" + string(rune('a'+n))
				began := time.Now()
				_, h, err := s.Create(ctx, s.Root(), name, unix.O_WRONLY|unix.O_CREAT, 0)
				if err != nil {
					b.Fatal(err)
				}
				for off := int64(0); off < size; off += int64(len(piece)) {
					if _, err := h.Write(ctx, piece[:min(int64(len(piece)), size-off)], off); err != nil {
						b.Fatal(err)
					}
					for pace > 0 && time.Since(began).Seconds() < float64(off)/pace {
						<-tick.C
					}
					if off%(16<<20) == 0 {
						heap = max(heap, heapNow())
					}
				}
				if err := h.Flush(); err != nil {
					b.Fatal(err)
				}
				closed := time.Now()
				h.Release()
				var stored, done time.Duration
				for done == 0 {
					<-tick.C
					if _, err := srv.Else().Lookup("/" + name); err == nil && stored == 0 {
						stored = time.Since(closed)
						b.ReportMetric(size/time.Since(began).Seconds()/rate, "rate")
					}
					if s.Queue().Stats().Pending == 0 {
						done = time.Since(closed)
					}
				}
				b.ReportMetric(stored.Seconds()/latency.Seconds(), "stored-rt")
				b.ReportMetric(done.Seconds()/latency.Seconds(), "done-rt")
				b.ReportMetric(float64(heap)/1e6, "heap-MB")
				b.ReportMetric(size/1e6/closed.Sub(began).Seconds(), "write-MB/s")
			}
			if got := srv.Requests(); got["content.upload"] != n || got["content.overwrite"] != 0 || srv.BytesReceived() != int64(n)*size {
				b.Errorf("%v, %d bytes", got, srv.BytesReceived())
			}
		})
	}
}

func heapNow() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
