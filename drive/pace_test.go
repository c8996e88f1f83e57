package drive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pacedRequest is a request of some shape and priority.
func pacedRequest(ctx context.Context, op string, sh shape, p Priority) *http.Request {
	req, err := http.NewRequestWithContext(withCall(ctx, &call{op: op, shape: sh, priority: p}), "GET", "https://x.test/", nil)
	if err != nil {
		panic(err)
	}
	return req
}

func answer(status int, h http.Header) *http.Response {
	if h == nil {
		h = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader("body"))}
}

func TestPaceOvertaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		start := time.Now()
		status := 429
		rt := newPace(roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if status == 429 {
				status = 200
				return answer(429, http.Header{"Retry-After": {"10"}}), nil
			}
			if time.Since(start) < 10*time.Second {
				t.Errorf("%s started after %v, in the pause", callOf(r).op, time.Since(start))
			}
			order = append(order, callOf(r).op)
			return answer(200, nil), nil
		}), 4, 4)
		_, _ = rt.RoundTrip(pacedRequest(bg, "first", shapeJSON, Metadata)) // 429
		var wg sync.WaitGroup
		queue := func(op string, sh shape, p Priority) {
			wg.Go(func() {
				resp, err := rt.RoundTrip(pacedRequest(bg, op, sh, p))
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
			})
			synctest.Wait() // it is in the queue now
		}
		// More background than there are connections: it must not hold them either.
		for i := range metadataCalls + 4 {
			queue(fmt.Sprint("audit", i), shapeJSON, Background)
		}
		queue("ahead", shapeDownload, ReadAhead)
		queue("upload", shapeUpload, Uploading)
		queue("feed", shapeStream, Feed)
		queue("stat", shapeJSON, Metadata)
		queue("stat2", shapeJSON, Metadata)
		queue("read", shapeDownload, Foreground)
		wg.Wait()
		want := []string{"read", "stat", "stat2", "feed", "upload", "ahead", "audit0", "audit1"}
		if len(order) != metadataCalls+10 || !slices.Equal(order[:len(want)], want) {
			t.Errorf("order %v", order)
		}
		// And not all at once: there is an interval that shrinks.
		if d := time.Since(start); d < 10*time.Second+300*time.Millisecond || d > 12*time.Second {
			t.Errorf("all through after %v", d)
		}
	})
}

func TestPaceSlowsAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := 0 * time.Millisecond // the service takes one call in that time
		var last time.Time
		calls, refused, every := 0, 0, 1<<30
		rt := newPace(roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			calls++
			if d := time.Since(last); d < limit || calls%every == 0 {
				refused++
				return answer(429, nil), nil
			}
			last = time.Now()
			return answer(200, nil), nil
		}), 4, 4)
		run := func(d time.Duration) (n, bad int) {
			c0, r0 := calls, refused
			for end := time.Now().Add(d); time.Now().Before(end); {
				resp, err := rt.RoundTrip(pacedRequest(bg, "x", shapeJSON, Metadata))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				time.Sleep(time.Millisecond) // the round trip
			}
			return calls - c0, refused - r0
		}
		if n, _ := run(time.Second); n != 1000 {
			t.Errorf("%d calls in a second without throttling", n)
		}
		limit = 200 * time.Millisecond
		run(10 * time.Second)
		n, bad := run(time.Minute)
		t.Logf("throttled to 5 a second: %d calls in a minute, %d of them refused", n, bad)
		if n < 200 || bad > n/8 {
			t.Errorf("throttled to 5 a second: %d calls in a minute, %d of them refused", n, bad)
		}
		limit = 0
		run(15 * time.Second)
		if n, _ := run(time.Second); n < 900 {
			t.Errorf("soon after the throttling: %d calls in a second", n)
		}
		// One in ten at random: a price, not a standstill.
		every = 10
		run(time.Minute)
		n, bad = run(time.Minute)
		t.Logf("one in ten refused: %d calls in a minute", n)
		if n < 600 || bad < n/11 {
			t.Errorf("one in ten refused: %d calls in a minute, %d of them refused", n, bad)
		}
	})
}

func TestPaceCountsOneThrottlingOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newPace(roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return answer(429, nil), nil
		}), 4, 4)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { _, _ = rt.RoundTrip(pacedRequest(bg, "x", shapeJSON, Metadata)) })
		}
		wg.Wait()
		if rt.pacer.interval != firstInterval {
			t.Errorf("interval %v after ten refusals at once", rt.pacer.interval)
		}
	})
}

func TestPauseBeyondTheDeadlineFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := socketless(t, nil)
		n := 0
		s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) {
			n++
			w.Header().Set("Retry-After", "60")
			reply(w, 429, `{"message":"Rate exceeded"}`)
		})
		for range 3 {
			ctx, cancel := context.WithTimeout(bg, time.Second)
			start := time.Now()
			_, err := c.Get(ctx, "x")
			cancel()
			wantIs(t, err, ErrThrottled)
			if time.Since(start) != 0 {
				t.Errorf("took %v", time.Since(start))
			}
		}
		if n != 1 {
			t.Errorf("the service was asked %d times in its pause", n)
		}
		if c.State().Kind != Throttled || c.Counters()["nodes.get"] != (Count{Count: 3, Errors: 3, Throttled: 1}) {
			t.Errorf("%+v %+v", c.State(), c.Counters())
		}
	})
}

