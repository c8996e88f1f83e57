package drive

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// No log line and no error holds a token, a query or an address that grants access.
func TestNothingSecretIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const token = "Atza|IwEBIExampleSecretPart"
		var log bytes.Buffer
		s, c := socketless(t, func(o *Options) {
			o.Tokens = StaticTokenSource(token)
			o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		quote := `{"message":"'` + token + `' not a valid key=value pair (missing equal-sign) in Authorization header: 'Bearer ` + token + `'."}`
		s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) { reply(w, 403, quote) })
		s.HandleFunc("GET /meta/nodes", func(w http.ResponseWriter, r *http.Request) { reply(w, 400, quote) })
		s.HandleFunc("GET /content/nodes/x/content", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/content/templink/SecretPart?X-Amz-Signature=SecretPart", http.StatusFound)
		})
		s.HandleFunc("GET /content/templink/SecretPart", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("x-amzn-RequestId", "Bearer SecretPart")
			reply(w, 500, "/templink/SecretPart")
		})
		var errs []error
		_, err := c.Get(bg, "x")
		errs = append(errs, err)
		_, err = ids(matching(c, `name:"SecretPart"`, nil))
		errs = append(errs, err)
		_, err = c.Download(bg, "x", 0, -1)
		errs = append(errs, err)
		_, err = c.DownloadLink(bg, "https://drive.test/content/templink/SecretPart", 0, -1)
		errs = append(errs, err, c.State().Err)
		for _, err := range errs {
			if err == nil || strings.Contains(err.Error(), "SecretPart") {
				t.Errorf("error %v", err)
			}
		}
		if strings.Contains(log.String(), "SecretPart") {
			t.Errorf("log:\n%s", log.String())
		}
		for _, want := range []string{"op=nodes.get", "path=/meta/nodes/x", "status=403", "request=request-1", "op=content.templink", "host=drive.test"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("no %s in the log:\n%s", want, log.String())
			}
		}
	})
}

func TestState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStatus()
		kind := func(want StateKind) {
			t.Helper()
			if got := s.get(); got.Kind != want || (got.Err == nil) != (want == Online) {
				t.Errorf("%+v, want %s", got, want)
			}
		}
		oops := &Error{Kind: ErrUnavailable}
		kind(Online)
		s.try(Offline, oops)
		kind(Online) // one is none
		s.good()
		s.try(Offline, oops)
		s.try(Throttled, oops)
		kind(Online)
		s.try(Throttled, oops)
		kind(Throttled)
		changed := s.wait()
		time.Sleep(time.Minute)
		s.try(Offline, oops)
		s.final(oops)
		kind(Offline)
		select {
		case <-changed:
		default:
			t.Error("not announced")
		}
		since := s.get().Since
		time.Sleep(time.Minute)
		s.final(oops)
		if s.get().Since != since {
			t.Error("Since moved without a change")
		}
		s.final(&Error{Kind: ErrNotFound})
		kind(Offline)
		s.final(&Error{Kind: ErrAuth})
		kind(AuthRequired)
		s.good()
		kind(Online)
	})
}

// 5xx after a whole upload is everyday matter, and waiting in our own queue
// says nothing of the service.
func TestWhatDoesNotMeanOffline(t *testing.T) {
	s, c := socketless(t, nil)
	s.HandleFunc("POST /content/nodes", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		reply(w, 504, nil)
	})
	for range 3 {
		_, err := c.Upload(bg, NewNode{Name: "n"}, Body{Reader: strings.NewReader("x"), Size: 1})
		wantIs(t, err, ErrAmbiguous)
	}
	if c.State().Kind != Online {
		t.Errorf("%+v", c.State())
	}
}

func TestErrorText(t *testing.T) {
	e := &Error{Op: "nodes.get", Kind: ErrNotFound, Status: 404, Code: "C", Message: "m", RequestID: "r", Err: io.ErrUnexpectedEOF}
	if got, want := e.Error(), "nodes.get: no such node on the drive (HTTP 404 C): m: unexpected EOF [request r]"; got != want {
		t.Errorf("%s", got)
	}
	if !errors.Is(e, ErrNotFound) || !errors.Is(e, io.ErrUnexpectedEOF) {
		t.Error("does not unwrap")
	}
}

// Every try is told, also one without an answer.
func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []any{errDial, 503, `{"id":"x"}`}}
		var tries []Try
		c, err := New(Options{TrustEndpoints: true, Endpoint: "https://d.test/", Transport: s, Observe: func(try Try) { tries = append(tries, try) },
			Endpoints: &memoryCache{e: Endpoints{Metadata: "https://m.test/", Content: "https://c.test/", Fetched: time.Now()}}})
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.doubts, c.doubted = 1, time.Now() // no discovery in between
		c.mu.Unlock()
		if _, err := c.Get(bg, "x"); err != nil {
			t.Fatal(err)
		}
		want := []Try{{Op: "nodes.get"}, {Op: "nodes.get", Status: 503}, {Op: "nodes.get", Status: 200}}
		if !slices.Equal(tries, want) {
			t.Errorf("%+v, want %+v", tries, want)
		}
	})
}
