package drivetest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/drivefs/drivefs/drive/local"
)

// Tokens are signed, not stored: they survive a restart with the drive's
// secret, and die together when the epoch of their kind is raised.
const (
	tokenAccess  = "access"
	tokenRefresh = "refresh"
	tokenTemp    = "templink"
	tokenSigned  = "signed"
)

// claims are what a token says.
type claims struct {
	Kind   string `json:"k"`
	Epoch  uint64 `json:"e,omitempty"`
	Client string `json:"c,omitempty"`
	Scope  string `json:"s,omitempty"`
	Node   string `json:"n,omitempty"`
	Issued int64  `json:"i"`           // ms
	Expiry int64  `json:"x,omitempty"` // ms, 0 = never
	Nonce  string `json:"r"`
}

// identity is who sends a request.
type identity struct {
	token, client string
	scopes        []string
}

// Token is an access token with its refresh token, in the JSON form of
// golang.org/x/oauth2.
type Token struct {
	AccessToken  string    `json:"access_token"`
	TokenType    string    `json:"token_type"`
	RefreshToken string    `json:"refresh_token"`
	Expiry       time.Time `json:"expiry"`
}

const allScopes = "clouddrive:read_all clouddrive:write"

// Token issues a fresh pair for the whole drive.
func (s *Server) Token() Token { return s.TokenFor(allScopes) }

// TokenFor issues a pair with these scopes, separated by blanks (§2.1).
func (s *Server) TokenFor(scopes string) Token {
	a := s.issue(tokenAccess, scopes, s.o.TokenLife)
	return Token{AccessToken: a, TokenType: "bearer", RefreshToken: s.issue(tokenRefresh, scopes, 0), Expiry: s.o.Clock().Add(s.o.TokenLife).UTC()}
}

// WriteToken puts a fresh token into a file of mode 0600, atomically.
func (s *Server) WriteToken(path string) error {
	b, err := json.Marshal(s.Token())
	if err != nil {
		return err
	}
	if err := local.ReplaceFile(path, append(b, '\n')); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	return nil
}

// ExpireTokens ends the life of every access token issued so far; refresh
// tokens go on. It holds until the server stops even if it cannot be stored.
func (s *Server) ExpireTokens() { _ = s.st.bumpEpoch(tokenAccess) }

// RevokeRefresh makes every refresh token issued so far worthless: the next
// refresh meets invalid_grant. Access tokens live on until they expire.
func (s *Server) RevokeRefresh() { _ = s.st.bumpEpoch(tokenRefresh) }

var tokenPrefix = map[string]string{tokenAccess: "Atza|", tokenRefresh: "Atzr|"}

// issue signs a token; those of LWA have at least 350 characters (§2.3).
func (s *Server) issue(kind, scope string, life time.Duration) string {
	return s.sign(claims{Kind: kind, Scope: scope, Client: s.ClientID()}, life)
}

func (s *Server) sign(c claims, life time.Duration) string {
	c.Epoch = s.epoch(c.Kind)
	now := s.o.Clock()
	c.Issued, c.Nonce = now.UnixMilli(), randomName()
	if life > 0 {
		c.Expiry = now.Add(life).UnixMilli()
	}
	b, _ := json.Marshal(c) // strings and numbers only
	prefix := tokenPrefix[c.Kind]
	if pad := 240 - len(b); prefix != "" && pad > 0 {
		b = append(b, bytes.Repeat([]byte(" "), pad)...)
	}
	mac := hmac.New(sha256.New, s.st.secret)
	mac.Write(b)
	return prefix + base64.RawURLEncoding.EncodeToString(mac.Sum(b))
}

// epoch of a kind of token. Links have none, so they can be signed while the
// store's lock is held.
func (s *Server) epoch(kind string) uint64 {
	if tokenPrefix[kind] == "" {
		return 0
	}
	s.st.mu.RLock()
	defer s.st.mu.RUnlock()
	return s.st.epochs[kind]
}

// verify reads a token of this kind. valid = it is one of ours; alive = and
// neither expired nor revoked.
func (s *Server) verify(kind, token string) (c claims, valid, alive bool) {
	enc, ok := strings.CutPrefix(token, tokenPrefix[kind])
	raw, err := base64.RawURLEncoding.DecodeString(enc)
	if !ok || err != nil || len(raw) < sha256.Size {
		return c, false, false
	}
	b, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	mac := hmac.New(sha256.New, s.st.secret)
	mac.Write(b)
	if !hmac.Equal(mac.Sum(nil), sum) || json.Unmarshal(bytes.TrimSpace(b), &c) != nil || c.Kind != kind {
		return c, false, false
	}
	return c, true, c.Epoch == s.epoch(kind) && (c.Expiry == 0 || s.o.Clock().UnixMilli() < c.Expiry)
}

// admit checks the token and its scopes (§2.4). A reply with a status is the
// answer; otherwise the call may go on.
func (c *call) admit() (reply, *apiError) {
	if c.op.scope == "-" {
		return reply{}, nil
	}
	token := c.r.Header.Get("x-amz-access-token") // first-party alternative (§1.2)
	if h := c.r.Header.Get("Authorization"); h != "" {
		scheme, rest, _ := strings.Cut(h, " ")
		if scheme != "Bearer" {
			return reply{}, forbidden("'%s' not a valid key=value pair (missing equal-sign) in Authorization header: '%s'.", rest, h)
		}
		token = rest
	}
	if token == "" {
		return c.failure(&apiError{status: http.StatusUnauthorized, message: "Token is missing"}), nil
	}
	cl, valid, alive := c.s.verify(tokenAccess, token)
	switch {
	case !valid:
		return c.failure(&apiError{status: http.StatusUnauthorized, message: "Token is invalid"}), nil
	case !alive:
		return c.failure(tokenExpired()), nil
	}
	c.who = identity{token: token, client: cl.Client, scopes: strings.Fields(cl.Scope)}
	if c.s.noAccount() && c.op.name != "account.endpoint" && c.op.name != "auth.profile" {
		return reply{}, forbidden("Customer does not exist")
	}
	return reply{}, c.checkScope(c.op.scope)
}

func tokenExpired() *apiError {
	return &apiError{status: http.StatusUnauthorized, message: "Token has expired"}
}

func (c *call) checkScope(scope string) *apiError {
	ok := false
	switch scope {
	case "write":
		ok = slices.Contains(c.who.scopes, "clouddrive:write")
	case "read": // which kinds of content is the handler's question
		ok = slices.ContainsFunc(c.who.scopes, func(s string) bool { return strings.HasPrefix(s, "clouddrive:read") })
	default:
		ok = slices.ContainsFunc(c.who.scopes, func(s string) bool { return strings.HasPrefix(s, "clouddrive:") }) ||
			c.op.name == "auth.profile" && slices.ContainsFunc(c.who.scopes, func(s string) bool { return strings.HasPrefix(s, "profile") })
	}
	if !ok {
		return forbidden("Insufficient permissions granted for operation: %s", c.op.name)
	}
	return nil
}

// mayRead says whether the scopes permit content of this type (§2.1).
func (c *call) mayRead(contentType string) bool {
	kind := "clouddrive:read_" + map[string]string{"photo": "image", "video": "video", "doc": "document", "other": "other"}[usageKind(contentType)]
	return slices.ContainsFunc(c.who.scopes, func(s string) bool {
		return s == "clouddrive:read_all" || s == "clouddrive:read" || s == kind
	})
}

func (s *Server) noAccount() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.f.NoAccount
}