// A call that got its turn before a pause and its connection in it waits the pause out.
func TestPauseHoldsWhatWaitedForAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		rt := newPace(roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			if callOf(r).op == "throttled" {
				return answer(429, http.Header{"Retry-After": {"30"}}), nil
			}
			return answer(200, nil), nil
		}), 1, 1)
		first, err := rt.RoundTrip(pacedRequest(bg, "first", shapeDownload, Foreground))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan time.Duration)
		go func() {
			resp, err := rt.RoundTrip(pacedRequest(bg, "second", shapeDownload, Foreground))
			if err == nil {
				resp.Body.Close()
			}
			done <- time.Since(start)
		}()
		synctest.Wait()
		_, _ = rt.RoundTrip(pacedRequest(bg, "throttled", shapeJSON, Metadata))
		first.Body.Close()
		if d := <-done; d < 30*time.Second {
			t.Errorf("started after %v", d)
		}
	})
}

func TestDownloadsHoldTheirConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newPace(roundTripperFunc(func(r *http.Request) (*http.Response, error) { return answer(200, nil), nil }), 1, 3)
		get := func(p Priority) *http.Response {
			resp, err := rt.RoundTrip(pacedRequest(bg, "d", shapeDownload, p))
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		a, b := get(ReadAhead), get(ReadAhead)
		third := make(chan *http.Response)
		go func() { third <- get(ReadAhead) }()
		synctest.Wait()
		select {
		case <-third:
			t.Fatal("read-ahead took the connection kept for the foreground")
		default:
		}
		f := get(Foreground) // does not wait

		ctx, cancel := context.WithCancel(bg)
		failed := make(chan error)
		go func() {
			_, err := rt.RoundTrip(pacedRequest(ctx, "d", shapeDownload, Foreground))
			failed <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}

		f.Body.Close()
		a.Body.Close()
		a.Body.Close() // twice frees once
		c := <-third
		b.Body.Close()
		c.Body.Close()
		if rt.downloads.taken != 0 || rt.downloads.queue.Len() != 0 {
			t.Errorf("%d taken", rt.downloads.taken)
		}
	})
}

// The connection of a download that was given up is not another's before the
// service can have heard of it; that of one that was read to its end is at once.
func TestCutDownloads(t *testing.T) {
	const trip = 50 * time.Millisecond
	for _, x := range []struct {
		name string
		end  func(resp *http.Response)
		wait time.Duration
	}{
		{"read to its end", func(resp *http.Response) { _, _ = io.Copy(io.Discard, resp.Body); resp.Body.Close() }, 0},
		{"closed before", func(resp *http.Response) { resp.Body.Close(); resp.Body.Close() }, trip},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := newPace(roundTripperFunc(func(r *http.Request) (*http.Response, error) {
					select {
					case <-time.After(trip):
						return answer(200, nil), nil
					case <-r.Context().Done():
						return nil, r.Context().Err()
					}
				}), 1, 1)
				get := func(ctx context.Context) (*http.Response, error) {
					return rt.RoundTrip(pacedRequest(ctx, "d", shapeDownload, Foreground))
				}
				resp, err := get(bg)
				if err != nil {
					t.Fatal(err)
				}
				x.end(resp)
				begun := time.Now()
				if resp, err = get(bg); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(begun); d != x.wait+trip {
					t.Errorf("the next one was answered after %v, want %v", d, x.wait+trip)
				}
				x.end(resp)
				time.Sleep(x.wait)
				synctest.Wait() // what else ends at this moment
				// One that is given up before its answer.
				ctx, cancel := context.WithTimeout(bg, trip/2)
				defer cancel()
				if _, err := get(ctx); err == nil {
					t.Error("no error")
				}
				begun = time.Now()
				if resp, err = get(bg); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(begun); d != 2*trip {
					t.Errorf("after a request that was given up: %v, want %v", d, 2*trip)
				}
				x.end(resp)
				time.Sleep(trip)
				synctest.Wait()
				if rt.downloads.taken != 0 {
					t.Errorf("%d taken", rt.downloads.taken)
				}
			})
		})
	}
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(1 << 20)
		start := time.Now()
		for range 80 {
			if err := l.wait(bg, 128<<10); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d < 9*time.Second || d > 11*time.Second {
			t.Errorf("10 MiB at 1 MiB/s took %v", d)
		}
		l.set(0)
		start = time.Now()
		if err := l.wait(bg, 1<<30); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		l.set(1000)
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		wantIs(t, l.wait(ctx, 1<<20), context.DeadlineExceeded)
	})
}
