package drive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/drivefs/drivefs/drive/local"
	"github.com/drivefs/drivefs/drive/redact"
)

// ErrTokenFile: the token file is there, but it is no token file.
var ErrTokenFile = errors.New("the token file is malformed")

// Times of TokenFile.
const (
	refreshEarly   = 120 * time.Second // API §2.4
	fileCheckEvery = 10 * time.Second
	refreshPause   = 2 * time.Second  // between two refreshes at least
	earlyPause     = 15 * time.Second // after a failed one, while the old token is still good
	refreshTimeout = 30 * time.Second
)

// TokenFile is a source of access tokens kept in a file, as golang.org/x/oauth2
// writes it: {"access_token","token_type","refresh_token","expiry"}. It renews
// the token 120 s before it expires, once for all who wait, and writes it
// back (mode 0600, by rename). It reads the file again when it changed, which
// it looks for every 10 s at most, so a new login heals a running program;
// a login's token is never overwritten by an older one.
//
// When the service refuses the renewal, every call gets ErrAuth until the file
// changes, without asking again. All methods may be called from any goroutine.
type TokenFile struct {
	path   string
	conf   *oauth2.Config // nil = never renewed
	client *http.Client
	ctx    context.Context // of renewals
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards the rest; never held over the network
	tok     oauth2.Token
	early   time.Duration // how long before Expiry to renew
	stamp   fileStamp     // of the file tok is from
	checked time.Time     // when the file was last looked at
	invalid string        // the access token the service refused
	refused error         // ErrAuth, until the file changes
	lastErr error         // of the last renewal
	tried   time.Time     // when the last renewal ended
	flight  chan struct{} // closed when the renewal under way ends; nil = none
	closed  bool
	unkept  error // why the renewed token is not in the file; nil = it is
}

// fileStamp tells whether a file is another one than before.
type fileStamp struct {
	mtime time.Time
	size  int64
	info  os.FileInfo
}

func stampOf(info os.FileInfo) fileStamp { return fileStamp{info.ModTime(), info.Size(), info} }

func (a fileStamp) same(b fileStamp) bool {
	return a.mtime.Equal(b.mtime) && a.size == b.size && a.info != nil && b.info != nil && os.SameFile(a.info, b.info)
}

var _ interface {
	oauth2.TokenSource
	tokenContext
	invalidator
} = (*TokenFile)(nil)

// OpenTokenFile reads the file. ErrAuth: there is none, or no token in it.
// ErrTokenFile: it cannot be understood. conf nil = tokens cannot be renewed;
// its token URL must be https, or http on loopback.
func OpenTokenFile(path string, conf *oauth2.Config) (*TokenFile, error) {
	if conf != nil {
		if _, err := parseAddress(conf.Endpoint.TokenURL); err != nil {
			return nil, fmt.Errorf("token URL: %w", err)
		}
		own := *conf
		if own.Endpoint.AuthStyle == oauth2.AuthStyleAutoDetect {
			own.Endpoint.AuthStyle = oauth2.AuthStyleInParams // API §2.3; no refused first try
		}
		conf = &own
	}
	t := &TokenFile{path: path, conf: conf, early: refreshEarly}
	if conf != nil {
		redact.Hide(conf.ClientSecret)
	}
	tok, stamp, err := loadTokenFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: no token: %w", ErrAuth, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case tok.AccessToken == "" && tok.RefreshToken == "":
		return nil, fmt.Errorf("%w: %s holds no token", ErrAuth, path)
	}
	t.tok, t.stamp, t.checked = tok, stamp, time.Now()
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.client = NewTokenClient()
	return t, nil
}

