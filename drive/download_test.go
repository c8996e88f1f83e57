package drive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const content = "0123456789abcdefghij"

func serveContent(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"e"`)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
}

func TestDownloadRanges(t *testing.T) {
	s, c := overTCP(t, nil)
	s.HandleFunc("GET /content/nodes/{id}/content", serveContent)
	tests := []struct {
		from, to int64
		want     string
		err      error
	}{
		{0, -1, content, nil},
		{0, 20, content, nil},
		{0, 5, content[:5], nil},
		{5, 10, content[5:10], nil},
		{15, 100, content[15:], nil},
		{19, -1, content[19:], nil},
		{20, -1, "", ErrRange},
		{20, 30, "", ErrRange},
		{5, 5, "", ErrInvalid},
		{5, 4, "", ErrInvalid},
		{-1, 4, "", ErrInvalid},
	}
	for _, tt := range tests {
		d, err := c.Download(bg, "-x", tt.from, tt.to)
		if !errors.Is(err, tt.err) {
			t.Errorf("[%d,%d): %v", tt.from, tt.to, err)
			continue
		}
		if err != nil {
			continue
		}
		b, err := io.ReadAll(d)
		d.Close()
		if err != nil || string(b) != tt.want || d.From != tt.from || d.To != tt.from+int64(len(tt.want)) || d.Total != 20 || d.ETag != `"e"` {
			t.Errorf("[%d,%d): %q %v %+v", tt.from, tt.to, b, err, d)
		}
	}
	if _, down := c.Bytes(); down != 20+20+5+5+5+1 {
		t.Errorf("%d bytes counted", down)
	}
}

func TestDownloadOddAnswers(t *testing.T) {
	tests := []struct {
		name     string
		status   int
		header   string // Content-Range
		body     string
		from, to int64
		want     string
		err      error // of the call
		readErr  error
	}{
		{"range ignored", 200, "", content, 5, 10, content[5:10], nil, nil},
		{"range ignored, from 0", 200, "", content, 0, 3, content[:3], nil, nil},
		{"range ignored, deep", 200, "", strings.Repeat("x", 20<<20) + content, 20<<20 + 5, 20<<20 + 10, content[5:10], nil, nil},
		{"range ignored, beyond", 200, "", content, 25, 30, "", ErrProtocol, nil},
		{"other range", 206, "bytes 4-9/20", content[4:10], 5, 10, "", ErrProtocol, nil},
		{"too much", 206, "bytes 5-10/20", content[5:11], 5, 10, "", ErrProtocol, nil},
		{"less", 206, "bytes 5-7/20", content[5:8], 5, 10, content[5:8], nil, nil},
		{"no total", 206, "bytes 5-9/*", content[5:10], 5, 10, content[5:10], nil, nil},
		{"a range without an end", 206, "bytes 5-9223372036854775807/*", content[5:10], 5, 10, "", ErrProtocol, nil},
		{"no Content-Range", 206, "", content[5:10], 5, 10, "", ErrProtocol, nil},
		{"nonsense", 206, "bytes 9-5/20", content[5:10], 5, 10, "", ErrProtocol, nil},
		{"length against range", 206, "bytes 5-9/20", content[5:8], 5, 10, "", ErrProtocol, nil},
		{"nothing", 204, "", "", 0, -1, "", ErrProtocol, nil},
		{"redirect to nowhere", 302, "", "", 0, -1, "", ErrProtocol, nil},
		{"no length", -200, "", content[:7], 0, 10, content[:7], nil, io.ErrUnexpectedEOF},
		{"no length, no end", -200, "", content, 0, -1, content, nil, nil},
		{"404", 404, "", "", 0, -1, "", ErrNotFound, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, c := overTCP(t, nil)
			s.HandleFunc("GET /content/nodes/x/content", func(w http.ResponseWriter, r *http.Request) {
				if tt.header != "" {
					w.Header().Set("Content-Range", tt.header)
				}
				if tt.status < 0 {
					w.WriteHeader(-tt.status)
					w.(http.Flusher).Flush()
				} else {
					w.WriteHeader(tt.status)
				}
				_, _ = io.WriteString(w, tt.body)
			})
			d, err := c.Download(bg, "x", tt.from, tt.to)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			defer d.Close()
			b, err := io.ReadAll(d)
			if string(b) != tt.want || !errors.Is(err, tt.readErr) {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

func TestDownloadCutShort(t *testing.T) {
	s, c := overTCP(t, nil)
	s.HandleFunc("GET /content/nodes/x/content", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "20")
		_, _ = io.WriteString(w, content[:7])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	d, err := c.Download(bg, "x", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if b, err := io.ReadAll(d); string(b) != content[:7] || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q, %v", b, err)
	}
}

// The token goes to the account's host only, the range everywhere.
func TestRedirects(t *testing.T) {
	var leaked atomic.Int32
	fail := 0
	s3 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			switch name {
			case "Range", "User-Agent", "Accept-Encoding":
			default:
				leaked.Add(1)
			}
		}
		if fail > 0 {
			fail--
			reply(w, 403, `<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>`)
			return
		}
		serveContent(w, r)
	}))
	defer s3.Close()
	s, c := overTCP(t, nil)
	status, target := 302, s3.URL+"/bucket/key?X-Amz-Signature=abc"
	s.HandleFunc("GET /content/nodes/x/content", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer tok" {
			leaked.Add(100)
		}
		w.Header().Set("Location", target)
		w.WriteHeader(status)
	})
	// On the same host too: behind a redirect there is no Authorization.
	s.HandleFunc("GET /content/elsewhere", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1000)
		}
		http.Redirect(w, r, s3.URL, http.StatusTemporaryRedirect)
	})
	get := func() (string, error) {
		d, err := c.Download(bg, "x", 5, 10)
		if err != nil {
			return "", err
		}
		defer d.Close()
		b, err := io.ReadAll(d)
		return string(b), err
	}
	for _, status = range []int{301, 302, 303, 307, 308} {
		if got, err := get(); err != nil || got != content[5:10] {
			t.Errorf("%d: %q, %v", status, got, err)
		}
	}
	target = "/content/elsewhere"
	if got, err := get(); err != nil || got != content[5:10] {
		t.Errorf("relative: %q, %v", got, err)
	}
	// A signed address that expired is asked for anew, and is no missing node.
	fail = 1
	target = s3.URL
	if got, err := get(); err != nil || got != content[5:10] {
		t.Errorf("expired: %q, %v", got, err)
	}
	for _, target = range []string{"http://drive.example.com/x", "ftp://x/y", "", "https://u:p@x/", "/content/nodes/x/content"} {
		if _, err := get(); target != "/content/nodes/x/content" {
			wantIs(t, err, ErrProtocol)
		}
	}
	if n := leaked.Load() % 100; n != 0 {
		t.Errorf("leaked: %d", leaked.Load())
	}
	if leaked.Load() >= 1000 {
		t.Error("the token went along to the same host")
	}
	if fetched := c.counters.copy()["content.download"]; fetched.Retries != 1 {
		t.Errorf("%+v", fetched)
	}
}

func TestRedirectLoop(t *testing.T) {
	s, c := overTCP(t, nil)
	s.HandleFunc("GET /content/nodes/x/content", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/content/loop", http.StatusFound)
	})
	s.HandleFunc("GET /content/loop", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/content/loop", http.StatusFound)
	})
	_, err := c.Download(bg, "x", 0, -1)
	wantIs(t, err, ErrProtocol)
	if n := s.count("GET /content/loop"); n != maxRedirects {
		t.Errorf("%d hops", n)
	}
}

func TestMetadataIsNotRedirected(t *testing.T) {
	s, c := socketless(t, nil)
	s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://elsewhere.test/", http.StatusFound)
	})
	_, err := c.Get(bg, "x")
	wantIs(t, err, ErrProtocol)
}

func TestDownloadLink(t *testing.T) {
	s, c := overTCP(t, nil)
	status := 0
	s.HandleFunc("GET /content/templink/secret", func(w http.ResponseWriter, r *http.Request) {
		if _, ok := r.Header["Authorization"]; ok {
			t.Error("a token was sent to a tempLink")
		}
		if status != 0 {
			reply(w, status, nil)
			return
		}
		serveContent(w, r)
	})
	s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) {
		n := node("x", "n")
		if r.URL.Query().Get("tempLink") == "true" {
			n["tempLink"] = s.base + "/content/templink/secret"
		}
		reply(w, 200, n)
	})
	s.HandleFunc("GET /meta/nodes/folder", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, node("folder", "n")) })
	link, err := c.TempLink(bg, "x")
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.DownloadLink(bg, link, 3, 6)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(d); string(b) != content[3:6] || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	d.Close()
	status = 403
	_, err = c.DownloadLink(bg, link, 0, 1)
	wantIs(t, err, ErrForbidden)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the link is in the error: %v", err)
	}
	_, err = c.DownloadLink(bg, "http://drive.example.com/templink/secret", 0, 1)
	wantIs(t, err, ErrInvalid)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the link is in the error: %v", err)
	}
	_, err = c.TempLink(bg, "folder")
	wantIs(t, err, ErrInvalid)
}

func TestDownloadFollowsItsContext(t *testing.T) {
	s, c := overTCP(t, nil)
	s.HandleFunc("GET /content/nodes/x/content", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "20")
		_, _ = io.WriteString(w, content[:7])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(bg)
	d, err := c.Download(ctx, "x", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := io.ReadFull(d, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := d.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// What hangs before the header is given up and repeated.
func TestSilenceBeforeTheHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		s, c := socketless(t, func(o *Options) {
			base := o.Transport
			o.Transport = roundTripperFunc(func(r *http.Request) (*http.Response, error) {
				if n++; n == 2 {
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				return base.RoundTrip(r)
			})
		})
		s.HandleFunc("GET /content/nodes/x/content", serveContent)
		start := time.Now()
		d, err := c.Download(bg, "x", 0, 3)
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		if took := time.Since(start); took < defaultSilence || took > defaultSilence+time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestDownloadLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := socketless(t, func(o *Options) { o.DownloadLimit = 1 << 20 })
		s.HandleFunc("GET /content/nodes/x/content", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(4<<20))
			_, _ = w.Write(make([]byte, 4<<20))
		})
		start := time.Now()
		d, err := c.Download(bg, "x", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, d)
		d.Close()
		if took := time.Since(start); err != nil || n != 4<<20 || took < 3*time.Second || took > 5*time.Second {
			t.Errorf("%d bytes in %v, %v", n, took, err)
		}
	})
}
