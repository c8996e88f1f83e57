package drive

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a handler for the three hosts: discovery below /drive/v1/,
// metadata below /meta/, content below /content/. It counts the requests by method and path.
type service struct {
	*http.ServeMux
	base string
	mu   sync.Mutex
	seen map[string]int
	all  []*http.Request
}

func newService(base string) *service {
	s := &service{ServeMux: http.NewServeMux(), base: base, seen: map[string]int{}}
	s.HandleFunc("GET /drive/v1/account/endpoint", func(w http.ResponseWriter, r *http.Request) {
		reply(w, 200, map[string]any{"customerExists": true, "metadataUrl": s.base + "/meta/", "contentUrl": s.base + "/content/"})
	})
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen[r.Method+" "+r.URL.Path]++
	s.all = append(s.all, r)
	s.mu.Unlock()
	s.ServeMux.ServeHTTP(w, r)
}

func (s *service) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[what]
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("x-amzn-RequestId", "request-1")
	w.WriteHeader(status)
	switch v := v.(type) {
	case nil:
	case string:
		_, _ = io.WriteString(w, v)
	default:
		_ = json.NewEncoder(w).Encode(v)
	}
}

func node(id, name string, parents ...string) map[string]any {
	return map[string]any{"id": id, "name": name, "kind": "FILE", "status": "AVAILABLE", "parents": parents, "createdBy": "me"}
}

// inProcess answers requests by a handler without any socket, so that tests
// can run in a synctest bubble.
type inProcess struct{ h http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	t.h.ServeHTTP(rec, in)
	if r.Body != nil {
		r.Body.Close()
	}
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

// socketless makes a client of a service without sockets.
func socketless(t *testing.T, mod func(*Options)) (*service, *Client) {
	t.Helper()
	s := newService("https://drive.test")
	o := Options{Endpoint: "https://drive.test/drive/v1/", Tokens: StaticTokenSource("tok"), Transport: inProcess{s}}
	if mod != nil {
		mod(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// overTCP makes a client of a service on a real socket.
func overTCP(t *testing.T, mod func(*Options)) (*service, *Client) {
	t.Helper()
	s := newService("")
	srv := httptest.NewServer(s)
	s.base = srv.URL
	o := Options{Endpoint: srv.URL + "/drive/v1/", Tokens: StaticTokenSource("tok")}
	if mod != nil {
		mod(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		srv.CloseClientConnections()
		srv.Close()
	})
	return s, c
}

func wantIs(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error %v, want %v", err, target)
	}
}

func ids(seq func(func(Node, error) bool)) (got []string, err error) {
	for n, e := range seq {
		if e != nil {
			return got, e
		}
		got = append(got, n.ID)
	}
	return got, nil
}

var bg = context.Background()
