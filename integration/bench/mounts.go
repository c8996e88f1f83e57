package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/integration/bench/memfs"
)

// A subject is a mount in a process of its own.
type subject struct {
	b     *bench
	proc  *proc
	mnt   string
	d     *theDrive
	state string // of drivefs: state, cache, token
	flags []string
	began time.Time     // when the process was started
	up    time.Duration // until it answered
}

// path is a path in the mount.
func (s *subject) path(elem ...string) string {
	return filepath.Join(append([]string{s.mnt}, elem...)...)
}

// mount mounts d with a fresh state and cache.
func (b *bench) mount(d *theDrive, flags ...string) (*subject, error) {
	s := &subject{b: b, d: d, state: b.dir("state"), mnt: b.dir("mnt"), flags: flags}
	for _, dir := range []string{s.state, s.mnt} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	tok, err := json.Marshal(d.Token)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.state, "token.json"), tok, 0o600); err != nil {
		return nil, err
	}
	return s, s.start()
}

// env keeps the user's configuration out of it.
func (s *subject) env() []string {
	return []string{"XDG_RUNTIME_DIR=" + s.state, "XDG_CONFIG_HOME=" + s.state, "NO_COLOR=1"}
}

// start mounts, also again on the state there is.
func (s *subject) start() error {
	args := []string{
		s.b.drivefs, "mount", "--endpoint", s.d.Endpoint, "--token-file", filepath.Join(s.state, "token.json"),
		"--client-id", s.d.ClientID, "--client-secret", s.d.ClientSecret, "--token-url", s.d.TokenURL,
		"--state-dir", filepath.Join(s.state, "state"), "--cache-dir", filepath.Join(s.state, "cache"), "--poll-interval", "1h",
	}
	args = append(append(append(args, s.flags...), s.b.flags...), s.mnt)
	s.began = time.Now()
	p, line, err := s.b.start(s.env(), args...)
	if err != nil {
		return err
	}
	s.up = time.Since(s.began)
	p.mnt, s.proc = s.mnt, p
	if !strings.HasPrefix(line, "mounted ") {
		return fmt.Errorf("mount said %q: %s", line, p.said())
	}
	return nil
}

// verb runs another verb on the mount.
func (s *subject) verb(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.b.drivefs, append(args, s.mnt)...)
	cmd.Env = append(os.Environ(), s.env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("drivefs %v: %w: %s; the mount said: %s", args, err, out, s.proc.said())
	}
	return out, err
}

// asked runs a verb that takes the account's flags.
func (s *subject) asked(ctx context.Context, verb string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.b.drivefs, verb, "--endpoint", s.d.Endpoint, "--token-file", filepath.Join(s.state, "token.json"), "--state-dir", filepath.Join(s.state, "state"))
	cmd.Env = append(os.Environ(), s.env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("drivefs %s: %w: %s; the mount said: %s", verb, err, out, s.proc.said())
	}
	return out, err
}

