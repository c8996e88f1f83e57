package drivetest_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// BenchmarkMillion: a drive of a million nodes is loaded, told and opened
// again. DRIVETEST_NODES changes the number.
func BenchmarkMillion(b *testing.B) {
	nodes := 1_000_000
	if v := os.Getenv("DRIVETEST_NODES"); v != "" {
		if _, err := fmt.Sscan(v, &nodes); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		dir := b.TempDir()
		s, err := drivetest.Start(drivetest.Options{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		step := func(name string, f func()) {
			begin := time.Now()
			f()
			d := time.Since(begin)
			b.ReportMetric(float64(nodes)/d.Seconds(), name+"-nodes/s")
		}
		step("bulk", func() {
			if err := s.Bulk(nodes, 100); err != nil {
				b.Fatal(err)
			}
		})
		for _, gzip := range []bool{false, true} {
			step(map[bool]string{false: "feed", true: "feedgzip"}[gzip], func() { drain(b, s, gzip) })
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		s = nil
		runtime.GC()
		step("open", func() {
			if s, err = drivetest.Start(drivetest.Options{Dir: dir}); err != nil {
				b.Fatal(err)
			}
		})
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/float64(nodes), "heapB/node")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func drain(b *testing.B, s *drivetest.Server, gzip bool) {
	req, _ := http.NewRequest("POST", s.Endpoint()+"changes", strings.NewReader("{}"))
	req.Header.Set("Authorization", "Bearer "+s.Token().AccessToken)
	if gzip {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	tr := &http.Transport{DisableCompression: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n == 0 {
		b.Fatal(n, err)
	}
}

func BenchmarkDownload(b *testing.B) {
	s := drivetest.New(b)
	n, err := s.Else().Put("", "f", io.LimitReader(zeros{}, 256<<20))
	if err != nil {
		b.Fatal(err)
	}
	req, _ := http.NewRequest("GET", strings.TrimSuffix(s.Endpoint(), "drive/v1/")+"cdproxy/nodes/"+n.ID+"/content", nil)
	req.Header.Set("Authorization", "Bearer "+s.Token().AccessToken)
	b.SetBytes(256 << 20)
	for b.Loop() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
}

func BenchmarkSmallUploads(b *testing.B) {
	s := drivetest.New(b)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Else().Put("", fmt.Sprint(i), strings.NewReader("x")); err != nil {
			b.Fatal(err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
