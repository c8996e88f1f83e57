package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/account"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/clock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/running"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/redact"
)

func newLogin(p *program) *cobra.Command {
	var noBrowser bool
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Login with Amazon, in a browser or headless with --no-browser",
		Long: "Get a token for a profile and keep it in its token file. A mount that runs takes the new token over.\n" +
			"The client id must be registered for http://127.0.0.1:PORT/ as its redirect address.",
		Example: "  drivefs login --client-id amzn1.application-oa2-client.…",
		Args:    takes(0),
	}
	cmd.Flags().BoolVar(&noBrowser, "no-browser", false, "print the address to open anywhere, and read the answer from standard input")
	return accountCommand(p, cmd, config.Login, func(ctx context.Context, c *config.Config, _ []string) error {
		return runLogin(ctx, p, c, noBrowser)
	})
}

func runLogin(ctx context.Context, p *program, c *config.Config, noBrowser bool) error {
	conf := account.OAuth(c)
	if conf == nil {
		return fail(exitUsage, "no --client-id: use the one of your own security profile at Amazon, or an OAuth proxy's --auth-url and --token-url")
	}
	// Least permission: API document §2.1 and §13.7.
	conf.Scopes = []string{"clouddrive:read_all"}
	if !c.ReadOnly {
		conf.Scopes = append(conf.Scopes, "clouddrive:write")
	}
	conf.RedirectURL = "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(c.RedirectPort)) + "/"
	state, verifier := rand.Text(), oauth2.GenerateVerifier()
	address := conf.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier))

	var code string
	var err error
	if noBrowser {
		fmt.Fprintf(p.stdout, "Open this address in any browser:\n\n  %s\n\n%s\n"+
			"Then paste the address it ends at (the page itself may fail to load): ", address, unregistered(conf.RedirectURL))
		code, err = readAnswer(ctx, p.stdin, state)
	} else {
		code, err = listenForAnswer(ctx, p, conf.RedirectURL, address, state)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, account.Direct)
	defer cancel()
	client := drive.NewTokenClient()
	defer client.CloseIdleConnections()
	dates := &clock.Dated{Next: client.Transport}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: dates, CheckRedirect: client.CheckRedirect, Timeout: client.Timeout})
	redact.Hide(conf.ClientSecret, verifier)
	token, err := conf.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return exchangeError(conf, err, dates.Problem())
	}
	err = os.MkdirAll(filepath.Dir(c.TokenFile), 0o700)
	if err == nil {
		err = drive.WriteToken(c.TokenFile, token)
	}
	if err != nil {
		return fmt.Errorf("keeping the token: %w", err)
	}
	fmt.Fprintf(p.stdout, "logged in; the token is in %s\n", c.TokenFile)
	if problem := dates.Problem(); problem != "" {
		fmt.Fprintf(p.stderr, "%s; until then tokens may look too old or too young\n", problem)
	}
	if c.Source["client-id"] == "flag" {
		fmt.Fprintf(p.stdout, "mounts need the client too, to renew the token: put client-id and client-secret under [%s] in %s\n", c.Profile, c.File)
	}
	if m := running.Of(c); m != nil { // it would look by itself within 10 s
		if err := m.Call(ctx, control.VerbRefresh, none{}, nil, nil); err != nil {
			fmt.Fprintf(p.stderr, "the running mount takes the token over by itself soon (%v)\n", message(err))
		}
	}
	return nil
}

// unregistered says what to do about the one refusal that Amazon shows in the
// browser only. API document §2.2.
func unregistered(redirect string) string {
	return "Should the page refuse the return address: add " + redirect + " to the Allowed Return URLs of your security profile."
}

