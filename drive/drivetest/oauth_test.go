package drivetest_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func (a *api) form(path string, f url.Values, headers ...string) answer {
	a.t.Helper()
	return a.do("POST", path, strings.NewReader(f.Encode()), append(headers, "Content-Type", "application/x-www-form-urlencoded", "Authorization", "")...)
}

func (a *api) consentQuery() url.Values {
	return url.Values{"client_id": {a.s.ClientID()}, "scope": {"clouddrive:read_all clouddrive:write"}, "response_type": {"code"},
		"redirect_uri": {"http://127.0.0.1:53682/"}, "state": {"st/1"}, "secret": {a.s.Secret()}}
}

// decide sends the consent form and gives the query of the redirect.
func (a *api) decide(q url.Values, decision string) url.Values {
	a.t.Helper()
	f := url.Values{"decision": {decision}}
	for k, v := range q {
		f[k] = v
	}
	r := a.form("/ap/oa", f)
	r.want(a.t, 302)
	u, err := url.Parse(r.header.Get("Location"))
	if err != nil || !strings.HasPrefix(u.String(), q.Get("redirect_uri")) {
		a.t.Fatalf("redirect to %q: %v", r.header.Get("Location"), err)
	}
	return u.Query()
}

func TestConsent(t *testing.T) {
	a := newAPI(t)
	q := a.consentQuery()
	r := a.do("GET", "/ap/oa?"+q.Encode(), nil, "Authorization", "")
	if r.status != 200 || !strings.Contains(string(r.body), `value="allow"`) || !strings.Contains(string(r.body), "clouddrive:write") {
		t.Errorf("page: %d %s", r.status, r.body)
	}
	if v := a.decide(q, "deny"); v.Get("error") != "access_denied" || v.Get("error_description") == "" || v.Get("state") != "st/1" || v.Get("code") != "" {
		t.Errorf("denied: %v", v)
	}
	if v := a.decide(q, "allow"); v.Get("code") == "" || v.Get("state") != "st/1" || v.Get("scope") != q.Get("scope") {
		t.Errorf("allowed: %v", v)
	}
	for k, bad := range map[string]string{"redirect_uri": "https://evil.example/", "client_id": "other"} {
		q := a.consentQuery()
		q.Set(k, bad)
		if r := a.do("GET", "/ap/oa?"+q.Encode(), nil); r.status != 400 || !strings.Contains(r.header.Get("Content-Type"), "html") {
			t.Errorf("%s: %d", k, r.status)
		}
	}
	q.Set("scope", "everything")
	if r := a.do("GET", "/ap/oa?"+q.Encode(), nil); r.status != 302 || !strings.Contains(r.header.Get("Location"), "error=invalid_scope") {
		t.Errorf("scope: %d %v", r.status, r.header)
	}
	fixed := newAPI(t, drivetest.Options{RedirectURIs: []string{"https://app.example/cb"}})
	if r := fixed.do("GET", "/ap/oa?"+fixed.consentQuery().Encode(), nil); r.status != 400 {
		t.Errorf("unregistered: %d", r.status)
	}
}