// NewTokenClient makes a client for calls to a token endpoint. It follows no
// redirect: a code, a refresh token or a client's secret is for the address
// that was configured, and for no other. The caller closes its idle connections.
func NewTokenClient() *http.Client {
	base, _ := newBase(1)
	return &http.Client{Transport: base, Timeout: refreshTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// WriteToken puts a token into a file of mode 0600, at once and for good.
func WriteToken(path string, token *oauth2.Token) error {
	redact.Hide(token.AccessToken, token.RefreshToken)
	data, err := json.MarshalIndent(token, "", "\t")
	if err != nil {
		return err
	}
	return local.ReplaceFile(path, append(data, '\n'))
}

// Problem is what its owner should know of the token file, nil = all is well: a
// renewed token that could not be kept, a file that others can read.
func (t *TokenFile) Problem() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unkept != nil {
		return t.unkept
	}
	if info := t.stamp.info; info != nil && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be read by others: chmod 600 it", t.path)
	}
	return nil
}

// Close ends a renewal under way and waits for it.
func (t *TokenFile) Close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.wg.Wait()
	t.client.CloseIdleConnections()
}

// Reload makes the next call look at the file, and the next renewal use a
// connection of its own.
func (t *TokenFile) Reload() {
	t.client.CloseIdleConnections()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checked = time.Time{}
}

// Invalidate tells that the service refused this access token: the next call
// renews it, unless it has been replaced already.
func (t *TokenFile) Invalidate(accessToken string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tok.AccessToken == accessToken {
		t.invalid = accessToken
		t.checked = time.Time{} // somebody else may have renewed it
	}
}

// renewable reports whether there can be another token without a login.
func (t *TokenFile) renewable() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conf != nil && t.tok.RefreshToken != "" && t.refused == nil
}

// Token is TokenContext without a limit but the renewal's own of 30 s.
func (t *TokenFile) Token() (*oauth2.Token, error) { return t.TokenContext(context.Background()) }

