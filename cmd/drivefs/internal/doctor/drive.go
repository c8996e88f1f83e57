package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/account"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/clock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/lock"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/running"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/version"
	"github.com/drivefs/drivefs/drive"
)

func checkConfig(_ context.Context, _ io.Writer, c *config.Config) finding {
	f := finding{about: "settings", well: c.File}
	st, err := os.Stat(c.File)
	switch {
	case errors.Is(err, os.ErrNotExist):
		f.well = "defaults; there is no " + c.File
	case err != nil:
		f.err = exit.Fail(exit.Usage, "%w", err)
		return f
	case st.Mode().Perm()&0o077 != 0 && strings.HasPrefix(c.Source["client-secret"], c.File):
		f.err = exit.Fail(exit.Failed, "%s holds a secret and is open to others: chmod 600 %s", c.File, show.Quote(c.File))
		return f
	}
	if account.OAuth(c) == nil {
		f.note = fmt.Sprintf("no client-id: a token cannot be renewed, and ends after an hour: put client-id and client-secret under [%s] in %s", c.Profile, c.File)
	}
	return f
}

func checkToken(_ context.Context, _ io.Writer, c *config.Config) finding {
	f := finding{about: "token", well: c.TokenFile}
	tokens, err := drive.OpenTokenFile(c.TokenFile, account.OAuth(c))
	if err != nil {
		f.err = account.TokenError(c, err)
		return f
	}
	tokens.Close()
	if st, err := os.Stat(c.TokenFile); err == nil && st.Mode().Perm()&0o077 != 0 {
		f.err = exit.Fail(exit.Failed, "%s is open to others: chmod 600 %s", c.TokenFile, show.Quote(c.TokenFile))
	}
	return f
}

// slow is how long the first byte of an answer to nobody may take.
const slow = 3 * time.Second

// visit is how a host answered a question that needs no account, and how long
// each part of that took.
type visit struct {
	total, name, connect, tls, first time.Duration
	header                           http.Header
}

