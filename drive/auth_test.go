package drive

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/oauth2"
)

// renewing is a token source that gives another token once the last was refused.
type renewing struct {
	mu          sync.Mutex
	tokens      []string
	invalidated []string
	err         error // instead of a token after the last
}

func (r *renewing) Token() (*oauth2.Token, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.tokens) == 0 {
		return nil, r.err
	}
	return &oauth2.Token{AccessToken: r.tokens[0]}, nil
}

func (r *renewing) Invalidate(tok string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.tokens) > 0 && r.tokens[0] == tok {
		r.tokens = r.tokens[1:]
		r.invalidated = append(r.invalidated, tok)
	}
}

const wrapped401 = `{"message":"com.amazon.clouddrive.client.exceptions.UnauthourizedAccessException: HTTP status code=[401] RequestId=[1] Token has expired"}`

func TestRefusedTokenIsRenewedOnce(t *testing.T) {
	for name, refusal := range map[string]struct {
		status int
		body   string
	}{
		"401": {401, `{"message":"Token has expired"}`}, "empty 401": {401, ""}, "wrapped": {400, wrapped401},
	} {
		t.Run(name, func(t *testing.T) {
			src := &renewing{tokens: []string{"old", "new"}}
			s, c := socketless(t, func(o *Options) { o.Tokens = src })
			var seen []string
			s.HandleFunc("PATCH /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) {
				seen = append(seen, r.Header.Get("Authorization"))
				if r.Header.Get("Authorization") != "Bearer new" {
					reply(w, refusal.status, refusal.body)
					return
				}
				reply(w, 200, node("x", "n"))
			})
			if _, err := c.Rename(bg, "x", "n", ""); err != nil {
				t.Fatal(err)
			}
			if strings.Join(seen, ",") != "Bearer old,Bearer new" || len(src.invalidated) != 1 {
				t.Errorf("seen %v, invalidated %v", seen, src.invalidated)
			}
			if k := c.Counters()["nodes.rename"]; k.Retries != 0 || k.Count != 1 {
				t.Errorf("%+v", k)
			}
		})
	}
}

func TestRefusedRenewalNeedsALogin(t *testing.T) {
	src := &renewing{tokens: []string{"old"}, err: &oauth2.RetrieveError{ErrorCode: "invalid_grant", Response: &http.Response{StatusCode: 400}}}
	s, c := socketless(t, func(o *Options) { o.Tokens = src })
	s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) { reply(w, 401, nil) })
	before := c.StateChanged()
	_, err := c.Get(bg, "x")
	wantIs(t, err, ErrAuth)
	if st := c.State(); st.Kind != AuthRequired || !errors.Is(st.Err, ErrAuth) {
		t.Errorf("state %+v", st)
	}
	select {
	case <-before:
	default:
		t.Error("the change was not announced")
	}
}

func TestSporadicRefusalsAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := socketless(t, nil)
		n := 0
		s.HandleFunc("POST /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
			switch n++; n {
			case 1:
				reply(w, 403, `{"message":"Authorization header requires 'Credential' parameter. Authorization=Bearer"}`)
			case 2:
				reply(w, 401, nil)
			default:
				reply(w, 201, node("x", "n"))
			}
		})
		// Not idempotent, and repeated all the same: a refused token has no effect.
		if _, err := c.CreateFolder(bg, NewNode{Name: "n"}); err != nil {
			t.Fatal(err)
		}
		if c.State().Kind != Online {
			t.Errorf("state %v", c.State())
		}
	})
}

func TestStaticTokenRefusedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := socketless(t, nil)
		s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) { reply(w, 401, nil) })
		_, err := c.Get(bg, "x")
		wantIs(t, err, ErrAuth)

		// One refusal is not for ever.
		s, c = socketless(t, nil)
		s.HandleFunc("GET /meta/nodes/x", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "1")
			reply(w, 401, nil)
		})
		ctx, cancel := context.WithTimeout(bg, 1)
		defer cancel()
		_, err = c.Get(ctx, "x")
		wantIs(t, err, ErrUnavailable)
		if errors.Is(err, ErrAuth) || c.State().Kind == AuthRequired {
			t.Errorf("%v %v", err, c.State())
		}
	})
}

func TestNoTokensNoHeader(t *testing.T) {
	s, c := socketless(t, func(o *Options) { o.Tokens = nil; o.UserAgent = "test/1" })
	s.HandleFunc("GET /meta/account/info", func(w http.ResponseWriter, r *http.Request) {
		if _, ok := r.Header["Authorization"]; ok || r.UserAgent() != "test/1" {
			t.Errorf("header %v", r.Header)
		}
		reply(w, 200, `{"termsOfUse":"1","status":"ACTIVE"}`)
	})
	a, err := c.AccountInfo(bg)
	if err != nil || a.Status != "ACTIVE" {
		t.Errorf("%+v %v", a, err)
	}
}

func TestRenewalThatFailsForNowIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		src := tokenFunc(func() (*oauth2.Token, error) {
			if n++; n < 3 {
				return nil, &oauth2.RetrieveError{Response: &http.Response{StatusCode: 500}}
			}
			return &oauth2.Token{AccessToken: "t"}, nil
		})
		s, c := socketless(t, func(o *Options) { o.Tokens = src })
		s.HandleFunc("POST /meta/nodes", func(w http.ResponseWriter, r *http.Request) { reply(w, 201, node("x", "n")) })
		if _, err := c.CreateFolder(bg, NewNode{Name: "n"}); err != nil {
			t.Fatal(err)
		}
	})
}

type tokenFunc func() (*oauth2.Token, error)

func (f tokenFunc) Token() (*oauth2.Token, error) { return f() }
