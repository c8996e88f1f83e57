package drive

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"
)

// observeTransport sees every single try: it logs it, counts throttling and keeps State.
// Headers, queries and addresses that grant access are never logged.
type observeTransport struct {
	next     http.RoundTripper
	log      *slog.Logger
	tell     func(Try) // nil = nobody
	status   *status
	counters *counters
	clock    *serviceClock
}

func (t observeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c, ctx := callOf(req), req.Context()
	start := time.Now()
	resp, err := t.next.RoundTrip(req)
	if err == nil {
		t.clock.note(resp.Header)
	}
	if t.tell != nil {
		try := Try{Op: c.op, Took: time.Since(start)}
		if err == nil {
			try.Status = resp.StatusCode
		}
		t.tell(try)
	}
	if t.log.Enabled(ctx, slog.LevelDebug) {
		args := []any{"op", c.op, "method", req.Method, "host", req.URL.Host, "try", c.tries, "took", time.Since(start)}
		if !c.secret {
			args = append(args, "path", req.URL.EscapedPath())
		}
		if err != nil {
			args = append(args, "error", scrub(err.Error()))
		} else {
			args = append(args, "status", resp.StatusCode, "request", scrub(resp.Header.Get("x-amzn-RequestId")))
		}
		t.log.DebugContext(ctx, "drive", args...)
	}
	switch {
	case err != nil:
		if !errors.Is(ctx.Err(), context.Canceled) {
			t.status.try(Offline, err)
		}
	case resp.StatusCode == http.StatusTooManyRequests:
		t.counters.throttled(c.op)
		t.status.try(Throttled, &Error{Op: c.op, Kind: ErrThrottled, Status: resp.StatusCode})
	case resp.StatusCode >= 500 && c.shape != shapeUpload:
		// At the end of an upload 5xx is normal (API §13.2) and says nothing of the service.
		t.status.try(Offline, &Error{Op: c.op, Kind: ErrUnavailable, Status: resp.StatusCode})
	case resp.StatusCode < 400 || resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusConflict:
		t.status.good()
	}
	return resp, err
}