// go to a host without following it elsewhere.
func visitHost(ctx context.Context, address string) (v visit, err error) {
	ctx, cancel := context.WithTimeout(ctx, account.Direct)
	defer cancel()
	var began, named, connecting, shaking, asked time.Time
	since := func(t time.Time) time.Duration {
		if t.IsZero() {
			return 0
		}
		return time.Since(t)
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:             func(httptrace.DNSStartInfo) { named = time.Now() },
		DNSDone:              func(httptrace.DNSDoneInfo) { v.name = since(named) },
		ConnectStart:         func(string, string) { connecting = time.Now() },
		ConnectDone:          func(string, string, error) { v.connect = since(connecting) },
		TLSHandshakeStart:    func() { shaking = time.Now() },
		TLSHandshakeDone:     func(tls.ConnectionState, error) { v.tls = since(shaking) },
		WroteRequest:         func(httptrace.WroteRequestInfo) { asked = time.Now() },
		GotFirstResponseByte: func() { v.first = since(asked) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, address, nil)
	if err != nil {
		return v, err
	}
	req.Header.Set("User-Agent", version.UserAgent())
	// A connection of its own, so that there is something to measure.
	base := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	began = time.Now()
	resp, err := base.RoundTrip(req)
	if err != nil {
		return v, err
	}
	resp.Body.Close()
	v.total, v.header = time.Since(began), resp.Header
	return v, nil
}

func (v visit) String() string {
	ms := func(d time.Duration) string { return d.Round(time.Millisecond / 10).String() }
	s := "answers in " + ms(v.total) + " ("
	if v.name > 0 {
		s += "name " + ms(v.name) + ", "
	}
	s += "connection " + ms(v.connect)
	if v.tls > 0 {
		s += ", TLS " + ms(v.tls)
	}
	return s + ", first byte " + ms(v.first) + ")"
}

// remedy names what takes the time.
func (v visit) remedy() string {
	switch max(v.name, v.connect, v.tls, v.first) {
	case v.name:
		return "names are slow to resolve: look at the resolver in /etc/resolv.conf"
	case v.first:
		return "the service or a proxy is slow to answer: try again later"
	}
	return "the way there is slow: look at the network, a VPN or a proxy"
}

func checkClock(ctx context.Context, _ io.Writer, c *config.Config) finding {
	f := finding{about: "clock"}
	v, err := visitHost(ctx, c.Endpoint)
	if clock.Untimely(err) {
		f.err = exit.Fail(exit.Failed, "the certificate of %s is not valid at the time it is here, %s: is this machine's clock right? See timedatectl: %w", c.Endpoint, time.Now().Format(time.DateTime), err)
		return f
	}
	if err != nil {
		return f // the network's finding
	}
	ahead, ok := clock.Skew(v.header)
	switch problem := clock.Problem(ahead); {
	case !ok:
		f.note = c.Endpoint + " does not say what time it is"
	case problem != "":
		f.err = exit.Fail(exit.Failed, "%s", problem)
	default:
		f.well = "right"
	}
	return f
}

// checkNetwork visits every host that a mount speaks to.
func checkNetwork(ctx context.Context, stderr io.Writer, c *config.Config) (found []finding) {
	hosts := []string{c.Endpoint}
	if a, err := account.Open(c, account.Log(stderr, c), nil); err == nil {
		limited, cancel := context.WithTimeout(ctx, account.Direct)
		if e, err := a.Client.Discover(limited); err == nil {
			hosts = append(hosts, e.Metadata, e.Content)
		}
		cancel()
		a.Close()
	}
	if conf := account.OAuth(c); conf != nil {
		hosts = append(hosts, conf.Endpoint.TokenURL)
	}
	for i, host := range hosts {
		if slices.Contains(hosts[:i], host) {
			continue
		}
		f := finding{about: "network"}
		switch v, err := visitHost(ctx, host); {
		case err != nil:
			f.err = exit.Fail(exit.Unreachable, "%s cannot be reached: check the network%s: %w", host, flagOf(c, host), err)
		case v.total > slow:
			f.note = fmt.Sprintf("%s %v: %s", host, v, v.remedy())
		default:
			f.well = fmt.Sprintf("%s %v", host, v)
		}
		found = append(found, f)
	}
	return found
}

// flagOf names the setting that a host is from.
func flagOf(c *config.Config, host string) string {
	switch host {
	case c.Endpoint:
		return " and --endpoint"
	case c.TokenURL:
		return " and --token-url"
	}
	return ""
}

func checkAccount(ctx context.Context, stderr io.Writer, c *config.Config) []finding {
	a, err := account.Open(c, account.Log(stderr, c), nil)
	if err != nil {
		return nil // the token's finding
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(ctx, account.Direct)
	defer cancel()
	about, err := account.AskAbout(ctx, a.Client, struct{}{})
	if err != nil {
		return []finding{{about: "account", err: account.RemoteError(c, err)}}
	}
	found := []finding{{about: "account", well: about.Status}, checkScopes(ctx, c, a.Client), {about: "quota", well: show.Size(about.Quota.Available) + " free"}}
	if quota := &found[2]; about.Quota.Quota > 0 && about.Quota.Available <= 0 {
		quota.err = exit.Fail(exit.Failed, "the drive is full: what is written here waits until there is room: empty its trash, or get more space")
	}
	return found
}

func checkScopes(ctx context.Context, c *config.Config, client *drive.Client) finding {
	f := finding{about: "permissions", well: "reading"}
	if may, _ := client.MayRead(ctx); !may {
		f.err = exit.Fail(exit.Login, "the token does not permit reading (clouddrive:read_all): log in again with drivefs login%s", account.ProfileFlag(c))
		return f
	}
	if c.ReadOnly {
		f.well = "reading; writing is not wanted (--read-only)"
		return f
	}
	may, err := client.MayWrite(ctx)
	switch {
	case err == nil && !may:
		f.err = exit.Fail(exit.Login, "the token does not permit writing (clouddrive:write): log in again with drivefs login%s, or mount with --read-only", account.ProfileFlag(c))
	case err == nil:
		f.well = "reading and writing"
	default:
		f.well = "reading; the service does not say whether writing is permitted"
	}
	return f
}

func checkState(_ context.Context, _ io.Writer, c *config.Config) finding {
	f := finding{about: "state", well: c.StateDir + ", not mounted"}
	if h, held := lock.Find(c.StateDir); held {
		f.well = fmt.Sprintf("%s, mounted on %s (process %d)", c.StateDir, h.Mountpoint, h.PID)
	}
	st, err := os.Stat(c.StateDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		f.well = c.StateDir + ", made by the first mount"
	case err != nil:
		f.err = err
	case st.Mode().Perm()&0o077 != 0:
		f.err = exit.Fail(exit.Failed, "%s is open to others: chmod 700 %s", c.StateDir, show.Quote(c.StateDir))
	}
	return f
}

// checkJournal looks at what the drive lacks: what waits, what fails, and what
// was damaged.
func checkJournal(ctx context.Context, _ io.Writer, c *config.Config) (found []finding) {
	f := finding{about: "journal", well: "nothing waits"}
	if m := running.Of(c); m != nil {
		f = askJournal(ctx, m)
	} else if exists(filepath.Join(c.StateDir, "journal.db")) {
		f = openJournal(c)
	}
	found = append(found, f)
	aside := filepath.Join(c.StateDir, "aside")
	if saved, err := os.ReadDir(aside); err == nil && len(saved) > 0 {
		found = append(found, finding{about: "set aside", err: exit.Fail(exit.Failed,
			"%s in %s was saved from damage and is not on the drive: copy what you want to keep into the mount, then delete the rest",
			show.Count(len(saved), "file"), aside)})
	}
	return found
}

func askJournal(ctx context.Context, m *control.Client) finding {
	f := finding{about: "journal"}
	ctx, cancel := context.WithTimeout(ctx, control.Patience)
	defer cancel()
	var s control.Status
	if err := m.Call(ctx, control.VerbStatus, struct{}{}, &s, nil); err != nil {
		f.err = fmt.Errorf("asking the mount: %w", err)
		return f
	}
	u := s.Uploads
	switch {
	case len(u.Failed) > 0:
		f.err = exit.Fail(exit.Pending, "%s pending (%s), of which %d failed, as %s: %s; drivefs status lists them, drivefs flush tries them now",
			show.Count(u.Pending, "change"), show.Size(u.PendingBytes), len(u.Failed), u.Failed[0].Path, exit.Line(u.Failed[0].Error))
	case s.Limits.Paused && u.Pending > 0:
		f.note = fmt.Sprintf("%s pending (%s), uploads are paused: drivefs limit --resume", show.Count(u.Pending, "change"), show.Size(u.PendingBytes))
	case u.Pending > 0:
		f.well = fmt.Sprintf("%s pending (%s), the oldest for %v", show.Count(u.Pending, "change"), show.Size(u.PendingBytes), time.Duration(u.OldestAge*float64(time.Second)).Round(time.Second))
	default:
		f.well = "nothing waits"
	}
	return f
}

// openJournal reads the journal of what is not mounted.
func openJournal(c *config.Config) (f finding) {
	f.about = "journal"
	held, err := lock.Take(c.StateDir, lock.Holder{PID: os.Getpid()})
	if err != nil {
		f.note = fmt.Sprintf("not looked at: %v", err)
		return f
	}
	defer func() { f.err = errors.Join(f.err, held.Release()) }()
	j, err := journal.Open(journal.Options{Dir: c.StateDir})
	if err != nil {
		f.err = err
		return f
	}
	defer func() { f.err = errors.Join(f.err, j.Close()) }()
	damage := j.Problems()
	for _, err := range j.Check() {
		damage = append(damage, err.Error())
	}
	switch {
	case len(damage) > 0:
		f.err = exit.Fail(exit.Failed, "damaged: %s: what could be saved goes on at the next mount; then run drivefs check", strings.Join(damage, "; "))
	case j.Len() > 0:
		f.note = fmt.Sprintf("%s (%s) for the next mount: drivefs mount", show.Count(j.Len(), "change"), show.Size(j.PendingBytes()))
	default:
		f.well = "nothing waits"
	}
	return f
}
