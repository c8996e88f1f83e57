package drivetest

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Login with Amazon (§2): the consent page, the token endpoint, tokeninfo and
// profile, for one registered client.

const codeLife = 5 * time.Minute // §2.2

const maxForm = 64 << 10 // of a form's body

// grant is what an authorization code stands for until it is used.
type grant struct {
	redirect, scope, challenge, method string
	expiry                             time.Time
}

// ClientID of the registered app.
func (s *Server) ClientID() string {
	return "amzn1.application-oa2-client.0d6f2c4e8d2b11e59f6a0d1f6e2b3c4d"
}

// ClientSecret of the registered app.
func (s *Server) ClientSecret() string {
	return "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2"
}

var knownScopes = []string{
	"clouddrive:read_image", "clouddrive:read_video", "clouddrive:read_document", "clouddrive:read_other", "clouddrive:read_all",
	"clouddrive:read", "clouddrive:write", "profile", "profile:user_id", "postal_code",
}

var consent = template.Must(template.New("consent").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Login with Amazon (local drive)</title></head>
<body><h1>{{.Owner}} asks for access to this drive</h1>
<p>This is a local drive that speaks the Amazon Drive API. No account of yours is involved.</p>
<ul>{{range .Scopes}}<li>{{.}}</li>{{end}}</ul>
<form method="post" action="/ap/oa">
{{range $k, $v := .Fields}}<input type="hidden" name="{{$k}}" value="{{$v}}">
{{end}}{{if .Ask}}<p>{{if .Wrong}}That is not the secret of this drive. {{end}}<label>Secret of the drive (the file "secret" in its data directory):
<input type="password" name="secret" autocomplete="off" autofocus></label></p>
{{end}}<button name="decision" value="allow">Allow</button> <button name="decision" value="deny">Deny</button>
</form></body></html>
`))

var refusal = template.Must(template.New("refusal").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Error</title></head>
<body><h1>We're sorry!</h1><p>An error occurred when we tried to process your request.</p><p>Error Summary: 400 Bad Request. {{.}}</p></body></html>
`))

func page(status int, t *template.Template, data any) reply {
	var b strings.Builder
	_ = t.Execute(&b, data) // our own templates into memory
	return reply{status: status, body: []byte(b.String()), header: map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
		"X-Frame-Options": "DENY", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
	}}
}

// registered: equal to a redirect URI of the profile, or on this machine.
func (s *Server) registered(uri string) bool {
	if len(s.o.RedirectURIs) > 0 {
		return slices.Contains(s.o.RedirectURIs, uri)
	}
	u, err := url.Parse(uri)
	return err == nil && u.Scheme == "http" && u.Fragment == "" && (u.Hostname() == "localhost" || u.Hostname() == "127.0.0.1")
}

var authorizeFields = []string{"client_id", "scope", "response_type", "redirect_uri", "state", "code_challenge", "code_challenge_method"}

func (c *call) authAuthorize() (reply, *apiError) {
	c.r.Body = http.MaxBytesReader(c.w, c.r.Body, maxForm)
	if err := c.r.ParseForm(); err != nil {
		return page(http.StatusBadRequest, refusal, "The request is malformed"), nil
	}
	f := c.r.Form
	redirect := f.Get("redirect_uri")
	switch {
	case f.Get("client_id") != c.s.ClientID():
		return page(http.StatusBadRequest, refusal, "Unknown client_id"), nil
	case !c.s.registered(redirect):
		return page(http.StatusBadRequest, refusal, "The redirect URI you provided has not been whitelisted for your application"), nil
	}
	answer := url.Values{}
	if f.Get("state") != "" {
		answer.Set("state", f.Get("state"))
	}
	fail := func(code, text string) (reply, *apiError) {
		answer.Set("error", code)
		answer.Set("error_description", text)
		return redirectTo(redirect, "?", answer), nil
	}
	scopes := strings.Fields(f.Get("scope"))
	kind, method := f.Get("response_type"), f.Get("code_challenge_method")
	switch {
	case kind != "code" && kind != "token":
		return fail("unsupported_response_type", "The response_type is not supported")
	case len(scopes) == 0 || slices.ContainsFunc(scopes, func(s string) bool { return !slices.Contains(knownScopes, s) }):
		return fail("invalid_scope", "An unknown scope was requested")
	case method != "" && method != "S256" && method != "plain", method != "" && f.Get("code_challenge") == "":
		return fail("invalid_request", "The code challenge is not supported")
	}
	known := c.s.knows(f.Get("secret"))
	ask := c.log.Method == http.MethodGet
	if !ask && f.Get("decision") != "allow" {
		return fail("access_denied", "Access not permitted.")
	}
	if ask || !known {
		return c.askConsent(f, scopes, known), nil
	}
	answer.Set("scope", strings.Join(scopes, " "))
	if kind == "token" {
		answer.Set("access_token", c.s.issue(tokenAccess, strings.Join(scopes, " "), c.s.o.TokenLife))
		answer.Set("token_type", "bearer")
		answer.Set("expires_in", c.lifeSeconds())
		return redirectTo(redirect, "#", answer), nil
	}
	if method == "" && f.Get("code_challenge") != "" {
		method = "plain" // RFC 7636 §4.3
	}
	answer.Set("code", c.s.newCode(grant{redirect, strings.Join(scopes, " "), f.Get("code_challenge"), method, c.s.o.Clock().Add(codeLife)}))
	return redirectTo(redirect, "?", answer), nil
}

