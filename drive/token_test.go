package drive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// endpoint is a token endpoint that counts and can be told what to answer.
type endpoint struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string      // the refresh tokens
	hold  chan struct{} // not nil: answers wait until it is closed
	busy  chan struct{} // gets one value a request
	next  func(w http.ResponseWriter, n int)
}

func newEndpoint(t *testing.T) *endpoint {
	e := &endpoint{busy: make(chan struct{}, 100)}
	e.next = func(w http.ResponseWriter, n int) {
		reply(w, 200, fmt.Sprintf(`{"access_token":"new%d","token_type":"bearer","expires_in":3600}`, n))
	}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		e.mu.Lock()
		if r.Form.Get("grant_type") != "refresh_token" || r.Form.Get("client_id") != "id" || r.Form.Get("client_secret") != "secret" || r.Header.Get("Authorization") != "" {
			t.Errorf("form %v, header %v", r.Form, r.Header)
		}
		e.asked = append(e.asked, r.Form.Get("refresh_token"))
		n, next, hold := len(e.asked), e.next, e.hold
		e.mu.Unlock()
		e.busy <- struct{}{}
		if hold != nil {
			<-hold
		}
		w.Header().Set("Content-Type", "application/json")
		next(w, n)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.asked)
}

func (e *endpoint) set(next func(w http.ResponseWriter, n int)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next = next
}

func (e *endpoint) conf() *oauth2.Config {
	return &oauth2.Config{ClientID: "id", ClientSecret: "secret", Endpoint: oauth2.Endpoint{TokenURL: e.URL + "/auth/o2/token"}}
}

func writeToken(t *testing.T, path string, tok oauth2.Token) {
	t.Helper()
	b, err := json.Marshal(&tok)
	if err == nil {
		err = os.WriteFile(path+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func openToken(t *testing.T, tok oauth2.Token, conf *oauth2.Config) (*TokenFile, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token.json")
	writeToken(t, path, tok)
	f, err := OpenTokenFile(path, conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, path
}

func wantToken(t *testing.T, f *TokenFile, want string) {
	t.Helper()
	tok, err := f.Token()
	if err != nil || tok.AccessToken != want {
		t.Helper()
		t.Fatalf("token %+v, %v; want %s", tok, err, want)
	}
}

func in(d time.Duration) time.Time { return time.Now().Add(d) }

func TestTokenFileForms(t *testing.T) {
	tests := []struct {
		name, file string
		want       error
		access     string
		expiry     string
	}{
		{"x/oauth2", `{"access_token":"Atza|a","token_type":"bearer","refresh_token":"Atzr|r","expiry":"2030-01-02T03:04:05.123456789+02:00"}`, nil, "Atza|a", "2030-01-02T01:04:05Z"},
		{"rclone", `{"access_token":"a","token_type":"Bearer","refresh_token":"r","expiry":"2030-01-02T03:04:05Z","expires_in":5}`, nil, "a", "2030-01-02T03:04:05Z"},
		{"no expiry", `{"access_token":"a"}`, nil, "a", ""},
		{"zero expiry", `{"access_token":"a","expiry":"0001-01-01T00:00:00Z"}`, nil, "a", ""},
		{"more fields", "\n{\"access_token\":\"a\",\"scope\":[1]}\n", nil, "a", ""},
		{"not JSON", `Atza|secret`, ErrTokenFile, "", ""},
		{"empty", ``, ErrTokenFile, "", ""},
		{"cut", `{"access_token":"secret`, ErrTokenFile, "", ""},
		{"array", `["secret"]`, ErrTokenFile, "", ""},
		{"types", `{"access_token":7}`, ErrTokenFile, "", ""},
		{"expiry", `{"access_token":"a","expiry":"tomorrow secret"}`, ErrTokenFile, "", ""},
		{"two", `{"access_token":"a"}{"access_token":"b"}`, ErrTokenFile, "", ""},
		{"newline in the token", `{"access_token":"a\nsecret"}`, ErrTokenFile, "", ""},
		{"long", `{"access_token":"a"}` + strings.Repeat(" ", maxSmallFile), ErrTokenFile, "", ""},
		{"no token", `{}`, ErrAuth, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token.json")
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := OpenTokenFile(path, nil)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err != nil {
				if strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), path) || errors.Is(err, ErrAuth) == errors.Is(err, ErrTokenFile) {
					t.Errorf("error %v", err)
				}
				return
			}
			defer f.Close()
			expiry := ""
			if !f.tok.Expiry.IsZero() {
				expiry = f.tok.Expiry.UTC().Truncate(time.Second).Format(time.RFC3339)
			}
			if f.tok.AccessToken != tt.access || expiry != tt.expiry {
				t.Errorf("%+v", f.tok)
			}
		})
	}
	_, err := OpenTokenFile(filepath.Join(t.TempDir(), "none"), nil)
	wantIs(t, err, ErrAuth)
	wantIs(t, err, os.ErrNotExist)
	_, err = OpenTokenFile("x", &oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: "http://api.example.com/token"}})
	if err == nil {
		t.Error("a token would go over plain http")
	}
}

