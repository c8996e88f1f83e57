package account

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/drivefs/drivefs/drive"
)

// ErrOther: the token is of another account than the state directory.
var ErrOther = errors.New("the token belongs to another account")

// checkTime is how long the drive may take to say whose it is.
const checkTime = 30 * time.Second

// guard gives out no token before the drive has said that it is of the account
// that is wanted: whatever token comes into the file, and whoever answers at
// the endpoint after a start without a network, no call reaches another
// account's drive but the one that finds that out.
type guard struct {
	*drive.TokenFile
	ask func(context.Context, oauth2.TokenSource) (root string, err error)

	life    context.Context // of questions
	end     context.CancelFunc
	flights sync.WaitGroup

	mu      sync.Mutex              // guards the rest; not held over the network
	confirm func(root string) error // ErrOther refuses; nil = any account will do
	good    oauth2.Token            // confirmed
	bad     oauth2.Token            // of another account, which badErr tells
	badErr  error
	flight  *flight // the question under way
}

// flight is one question, for all who wait for its answer.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

// same reports whether two tokens are of one login: renewing keeps the refresh
// token, or the access token is the one that was given out.
func same(a, b *oauth2.Token) bool {
	return a.AccessToken != "" && a.AccessToken == b.AccessToken || a.RefreshToken != "" && a.RefreshToken == b.RefreshToken
}

// TokenContext is TokenFile's, for the right account. ErrAuth also stands for
// a token of another one; ErrOther is in it then.
func (g *guard) TokenContext(ctx context.Context) (*oauth2.Token, error) {
	for {
		tok, err := g.TokenFile.TokenContext(ctx)
		if err != nil {
			return nil, err
		}
		f, err := g.check(tok)
		if f == nil {
			return tok, err
		}
		select {
		case <-f.done:
			if f.err != nil {
				return nil, f.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Token is TokenContext without a limit but the check's own.
func (g *guard) Token() (*oauth2.Token, error) { return g.TokenContext(context.Background()) }

// check gives the verdict on tok, or the question to wait for.
func (g *guard) check(tok *oauth2.Token) (*flight, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.confirm == nil:
		return nil, nil
	case same(tok, &g.good):
		g.good = *tok
		return nil, nil
	case same(tok, &g.bad):
		return nil, g.badErr
	case g.flight != nil:
		return g.flight, nil
	}
	f := &flight{done: make(chan struct{})}
	g.flight = f
	confirm := g.confirm
	g.flights.Go(func() { g.fly(f, confirm) })
	return f, nil
}

// fly asks whose the drive is. A refused token is renewed meanwhile, so it is
// the one used last that the answer is about.
func (g *guard) fly(f *flight, confirm func(string) error) {
	ctx, cancel := context.WithTimeout(g.life, checkTime)
	defer cancel()
	used := &lastUsed{TokenFile: g.TokenFile}
	root, err := g.ask(ctx, used)
	if err == nil {
		err = confirm(root)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	defer close(f.done)
	g.flight = nil
	switch {
	case errors.Is(err, ErrOther):
		g.bad, g.badErr = used.last(), fmt.Errorf("%w: %w", drive.ErrAuth, err)
		f.err = g.badErr
	case err != nil:
		f.err = err
	default:
		g.good = used.last()
	}
}

// close ends a question under way and waits for it.
func (g *guard) close() {
	g.end()
	g.flights.Wait()
}

// want makes confirm judge every token from now on.
func (g *guard) want(confirm func(root string) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.confirm, g.good, g.bad = confirm, oauth2.Token{}, oauth2.Token{}
}

// lastUsed remembers which token a call went out with.
type lastUsed struct {
	*drive.TokenFile
	mu  sync.Mutex
	tok oauth2.Token // guarded by mu
}

func (l *lastUsed) TokenContext(ctx context.Context) (*oauth2.Token, error) {
	tok, err := l.TokenFile.TokenContext(ctx)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.tok = *tok
	}
	return tok, err
}

func (l *lastUsed) Token() (*oauth2.Token, error) { return l.TokenContext(context.Background()) }

func (l *lastUsed) last() oauth2.Token {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tok
}
