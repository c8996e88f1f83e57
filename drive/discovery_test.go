package drive

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestEndpointRule(t *testing.T) {
	for s, good := range map[string]bool{
		"https://drive.amazonaws.com/drive/v1/": true, "https://drive.amazonaws.com/drive/v1": true, "https://h": true,
		"http://127.0.0.1:8080/": true, "http://localhost/x/": true, "http://[::1]:1/": true, "http://127.8.8.8/": true,
		"http://drive.amazonaws.com/": false, "http://10.0.0.1/": false, "http://127.0.0.1.example.com/": false, "http://localhost.example.com/": false,
		"": false, "drive.amazonaws.com": false, "/x": false, "ftp://127.0.0.1/": false, "https://u:p@h/": false, "https://h/?q=1": false, "https://:443/": false, "%": false,
	} {
		_, err := New(Options{Endpoint: s})
		if (err == nil) != good {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestDiscoverAnswers(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
		want   error
	}{
		{"no account", 200, `{"customerExists":false}`, ErrNoAccount},
		{"HTML", 200, `<html>welcome</html>`, ErrProtocol},
		{"other JSON", 200, `{"hello":"world"}`, ErrProtocol},
		{"plain http", 200, `{"customerExists":true,"metadataUrl":"http://meta.example.com/","contentUrl":"https://c/"}`, ErrProtocol},
		{"no content", 200, `{"customerExists":true,"metadataUrl":"https://m/"}`, ErrProtocol},
		{"not found", 404, ``, ErrProtocol},
		{"bad request", 400, `nginx`, ErrProtocol},
		{"redirect", 302, ``, ErrProtocol},
		{"forbidden", 403, `{}`, ErrForbidden},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/base/account/endpoint" || r.Header.Get("Authorization") != "Bearer t" {
					t.Errorf("%s %v", r.URL, r.Header)
				}
				reply(w, tt.status, tt.body)
			})
			c, err := New(Options{Endpoint: "https://x.test/base", Transport: inProcess{h}, Tokens: StaticTokenSource("t")})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Discover(bg)
			wantIs(t, err, tt.want)
			_, err = c.Get(bg, "x")
			wantIs(t, err, tt.want)
		})
	}
}

func TestDiscoverOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := socketless(t, nil)
		s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, node("x", "n")) })
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := c.Get(bg, "x"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		const ask = "GET /drive/v1/account/endpoint"
		if n := s.count(ask); n != 1 {
			t.Errorf("asked %d times", n)
		}
		time.Sleep(71 * time.Hour)
		_, _ = c.Discover(bg)
		if n := s.count(ask); n != 1 {
			t.Errorf("asked %d times in three days", n)
		}
		time.Sleep(2 * time.Hour)
		_, _ = c.Discover(bg)
		if n := s.count(ask); n != 2 {
			t.Errorf("asked %d times after three days", n)
		}
	})
}

func TestOldHostsWhenDiscoveryFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := &memoryCache{e: Endpoints{Metadata: "https://drive.test/meta/", Content: "https://drive.test/content", Fetched: time.Now().Add(-100 * time.Hour)}}
		s, c := socketless(t, func(o *Options) { o.Endpoints = old; o.Endpoint = "https://drive.test/dead/" })
		s.HandleFunc("GET /dead/account/endpoint", func(w http.ResponseWriter, r *http.Request) { reply(w, 429, nil) })
		s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, node("x", "n")) })
		for range 5 {
			if _, err := c.Get(bg, "x"); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.count("GET /dead/account/endpoint"); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// deadHost cannot be connected to.
type deadHost struct {
	name  string
	next  http.RoundTripper
	tried int
}

func (d *deadHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == d.name {
		d.tried++
		return nil, errDial
	}
	return d.next.RoundTrip(r)
}

func TestMovedHost(t *testing.T) {
	for _, method := range []string{"get", "upload", "create"} {
		t.Run(method, func(t *testing.T) {
			cache := &memoryCache{e: Endpoints{Metadata: "https://gone.drive.test/meta/", Content: "https://gone.drive.test/content/", Fetched: time.Now().Add(-time.Hour)}}
			dead := &deadHost{name: "gone.drive.test"}
			s, c := socketless(t, func(o *Options) { o.Endpoints = cache; dead.next = o.Transport; o.Transport = dead })
			s.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "content") {
					if got, err := readMultipart(r); err != nil || got.contents[1] != "hello" {
						t.Errorf("%+v, %v", got, err)
					}
				}
				reply(w, 200, node("x", "n"))
			})
			var err error
			switch method {
			case "get":
				_, err = c.Get(bg, "x")
			case "create":
				_, err = c.CreateFolder(bg, NewNode{Name: "n"})
			case "upload":
				_, err = c.Upload(bg, NewNode{Name: "n"}, Body{Reader: strings.NewReader("hello"), Size: 5})
			}
			if err != nil {
				t.Fatal(err)
			}
			if dead.tried != 1 || cache.dropped != 1 || cache.stored != 1 || cache.e.Metadata != "https://drive.test/meta/" {
				t.Errorf("tried %d, %+v", dead.tried, cache)
			}
		})
	}
}

func TestHostDownButNotMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &deadHost{name: "m.test"}
		asked := 0
		dead.next = inProcess{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			reply(w, 200, `{"customerExists":true,"metadataUrl":"https://m.test/","contentUrl":"https://c.test/"}`)
		})}
		c, err := New(Options{TrustEndpoints: true, Endpoint: "https://d.test/", Transport: dead})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Discover(bg); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		_, err = c.Get(bg, "x")
		wantIs(t, err, ErrUnavailable)
		if asked < 2 || asked > 4 || dead.tried != 6 || c.State().Kind != Offline {
			t.Errorf("asked %d, tried %d, %v", asked, dead.tried, c.State())
		}
		asked = 0
		for end := time.Now().Add(time.Hour); time.Now().Before(end); {
			_, err := c.Get(bg, "x")
			wantIs(t, err, ErrUnavailable)
		}
		if asked > 65 {
			t.Errorf("asked %d times in an hour", asked)
		}
	})
}

// A host that goes right after discovery has named it is doubted at once.
func TestMovedRightAfterDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &deadHost{name: "m1.test"}
		host := "m1.test"
		dead.next = inProcess{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Host == "d.test" {
				reply(w, 200, `{"customerExists":true,"metadataUrl":"https://`+host+`/","contentUrl":"https://c.test/"}`)
				return
			}
			reply(w, 200, node("x", "n"))
		})}
		c, err := New(Options{TrustEndpoints: true, Endpoint: "https://d.test/", Transport: dead})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Discover(bg); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for _, host = range []string{"m2.test", "m3.test", "m4.test"} {
			if _, err := c.Get(bg, "x"); err != nil {
				t.Fatal(err)
			}
			dead.name = host
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("it took %v", d)
		}
	})
}

func TestOfflineFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Options{TrustEndpoints: true, Endpoint: "https://d.test/", Transport: roundTripperFunc(func(r *http.Request) (*http.Response, error) { return nil, errDial })})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(bg, 5*time.Second)
		defer cancel()
		start := time.Now()
		_, err = c.Get(ctx, "x")
		wantIs(t, err, ErrUnavailable)
		if time.Since(start) > 5*time.Second || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if st := c.State(); st.Kind != Offline || st.Err == nil {
			t.Errorf("%+v", st)
		}
	})
}

func TestFileEndpointCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "endpoints.json")
	f := FileEndpointCache(path, "https://d.test/drive")
	if _, ok := f.Load(); ok {
		t.Error("found without a file")
	}
	e := Endpoints{Metadata: "https://m/", Content: "https://c/", Fetched: time.Now().UTC().Truncate(time.Second)}
	f.Store(e)
	if got, ok := f.Load(); !ok || got != e {
		t.Errorf("%+v %v", got, ok)
	}
	if got, ok := FileEndpointCache(path, "https://d.test/drive/").Load(); !ok || got != e {
		t.Error("the slash makes no difference")
	}
	if _, ok := FileEndpointCache(path, "https://other.test/").Load(); ok {
		t.Error("found for another discovery address")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	for _, bad := range []string{"", "{", `{"endpoint":"https://d.test/drive/"}` + strings.Repeat(" ", maxSmallFile)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := f.Load(); ok {
			t.Errorf("%.20q was taken", bad)
		}
	}
	f.Drop()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error(err)
	}
	// What is in the file is held against the rule as well.
	FileEndpointCache(path, "https://drive.test/drive/v1/").Store(Endpoints{Metadata: "http://evil.example.com/", Content: "https://c/", Fetched: time.Now()})
	_, c := socketless(t, func(o *Options) { o.Endpoints = FileEndpointCache(path, o.Endpoint) })
	if got, err := c.Discover(bg); err != nil || got.Metadata != "https://drive.test/meta/" {
		t.Errorf("%+v %v", got, err)
	}
}
