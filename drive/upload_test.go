package drive

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// plain hides everything but Read.
type plain struct{ io.Reader }

// endless counts what was read of it and never ends.
type endless struct{ n int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.n += int64(len(p))
	return len(p), nil
}

type received struct {
	length   int64
	chunked  bool
	names    []string
	files    []string
	types    []string
	contents []string
	query    string
	ifMatch  string
}

func readMultipart(r *http.Request) (got received, err error) {
	got.length, got.query, got.ifMatch = r.ContentLength, r.URL.RawQuery, r.Header.Get("If-Match")
	got.chunked = len(r.TransferEncoding) > 0
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return got, err
	}
	mr := multipart.NewReader(r.Body, params["boundary"])
	for {
		p, err := mr.NextPart()
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		b, err := io.ReadAll(p)
		if err != nil {
			return got, err
		}
		got.names, got.files = append(got.names, p.FormName()), append(got.files, p.FileName())
		got.types, got.contents = append(got.types, p.Header.Get("Content-Type")), append(got.contents, string(b))
	}
}

func TestUploadForms(t *testing.T) {
	big := strings.Repeat("0123456789", 100_000)
	tests := []struct {
		name    string
		body    Body
		content string
		chunked bool
		ctype   string
	}{
		{"known size", Body{Reader: strings.NewReader("hello"), Size: 5, ContentType: "text/plain"}, "hello", false, "text/plain"},
		{"known size, no seeker", Body{Reader: plain{strings.NewReader(big)}, Size: int64(len(big))}, big, false, "application/octet-stream"},
		{"reader longer than told", Body{Reader: strings.NewReader("hello world"), Size: 5}, "hello", false, "application/octet-stream"},
		{"empty", Body{Reader: strings.NewReader(""), Size: 0}, "", false, "application/octet-stream"},
		{"no reader", Body{}, "", false, "application/octet-stream"},
		{"unknown size", Body{Reader: plain{strings.NewReader(big)}, Size: -1}, big, true, "application/octet-stream"},
		{"unknown and empty", Body{Reader: plain{strings.NewReader("")}, Size: -1}, "", false, "application/octet-stream"},
		{"bad content type", Body{Reader: strings.NewReader("x"), Size: 1, ContentType: "a\r\nb: c"}, "x", false, "application/octet-stream"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, c := overTCP(t, func(o *Options) { o.Owner = "me" })
			var got received
			s.HandleFunc("POST /content/nodes", func(w http.ResponseWriter, r *http.Request) {
				var err error
				if got, err = readMultipart(r); err != nil {
					t.Error(err)
				}
				reply(w, 201, node("new", "n", "p"))
			})
			n, err := c.Upload(bg, NewNode{Name: "n.txt", ParentID: "p", LocalID: "l/1", Properties: map[string]string{"k": "v"}}, tt.body)
			if err != nil || n.ID != "new" {
				t.Fatalf("%+v, %v", n, err)
			}
			if fmt.Sprint(got.names) != "[metadata content]" || fmt.Sprint(got.files) != "[ content]" || got.query != "localId=l%2F1&suppress=deduplication" {
				t.Errorf("parts %v, files %v, query %s", got.names, got.files, got.query)
			}
			if got.contents[0] != `{"name":"n.txt","kind":"FILE","parents":["p"],"properties":{"me":{"k":"v"}}}` {
				t.Errorf("metadata %s", got.contents[0])
			}
			if got.contents[1] != tt.content || got.types[1] != tt.ctype {
				t.Errorf("%d bytes of %s, want %d", len(got.contents[1]), got.types[1], len(tt.content))
			}
			if got.chunked != tt.chunked || (got.length < 0) != tt.chunked {
				t.Errorf("chunked %v, length %d", got.chunked, got.length)
			}
			if up, _ := c.Bytes(); up != int64(len(tt.content)) {
				t.Errorf("%d bytes counted", up)
			}
		})
	}
}