func TestTokenEndpoint(t *testing.T) {
	cl := newClock()
	a := newAPI(t, drivetest.Options{Clock: cl.now})
	id, secret := a.s.ClientID(), a.s.ClientSecret()
	code := func(q url.Values) string { return a.decide(q, "allow").Get("code") }
	exchange := func(c string, extra ...string) answer {
		f := url.Values{"grant_type": {"authorization_code"}, "code": {c}, "client_id": {id}, "client_secret": {secret}, "redirect_uri": {"http://127.0.0.1:53682/"}}
		for i := 0; i < len(extra); i += 2 {
			f.Set(extra[i], extra[i+1])
		}
		return a.form("/auth/o2/token", f)
	}
	c := code(a.consentQuery())
	tok := exchange(c).want(t, 200)
	access, refresh := tok.str("access_token"), tok.str("refresh_token")
	if !strings.HasPrefix(access, "Atza|") || len(access) < 350 || len(access) > 2048 || !strings.HasPrefix(refresh, "Atzr|") || tok.str("token_type") != "bearer" || tok.num("expires_in") != 3600 {
		t.Errorf("token: %v", tok)
	}
	a.token = access
	a.do("GET", "/drive/v1/nodes", nil).want(t, 200)
	if e := exchange(c).want(t, 400); e.str("error") != "invalid_grant" {
		t.Errorf("a code twice: %v", e)
	}
	c = code(a.consentQuery())
	exchange(c, "redirect_uri", "http://127.0.0.1:1/").want(t, 400)
	c = code(a.consentQuery())
	cl.add(5 * time.Minute)
	exchange(c).want(t, 400)
	// PKCE.
	for _, m := range []string{"S256", "plain"} {
		q := a.consentQuery()
		verifier := "verifier-of-forty-three-characters-or-more-0"
		challenge := verifier
		if m == "S256" {
			sum := sha256.Sum256([]byte(verifier))
			challenge = base64.RawURLEncoding.EncodeToString(sum[:])
		}
		q.Set("code_challenge", challenge)
		q.Set("code_challenge_method", m)
		exchange(code(q), "code_verifier", "wrong").want(t, 400)
		exchange(code(q)).want(t, 400)
		exchange(code(q), "code_verifier", verifier).want(t, 200)
		exchange(code(q), "code_verifier", verifier, "client_secret", "").want(t, 200)
	}
	// Refresh, by form and by Basic.
	grant := func(token string, f url.Values, headers ...string) answer {
		f.Set("grant_type", "refresh_token")
		f.Set("refresh_token", token)
		return a.form("/auth/o2/token", f, headers...)
	}
	own := url.Values{"client_id": {id}, "client_secret": {secret}}
	if n := grant(refresh, own).want(t, 200); n.str("access_token") == "" || n.str("refresh_token") == "" {
		t.Errorf("refreshed: %v", n)
	}
	basic := base64.StdEncoding.EncodeToString([]byte(id + ":" + secret))
	f := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
	a.do("POST", "/auth/o2/token", strings.NewReader(f.Encode()), "Content-Type", "application/x-www-form-urlencoded", "Authorization", "Basic "+basic).want(t, 200)
	if e := grant(refresh, url.Values{"client_id": {id}, "client_secret": {"no"}}).want(t, 401); e.str("error") != "invalid_client" {
		t.Errorf("wrong secret: %v", e)
	}
	if e := grant("Atzr|nonsense", own).want(t, 400); e.str("error") != "invalid_grant" {
		t.Errorf("wrong token: %v", e)
	}
	if e := a.form("/auth/o2/token", url.Values{"client_id": {id}, "client_secret": {secret}, "grant_type": {"password"}}).want(t, 400); e.str("error") != "unsupported_grant_type" {
		t.Errorf("grant type: %v", e)
	}
	// Life: an hour.
	a.do("GET", "/drive/v1/nodes", nil).want(t, 200)
	cl.add(time.Hour)
	if e := a.do("GET", "/drive/v1/nodes", nil).want(t, 401); e.str("message") != "Token has expired" {
		t.Errorf("expired: %v", e)
	}
	a.s.RevokeRefresh()
	if e := grant(refresh, own).want(t, 400); e.str("error") != "invalid_grant" {
		t.Errorf("revoked: %v", e)
	}
}

func TestTokenHeaders(t *testing.T) {
	a := newAPI(t)
	tok := a.token
	for _, tc := range []struct {
		header, text string
		status       int
	}{
		{"Bearer " + tok, "", 200},
		{"bearer " + tok, "not a valid key=value pair (missing equal-sign) in Authorization header", 403},
		{"Bearer Atza|nonsense", "", 401},
		{"", "", 401},
	} {
		r := a.do("GET", "/drive/v1/nodes", nil, "Authorization", tc.header)
		if r.status != tc.status || !strings.Contains(string(r.body), tc.text) {
			t.Errorf("%.12s: %d %s", tc.header, r.status, r.body)
		}
	}
	a.do("GET", "/drive/v1/nodes", nil, "Authorization", "", "x-amz-access-token", tok).want(t, 200)
	a.s.ExpireTokens()
	a.do("GET", "/drive/v1/nodes", nil).want(t, 401)
	info := a.do("GET", "/auth/o2/tokeninfo?access_token="+url.QueryEscape(a.s.Token().AccessToken), nil).want(t, 200)
	if info.str("aud") != a.s.ClientID() || info.num("exp") < 3500 {
		t.Errorf("tokeninfo: %v", info)
	}
	a.do("GET", "/auth/o2/tokeninfo?access_token="+url.QueryEscape(tok), nil).want(t, 400)
}

func TestWriteToken(t *testing.T) {
	a := newAPI(t)
	path := filepath.Join(t.TempDir(), "t.json")
	if err := a.s.WriteToken(path); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v %v", fi.Mode(), err)
	}
	b, _ := os.ReadFile(path)
	var tok oauth2.Token
	if err := json.Unmarshal(b, &tok); err != nil || !tok.Valid() || tok.RefreshToken == "" {
		t.Errorf("as x/oauth2 reads it: %v %v", err, tok.Expiry)
	}
	a.token = tok.AccessToken
	a.do("GET", "/drive/v1/nodes", nil).want(t, 200)
}