func TestTokenRenewedOnceForAll(t *testing.T) {
	e := newEndpoint(t)
	e.hold = make(chan struct{})
	f, path := openToken(t, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(-time.Minute)}, e.conf())
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			tok, err := f.Token()
			if err != nil || tok.AccessToken != "new1" {
				t.Errorf("%+v, %v", tok, err)
			}
		})
	}
	// Who cannot wait does not, and the renewal goes on.
	ctx, cancel := context.WithTimeout(bg, 10*time.Millisecond)
	defer cancel()
	if _, err := f.TokenContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	close(e.hold)
	wg.Wait()
	if e.count() != 1 {
		t.Errorf("asked %d times", e.count())
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	var saved oauth2.Token
	b, _ := os.ReadFile(path)
	if err := json.Unmarshal(b, &saved); err != nil || saved.AccessToken != "new1" || saved.RefreshToken != "r" || time.Until(saved.Expiry) < 50*time.Minute {
		t.Errorf("%s, %v", b, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTokenRenewedEarly(t *testing.T) {
	e := newEndpoint(t)
	e.set(func(w http.ResponseWriter, n int) {
		reply(w, 200, `{"access_token":"new","refresh_token":"r2","token_type":"bearer","expires_in":3600}`)
	})
	f, path := openToken(t, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(time.Minute)}, e.conf())
	wantToken(t, f, "old") // nobody waits
	f.wg.Wait()
	wantToken(t, f, "new")
	if b, _ := os.ReadFile(path); !strings.Contains(string(b), `"r2"`) {
		t.Errorf("the new refresh token is not kept: %s", b)
	}
	if e.count() != 1 {
		t.Errorf("asked %d times", e.count())
	}
}

func TestShortLivedTokenIsNotRenewedWithoutEnd(t *testing.T) {
	e := newEndpoint(t)
	e.set(func(w http.ResponseWriter, n int) { reply(w, 200, `{"access_token":"new","expires_in":60}`) })
	f, _ := openToken(t, oauth2.Token{RefreshToken: "r"}, e.conf())
	for range 10 {
		wantToken(t, f, "new")
		f.wg.Wait()
		f.mu.Lock()
		f.tried = f.tried.Add(-time.Minute) // not for the pause between renewals
		f.mu.Unlock()
	}
	if e.count() != 1 {
		t.Errorf("asked %d times", e.count())
	}
}

func TestTokenInvalidated(t *testing.T) {
	e := newEndpoint(t)
	f, _ := openToken(t, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(time.Hour)}, e.conf())
	wantToken(t, f, "old")
	f.Invalidate("another")
	wantToken(t, f, "old")
	for range 5 { // five calls with the same refusal
		f.Invalidate("old")
	}
	wantToken(t, f, "new1")
	f.Invalidate("old")
	wantToken(t, f, "new1")
	// Refused a moment after it was renewed: sporadic, no storm.
	f.Invalidate("new1")
	wantToken(t, f, "new1")
	if e.count() != 1 || !f.renewable() {
		t.Errorf("asked %d times", e.count())
	}
}

func TestTokenThatCannotBeRenewed(t *testing.T) {
	f, path := openToken(t, oauth2.Token{AccessToken: "only", Expiry: in(time.Hour)}, nil)
	f.Invalidate("only")
	wantToken(t, f, "only")
	if f.renewable() {
		t.Error("renewable")
	}
	writeToken(t, path, oauth2.Token{AccessToken: "only", Expiry: in(-time.Hour)})
	f.Reload()
	_, err := f.Token()
	wantIs(t, err, ErrAuth)
}

func TestRefusedUntilTheFileChanges(t *testing.T) {
	e := newEndpoint(t)
	e.set(func(w http.ResponseWriter, n int) {
		reply(w, 400, `{"error_description":"The request has an invalid grant parameter : refresh_token","error":"invalid_grant"}`)
	})
	f, path := openToken(t, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(-time.Minute)}, e.conf())
	for range 5 {
		_, err := f.Token()
		wantIs(t, err, ErrAuth)
		f.Reload() // the file is the same
		f.mu.Lock()
		f.tried = f.tried.Add(-time.Minute) // not for the pause between renewals
		f.mu.Unlock()
	}
	if e.count() != 1 {
		t.Errorf("asked %d times", e.count())
	}
	writeToken(t, path, oauth2.Token{AccessToken: "login", RefreshToken: "r2", Expiry: in(time.Hour)})
	f.Reload()
	wantToken(t, f, "login")
}