func TestOverwrite(t *testing.T) {
	s, c := overTCP(t, nil)
	var got received
	status := 200
	s.HandleFunc("PUT /content/nodes/x/content", func(w http.ResponseWriter, r *http.Request) {
		got, _ = readMultipart(r)
		reply(w, status, node("x", "n", "p"))
	})
	if _, err := c.Overwrite(bg, "x", `"e1"`, Body{}); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got.names) != "[content]" || got.ifMatch != `"e1"` || got.contents[0] != "" || got.length <= 0 {
		t.Errorf("%+v", got)
	}
	status = 412
	_, err := c.Overwrite(bg, "x", `"e1"`, Body{})
	wantIs(t, err, ErrPrecondition)
}

// An answer in the middle of the body is the answer, not a broken pipe,
// whatever the service does with the connection.
func TestUploadRefusedEarly(t *testing.T) {
	conflict := `{"code":"NAME_ALREADY_EXISTS","message":"Node with the name n already exists","info":{"nodeId":"other"}}`
	for name, size := range map[string]int64{"known size": 1 << 30, "chunked": -1} {
		t.Run(name+", handler returns", func(t *testing.T) {
			s, c := overTCP(t, nil)
			s.HandleFunc("POST /content/nodes", func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, 100_000)
				reply(w, 409, conflict)
			})
			body := &endless{}
			_, err := c.Upload(bg, NewNode{Name: "n"}, Body{Reader: body, Size: size})
			wantIs(t, err, ErrNameExists)
			var e *Error
			if errors.As(err, &e); e.NodeID != "other" {
				t.Errorf("%+v", e)
			}
		})
		t.Run(name+", connection reset", func(t *testing.T) {
			for range 20 {
				refuseAndReset(t, size, conflict)
			}
		})
	}
}