// TokenContext gives a token that is good by all that is known. ErrAuth: a
// login is needed. ErrUnavailable, ErrThrottled: the token is over, and the
// renewal did not work this time. ctx ends the waiting, not the renewal:
// the service may have replaced the refresh token already, so its answer must be kept.
func (t *TokenFile) TokenContext(ctx context.Context) (*oauth2.Token, error) {
	for {
		t.mu.Lock()
		t.checkFileLocked()
		now := time.Now()
		valid := t.tok.AccessToken != "" && (t.tok.Expiry.IsZero() || now.Before(t.tok.Expiry))
		invalid := t.tok.AccessToken == t.invalid
		fresh := valid && !invalid && (t.tok.Expiry.IsZero() || now.Before(t.tok.Expiry.Add(-t.early)))
		usable := valid && !invalid
		var err error
		switch {
		case fresh:
		case t.refused != nil:
			if !usable {
				err = t.refused
			}
		case t.conf == nil || t.tok.RefreshToken == "":
			// A token that cannot be replaced is tried as long as its time lasts.
			if !valid {
				err = fmt.Errorf("%w: the token in %s has expired and cannot be renewed", ErrAuth, t.path)
			}
		case t.closed:
			err = errors.New("the token source is closed")
		case now.Sub(t.tried) < refreshPause && t.flight == nil:
			// Renewed or tried a moment ago: no storm. A fresh one that was
			// refused is tried again, that refusal is sporadic.
			switch {
			case usable:
			case t.lastErr != nil:
				err = t.lastErr
			case !valid:
				err = fmt.Errorf("%w: the renewed token is over already", ErrUnavailable)
			}
		case usable && t.lastErr != nil && now.Sub(t.tried) < earlyPause:
		default:
			flight := t.refreshLocked()
			if usable {
				break // early: nobody has to wait
			}
			t.mu.Unlock()
			select {
			case <-flight:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		tok := t.tok
		t.mu.Unlock()
		if err != nil {
			return nil, err
		}
		return &tok, nil
	}
}

// checkFileLocked takes over the file when it changed. A file that is gone or
// cannot be understood changes nothing: what is known may still be good.
func (t *TokenFile) checkFileLocked() {
	if time.Since(t.checked) < fileCheckEvery {
		return
	}
	t.checked = time.Now()
	info, err := os.Stat(t.path)
	if err != nil || stampOf(info).same(t.stamp) {
		return
	}
	tok, stamp, err := loadTokenFile(t.path)
	if err != nil || (tok.AccessToken == "" && tok.RefreshToken == "") {
		return
	}
	if tok.RefreshToken == "" && tok.AccessToken == t.tok.AccessToken {
		tok.RefreshToken = t.tok.RefreshToken
	}
	t.useLocked(tok)
	t.stamp = stamp
	t.refused, t.lastErr, t.tried, t.unkept = nil, nil, time.Time{}, nil
}

// useLocked makes tok the token from now on.
func (t *TokenFile) useLocked(tok oauth2.Token) {
	t.tok, t.invalid, t.early = tok, "", refreshEarly
	if life := time.Until(tok.Expiry); !tok.Expiry.IsZero() && life > 0 && life < 2*refreshEarly {
		t.early = life / 2 // a short-lived token must not be renewed without end
	}
}

// refreshLocked starts a renewal unless one is under way.
func (t *TokenFile) refreshLocked() <-chan struct{} {
	if t.flight != nil {
		return t.flight
	}
	done := make(chan struct{})
	t.flight = done
	old := t.tok
	t.wg.Go(func() {
		got, err := t.renew(old)
		kept, stamp := false, fileStamp{}
		var unkept error
		if err == nil {
			kept, stamp, unkept = t.writeBack(old, got)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		defer close(done)
		t.flight, t.tried, t.lastErr = nil, time.Now(), err
		switch {
		case !sameTokens(t.tok, old):
			// A login came in between: its token counts, and so does its chance.
			t.tried, t.lastErr = time.Time{}, nil
		case errors.Is(err, ErrAuth):
			t.refused = err
		case err == nil:
			t.useLocked(got)
			if t.unkept = unkept; kept {
				t.stamp, t.checked = stamp, time.Now()
			} else if unkept == nil {
				t.checked = time.Time{} // changed by another program: theirs counts
			}
		}
	})
	return done
}

// writeBack puts a renewed token into the file, unless that has another one by
// now: then neither kept nor an error. Where the file is gone it stays so: a
// logout means it. The token in memory works on in any case.
func (t *TokenFile) writeBack(old, got oauth2.Token) (kept bool, stamp fileStamp, err error) {
	t.mu.Lock()
	before, still := t.stamp, sameTokens(t.tok, old)
	t.mu.Unlock()
	info, err := os.Stat(t.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, stamp, fmt.Errorf("the token file %s is gone: the renewed token is not kept, the next start needs a login", t.path)
	case !still, err == nil && !stampOf(info).same(before):
		return false, stamp, nil
	}
	if err = WriteToken(t.path, &got); err == nil {
		info, err = os.Stat(t.path)
	}
	if err != nil {
		return false, stamp, fmt.Errorf("the renewed token could not be kept: the next start may need a login: %w", err)
	}
	return true, stampOf(info), nil
}

// sameTokens compares what counts; an oauth2.Token as a whole need not be comparable.
func sameTokens(a, b oauth2.Token) bool {
	return a.AccessToken == b.AccessToken && a.RefreshToken == b.RefreshToken
}

// renew asks the token endpoint.
func (t *TokenFile) renew(old oauth2.Token) (oauth2.Token, error) {
	ctx, cancel := context.WithTimeout(t.ctx, refreshTimeout)
	defer cancel()
	ctx = context.WithValue(ctx, oauth2.HTTPClient, t.client)
	redact.Hide(old.RefreshToken)
	got, err := t.conf.TokenSource(ctx, &oauth2.Token{RefreshToken: old.RefreshToken}).Token()
	if err != nil {
		return oauth2.Token{}, refusal(err)
	}
	redact.Hide(got.AccessToken, got.RefreshToken)
	if badToken(got.AccessToken) || badToken(got.RefreshToken) {
		return oauth2.Token{}, fmt.Errorf("%w: the renewed token has characters that no token has", ErrUnavailable)
	}
	n := oauth2.Token{AccessToken: got.AccessToken, TokenType: got.TokenType, RefreshToken: got.RefreshToken,
		Expiry: got.Expiry.Round(0)} // by the wall clock: the other one stands still while suspended
	if n.RefreshToken == "" {
		n.RefreshToken = old.RefreshToken
	}
	return n, nil
}

// refusal classifies an error of a token source (API §2.3): refused for good
// is ErrAuth, everything else may work later. The answer's text is not repeated, it may hold secrets.
func refusal(err error) error {
	if errors.Is(err, ErrAuth) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrThrottled) {
		return err
	}
	var re *oauth2.RetrieveError
	if !errors.As(err, &re) {
		return fmt.Errorf("%w: renewing the token: %w", ErrUnavailable, err)
	}
	status := 0
	if re.Response != nil {
		status = re.Response.StatusCode
	}
	switch re.ErrorCode {
	case "invalid_grant", "unauthorized_client", "invalid_client", "invalid_request", "invalid_scope", "unsupported_grant_type", "access_denied":
		return fmt.Errorf("%w: the token endpoint says %s: %s", ErrAuth, re.ErrorCode, scrub(re.ErrorDescription))
	}
	if status == http.StatusTooManyRequests {
		return fmt.Errorf("%w: renewing the token", ErrThrottled)
	}
	return fmt.Errorf("%w: renewing the token: HTTP %d", ErrUnavailable, status)
}

func loadTokenFile(path string) (oauth2.Token, fileStamp, error) {
	f, err := os.Stat(path)
	if err != nil {
		return oauth2.Token{}, fileStamp{}, err
	}
	stamp := stampOf(f) // before reading: a change in between is seen next time
	data, err := readSmallFile(path)
	if errors.Is(err, errFileTooLong) {
		err = fmt.Errorf("%w: %w", ErrTokenFile, err)
	}
	if err != nil {
		return oauth2.Token{}, stamp, err
	}
	tok, err := parseToken(data, stamp.mtime)
	redact.Hide(tok.AccessToken, tok.RefreshToken)
	return tok, stamp, err
}

// parseToken reads what x/oauth2 and rclone write, and a raw answer of the
// token endpoint, whose expires_in counts from the time it was written.
func parseToken(data []byte, written time.Time) (oauth2.Token, error) {
	var j struct {
		AccessToken  string `json:"access_token"`
		TokenType    string `json:"token_type"`
		RefreshToken string `json:"refresh_token"`
		Expiry       string `json:"expiry"`
		ExpiresIn    int64  `json:"expires_in"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&j); err != nil {
		return oauth2.Token{}, fmt.Errorf("%w: expected {\"access_token\", \"token_type\", \"refresh_token\", \"expiry\"}: %s", ErrTokenFile, jsonProblem(err))
	}
	if _, err := dec.Token(); err != io.EOF {
		return oauth2.Token{}, fmt.Errorf("%w: something follows the token", ErrTokenFile)
	}
	if badToken(j.AccessToken) || badToken(j.RefreshToken) {
		return oauth2.Token{}, fmt.Errorf("%w: a token has blanks or control characters", ErrTokenFile)
	}
	tok := oauth2.Token{AccessToken: j.AccessToken, TokenType: j.TokenType, RefreshToken: j.RefreshToken}
	switch {
	case j.Expiry != "":
		e, err := time.Parse(time.RFC3339Nano, j.Expiry)
		if err != nil {
			return oauth2.Token{}, fmt.Errorf("%w: expiry is not a time as in 2006-01-02T15:04:05Z", ErrTokenFile)
		}
		tok.Expiry = e
	case j.ExpiresIn > 0:
		tok.Expiry = written.Add(time.Duration(min(j.ExpiresIn, 1<<31)) * time.Second)
	}
	return tok, nil
}

// jsonProblem says where, and never what: the text around may be the token.
func jsonProblem(err error) string {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("not JSON at byte %d", syntax.Offset)
	case errors.As(err, &typ):
		return fmt.Sprintf("%q has the wrong type", typ.Field)
	case err == io.EOF:
		return "the file is empty"
	}
	return "not a JSON object"
}

// badToken: what cannot stand in a header cannot be a token.
func badToken(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