func TestFileIsLookedAtAfterTenSeconds(t *testing.T) {
	f, path := openToken(t, oauth2.Token{AccessToken: "a"}, nil)
	writeToken(t, path, oauth2.Token{AccessToken: "b"})
	wantToken(t, f, "a")
	f.mu.Lock()
	f.checked = f.checked.Add(-fileCheckEvery)
	f.mu.Unlock()
	wantToken(t, f, "b")
	// A broken or vanished file takes nothing away.
	for _, wreck := range []func() error{
		func() error { return os.WriteFile(path, []byte("{"), 0o600) },
		func() error { return os.Remove(path) },
	} {
		if err := wreck(); err != nil {
			t.Fatal(err)
		}
		f.Reload()
		wantToken(t, f, "b")
	}
	writeToken(t, path, oauth2.Token{AccessToken: "c"})
	f.Reload()
	wantToken(t, f, "c")
}

func TestRenewalThatFailsForNow(t *testing.T) {
	for name, tt := range map[string]struct {
		next func(http.ResponseWriter, int)
		want error
	}{
		"500":      {func(w http.ResponseWriter, _ int) { reply(w, 500, `{"error":"server_error"}`) }, ErrUnavailable},
		"HTML":     {func(w http.ResponseWriter, _ int) { reply(w, 403, `<html>proxy says no</html>`) }, ErrUnavailable},
		"429":      {func(w http.ResponseWriter, _ int) { reply(w, 429, `{}`) }, ErrThrottled},
		"garbage":  {func(w http.ResponseWriter, _ int) { reply(w, 200, `hello`) }, ErrUnavailable},
		"no token": {func(w http.ResponseWriter, _ int) { reply(w, 200, `{}`) }, ErrUnavailable},
		"reset":    {func(w http.ResponseWriter, _ int) { panic(http.ErrAbortHandler) }, ErrUnavailable},
		"client":   {func(w http.ResponseWriter, _ int) { reply(w, 401, `{"error":"invalid_client"}`) }, ErrAuth},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			e.set(tt.next)
			f, path := openToken(t, oauth2.Token{AccessToken: "old", RefreshToken: "Atzr|secretvalue", Expiry: in(-time.Minute)}, e.conf())
			before, _ := os.ReadFile(path)
			for range 3 {
				_, err := f.Token()
				wantIs(t, err, tt.want)
				if strings.Contains(err.Error(), "secretvalue") {
					t.Errorf("%v", err)
				}
			}
			if e.count() != 1 {
				t.Errorf("asked %d times within a moment", e.count())
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Errorf("the file became %s", after)
			}
			if tt.want == ErrAuth {
				return
			}
			// Later it works.
			e.set(func(w http.ResponseWriter, n int) { reply(w, 200, `{"access_token":"late","expires_in":3600}`) })
			f.mu.Lock()
			f.tried = f.tried.Add(-refreshPause)
			f.mu.Unlock()
			wantToken(t, f, "late")
		})
	}
	t.Run("refused token, renewal fails", func(t *testing.T) {
		e := newEndpoint(t)
		e.set(func(w http.ResponseWriter, _ int) { reply(w, 503, nil) })
		f, _ := openToken(t, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(time.Hour)}, e.conf())
		f.Invalidate("old")
		for range 2 {
			_, err := f.Token()
			wantIs(t, err, ErrUnavailable)
		}
	})
	t.Run("early renewal fails", func(t *testing.T) {
		e := newEndpoint(t)
		e.set(func(w http.ResponseWriter, _ int) { reply(w, 400, `{"error":"invalid_grant"}`) })
		f, _ := openToken(t, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(time.Minute)}, e.conf())
		wantToken(t, f, "old")
		f.wg.Wait()
		wantToken(t, f, "old") // good while it lasts
	})
}

// A login during a renewal wins: neither memory nor file keep the older token.
func TestLoginDuringRenewal(t *testing.T) {
	e := newEndpoint(t)
	e.hold = make(chan struct{})
	f, path := openToken(t, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(-time.Minute)}, e.conf())
	got := make(chan string)
	go func() {
		tok, err := f.Token()
		if err != nil {
			got <- err.Error()
			return
		}
		got <- tok.AccessToken
	}()
	<-e.busy
	writeToken(t, path, oauth2.Token{AccessToken: "login", RefreshToken: "r2", Expiry: in(time.Hour)})
	close(e.hold)
	if tok := <-got; tok != "login" {
		t.Errorf("token %s", tok)
	}
	if b, _ := os.ReadFile(path); !strings.Contains(string(b), "login") {
		t.Errorf("file %s", b)
	}
}

