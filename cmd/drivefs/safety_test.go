package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// witness collects what was said, and looks for what nobody may hear.
type witness struct {
	t       *testing.T
	secrets map[string]string // text → what it is
}

// learn adds the tokens of a token file.
func (s *witness) learn(path string) {
	s.t.Helper()
	var token map[string]any
	if err := json.Unmarshal([]byte(read(s.t, path)), &token); err != nil {
		s.t.Fatal(err)
	}
	for _, key := range []string{"access_token", "refresh_token"} {
		v, _ := token[key].(string)
		if len(v) < 20 {
			s.t.Fatalf("no %s to look for", key)
		}
		s.secrets[v] = key
		s.secrets[v[5:25]] = "a part of the " + key
	}
}

func (s *witness) hear(where, said string) {
	s.t.Helper()
	for secret, what := range s.secrets {
		if i := strings.Index(said, secret); i >= 0 {
			// Around it, but not the secret: logs of tests are read by others too.
			s.t.Errorf("%s tells %s after %q", where, what, said[max(0, i-60):i])
		}
	}
}

// No token and no secret is in a log, an argument, the environment, an error,
// a status, a profile, a metric, a dump, or a file that is not the token's.
func TestNoSecretsAnywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	secrets := &witness{t, map[string]string{w.drive.ClientSecret(): "the client's secret"}}
	secrets.learn(w.token())
	said := func(args ...string) {
		t.Helper()
		out, stderr, _ := w.run(args...)
		secrets.hear("drivefs "+strings.Join(args, " "), out+stderr)
	}

	for _, format := range []string{"text", "json"} {
		w.env = append(w.env, "GOTRACEBACK=all")
		p := w.mount("--log-level=debug", "--log-format="+format, "--metrics=0")
		proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
		for _, name := range []string{"cmdline", "environ"} {
			secrets.hear(name, read(t, proc+name))
		}
		if limits := read(t, proc+"limits"); !regexp.MustCompile(`(?m)^Max core file size +0 `).MatchString(limits) {
			t.Errorf("a core would hold the token: %s", limits)
		}
		w.write("a-"+format, "b")
		said("flush")
		// Signed addresses, and a service that answers with what it was asked.
		w.drive.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{{Op: "content.download", Fault: drivetest.Fault{Do: drivetest.DoRedirect}}}})
		if _, err := w.drive.Else().PutPath("signed-"+format, []byte("bytes")); err != nil {
			t.Fatal(err)
		}
		said("refresh")
		if got := read(t, w.file("signed-"+format)); got != "bytes" {
			t.Errorf("read %q", got)
		}
		var token struct {
			Access string `json:"access_token"`
		}
		if err := json.Unmarshal([]byte(read(t, w.token())), &token); err != nil {
			t.Fatal(err)
		}
		tried := func() (n int) {
			for op, count := range w.drive.Requests() {
				if strings.HasPrefix(op, "content.") {
					n += count
				}
			}
			return n
		}
		for i, fault := range []drivetest.Fault{
			{Status: 400, Msg: "Bad header Authorization: Bearer " + token.Access},
			{Status: 400, Body: "<html>you sent " + token.Access + "</html>"},
			{Do: drivetest.DoWrapped}, {Do: drivetest.DoEmpty401}, {Do: drivetest.DoExpired},
		} {
			if format != "text" {
				break // once is enough: it takes its time
			}
			times := 0
			if fault.Do != "" {
				times = 1 // a token is renewed then, and the call repeated
			}
			w.drive.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{
				{Op: "content.upload", Fault: fault, Times: times}, {Op: "account.*", Fault: fault, Times: times}, {Op: "changes", Fault: fault, Times: times},
			}})
			before := tried()
			w.write(fmt.Sprintf("faulty-%s-%d", format, i), "x")
			w.eventually("it is tried", func() bool { return tried() > before })
			said("refresh")
			said("about")
			said("status")
			said("status", "--json")
		}
		w.drive.SetFaults(drivetest.Faults{})
		if err := w.drive.WriteToken(w.token()); err != nil {
			t.Fatal(err)
		}
		secrets.learn(w.token())
		said("refresh")
		w.must("flush")
		secrets.learn(w.token()) // it may have been renewed
		said("doctor")
		said("config", "show")

		// Metrics, and what a developer asks for.
		socket, err := control.SocketOf(t.Context(), w.mountpoint)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}}
		metrics := regexp.MustCompile(`http://127\.0\.0\.1:\d+/metrics`).FindString(p.stderr())
		for url, client := range map[string]*http.Client{
			metrics: http.DefaultClient, "http://mount/debug/pprof/goroutine?debug=2": client,
			"http://mount/debug/pprof/cmdline": client, "http://mount/debug/pprof/heap?debug=1": client,
		} {
			resp, err := client.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || len(body) == 0 {
				t.Errorf("%s: %s, %v", url, resp.Status, err)
			}
			secrets.hear(url, string(body))
		}
		if format == "text" {
			w.must("unmount", w.mountpoint)
			p.end()
		} else { // as a watchdog would
			p.signal(syscall.SIGABRT)
			p.end()
			if !strings.Contains(p.stderr(), "SIGABRT") {
				t.Error("there is no dump to look into")
			}
			w.must("unmount", w.mountpoint)
		}
		secrets.hear("its log", p.stderr())
	}

	for _, dir := range []string{".local", ".cache"} {
		for _, name := range files(t, filepath.Join(w.home, dir)) {
			path := filepath.Join(w.home, dir, name)
			if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() {
				secrets.hear(path, read(t, path))
			}
		}
	}
}