// refuseAndReset answers after some bytes and closes with bytes unread, so
// that the client's writes meet a reset.
func refuseAndReset(t *testing.T, size int64, body string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, r.Body, 50_000)
		fmt.Fprintf(conn, "HTTP/1.1 409 Conflict\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}()
	base := "http://" + l.Addr().String()
	c, err := New(Options{Endpoint: base + "/", Endpoints: &memoryCache{e: Endpoints{Metadata: base + "/", Content: base + "/", Fetched: time.Now()}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Upload(bg, NewNode{Name: "n"}, Body{Reader: &endless{}, Size: size})
	c.Close()
	l.Close()
	<-done
	wantIs(t, err, ErrNameExists)
}

type memoryCache struct {
	e       Endpoints
	stored  int
	dropped int
}

func (m *memoryCache) Load() (Endpoints, bool) { return m.e, m.e.Metadata != "" }
func (m *memoryCache) Store(e Endpoints)       { m.e = e; m.stored++ }
func (m *memoryCache) Drop()                   { m.e = Endpoints{}; m.dropped++ }

func TestUploadOutcomes(t *testing.T) {
	tests := []struct {
		name   string
		whole  bool // the service reads the whole body
		status int
		body   string
		want   error
	}{
		{"504 at the end", true, 504, "", ErrAmbiguous},
		{"500 at the end", true, 500, "{}", ErrAmbiguous},
		{"408 at the end", true, 408, "REQUEST_TIMEOUT", ErrAmbiguous},
		{"cannot complete", true, 400, `{"message":"Cannot complete upload"}`, ErrAmbiguous},
		{"no answer", true, 0, "", ErrAmbiguous},
		{"created, answer broken", true, 201, `{"id":"x`, ErrAmbiguous},
		{"throttled", true, 429, "{}", ErrThrottled},
		{"quota", true, 403, `{"code":"NO_ACTIVE_SUBSCRIPTION_FOUND"}`, ErrQuota},
		{"taken", true, 409, `{"code":"NAME_ALREADY_EXISTS"}`, ErrNameExists},
		{"parent", true, 404, ``, ErrBadParent},
		{"parent in the trash", true, 400, `{"message":"A node cannot be added to trashed parent"}`, ErrBadParent},
		{"token, body gone", true, 401, ``, ErrUnavailable},
		{"503 early", false, 503, "", ErrUnavailable},
		{"408 early", false, 408, "", ErrUnavailable},
		{"cannot read, early", false, 400, `{"message":"Cannot read from request."}`, ErrUnavailable},
		{"reset early", false, 0, "", ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, c := overTCP(t, nil)
			s.HandleFunc("POST /content/nodes", func(w http.ResponseWriter, r *http.Request) {
				if tt.whole {
					_, _ = io.Copy(io.Discard, r.Body)
				} else {
					_, _ = io.CopyN(io.Discard, r.Body, 10)
				}
				if tt.status == 0 {
					panic(http.ErrAbortHandler)
				}
				reply(w, tt.status, tt.body)
			})
			size := int64(100_000)
			if !tt.whole {
				size = 1 << 30
			}
			_, err := c.Upload(bg, NewNode{Name: "n", LocalID: "l"}, Body{Reader: plain{&endless{}}, Size: size})
			wantIs(t, err, tt.want)
			for _, other := range []error{ErrAmbiguous, ErrUnavailable} {
				if other != tt.want && errors.Is(err, other) {
					t.Errorf("%v is %v too", err, other)
				}
			}
			if n := s.count("POST /content/nodes"); n != 1 {
				t.Errorf("sent %d times", n)
			}
		})
	}
}

func TestUploadSentAgainAfterRefusedToken(t *testing.T) {
	for name, read := range map[string]bool{"at the end": true, "early": false} {
		t.Run(name, func(t *testing.T) {
			src := &renewing{tokens: []string{"old", "new"}}
			s, c := overTCP(t, func(o *Options) { o.Tokens = src })
			var got received
			s.HandleFunc("POST /content/nodes", func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "Bearer old" {
					if read {
						_, _ = io.Copy(io.Discard, r.Body)
					}
					reply(w, 400, wrapped401)
					return
				}
				got, _ = readMultipart(r)
				reply(w, 201, node("new", "n"))
			})
			r := bytes.NewReader([]byte("..." + strings.Repeat("x", 1<<20)))
			_, _ = r.Seek(3, io.SeekStart)
			if _, err := c.Upload(bg, NewNode{Name: "n"}, Body{Reader: r, Size: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			if got.contents[1] != strings.Repeat("x", 1<<20) {
				t.Errorf("%d bytes arrived", len(got.contents[1]))
			}
		})
	}
	t.Run("unknown size", func(t *testing.T) {
		src := &renewing{tokens: []string{"old", "new"}}
		s, c := overTCP(t, func(o *Options) { o.Tokens = src })
		var got received
		s.HandleFunc("POST /content/nodes", func(w http.ResponseWriter, r *http.Request) {
			got, _ = readMultipart(r)
			if r.Header.Get("Authorization") == "Bearer old" {
				reply(w, 401, nil)
				return
			}
			reply(w, 201, node("new", "n"))
		})
		if _, err := c.Upload(bg, NewNode{Name: "n"}, Body{Reader: strings.NewReader("hello"), Size: -1}); err != nil || got.contents[1] != "hello" {
			t.Errorf("%v, %+v", err, got)
		}
	})
}

func TestUploadWithoutConnectionIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		var s *service
		s, c := socketless(t, func(o *Options) {
			o.Transport = roundTripperFunc(func(r *http.Request) (*http.Response, error) {
				if r.Method == "POST" {
					if tries++; tries < 3 {
						return nil, errDial
					}
				}
				return inProcess{s}.RoundTrip(r)
			})
		})
		s.HandleFunc("POST /content/nodes", func(w http.ResponseWriter, r *http.Request) {
			got, err := readMultipart(r)
			if err != nil || got.contents[1] != "hello" {
				t.Errorf("%+v, %v", got, err)
			}
			reply(w, 201, node("new", "n"))
		})
		if _, err := c.Upload(bg, NewNode{Name: "n"}, Body{Reader: plain{strings.NewReader("hello")}, Size: 5}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestUploadSourceFails(t *testing.T) {
	broken := errors.New("disk on fire")
	for name, tt := range map[string]struct {
		r    io.Reader
		want error
	}{
		"error": {io.MultiReader(strings.NewReader("abc"), errReader{broken}), broken},
		"short": {strings.NewReader("abc"), io.ErrUnexpectedEOF},
		"stuck": {io.MultiReader(strings.NewReader("abc"), errReader{nil}), io.ErrNoProgress},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := overTCP(t, nil)
			s.HandleFunc("POST /content/nodes", func(w http.ResponseWriter, r *http.Request) {
				if _, err := readMultipart(r); err == nil {
					t.Error("a whole body arrived")
				}
				reply(w, 400, nil)
			})
			_, err := c.Upload(bg, NewNode{Name: "n"}, Body{Reader: tt.r, Size: 100_000})
			wantIs(t, err, tt.want)
			if errors.Is(err, ErrAmbiguous) || errors.Is(err, ErrUnavailable) || c.State().Kind != Online {
				t.Errorf("%v, %v", err, c.State())
			}
		})
	}
	_, c := overTCP(t, nil)
	_, err := c.Upload(bg, NewNode{Name: "n"}, Body{Reader: errReader{broken}, Size: -1})
	wantIs(t, err, broken)
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// The wire may be silent for IdleTimeout, the source for as long as it likes.
func TestUploadStall(t *testing.T) {
	t.Run("wire", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			rt := stallTransport{roundTripperFunc(func(r *http.Request) (*http.Response, error) {
				_, _ = r.Body.Read(make([]byte, 10))
				<-r.Context().Done()
				return nil, r.Context().Err()
			}), time.Minute}
			start := time.Now()
			_, err := rt.RoundTrip(uploadRequest(t, Body{Reader: strings.NewReader("x"), Size: 1}))
			if !errors.Is(err, errSilent) || time.Since(start) != time.Minute {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})
	t.Run("source and answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			rt := stallTransport{roundTripperFunc(func(r *http.Request) (*http.Response, error) {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return nil, err
				}
				time.Sleep(18 * time.Minute) // API §13.2
				return answer(201, nil), r.Context().Err()
			}), time.Minute}
			slow := readerFunc(func(p []byte) (int, error) {
				time.Sleep(time.Hour)
				return 1, nil
			})
			resp, err := rt.RoundTrip(uploadRequest(t, Body{Reader: slow, Size: 3}))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		})
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func uploadRequest(t *testing.T, b Body) *http.Request {
	t.Helper()
	_, c := socketless(t, nil)
	src, err := newUploadSource(bg, c, nil, b)
	if err != nil {
		t.Fatal(err)
	}
	cl := &call{shape: shapeUpload, upload: src}
	req, _ := http.NewRequestWithContext(withCall(bg, cl), "POST", "https://x.test/", nil)
	req.Body, _ = src.next(false)
	return req
}

func TestUploadCancelled(t *testing.T) {
	s, c := overTCP(t, nil)
	arrived := make(chan struct{})
	s.HandleFunc("POST /content/nodes", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		close(arrived)
		_, _ = io.Copy(io.Discard, r.Body)
	})
	ctx, cancel := context.WithCancel(bg)
	go func() {
		<-arrived
		cancel()
	}()
	_, err := c.Upload(ctx, NewNode{Name: "n"}, Body{Reader: &endless{}, Size: 1 << 40})
	wantIs(t, err, context.Canceled)
	if errors.Is(err, ErrAmbiguous) {
		t.Error("half a body is not ambiguous")
	}
}
