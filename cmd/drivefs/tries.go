package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// tries measures the tries of calls: the client logs each with its operation,
// duration and status, so they are taken from there on the way to the log.
type tries struct {
	slog.Handler // the log; it gets what it is interested in
	seconds      *prometheus.HistogramVec
}

func newTries(next slog.Handler) *tries {
	return &tries{next, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "drivefs_request_seconds",
		Help:    "How long tries of calls took, contents without their bodies.",
		Buckets: prometheus.ExponentialBuckets(0.01, 2.5, 10), // 10 ms to 38 s
	}, []string{"operation", "class"})}
}

// Enabled takes every try, whatever the log wants.
func (t *tries) Enabled(context.Context, slog.Level) bool { return true }

// Handle counts a try and hands it on if the log wants it.
func (t *tries) Handle(ctx context.Context, r slog.Record) error {
	var op string
	var took time.Duration
	status, timed := 0, false
	r.Attrs(func(a slog.Attr) bool {
		switch {
		case a.Key == "op" && a.Value.Kind() == slog.KindString:
			op = a.Value.String()
		case a.Key == "took" && a.Value.Kind() == slog.KindDuration:
			took, timed = a.Value.Duration(), true
		case a.Key == "status" && a.Value.Kind() == slog.KindInt64:
			status = int(a.Value.Int64())
		}
		return true
	})
	if op != "" && timed {
		t.seconds.WithLabelValues(op, class(status)).Observe(took.Seconds())
	}
	if !t.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return t.Handler.Handle(ctx, r)
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
