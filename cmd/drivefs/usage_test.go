package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// Bad input: one clear line and the right exit code.
func TestBadInput(t *testing.T) {
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "<!DOCTYPE html><html><body>Welcome to the hotel</body></html>")
	}))
	t.Cleanup(html.Close) // after the parallel subtests
	for _, test := range []struct {
		name    string
		args    []string // MNT is the mountpoint, HOME the home
		env     []string
		prepare func(t *testing.T, w *world)
		code    int
		want    []string
	}{
		{name: "no verb of that name", args: []string{"mout"}, code: 2, want: []string{`"mout"`, "--help"}},
		{name: "nearly a verb", args: []string{"unmont", "MNT"}, code: 2, want: []string{`"unmont"`, `did you mean "unmount"`}},
		{name: "help of no verb", args: []string{"help", "nix"}, code: 2, want: []string{`"nix"`}},
		{name: "nearly a flag", args: []string{"mount", "--cache-dsk=1", "MNT"}, code: 2, want: []string{"--cache-dsk", "did you mean --cache-disk"}},
		{name: "empty mountpoint", args: []string{"mount", ""}, code: 2, want: []string{"MOUNTPOINT"}},
		{name: "more memory than there is", args: []string{"mount", "--cache-memory=900TiB", "MNT"}, code: 2, want: []string{"cache-memory", "at most"}},
		{name: "polls without a pause", args: []string{"mount", "--poll-interval=1ms", "MNT"}, code: 2, want: []string{"poll-interval", "1s"}},
		{name: "unknown flag", args: []string{"mount", "--cash=1", "MNT"}, code: 2, want: []string{"--cash", "--help"}},
		{name: "bad value", args: []string{"mount", "--cache-disk=lots", "MNT"}, code: 2, want: []string{"cache-disk", "lots", "512MiB"}},
		{name: "bad variable", args: []string{"mount", "MNT"}, env: []string{"DRIVEFS_UMASK=9"}, code: 2, want: []string{"DRIVEFS_UMASK", `"9"`, "octal"}},
		{name: "unknown mount option", args: []string{"mount", "-o", "rw,uplods=3", "MNT"}, code: 2, want: []string{"uplods", "uploads"}},
		{name: "unknown key", args: []string{"mount", "MNT"}, code: 2, want: []string{"config.toml:3", `"cache-dsk"`, `"cache-disk"`},
			prepare: func(t *testing.T, w *world) {
				put(t, filepath.Join(w.home, ".config/drivefs/config.toml"), "[default]\nuploads = 3\ncache-dsk = \"1GiB\"\n")
			}},
		{name: "no mountpoint given", args: []string{"mount"}, code: 2, want: []string{"MOUNTPOINT"}},
		{name: "too many arguments", args: []string{"mount", "MNT", "x"}, code: 2, want: []string{"too many", `"x"`}},
		{name: "mountpoint missing", args: []string{"mount", "HOME/none"}, code: 2, want: []string{"none", "does not exist", "mkdir"}},
		{name: "mountpoint is a file", args: []string{"mount", "HOME/token.json"}, code: 2, want: []string{"token.json", "not a directory"}},
		{name: "mountpoint below a file", args: []string{"mount", "HOME/token.json/x"}, code: 2, want: []string{"not a directory"}},
		{name: "mountpoint not empty", args: []string{"mount", "HOME"}, code: 2, want: []string{"not empty"}},
		{name: "state below the mountpoint", args: []string{"mount", "--state-dir=MNT/state", "MNT"}, code: 2, want: []string{"--state-dir", "below the mountpoint"}},
		{name: "http to elsewhere", args: []string{"mount", "--endpoint=http://drive.example/", "MNT"}, code: 2, want: []string{"endpoint", "in the clear"}},
		{name: "no token", args: []string{"mount", "--token-file=HOME/none.json", "MNT"}, code: 3, want: []string{"none.json", "drivefs login"}},
		{name: "token malformed", args: []string{"mount", "MNT"}, code: 2, want: []string{"token.json", "malformed", "login"},
			prepare: func(t *testing.T, w *world) { put(t, w.token(), `{"access_token": "Atza|marked`) }},
		{name: "token with a bad expiry", args: []string{"mount", "MNT"}, code: 2, want: []string{"token.json", "expiry"},
			prepare: func(t *testing.T, w *world) { put(t, w.token(), `{"access_token":"Atza|marked","expiry":"tomorrow"}`) }},
		{name: "token empty", args: []string{"mount", "MNT"}, code: 3, want: []string{"no token", "drivefs login"},
			prepare: func(t *testing.T, w *world) { put(t, w.token(), `{}`) }},
		{name: "token refused", args: []string{"mount", "MNT"}, code: 3, want: []string{"login"},
			prepare: func(t *testing.T, w *world) { w.drive.RevokeRefresh(); w.drive.ExpireTokens() }},
		{name: "nobody at the endpoint", args: []string{"mount", "--endpoint=http://127.0.0.1:1/", "MNT"}, code: 5, want: []string{"127.0.0.1:1", "cannot be reached"}},
		{name: "endpoint is something else", args: []string{"mount", "--endpoint=" + html.URL, "MNT"}, code: 5, want: []string{html.URL, "does not speak the Amazon Drive API", "--endpoint"}},
		{name: "no such customer", args: []string{"mount", "MNT"}, code: 1, want: []string{"terms of use"},
			prepare: func(_ *testing.T, w *world) { w.drive.SetFaults(drivetest.Faults{NoAccount: true}) }},
		{name: "root is no folder", args: []string{"mount", "--root=/none", "MNT"}, code: 2, want: []string{"/none", "no such folder"}},
		{name: "background, no token", args: []string{"mount", "--background", "--token-file=HOME/none.json", "MNT"}, code: 3, want: []string{"none.json", "drivefs login"}},
		{name: "background, nobody there", args: []string{"mount", "--background", "--endpoint=http://127.0.0.1:1/", "MNT"}, code: 5, want: []string{"cannot be reached"}},
		{name: "status, not mounted", args: []string{"status", "--profile=default"}, code: 4, want: []string{`"default"`, "not mounted"}},
		{name: "status of a directory", args: []string{"status", "MNT"}, code: 4, want: []string{"no drive is mounted there"}},
		{name: "unmount, nothing there", args: []string{"unmount", "HOME/none"}, code: 4, want: []string{"none"}},
		{name: "unmount without mountpoint", args: []string{"unmount"}, code: 2, want: []string{"MOUNTPOINT"}},
		{name: "unmount both ways", args: []string{"unmount", "--no-wait", "--timeout=3s", "MNT"}, code: 2, want: []string{"no-wait", "timeout"}},
		{name: "flush, not mounted", args: []string{"flush", "MNT"}, code: 4, want: []string{"no drive is mounted there"}},
		{name: "rename elsewhere", args: []string{"rename", "HOME/token.json", "x"}, code: 4, want: []string{"mounted drive"}},
		{name: "rename with a slash", args: []string{"rename", "HOME/token.json", "a/b"}, code: 2, want: []string{"a/b"}},
		{name: "about, no token", args: []string{"about", "--token-file=HOME/none.json"}, code: 3, want: []string{"drivefs login"}},
		{name: "trash", args: []string{"trash"}, code: 2, want: []string{"list or restore"}},
		{name: "trash purge", args: []string{"trash", "purge"}, code: 2, want: []string{`"purge"`}},
		{name: "restore nothing", args: []string{"trash", "restore", "/none"}, code: 1, want: []string{"/none", "trash list"}},
		{name: "check, never mounted", args: []string{"check"}, code: 1, want: []string{"never mounted"}},
		{name: "login without a client", args: []string{"login", "--endpoint=https://drive.example/"}, code: 2, want: []string{"--client-id"},
			prepare: func(t *testing.T, w *world) { put(t, filepath.Join(w.home, ".config/drivefs/config.toml"), "") }},
		{name: "completion", args: []string{"completion", "tcsh"}, code: 2, want: []string{"tcsh"}},
		{name: "serve, bad faults", args: []string{"serve", "--data=HOME/drive", "--faults", `{"nonsense": 1}`}, code: 2, want: []string{"--faults", "nonsense"}},
		{name: "serve, import nothing", args: []string{"serve", "--data=HOME/drive", "--import=HOME/none"}, code: 1, want: []string{"--import", "none"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, drivetest.Options{})
			if test.prepare != nil {
				test.prepare(t, w)
			}
			w.env = append(w.env, test.env...)
			args := make([]string, len(test.args))
			for i, a := range test.args {
				args[i] = strings.ReplaceAll(strings.ReplaceAll(a, "MNT", w.mountpoint), "HOME", w.home)
			}
			_, stderr, code := w.run(args...)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			oneLine(t, stderr, test.want...)
			if strings.Contains(stderr, "marked") {
				t.Errorf("%q tells the token", stderr)
			}
		})
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Every verb explains itself with an example.
func TestHelp(t *testing.T) {
	p := &program{stdout: &strings.Builder{}, stderr: &strings.Builder{}, env: func(string) (string, bool) { return "", false }}
	for _, cmd := range newRoot(p).Commands() {
		for _, c := range append(cmd.Commands(), cmd) {
			if c.Short == "" || !strings.Contains(c.Example, "drivefs") {
				t.Errorf("%s: no example", c.CommandPath())
			}
		}
	}
}