// answerCode takes the code out of what the browser was sent to. State proves
// that it answers our question and no other; without it nothing else counts,
// since any page can send a browser here.
func answerCode(q url.Values, state string) (string, error) {
	switch {
	case q.Get("state") == "" && q.Get("code") == "" && q.Get("error") == "":
		return "", fail(exitLogin, "the answer has no code: paste the whole address the browser ended at")
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1:
		return "", fail(exitLogin, "the answer belongs to another login: start again")
	case q.Get("error") == "access_denied":
		return "", fail(exitLogin, "access was denied in the browser: start again to allow it")
	case q.Get("error") != "":
		return "", fail(exitLogin, "Amazon refused: %s: %s", q.Get("error"), q.Get("error_description"))
	case q.Get("code") == "":
		return "", fail(exitLogin, "the answer has no code: paste the whole address the browser ended at")
	}
	redact.Hide(q.Get("code"))
	return q.Get("code"), nil
}

func readAnswer(ctx context.Context, r io.Reader, state string) (string, error) {
	text, err := readLine(ctx, r)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case text == "":
		return "", fail(exitLogin, "nothing was pasted")
	case err != nil:
		return "", fail(exitFailed, "reading the answer: %w", err)
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", fail(exitLogin, "that is no address: paste the whole address the browser ended at")
	}
	return answerCode(u.Query(), state)
}

// listenForAnswer opens the browser and takes one answer on loopback.
func listenForAnswer(ctx context.Context, p *program, redirect, address, state string) (string, error) {
	u, err := url.Parse(redirect)
	if err != nil {
		return "", err
	}
	ln, err := net.Listen("tcp", u.Host)
	if err != nil {
		return "", fail(exitFailed, "waiting for the browser on %s: %w: choose another --redirect-port, or use --no-browser", u.Host, err)
	}
	type result struct {
		code string
		err  error
	}
	answered := make(chan result, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		code, err := answerCode(r.URL.Query(), state)
		if subtle.ConstantTimeCompare([]byte(r.URL.Query().Get("state")), []byte(state)) != 1 {
			err = errors.New("this is not the answer drivefs waits for; it goes on waiting")
		} else {
			select {
			case answered <- result{code, err}:
			default:
				err = errors.New("this login was answered already")
			}
		}
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, "drivefs: %s\n", message(err))
			return
		}
		fmt.Fprintln(w, "drivefs has its answer. You can close this page.")
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(ln) // http.ErrServerClosed
	}()
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(end) != nil {
			_ = srv.Close()
		}
		<-served
	}()
	fmt.Fprintf(p.stdout, "Opening the browser. If none appears, open this address on this machine:\n\n  %s\n\n%s\n", address, unregistered(redirect))
	if browser := exec.Command("xdg-open", address); browser.Start() == nil {
		_ = browser.Process.Release() // it is the user's
	} else {
		fmt.Fprintln(p.stderr, "no browser could be started; on another machine use --no-browser")
	}
	select {
	case r := <-answered:
		return r.code, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// exchangeError says what to do about a refused code. API document §2.3. wrong
// is what is wrong with this machine's, "" = nothing.
func exchangeError(conf *oauth2.Config, err error, wrong string) error {
	var refused *oauth2.RetrieveError
	if clock.Untimely(err) {
		return fail(exitFailed, "the certificate of %s is not valid at the time it is here, %s: is this machine's clock right? %w", conf.Endpoint.TokenURL, time.Now().Format(time.DateTime), err)
	}
	if !errors.As(err, &refused) {
		return fail(exitUnreachable, "%s cannot be reached: check the network and --token-url: %w", conf.Endpoint.TokenURL, err)
	}
	switch refused.ErrorCode {
	case "invalid_client", "unauthorized_client":
		return fail(exitLogin, "%s does not accept this client: check --client-id and --client-secret", conf.Endpoint.TokenURL)
	case "invalid_grant":
		if wrong != "" {
			return fail(exitLogin, "the code was refused, and %s; then log in again", wrong)
		}
		return fail(exitLogin, "the code was used already or is too old: log in again")
	case "":
		return fail(exitUnreachable, "%s does not answer like a token endpoint: check --token-url", conf.Endpoint.TokenURL)
	}
	return fail(exitLogin, "%s refused: %s: %s", conf.Endpoint.TokenURL, refused.ErrorCode, refused.ErrorDescription)
}