// A secret given on purpose is not repeated either.
func TestGivenSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	const marked = "marked-0123456789-secret"
	w.env = append(w.env, "DRIVEFS_CLIENT_SECRET="+marked, "DRIVEFS_CLIENT_ID=someone")
	put(t, filepath.Join(w.home, "broken.json"), `{"access_token":"`+marked+`","expiry":7}`)
	for _, args := range [][]string{
		{"config", "show"}, {"about", "--token-file=" + w.home + "/broken.json"}, {"mount", "--token-file=" + w.home + "/broken.json", w.mountpoint},
		{"config", "show", "--config=" + w.home + "/broken.json"},
	} {
		out, stderr, _ := w.run(args...)
		if strings.Contains(out+stderr, marked) {
			t.Errorf("drivefs %s repeats it", strings.Join(args, " "))
		}
	}
	cmd := w.command("login", "--no-browser")
	cmd.Stdin = strings.NewReader("http://127.0.0.1:53682/?code=" + marked + "&state=" + marked + "\n")
	out, stderr, code := w.finish(cmd)
	if code != 3 || strings.Contains(out+stderr, marked) {
		t.Errorf("login: exit code %d: %s", code, stderr)
	}
}

// What drivefs keeps is for its owner alone, however careless the umask.
func TestModesOfFiles(t *testing.T) {
	t.Parallel()
	needFuse(t)
	w := newWorld(t, drivetest.Options{})
	careless := func(args ...string) {
		t.Helper()
		inner := w.command(args...)
		cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", `umask 0; exec "$0" "$@"`, os.Args[0]}, inner.Args[1:]...)...)
		cmd.Env, cmd.Dir = inner.Env, inner.Dir
		if out, stderr, code := w.finish(cmd); code != 0 {
			t.Fatalf("drivefs %v: exit code %d: %s%s", args, code, out, stderr)
		}
	}
	w.env = append(w.env, "XDG_RUNTIME_DIR="+filepath.Join(w.home, "run"))
	if err := os.Mkdir(filepath.Join(w.home, "run"), 0o700); err != nil { // as the system makes it
		t.Fatal(err)
	}
	careless("mount", "--background", w.mountpoint)
	w.write("a", "b")
	w.must("flush")
	if got := read(t, w.file("a")); got != "b" {
		t.Errorf("read %q", got)
	}
	seen := 0
	for _, dir := range []string{".local/state/drivefs", ".cache/drivefs", "run/drivefs"} {
		err := filepath.WalkDir(filepath.Join(w.home, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			st, err := d.Info()
			if err != nil {
				return err
			}
			seen++
			want := fs.FileMode(0o600)
			if d.IsDir() {
				want = 0o700
			}
			if st.Mode().Perm() != want {
				t.Errorf("%s has mode %o, want %o", path, st.Mode().Perm(), want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if seen < 8 {
		t.Errorf("only %d files and directories were looked at", seen)
	}
	w.must("unmount", w.mountpoint)
}