func TestTokenFileThroughTheClient(t *testing.T) {
	e := newEndpoint(t)
	f, path := openToken(t, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(time.Hour)}, e.conf())
	s, c := socketless(t, func(o *Options) { o.Tokens = f })
	good := "Bearer new1"
	s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != good {
			reply(w, 401, nil)
			return
		}
		reply(w, 200, node("x", "n"))
	})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := c.Get(bg, "x"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if e.count() != 1 {
		t.Errorf("renewed %d times", e.count())
	}
	// Revoked: a login is needed, and heals.
	good = "Bearer login"
	e.set(func(w http.ResponseWriter, n int) { reply(w, 400, `{"error":"invalid_grant"}`) })
	f.mu.Lock()
	f.tried = time.Time{}
	f.mu.Unlock()
	_, err := c.Get(bg, "x")
	wantIs(t, err, ErrAuth)
	if c.State().Kind != AuthRequired {
		t.Errorf("%+v", c.State())
	}
	changed := c.StateChanged()
	writeToken(t, path, oauth2.Token{AccessToken: "login", RefreshToken: "r2", Expiry: in(time.Hour)})
	f.Reload()
	if _, err := c.Get(bg, "x"); err != nil {
		t.Fatal(err)
	}
	<-changed
	if c.State().Kind != Online {
		t.Errorf("%+v", c.State())
	}
}

// Where the renewed token cannot be kept, its owner is told; where the file is
// gone, a logout meant it.
func TestRenewedTokenThatIsNotKept(t *testing.T) {
	for _, tt := range []struct {
		name   string
		spoil  func(t *testing.T, path string)
		want   string
		exists bool
	}{
		{"kept", func(*testing.T, string) {}, "", true},
		{"logout", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, "is gone", false},
		{"directory read-only", func(t *testing.T, path string) {
			// For root too: the name of the temporary file would be too long.
			long := filepath.Join(filepath.Dir(path), strings.Repeat("n", 255))
			if err := errors.Join(os.Rename(path, long), os.Symlink(long, path)); err != nil {
				t.Fatal(err)
			}
		}, "could not be kept", true},
		{"readable by others", func(t *testing.T, path string) {
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
		}, "", true}, // the new file is not
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEndpoint(t)
			path := filepath.Join(t.TempDir(), "token.json")
			writeToken(t, path, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(-time.Minute)})
			if tt.want == "could not be kept" {
				tt.spoil(t, path)
			}
			f, err := OpenTokenFile(path, e.conf())
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if tt.want != "could not be kept" {
				tt.spoil(t, path)
			}
			wantToken(t, f, "new1")
			wantToken(t, f, "new1")
			err = f.Problem()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the problem is %v, want %q", err, tt.want)
			}
			if _, err := os.Stat(path); (err == nil) != tt.exists {
				t.Errorf("the file: %v", err)
			}
			if e.count() != 1 {
				t.Errorf("%d renewals", e.count())
			}
		})
	}
}

func TestTokenFileReadableByOthers(t *testing.T) {
	f, path := openToken(t, oauth2.Token{AccessToken: "a"}, nil)
	if err := f.Problem(); err != nil {
		t.Errorf("a file of mode 0600: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := OpenTokenFile(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Problem(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file of mode 0644: %v", err)
	}
}

// A link to the token stays a link: it leads to where its owner keeps secrets.
func TestTokenFileBehindALink(t *testing.T) {
	e := newEndpoint(t)
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real.json"), filepath.Join(dir, "link.json")
	writeToken(t, real, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(-time.Minute)})
	if err := os.Symlink("real.json", link); err != nil {
		t.Fatal(err)
	}
	f, err := OpenTokenFile(link, e.conf())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wantToken(t, f, "new1")
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", st.Mode(), err)
	}
	if b, err := os.ReadFile(real); err != nil || !strings.Contains(string(b), "new1") {
		t.Errorf("the file has %s, %v", b, err)
	}
}

// The client's secret and the refresh token go to the address that was
// configured, whatever that says.
func TestTokenCallsFollowNoRedirect(t *testing.T) {
	thief := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { thief++ }))
	defer other.Close()
	for _, status := range []int{301, 302, 307, 308} {
		e := newEndpoint(t)
		e.set(func(w http.ResponseWriter, _ int) {
			w.Header().Set("Location", other.URL)
			w.WriteHeader(status)
		})
		f, _ := openToken(t, oauth2.Token{AccessToken: "old", RefreshToken: "r", Expiry: in(-time.Minute)}, e.conf())
		if _, err := f.Token(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%d: %v", status, err)
		}
	}
	if thief > 0 {
		t.Errorf("%d calls were led elsewhere", thief)
	}
}
