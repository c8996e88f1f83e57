package drive

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errDial = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
var errReset = &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}

// script answers by a list: an int is a status, a string a status 200 with that body, an error an error.
type script struct {
	steps []any
	times []time.Time
	seen  []string // bodies
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.times = append(s.times, time.Now())
	body := ""
	if r.Body != nil {
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		body = string(b)
	}
	s.seen = append(s.seen, body)
	step := s.steps[min(len(s.times)-1, len(s.steps)-1)]
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}
	switch v := step.(type) {
	case int:
		resp.StatusCode = v
	case string:
		resp.Body = io.NopCloser(strings.NewReader(v))
	case *http.Response:
		v.Request = r
		return v, nil
	case error:
		return nil, v
	}
	return resp, nil
}

// retried sends a request of a call by rt.
func retried(rt retrier, cl *call, method, body string) (*http.Response, error) {
	return rt.send(cl, retryRequest(bg, method, body))
}

// sent is the sender of a script.
func (s *script) sent(_ *call, req *http.Request) (*http.Response, error) { return s.RoundTrip(req) }

func retryRequest(ctx context.Context, method, body string) *http.Request {
	req, err := http.NewRequestWithContext(ctx, method, "https://x.test/", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	return req
}

func TestRetryRules(t *testing.T) {
	tests := []struct {
		name       string
		idempotent bool
		steps      []any
		tries      int
		status     int // of the last answer, 0 = an error
		unclear    bool
	}{
		{"fine", false, []any{200}, 1, 200, false},
		{"404 stays", true, []any{404}, 1, 404, false},
		{"409 stays", true, []any{409}, 1, 409, false},
		{"500 of an idempotent call", true, []any{500, 503, 200}, 3, 200, true},
		{"500 of another call", false, []any{500, 200}, 1, 500, true},
		{"504 of another call", false, []any{504, 200}, 1, 504, true},
		{"429 of any call", false, []any{429, 429, 201}, 3, 201, false},
		{"401 of any call", false, []any{401, 200}, 2, 200, false},
		{"reset of an idempotent call", true, []any{errReset, 200}, 2, 200, true},
		{"reset of another call", false, []any{errReset, 200}, 1, 0, true},
		{"no connection, any call", false, []any{errDial, errDial, 200}, 3, 200, false},
		{"for ever", true, []any{503}, 6, 503, true},
		{"throttled for ever", false, []any{429}, 6, 429, false},
		{"refused renewal", true, []any{ErrAuth}, 1, 0, false},
		{"not this API", true, []any{&Error{Kind: ErrProtocol}}, 1, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: tt.steps}
				cl := &call{op: "x", idempotent: tt.idempotent}
				rt := retrier{s.sent, 6, newCounters(), newPauses()}
				resp, err := retried(rt, cl, "POST", "payload")
				status := 0
				if err == nil {
					status = resp.StatusCode
				}
				if len(s.times) != tt.tries || status != tt.status || cl.unclear != tt.unclear {
					t.Errorf("%d tries, status %d, unclear %v, %v; want %d, %d, %v", len(s.times), status, cl.unclear, err, tt.tries, tt.status, tt.unclear)
				}
				if cl.exhausted != (tt.tries == 6) {
					t.Errorf("exhausted %v", cl.exhausted)
				}
				for _, b := range s.seen {
					if b != "payload" {
						t.Errorf("a try was sent with body %q", b)
					}
				}
				if got := rt.counters.copy()["x"].Retries; got != int64(tt.tries-1) {
					t.Errorf("%d retries counted", got)
				}
			})
		})
	}
}