// askConsent is the page with the question; who does not know the secret of
// the drive is asked for that too.
func (c *call) askConsent(f url.Values, scopes []string, known bool) reply {
	fields := map[string]string{}
	for _, k := range authorizeFields {
		if f.Get(k) != "" {
			fields[k] = f.Get(k)
		}
	}
	status, wrong := http.StatusOK, false
	if known {
		fields["secret"] = c.s.secret
	} else if wrong = f.Get("secret") != ""; c.log.Method != http.MethodGet {
		status = http.StatusForbidden
	}
	return page(status, consent, map[string]any{"Owner": c.s.o.Owner, "Scopes": scopes, "Fields": fields, "Ask": !known, "Wrong": wrong})
}

func (c *call) lifeSeconds() string {
	return strconv.FormatInt(int64(c.s.o.TokenLife/time.Second), 10)
}

func redirectTo(uri, sep string, q url.Values) reply {
	if sep == "?" && strings.Contains(uri, "?") {
		sep = "&"
	}
	return reply{status: http.StatusFound, header: map[string]string{"Location": uri + sep + q.Encode()}}
}

func (s *Server) newCode(g grant) string {
	code := "AN" + randomName()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.codes, func(_ string, old grant) bool { return !s.o.Clock().Before(old.expiry) })
	s.codes[code] = g
	return code
}

// redeem uses a code up (§2.2: once).
func (s *Server) redeem(code string) (grant, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.codes[code]
	delete(s.codes, code)
	return g, ok && s.o.Clock().Before(g.expiry)
}

func oauthError(status int, code, text string) reply {
	return jsonReply(status, map[string]string{"error_description": text, "error": code, "request_id": newRequestID()})
}

func (c *call) authToken() (reply, *apiError) {
	ct, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";")
	c.r.Body = http.MaxBytesReader(c.w, c.r.Body, maxForm)
	if err := c.r.ParseForm(); err != nil || strings.TrimSpace(ct) != "application/x-www-form-urlencoded" {
		return oauthError(http.StatusBadRequest, "invalid_request", "The request has an invalid body"), nil
	}
	f := c.r.PostForm
	id, secret, basic := c.r.BasicAuth()
	if basic { // form-encoded before base64, RFC 6749 §2.3.1
		id, secret = unescape(id), unescape(secret)
	} else {
		id, secret = f.Get("client_id"), f.Get("client_secret")
	}
	// A public client proves itself by PKCE instead of the secret.
	public := secret == "" && f.Get("grant_type") == "authorization_code" && f.Get("code_verifier") != ""
	if id != c.s.ClientID() || !public && subtle.ConstantTimeCompare([]byte(secret), []byte(c.s.ClientSecret())) != 1 {
		return oauthError(http.StatusUnauthorized, "invalid_client", "Client authentication failed"), nil
	}
	switch f.Get("grant_type") {
	case "authorization_code":
		g, ok := c.s.redeem(f.Get("code"))
		if !ok || g.redirect != f.Get("redirect_uri") || !g.proves(f.Get("code_verifier")) {
			return oauthError(http.StatusBadRequest, "invalid_grant", "The request has an invalid grant parameter : code"), nil
		}
		return c.grantReply(g.scope, true), nil
	case "refresh_token":
		cl, _, alive := c.s.verify(tokenRefresh, f.Get("refresh_token"))
		if !alive || cl.Client != id {
			return oauthError(http.StatusBadRequest, "invalid_grant", "The request has an invalid grant parameter : refresh_token"), nil
		}
		return c.grantReply(cl.Scope, false), nil
	case "":
		return oauthError(http.StatusBadRequest, "invalid_request", "The request is missing a required parameter : grant_type"), nil
	}
	return oauthError(http.StatusBadRequest, "unsupported_grant_type", "The authorization grant type is not supported by the authorization server"), nil
}

func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// proves checks a PKCE verifier against the challenge of the request.
func (g grant) proves(verifier string) bool {
	switch g.method {
	case "":
		return true
	case "S256":
		sum := sha256.Sum256([]byte(verifier))
		return base64.RawURLEncoding.EncodeToString(sum[:]) == g.challenge
	}
	return verifier == g.challenge
}

// grantReply issues tokens. A refresh gets a new refresh token as well; the
// old one goes on working, as LWA's did.
func (c *call) grantReply(scope string, first bool) reply {
	out := map[string]any{
		"access_token": c.s.issue(tokenAccess, scope, c.s.o.TokenLife), "token_type": "bearer", "expires_in": int64(c.s.o.TokenLife / time.Second),
	}
	if first || !c.s.o.KeepRefreshToken {
		out["refresh_token"] = c.s.issue(tokenRefresh, scope, 0)
	}
	rep := jsonReply(http.StatusOK, out)
	rep.header = map[string]string{"Cache-Control": "no-store", "Pragma": "no-cache"}
	return rep
}

const userID = "amzn1.account.LOCALDRIVE"

func (c *call) authTokenInfo() (reply, *apiError) {
	cl, _, alive := c.s.verify(tokenAccess, c.q.Get("access_token"))
	if !alive {
		return oauthError(http.StatusBadRequest, "invalid_token", "The request has an invalid parameter : access_token"), nil
	}
	return jsonReply(http.StatusOK, map[string]any{
		"aud": cl.Client, "user_id": userID, "iss": "https://www.amazon.com", "app_id": "amzn1.application.0d6f2c4e8d2b11e59f6a0d1f6e2b3c4d",
		"exp": (cl.Expiry - c.s.o.Clock().UnixMilli()) / 1000, "iat": cl.Issued / 1000,
	}), nil
}

func (c *call) authProfile() (reply, *apiError) {
	return jsonReply(http.StatusOK, map[string]string{"user_id": userID, "name": "Local Drive", "email": "nobody@localhost"}), nil
}