func TestSmallVerbs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"version"}, "drivefs "},
		{[]string{"--version"}, "drivefs "},
		{[]string{"-V"}, "drivefs "},
		{[]string{"version", "--json"}, `"go":"go1.`},
		{[]string{"help", "mount"}, "--cache-disk"},
		{[]string{"status", "--json"}, `{"mounts":[`},
		{[]string{"completion", "bash"}, "bash completion"},
		{[]string{"completion", "zsh"}, "#compdef drivefs"},
		{[]string{"completion", "fish"}, "fish completion"},
		{[]string{"config", "show"}, "cache-memory"},
		{[]string{"config", "show", "--json"}, `"cache-memory":{"value":"64MiB","source":"environment"}`},
		{[]string{"config", "path"}, "/.config/drivefs/config.toml"},
		{[]string{"config", "init", "--config=" + filepath.Join(w.home, "new", "config.toml")}, "wrote "},
		{[]string{"config", "show", "--config=" + filepath.Join(w.home, "new", "config.toml")}, "cache-disk"},
		{[]string{"bugreport"}, "== status =="},
		{[]string{"doctor", "--json"}, `{"findings":[{"about":"kernel","result":"ok"`},
		{[]string{"__complete", "mount", "--profile", ""}, "default\nwork\n"},
		{[]string{"__complete", "mount", "--names", ""}, "insensitive\nexact\n"},
		{[]string{"about"}, "quota"},
		{[]string{"about", "--json"}, `"last_calculated":`},
		{[]string{"trash", "list", "--json"}, "[]"},
		{nil, "Mounts:"},
	} {
		if out := w.must(test.args...); !strings.Contains(out, test.want) {
			t.Errorf("drivefs %s does not say %q: %s", strings.Join(test.args, " "), test.want, out)
		}
	}
}

func TestMountHelper(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"mount.drivefs work /mnt -o rw,_netdev", "mount.drivefs mount --background --profile work -o rw,_netdev -- /mnt"},
		{"mount.drivefs work /mnt -n -v -t drivefs", "mount.drivefs mount --background --profile work -- /mnt"},
		{"mount.drivefs work", ""},
		{"mount.drivefs work /mnt -x", ""},
	} {
		got, err := mountHelperArgs(strings.Fields(test.in))
		if strings.Join(got, " ") != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%s: %q, %v", test.in, got, err)
		}
	}
}
