package drive

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/oauth2"

	"github.com/drivefs/drivefs/drive/redact"
)

// authTransport adds "Authorization: Bearer …" (capital B, API §1.2) to the
// requests that may carry it. When the service refuses the token (401, also
// empty, also wrapped into a 400; API §2.4) it asks the source for another
// one and sends the request once more, if the body can be had again. The
// sporadic 403 is left to the retry: the token is good.
type authTransport struct {
	next   http.RoundTripper
	tokens oauth2.TokenSource // nil = no header at all
}

// tokenContext is a source whose caller can stop waiting; TokenFile is one.
type tokenContext interface {
	TokenContext(context.Context) (*oauth2.Token, error)
}

// invalidator is a source that can be told of a refused token; TokenFile is one.
type invalidator interface{ Invalidate(accessToken string) }

func (t authTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := callOf(req)
	if t.tokens == nil || c.noAuth {
		return t.next.RoundTrip(req)
	}
	tok, err := t.token(req.Context())
	if err != nil {
		return nil, err
	}
	resp, err := t.next.RoundTrip(bearing(req, tok))
	if err != nil || (resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusBadRequest) {
		return resp, err
	}
	if k, _ := classify(c, resp, peek(resp)); k != classAuth {
		return resp, nil
	}
	if inv, ok := t.tokens.(invalidator); ok {
		inv.Invalidate(tok)
	}
	fresh, err := t.token(req.Context())
	if err != nil {
		if errors.Is(err, ErrAuth) {
			resp.Body.Close()
			return nil, err
		}
		return resp, nil // the renewal may work later; the retry comes back
	}
	if fresh == tok {
		r, ok := t.tokens.(interface{ renewable() bool })
		c.sameToken = !ok || !r.renewable()
		return resp, nil
	}
	body, ok := repeatBody(req, c, true)
	if !ok {
		return resp, nil
	}
	resp.Body.Close()
	again := bearing(req, fresh)
	again.Body = body
	return t.next.RoundTrip(again)
}

func (t authTransport) token(ctx context.Context) (string, error) {
	var tok *oauth2.Token
	var err error
	if tc, ok := t.tokens.(tokenContext); ok {
		tok, err = tc.TokenContext(ctx)
	} else {
		tok, err = t.tokens.Token()
	}
	switch {
	case err == nil:
		return tok.AccessToken, nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	}
	return "", fmt.Errorf("%w: %w", errNotSent, refusal(err))
}

func bearing(req *http.Request, token string) *http.Request {
	r := req.Clone(req.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

// StaticTokenSource always gives this access token. A service that keeps
// refusing it leads to ErrAuth, since there is no other.
func StaticTokenSource(accessToken string) oauth2.TokenSource {
	redact.Hide(accessToken)
	return oauth2.StaticTokenSource(&oauth2.Token{AccessToken: accessToken})
}
