package mountd

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
)

// metrics reads a mount's status at each scrape; nothing is counted twice.
// What nobody else keeps is in [observations].
type metrics struct{ m *mount }

func describeMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("drivefs_"+name, help, labels, nil)
}

var (
	metricUp         = describeMetric("remote_state", "1 for the state the service is in.", "state")
	metricNodes      = describeMetric("mirror_nodes", "Nodes known.")
	metricComplete   = describeMetric("mirror_complete", "1 once the whole feed was read.")
	metricAge        = describeMetric("mirror_age_seconds", "Since the feed was last read to its end; -1 = never.")
	metricPending    = describeMetric("uploads_pending", "Changes the drive lacks.")
	metricBytes      = describeMetric("uploads_pending_bytes", "Content the drive lacks.")
	metricFailed     = describeMetric("uploads_failed", "Changes whose last try failed.")
	metricUploaded   = describeMetric("uploaded_bytes_total", "Content sent.")
	metricMemory     = describeMetric("cache_memory_bytes", "Memory taken by contents.")
	metricDisk       = describeMetric("cache_disk_bytes", "Disk taken by contents.")
	metricHits       = describeMetric("cache_hits_total", "Reads answered from the cache.")
	metricMisses     = describeMetric("cache_misses_total", "Reads that needed the network.")
	metricDownloaded = describeMetric("downloaded_bytes_total", "Content received.")
	metricServed     = describeMetric("served_bytes_total", "Content handed to programs.")
	metricRequests   = describeMetric("requests_total", "Calls of the service.", "operation")
	metricErrors     = describeMetric("request_errors_total", "Calls of the service that failed.", "operation")
	metricThrottled  = describeMetric("requests_throttled_total", "Tries answered with 429.", "operation")
	metricRetries    = describeMetric("request_retries_total", "Tries beyond the first.", "operation")
	metricActive     = describeMetric("uploads_active", "Changes on their way to the drive.")
	metricOldest     = describeMetric("uploads_oldest_age_seconds", "How long the oldest change the drive lacks waits; 0 = none.")
	metricPaused     = describeMetric("uploads_paused", "1 while uploads are paused.")
	metricLimit      = describeMetric("limit_bytes_per_second", "Limit of content; 0 = none.", "direction")
	metricOpen       = describeMetric("open_files", "File handles of programs.")
	metricWaiting    = describeMetric("fuse_requests_waiting", "Requests of the kernel that are not answered yet.")
	metricInfo       = describeMetric("info", "1, with what is mounted where.", "version", "profile", "mountpoint")
)

// Describe is left to Collect: the set of metrics is fixed.
func (c metrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c metrics) Collect(ch chan<- prometheus.Metric) {
	s := c.m.status()
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64) { put(d, prometheus.GaugeValue, v) }
	counter := func(d *prometheus.Desc, v int64) { put(d, prometheus.CounterValue, float64(v)) }
	for _, state := range []string{"online", "offline", "throttled", "auth-required"} {
		put(metricUp, prometheus.GaugeValue, truth(s.Remote.State == state), state)
	}
	gauge(metricNodes, float64(s.Mirror.Nodes))
	gauge(metricComplete, truth(s.Mirror.Complete))
	gauge(metricAge, s.Mirror.CheckpointAge)
	gauge(metricPending, float64(s.Uploads.Pending))
	gauge(metricBytes, float64(s.Uploads.PendingBytes))
	gauge(metricFailed, float64(len(s.Uploads.Failed)))
	gauge(metricMemory, float64(s.Cache.Memory))
	gauge(metricDisk, float64(s.Cache.Disk))
	put(metricInfo, prometheus.GaugeValue, 1, s.Version, s.Profile, s.Mountpoint)
	gauge(metricActive, float64(s.Uploads.Active))
	gauge(metricOldest, s.Uploads.OldestAge)
	gauge(metricPaused, truth(s.Limits.Paused))
	put(metricLimit, prometheus.GaugeValue, float64(s.Limits.Upload), "upload")
	put(metricLimit, prometheus.GaugeValue, float64(s.Limits.Download), "download")
	gauge(metricOpen, float64(s.OpenFiles))
	if n, ok := c.m.waiting(); ok {
		gauge(metricWaiting, float64(n))
	}
	counter(metricUploaded, s.Uploads.Uploaded)
	counter(metricHits, s.Cache.Hits)
	counter(metricMisses, s.Cache.Misses)
	counter(metricDownloaded, s.Cache.Downloaded)
	counter(metricServed, s.Cache.Served)
	for op, r := range s.Requests {
		put(metricRequests, prometheus.CounterValue, float64(r.Count), op)
		put(metricErrors, prometheus.CounterValue, float64(r.Errors), op)
		put(metricThrottled, prometheus.CounterValue, float64(r.Throttled), op)
		put(metricRetries, prometheus.CounterValue, float64(r.Retries), op)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// serveMetrics answers /metrics on --metrics until end is called.
func serveMetrics(m *mount) (end func(), err error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(metrics{m}, m.observed.tries, m.observed.asked, m.observed.answered, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ln, err := net.Listen("tcp", m.c.Metrics)
	if err != nil {
		return nil, exit.Fail(exit.Usage, "--metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(ln) // http.ErrServerClosed
	}()
	m.log.Info("metrics", "address", fmt.Sprintf("http://%s/metrics", ln.Addr()))
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
		<-served
	}, nil
}