// stop unmounts the ordinary way and waits.
func (s *subject) stop(ctx context.Context, flags ...string) error {
	_, err := s.verb(ctx, append([]string{"unmount"}, flags...)...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 6 {
		err = nil // it stays in the journal, as asked for
	}
	if err == nil {
		select {
		case <-s.proc.done:
		case <-time.After(patience):
			err = errors.New("the mount did not end")
		}
	}
	if err != nil {
		s.drop()
	}
	return err
}

// drop ends a subject of any kind without waiting for anything.
func (s *subject) drop() {
	s.proc.kill()
	<-s.proc.done
}

// again unmounts and mounts on the same state: the kernel knows nothing, the
// disk everything.
func (s *subject) again(ctx context.Context) error {
	if err := s.stop(ctx); err != nil {
		return err
	}
	return s.start()
}

// status is what `drivefs status --json` says, as far as it is used here.
type status struct {
	Mirror struct {
		Nodes    int64 `json:"nodes"`
		Complete bool  `json:"complete"`
	} `json:"mirror"`
	Uploads struct {
		Pending int `json:"pending"`
	} `json:"uploads"`
}

func (s *subject) status(ctx context.Context) (st status, err error) {
	out, err := s.verb(ctx, "status", "--json")
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(out, &st)
}

// complete waits until the whole feed was heard.
func (s *subject) complete(ctx context.Context) error {
	for {
		st, err := s.status(ctx)
		if err != nil || st.Mirror.Complete {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// profiled starts a CPU profile of the mount for a row, if asked for; the
// returned function waits for it to be written.
func (s *subject) profiled(row string, d time.Duration) func() {
	if s.b.profile == "" || s.state == "" {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.writeProfile(row, d); err != nil {
			fmt.Fprintln(os.Stderr, "bench: profile:", err)
		}
	}()
	return func() { <-done }
}

func (s *subject) writeProfile(row string, d time.Duration) error {
	buf := make([]byte, 4096)
	n, err := unix.Getxattr(s.mnt, "user.drivefs.control", buf)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimRight(string(buf[:n]), "\x00"))
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(fmt.Sprintf("http://mount/debug/pprof/profile?seconds=%d", max(1, int(d.Seconds()))))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(filepath.Join(s.b.profile, row+".pprof"))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}

// mountLimit is the hidden subcommand: memfs in a process of its own.
func mountLimit(arg string) error {
	var o memfs.Options
	if err := json.Unmarshal([]byte(arg), &o); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGINT)
	s, err := memfs.Mount(o)
	if err != nil {
		return err
	}
	fmt.Println("mounted")
	select {
	case <-ctx.Done():
		return s.Unmount()
	case <-s.Done():
		return nil
	}
}

// limit mounts memfs. o.Mountpoint is chosen here.
func (b *bench) limit(o memfs.Options) (*subject, error) {
	o.Mountpoint = b.dir("limit")
	if err := os.MkdirAll(o.Mountpoint, 0o700); err != nil {
		return nil, err
	}
	arg, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	p, _, err := b.start(nil, b.self, roleLimit, string(arg))
	if err != nil {
		return nil, err
	}
	p.mnt = o.Mountpoint
	return &subject{b: b, proc: p, mnt: o.Mountpoint}, nil
}

// rcloneEnv makes an rclone believe that it speaks to Amazon.
func (b *bench) rcloneEnv(d *theDrive) (config string, env []string, err error) {
	dir := b.dir("rclone")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	tok, err := json.Marshal(d.Token)
	if err != nil {
		return "", nil, err
	}
	config = filepath.Join(dir, "rclone.conf")
	conf := fmt.Sprintf("[d]\ntype = acd\nclient_id = %s\nclient_secret = %s\nauth_url = https://www.amazon.com/ap/oa\ntoken_url = https://api.amazon.com/auth/o2/token\ntoken = %s\n",
		d.ClientID, d.ClientSecret, tok)
	ca := filepath.Join(dir, "ca.pem")
	err = errors.Join(os.WriteFile(config, []byte(conf), 0o600), os.WriteFile(ca, []byte(d.CA), 0o600))
	return config, []string{
		"HOME=" + dir, "XDG_CACHE_HOME=" + dir, "SSL_CERT_FILE=" + ca, "SSL_CERT_DIR=" + dir,
		"HTTPS_PROXY=" + d.Proxy, "NO_PROXY=", "RCLONE_CONFIG=" + config,
	}, err
}

// mountRclone mounts d with rclone; flags beyond its defaults.
func (b *bench) mountRclone(ctx context.Context, d *theDrive, flags ...string) (*subject, error) {
	config, env, err := b.rcloneEnv(d)
	if err != nil {
		return nil, err
	}
	s := &subject{b: b, d: d, mnt: b.dir("rclone-mnt"), began: time.Now()}
	if err := os.MkdirAll(s.mnt, 0o700); err != nil {
		return nil, err
	}
	s.proc, _, err = b.spawn(env, append([]string{b.rclone, "mount", "--config", config, "d:", s.mnt}, flags...)...)
	if err != nil {
		return nil, err
	}
	s.proc.mnt = s.mnt
	for !mountedAt(s.mnt) {
		select {
		case <-s.proc.done:
			return nil, fmt.Errorf("rclone mount ended: %s", s.proc.said())
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	s.up = time.Since(s.began)
	return s, nil
}

// command runs a program to its end and returns how long it took. It is the
// run's, so a section that ends takes it along.
func (b *bench) command(ctx context.Context, env []string, args ...string) (time.Duration, error) {
	began := time.Now()
	p, _, err := b.spawn(env, args...)
	if err != nil {
		return 0, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		<-p.done
		return 0, ctx.Err()
	}
	if p.err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), p.err, p.said())
	}
	return time.Since(began), nil
}
