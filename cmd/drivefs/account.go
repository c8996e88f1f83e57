package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// account is the service as one profile sees it.
type account struct {
	tokens *drive.TokenFile
	client *drive.Client
}

// openAccount reads the token and makes a client; the network is not used.
// observe may be nil.
func openAccount(c *config.Config, log *slog.Logger, observe func(drive.Try)) (*account, error) {
	tokens, err := drive.OpenTokenFile(c.TokenFile, oauthConfig(c))
	if err != nil {
		return nil, tokenError(c, err)
	}
	client, err := drive.New(drive.Options{
		Endpoint:      c.Endpoint,
		Tokens:        tokens,
		Endpoints:     drive.FileEndpointCache(filepath.Join(c.StateDir, "endpoints.json"), c.Endpoint),
		UserAgent:     userAgent(),
		Uploads:       c.Uploads,
		Downloads:     c.Downloads,
		UploadLimit:   c.UploadLimit,
		DownloadLimit: c.DownloadLimit,
		Logger:        log,
		Observe:       observe,
	})
	if err != nil {
		tokens.Close()
		return nil, fail(exitUsage, "--endpoint %s: %w", c.Endpoint, err)
	}
	return &account{tokens, client}, nil
}

// tokenError says what to do about a token file that is not one.
func tokenError(c *config.Config, err error) error {
	switch {
	case errors.Is(err, drive.ErrAuth):
		return fail(exitLogin, "no token in %s: log in with drivefs login%s, or name a token with --token-file", c.TokenFile, profileFlag(c))
	case errors.Is(err, drive.ErrTokenFile):
		return fail(exitUsage, "%w: repair it, or log in again with drivefs login%s", err, profileFlag(c))
	}
	return fail(exitUsage, "reading the token: %w", err)
}

func (a *account) close() {
	a.client.Close()
	a.tokens.Close()
}

// oauthConfig is how tokens are asked for and renewed (API document §2); nil
// when they cannot be renewed, for want of a client. A local drive has one
// registered client, the same for everybody.
func oauthConfig(c *config.Config) *oauth2.Config {
	id, secret := c.ClientID, c.ClientSecret
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

func profileFlag(c *config.Config) string {
	if c.Profile == "default" {
		return ""
	}
	return " --profile " + c.Profile
}

// direct is how long a verb without a mount tries to reach the drive.
const direct = 30 * time.Second

// remoteError says what to do about an error of the service.
func remoteError(c *config.Config, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, drive.ErrAuth):
		return fail(exitLogin, "%w: log in again with drivefs login%s, or put a new token into %s", err, profileFlag(c), c.TokenFile)
	case errors.Is(err, drive.ErrNoAccount):
		return fail(exitFailed, "%s: %w: sign in once on Amazon Drive's web page and accept its terms of use", c.Endpoint, err)
	case errors.Is(err, drive.ErrProtocol):
		return fail(exitUnreachable, "%s does not speak the Amazon Drive API: check --endpoint: %w", c.Endpoint, err)
	case errors.Is(err, drive.ErrThrottled):
		return fail(exitUnreachable, "%s asks for patience, try again later: %w", c.Endpoint, err)
	case errors.Is(err, drive.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return fail(exitUnreachable, "%s cannot be reached: check the network and --endpoint: %w", c.Endpoint, err)
	}
	return err
}

// paths finds where nodes are, asking once for each folder.
type paths struct {
	client *drive.Client
	known  map[string]string // folder id → path, "" for the root
}

// of is the path of a node in the drive. Folders that cannot be asked for are
// shown by their id.
func (p *paths) of(ctx context.Context, n drive.Node) string {
	if n.IsRoot {
		return "/"
	}
	if len(n.Parents) == 0 {
		return n.Name
	}
	return p.folder(ctx, n.Parents[0], 0) + "/" + n.Name
}

// deepest bounds what a damaged tree can make of us.
const deepest = 200

func (p *paths) folder(ctx context.Context, id string, depth int) string {
	if path, ok := p.known[id]; ok {
		return path
	}
	path := "[" + id + "]"
	if n, err := p.client.Get(ctx, id); err == nil && depth < deepest {
		switch {
		case n.IsRoot:
			path = ""
		case len(n.Parents) > 0:
			path = p.folder(ctx, n.Parents[0], depth+1) + "/" + n.Name
		}
	}
	p.known[id] = path
	return path
}

// verbLog is the log of verbs that work without a mount.
func (p *program) verbLog(c *config.Config) *slog.Logger {
	return slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: max(c.LogLevel, slog.LevelWarn), ReplaceAttr: maskAttr}))
}

func maskAttr(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case string:
		a.Value = slog.StringValue(mask(v))
	case error:
		a.Value = slog.StringValue(strings.ReplaceAll(mask(v.Error()), "\n", "; "))
	}
	return a
}

// answer gets a verb's answer through the profile's mount where there is one,
// else from the drive itself.
func answer[In, Out any](ctx context.Context, p *program, c *config.Config, verb string, in In, ask func(context.Context, *drive.Client, In) (Out, error)) (out Out, err error) {
	if m := running(c); m != nil {
		err = m.Call(ctx, verb, in, &out, nil)
		if !errors.Is(err, control.ErrNoMount) { // else it has just ended
			return out, err
		}
	}
	a, err := openAccount(c, p.verbLog(c), nil)
	if err != nil {
		return out, err
	}
	defer a.close()
	ctx, cancel := context.WithTimeout(ctx, direct)
	defer cancel()
	out, err = ask(ctx, a.client, in)
	return out, remoteError(c, err)
}

// accountCommand makes a verb that takes the account's flags.
func accountCommand(p *program, cmd *cobra.Command, groups config.Group, run func(ctx context.Context, c *config.Config, args []string) error) *cobra.Command {
	flags := config.Register(cmd.Flags(), config.Which|config.Account|groups)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := flags.Load(p.env)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		if err := run(ctx, c, args); err != nil {
			return fmt.Errorf("%s: %w", strings.TrimPrefix(cmd.CommandPath(), "drivefs "), err)
		}
		return nil
	}
	return cmd
}
