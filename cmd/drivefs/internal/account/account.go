// Package account answers one question: how is the drive of a profile reached? It
// makes the client from the settings, and says what to do about its errors.
package account

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/version"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// Account is the service as one profile sees it.
type Account struct {
	Tokens *drive.TokenFile
	Client *drive.Client
	guard  *guard
}

// Open reads the token and makes a client; the network is not used.
// observe may be nil.
func Open(c *config.Config, log *slog.Logger, observe func(drive.Try)) (*Account, error) {
	tokens, err := drive.OpenTokenFile(c.TokenFile, OAuth(c))
	if err != nil {
		return nil, TokenError(c, err)
	}
	o := drive.Options{
		Endpoint:       c.Endpoint,
		TrustEndpoints: c.TrustEndpoints,
		Endpoints:      drive.FileEndpointCache(filepath.Join(c.StateDir, "endpoints.json"), c.Endpoint),
		UserAgent:      version.UserAgent(),
		Uploads:        c.Uploads,
		Downloads:      c.Downloads,
		UploadLimit:    c.UploadLimit,
		DownloadLimit:  c.DownloadLimit,
		Logger:         log,
		Observe:        observe,
	}
	g := &guard{TokenFile: tokens, ask: func(ctx context.Context, tokens oauth2.TokenSource) (string, error) {
		o := o
		o.Tokens, o.Tries = tokens, 2
		client, err := drive.New(o)
		if err != nil {
			return "", err
		}
		defer client.Close()
		n, err := client.Root(ctx)
		return n.ID, err
	}}
	g.life, g.end = context.WithCancel(context.Background())
	o.Tokens = g
	client, err := drive.New(o)
	if err != nil {
		g.close()
		tokens.Close()
		return nil, exit.Fail(exit.Usage, "--endpoint %s: %w", c.Endpoint, err)
	}
	return &Account{Tokens: tokens, Client: client, guard: g}, nil
}

// Want binds the account: from now on no call is made with a token before
// confirm has been told the id of the root that it leads to, and accepted it.
// An error of confirm that is ErrOther refuses the token until there is
// another one.
func (a *Account) Want(confirm func(root string) error) { a.guard.want(confirm) }

// Confirm asks the drive whose it is, unless it has told already. ErrOther: it
// is of another account.
func (a *Account) Confirm(ctx context.Context) error {
	_, err := a.guard.TokenContext(ctx)
	return err
}

// Origin is where the drive of c is, as https://host.
func Origin(c *config.Config) string {
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return c.Endpoint
	}
	return u.Scheme + "://" + u.Host
}

// TokenError says what to do about a token file that is not one.
func TokenError(c *config.Config, err error) error {
	switch {
	case errors.Is(err, drive.ErrAuth):
		return exit.Fail(exit.Login, "no token in %s: log in with drivefs login%s, or name a token with --token-file", c.TokenFile, ProfileFlag(c))
	case errors.Is(err, drive.ErrTokenFile):
		return exit.Fail(exit.Usage, "%w: repair it, or log in again with drivefs login%s", err, ProfileFlag(c))
	}
	return exit.Fail(exit.Usage, "reading the token: %w", err)
}

// Close ends what is under way.
func (a *Account) Close() {
	a.guard.close()
	a.Client.Close()
	a.Tokens.Close()
}

// OAuth is how tokens are asked for and renewed (API document §2); nil
// when they cannot be renewed, for want of a client. A local drive has one
// registered client, the same for everybody.
func OAuth(c *config.Config) *oauth2.Config {
	id, secret := c.ClientID, c.ClientSecret.Reveal()
	if id == "" && strings.HasPrefix(c.Endpoint, "http:") {
		local := new(drivetest.Server)
		id, secret = local.ClientID(), local.ClientSecret()
	}
	if id == "" && c.TokenURL == config.DefaultTokenURL {
		return nil
	}
	return &oauth2.Config{
		ClientID:     id,
		ClientSecret: secret,
		Endpoint:     oauth2.Endpoint{AuthURL: c.AuthURL, TokenURL: c.TokenURL, AuthStyle: oauth2.AuthStyleInParams},
	}
}

// ProfileFlag names the profile in a command line to copy, "" for the default.
func ProfileFlag(c *config.Config) string {
	if c.Profile == "default" {
		return ""
	}
	return " --profile " + c.Profile
}

// Direct is how long a verb without a mount tries to reach the drive.
const Direct = 30 * time.Second

// RemoteError says what to do about an error of the service.
func RemoteError(c *config.Config, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, drive.ErrAuth):
		return exit.Fail(exit.Login, "%w: log in again with drivefs login%s, or put a new token into %s", err, ProfileFlag(c), c.TokenFile)
	case errors.Is(err, drive.ErrNoAccount):
		return exit.Fail(exit.Failed, "%s: %w: sign in once on Amazon Drive's web page and accept its terms of use", c.Endpoint, err)
	case errors.Is(err, drive.ErrUntrusted):
		return exit.Fail(exit.Failed, "%w: --trust-endpoints accepts it, if you know that host to be the drive's", err)
	case errors.Is(err, drive.ErrProtocol):
		return exit.Fail(exit.Unreachable, "%s does not speak the Amazon Drive API: check --endpoint: %w", c.Endpoint, err)
	case errors.Is(err, drive.ErrThrottled):
		return exit.Fail(exit.Unreachable, "%s asks for patience, try again later: %w", c.Endpoint, err)
	case errors.Is(err, drive.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return exit.Fail(exit.Unreachable, "%s cannot be reached: check the network and --endpoint: %w", c.Endpoint, err)
	}
	return err
}

// Log is the log of verbs that work without a mount.
func Log(w io.Writer, c *config.Config) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: max(c.LogLevel, slog.LevelWarn), ReplaceAttr: exit.MaskAttr}))
}
