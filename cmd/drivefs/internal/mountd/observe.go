package mountd

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/fs"
)

// observations are what metrics show and nobody keeps: how often the kernel
// asked for what, and how long answers took, ours and the service's.
type observations struct {
	tries, asked *prometheus.HistogramVec
	answered     *prometheus.CounterVec
}

func newObservations() *observations {
	seconds := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "drivefs_" + name, Help: help, Buckets: buckets}, labels)
	}
	return &observations{
		tries: seconds("request_seconds", "How long tries of calls of the service took, contents without their bodies.",
			prometheus.ExponentialBuckets(0.01, 2.5, 10), "operation", "class"), // 10 ms to 38 s
		asked: seconds("fuse_seconds", "How long operations of the kernel took.",
			prometheus.ExponentialBuckets(0.0001, 5, 9), "operation"), // 0.1 ms to 39 s
		answered: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "drivefs_fuse_operations_total",
			Help: "Operations of the kernel; result is ok or the error. ENOENT is an everyday answer to lookup, ENODATA to getxattr."},
			[]string{"operation", "result"}),
	}
}

func (o *observations) try(t drive.Try) {
	o.tries.WithLabelValues(t.Op, class(t.Status)).Observe(t.Took.Seconds())
}

func (o *observations) operation(op fs.Operation) {
	result := op.Errno
	if result == "" {
		result = "ok"
	}
	o.answered.WithLabelValues(op.Kind, result).Inc()
	o.asked.WithLabelValues(op.Kind).Observe(op.Took.Seconds())
}

// class is what an HTTP status means here; 0 = no answer came.
func class(status int) string {
	switch {
	case status == 0:
		return "unreachable"
	case status == http.StatusTooManyRequests:
		return "throttled"
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return "unauthorized"
	case status >= 500 || status == http.StatusRequestTimeout:
		return "unavailable"
	case status >= 400:
		return "refused"
	}
	return "ok"
}