func TestRetryBodyKeptForTheLastAnswer(t *testing.T) {
	s := &script{steps: []any{&http.Response{StatusCode: 500, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"message":"m"}`))}}}
	resp, err := retried(retrier{s.sent, 6, newCounters(), newPauses()}, &call{}, "POST", "")
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(resp.Body); string(b) != `{"message":"m"}` {
		t.Errorf("body %q", b)
	}
}

func TestRetryBackoffBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []any{503}}
		_, _ = retried(retrier{s.sent, 14, newCounters(), newPauses()}, &call{idempotent: true}, "GET", "")
		for i := 1; i < len(s.times); i++ {
			most := min(time.Second<<(i-1), 256*time.Second)
			if d := s.times[i].Sub(s.times[i-1]); d > most {
				t.Errorf("wait %d was %v, more than %v", i, d, most)
			}
		}
		if total := s.times[13].Sub(s.times[0]); total < 10*time.Second {
			t.Errorf("13 waits took %v together", total)
		}
	})
}

func TestRetryHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []any{&http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"40"}}, Body: http.NoBody}, 200}}
		_, err := retried(retrier{s.sent, 6, newCounters(), newPauses()}, &call{idempotent: true}, "GET", "")
		if err != nil || s.times[1].Sub(s.times[0]) != 40*time.Second {
			t.Errorf("%v, %v", s.times, err)
		}
	})
}

// A wait beyond the deadline is not begun, and the answer is the service's.
func TestRetryStopsBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := socketless(t, nil)
		s.HandleFunc("GET /meta/nodes/{id}", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "30")
			reply(w, 503, `{"message":"later"}`)
		})
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		start := time.Now()
		_, err := c.Get(ctx, "x")
		wantIs(t, err, ErrUnavailable)
		if errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		var e *Error
		if !errors.As(err, &e) || e.Status != 503 || e.RetryAfter != 30*time.Second || e.RequestID != "request-1" || e.Op != "nodes.get" {
			t.Errorf("%+v", e)
		}
		if c.State().Kind != Offline {
			t.Errorf("state %v", c.State().Kind)
		}
	})
}

func TestRetryCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := socketless(t, nil)
		s.HandleFunc("GET /meta/nodes/{id}", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "100")
			reply(w, 500, nil)
		})
		ctx, cancel := context.WithCancel(bg)
		time.AfterFunc(5*time.Second, cancel)
		start := time.Now()
		_, err := c.Get(ctx, "x")
		wantIs(t, err, context.Canceled)
		if errors.Is(err, ErrUnavailable) || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// Which methods of the client may be repeated.
func TestIdempotency(t *testing.T) {
	many, once := 6, 1
	tests := []struct {
		name string
		path string
		do   func(*Client) error
		want int
	}{
		{"get", "GET /meta/nodes/x", func(c *Client) error { _, err := c.Get(bg, "x"); return err }, many},
		{"quota", "GET /meta/account/quota", func(c *Client) error { _, err := c.Quota(bg); return err }, many},
		{"trash", "PUT /meta/trash/x", func(c *Client) error { _, err := c.Trash(bg, "x"); return err }, many},
		{"restore", "POST /meta/trash/x/restore", func(c *Client) error { _, err := c.Restore(bg, "x"); return err }, many},
		{"rename", "PATCH /meta/nodes/x", func(c *Client) error { _, err := c.Rename(bg, "x", "n", ""); return err }, many},
		{"folder with localId", "POST /meta/nodes", func(c *Client) error { _, err := c.CreateFolder(bg, NewNode{Name: "n", LocalID: "l"}); return err }, many},
		{"folder without", "POST /meta/nodes", func(c *Client) error { _, err := c.CreateFolder(bg, NewNode{Name: "n"}); return err }, once},
		{"property", "PUT /meta/nodes/x/properties/me/k", func(c *Client) error { return c.SetProperty(bg, "x", "k", "v") }, many},
		{"delete property", "DELETE /meta/nodes/x/properties/me/k", func(c *Client) error { return c.DeleteProperty(bg, "x", "k") }, many},
		{"remove parent", "DELETE /meta/nodes/p/children/x", func(c *Client) error { return c.RemoveParent(bg, "x", "p") }, many},
		{"changes", "POST /meta/changes", func(c *Client) error {
			for _, err := range c.Changes(bg, ChangesRequest{}) {
				return err
			}
			return nil
		}, many},
		{"upload", "POST /content/nodes", func(c *Client) error {
			_, err := c.Upload(bg, NewNode{Name: "n", LocalID: "l"}, Body{Reader: strings.NewReader("x"), Size: 1})
			return err
		}, once},
		{"overwrite", "PUT /content/nodes/x/content", func(c *Client) error {
			_, err := c.Overwrite(bg, "x", "", Body{Reader: strings.NewReader("x"), Size: 1})
			return err
		}, once},
		{"download", "GET /content/nodes/x/content", func(c *Client) error { _, err := c.Download(bg, "x", 0, -1); return err }, many},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := socketless(t, func(o *Options) { o.Owner = "me" })
				s.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					reply(w, 500, nil)
				})
				err := tt.do(c)
				if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrAmbiguous) {
					t.Errorf("error %v", err)
				}
				if got := s.count(tt.path); got != tt.want {
					t.Errorf("sent %d times, want %d; seen %v", got, tt.want, s.seen)
				}
			})
		})
	}
}

// A repeat that is refused because the first try had worked is success.
func TestRepeatsThatFindTheWorkDone(t *testing.T) {
	folder := map[string]any{"id": "f", "name": "n", "kind": "FOLDER", "status": "AVAILABLE", "parents": []string{"p"}, "createdBy": "me"}
	tests := []struct {
		name   string
		path   string
		second int // status of the second try
		body   string
		node   map[string]any
		do     func(*Client) (Node, error)
		fails  error
	}{
		{"rename with a tag", "PATCH /meta/nodes/f", 412, ``, folder,
			func(c *Client) (Node, error) { return c.Rename(bg, "f", "n", "etag") }, nil},
		{"rename, changed by others", "PATCH /meta/nodes/f", 412, ``, folder,
			func(c *Client) (Node, error) { return c.Rename(bg, "f", "other", "etag") }, ErrPrecondition},
		{"move", "POST /meta/nodes/p/children", 400, `{}`, folder,
			func(c *Client) (Node, error) { return c.Move(bg, "f", "old", "p") }, nil},
		{"restore", "POST /meta/trash/f/restore", 400, `{}`, folder,
			func(c *Client) (Node, error) { return c.Restore(bg, "f") }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := socketless(t, func(o *Options) { o.Owner = "me" })
				n := 0
				s.HandleFunc(tt.path, func(w http.ResponseWriter, r *http.Request) {
					if n++; n == 1 {
						reply(w, 504, nil)
						return
					}
					reply(w, tt.second, tt.body)
				})
				if _, ok := tt.node["createdDate"]; !ok {
					tt.node = maps.Clone(tt.node)
					tt.node["createdDate"] = time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
				}
				s.HandleFunc("GET /meta/nodes/f", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, tt.node) })
				got, err := tt.do(c)
				if !errors.Is(err, tt.fails) || (err == nil && got.ID != "f") {
					t.Errorf("%+v, %v", got, err)
				}
			})
		})
	}
}

// A conflict says whether the folder in the way may be one that this call made.
func TestCreateFolderUnclear(t *testing.T) {
	const taken = `{"code":"NAME_ALREADY_EXISTS","info":{"nodeId":"f"}}`
	for _, tt := range []struct {
		name    string
		first   int // 0 = none
		status  int
		body    string
		kind    error
		unclear bool
	}{
		{"the first try", 0, 409, taken, ErrNameExists, false},
		{"after one that was throttled", 429, 409, taken, ErrNameExists, false},
		{"after one that was not answered", 504, 409, taken, ErrNameExists, true},
		{"made, and not to be read", 0, 201, "<html>", ErrProtocol, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := socketless(t, nil)
				first := tt.first
				s.HandleFunc("POST /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
					if first != 0 {
						reply(w, first, nil)
						first = 0
						return
					}
					reply(w, tt.status, tt.body)
				})
				_, err := c.CreateFolder(bg, NewNode{Name: "n", LocalID: "l"})
				wantIs(t, err, tt.kind)
				var e *Error
				if !errors.As(err, &e) || e.Unclear != tt.unclear || tt.status == 409 && e.NodeID != "f" {
					t.Errorf("%+v", e)
				}
			})
		})
	}
}

func TestParentsAndTrashSettle(t *testing.T) {
	s, c := socketless(t, nil)
	n := node("x", "n", "p")
	s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, n) })
	s.HandleFunc("/meta/nodes/p/children/x", func(w http.ResponseWriter, r *http.Request) { reply(w, 409, nil) })
	s.HandleFunc("/meta/nodes/q/children/x", func(w http.ResponseWriter, r *http.Request) { reply(w, 404, nil) })
	s.HandleFunc("/meta/trash/x", func(w http.ResponseWriter, r *http.Request) { reply(w, 409, nil) })
	if err := c.AddParent(bg, "x", "p"); err != nil {
		t.Errorf("added already: %v", err)
	}
	if err := c.RemoveParent(bg, "x", "q"); err != nil {
		t.Errorf("removed already: %v", err)
	}
	wantIs(t, c.AddParent(bg, "x", "q"), ErrNotFound)
	wantIs(t, c.RemoveParent(bg, "x", "p"), ErrConflict)
	_, err := c.Trash(bg, "x")
	wantIs(t, err, ErrConflict)
	n["status"] = "TRASH"
	if got, err := c.Trash(bg, "x"); err != nil || got.Status != Trashed {
		t.Errorf("in the trash already: %v, %v", got, err)
	}
}

func TestChangesAnsweredWithoutTheNode(t *testing.T) {
	s, c := socketless(t, nil)
	n := node("x", "new", "q")
	n["status"] = "AVAILABLE"
	s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, n) })
	for _, call := range []string{"PATCH /meta/nodes/x", "POST /meta/nodes/q/children", "PUT /meta/trash/x", "POST /meta/trash/x/restore"} {
		s.HandleFunc(call, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(202) })
	}
	if got, err := c.Rename(bg, "x", "new", ""); err != nil || got.Name != "new" {
		t.Errorf("rename: %v, %v", got, err)
	}
	if got, err := c.Move(bg, "x", "p", "q"); err != nil || !slices.Equal(got.Parents, []string{"q"}) {
		t.Errorf("move: %v, %v", got, err)
	}
	if got, err := c.Restore(bg, "x"); err != nil || got.Status != Available {
		t.Errorf("restore: %v, %v", got, err)
	}
	_, err := c.Rename(bg, "x", "newer", "")
	wantIs(t, err, ErrProtocol)
	_, err = c.Trash(bg, "x")
	wantIs(t, err, ErrProtocol)
	n["status"] = "TRASH"
	if got, err := c.Trash(bg, "x"); err != nil || got.Status != Trashed {
		t.Errorf("trash: %v, %v", got, err)
	}
}

func TestProperties(t *testing.T) {
	s, c := socketless(t, nil)
	var bodies []string
	s.HandleFunc("PUT /meta/nodes/x/properties/{owner}/k", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies = append(bodies, r.PathValue("owner")+string(b))
		reply(w, 201, `{"key":"k","value":"v"}`)
	})
	s.HandleFunc("DELETE /meta/nodes/x/properties/{owner}/{key}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("key") == "gone" {
			reply(w, 404, nil)
			return
		}
		w.WriteHeader(204)
	})
	wantIs(t, c.SetProperty(bg, "x", "k", "v"), ErrInvalid)
	s.HandleFunc("POST /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(b))
		n := node("f", "n", "p")
		n["createdBy"] = "my app/1"
		reply(w, 201, n)
	})
	props := map[string]string{"mtime": "1"}
	for range 2 {
		if _, err := c.CreateFolder(bg, NewNode{Name: "n", ParentID: "p", Properties: props}); err != nil {
			t.Fatal(err)
		}
	}
	if c.Owner() != "my app/1" {
		t.Errorf("owner %q", c.Owner())
	}
	if err := c.SetProperty(bg, "x", "k", "v"); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteProperty(bg, "x", "k"); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteProperty(bg, "x", "gone"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"name":"n","kind":"FOLDER","parents":["p"]}`,
		`{"name":"n","kind":"FOLDER","parents":["p"],"properties":{"my app/1":{"mtime":"1"}}}`,
		`my app/1{"value":"v"}`,
	}
	if !slices.Equal(bodies, want) {
		t.Errorf("bodies %q", bodies)
	}
	c.SetOwner("o")
	if c.Owner() != "o" {
		t.Error("SetOwner")
	}
}

// A Wake ends pauses, but not those the service asked for.
func TestWake(t *testing.T) {
	for _, test := range []struct {
		name  string
		step  any
		wakes bool
	}{
		{"unreachable", errDial, true},
		{"unavailable", 503, true},
		{"unavailable, with a time", &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"40"}}, Body: http.NoBody}, false},
		{"throttled", 429, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPauses()
				s := &script{steps: []any{test.step}}
				rt := retrier{s.sent, 6, newCounters(), p}
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = retried(rt, &call{idempotent: true}, "GET", "")
				}()
				for range 5 {
					synctest.Wait()
					p.end()
				}
				<-done
				if woken := s.times[5].Equal(s.times[0]); len(s.times) != 6 || woken != test.wakes {
					t.Errorf("tries at %v", s.times)
				}
			})
		})
	}
}

// After a Reconnect nobody waits for an answer on an old connection.
func TestReconnect(t *testing.T) {
	arrived, dead := make(chan struct{}, 1), make(chan struct{})
	s := newService("")
	var first sync.Once
	s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) {
		mine := false
		first.Do(func() { mine = true })
		if mine {
			arrived <- struct{}{}
			<-dead
		}
		reply(w, 200, node("x", "n"))
	})
	srv := httptest.NewServer(s)
	defer srv.Close()
	defer close(dead)
	s.base = srv.URL
	c, err := New(Options{Endpoint: srv.URL + "/drive/v1/"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make(chan error, 1)
	go func() {
		_, err := c.Get(bg, "x")
		got <- err
	}()
	<-arrived
	c.Reconnect()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if n := len(c.open.open); n > 2 { // of discovery and the call, which are kept
		t.Errorf("%d connections are open", n)
	}
	if err := c.Reachable(bg); err != nil {
		t.Error(err)
	}
	srv.CloseClientConnections()
	srv.Listener.Close()
	if err := c.Reachable(bg); err == nil {
		t.Error("nobody listens, but it can be reached")
	}
}
