package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func env(pairs ...string) Env {
	return func(key string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == key {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

// load is what a verb with every group does with args.
func load(t *testing.T, e Env, args ...string) (*Config, error) {
	t.Helper()
	set := pflag.NewFlagSet("mount", pflag.ContinueOnError)
	f := Register(set, Which|Account|Logging|Mount)
	options := set.StringArrayP("options", "o", nil, "")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if err := f.Options(*options); err != nil {
		return nil, err
	}
	return f.Load(e)
}

func TestPrecedence(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, ".config/drivefs/config.toml")
	write(t, file, "[default]\nuploads = 2\n[work]\nuploads = 3\nread-only = true\nxattrs = false\ncache-disk = 0\npoll-interval = \"1m\"\n")
	for _, test := range []struct {
		name    string
		env     []string
		args    []string
		uploads int
		source  string
	}{
		{name: "default of the program", args: []string{"--profile=none"}, uploads: 16, source: "default"},
		{name: "file", uploads: 2, source: file + ":2"},
		{name: "profile by flag", args: []string{"--profile=work"}, uploads: 3, source: file + ":4"},
		{name: "profile by environment", env: []string{"DRIVEFS_PROFILE", "work"}, uploads: 3, source: file + ":4"},
		{name: "environment over file", env: []string{"DRIVEFS_UPLOADS", "4"}, uploads: 4, source: "environment"},
		{name: "empty variable is none", env: []string{"DRIVEFS_UPLOADS", ""}, uploads: 2, source: file + ":2"},
		{name: "flag over environment", env: []string{"DRIVEFS_UPLOADS", "4"}, args: []string{"--uploads", "5"}, uploads: 5, source: "flag"},
		{name: "-o over environment", env: []string{"DRIVEFS_UPLOADS", "4"}, args: []string{"-o", "ro,uploads=6"}, uploads: 6, source: "-o"},
		{name: "flag over -o", args: []string{"-o", "uploads=6", "--uploads=7"}, uploads: 7, source: "flag"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := load(t, env(append(test.env, "HOME", home)...), test.args...)
			if err != nil {
				t.Fatal(err)
			}
			if c.Uploads != test.uploads || c.Source["uploads"] != test.source {
				t.Errorf("uploads %d from %q, want %d from %q", c.Uploads, c.Source["uploads"], test.uploads, test.source)
			}
		})
	}
	c, err := load(t, env("HOME", home), "--profile=work")
	if err != nil {
		t.Fatal(err)
	}
	if !c.ReadOnly || c.Xattrs || c.CacheDisk != 0 || c.PollInterval != time.Minute {
		t.Errorf("file's scalars: %+v", c)
	}
}

// Every row is reachable by flag, variable and key, and its default and shown
// value are accepted by its own parser.
func TestTable(t *testing.T) {
	for i := range Settings {
		s := &Settings[i]
		t.Run(s.Name, func(t *testing.T) {
			var c Config
			if s.Default != "" {
				if err := s.assign(&c, s.Name, s.Default); err != nil {
					t.Fatal(err)
				}
				if got := s.Text(&c); got != s.Default {
					t.Errorf("default %q is shown as %q", s.Default, got)
				}
			}
			if s.Group == 0 || s.Usage == "" {
				t.Error("no verb takes it, or nobody knows what it is for")
			}
			set := pflag.NewFlagSet("", pflag.ContinueOnError)
			Register(set, s.Group)
			if set.Lookup(s.Name) == nil {
				t.Error("no flag")
			}
			if s.Name == "profile" {
				return
			}
			if err := known(s.Name); err != nil {
				t.Errorf("as a key: %v", err)
			}
			text := s.Text(&c)
			if s.Secret || text == "" {
				return
			}
			e := env("HOME", t.TempDir(), Variable(s.Name), text)
			got, err := load(t, e)
			if err != nil {
				t.Fatal(err)
			}
			if got.Source[s.Name] != "environment" || s.Text(got) != text {
				t.Errorf("%s=%s gave %s from %s", Variable(s.Name), text, s.Text(got), got.Source[s.Name])
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	for _, test := range []struct {
		name string
		file string
		env  []string
		args []string
		want []string // parts of the message
	}{
		{name: "unknown key", file: "[default]\nuploads = 1\n\nupload-limits = \"1MiB\"\n", want: []string{"config.toml:4", `"upload-limits"`, `did you mean "upload-limit"`}},
		{name: "unknown key of another profile", file: "[other]\nnonsense = 1\n", want: []string{"config.toml:2", `"nonsense"`, "unknown key"}},
		{name: "key outside a table", file: "uploads = 1\n", want: []string{"config.toml:1", "below a profile"}},
		{name: "grammar", file: "[default]\nuploads = = 1\n", want: []string{"config.toml:2"}},
		{name: "given twice", file: "[default]\nuploads = 1\nuploads = 2\n", want: []string{"config.toml"}},
		{name: "list", file: "[default]\nuploads = [1]\n", want: []string{"config.toml:2", "uploads", "a string, a number or a boolean"}},
		{name: "nested", file: "[a.b]\nuploads = 1\n", want: []string{"config.toml:1", "a.b"}},
		{name: "bad value", file: "[default]\numask = \"999\"\n", want: []string{"config.toml:2: umask", `"999"`, "octal"}},
		{name: "profile in the file", file: "[default]\nprofile = \"x\"\n", want: []string{"config.toml:2", "the table's name"}},
		{name: "variable", env: []string{"DRIVEFS_POLL_INTERVAL", "30"}, want: []string{"DRIVEFS_POLL_INTERVAL", `"30"`, "unit"}},
		{name: "size", args: []string{"--cache-memory=lots"}, want: []string{"cache-memory", "lots", "512MiB"}},
		{name: "too small", args: []string{"--cache-memory=1MiB"}, want: []string{"at least 16MiB"}},
		{name: "negative", args: []string{"--cache-disk=-1"}, want: []string{"cache-disk"}},
		{name: "rate", args: []string{"--upload-limit=fast"}, want: []string{"bytes a second"}},
		{name: "names", args: []string{"--names=upper"}, want: []string{"insensitive or exact"}},
		{name: "on off", args: []string{"--xattrs=maybe"}, want: []string{"on or off"}},
		{name: "uploads", args: []string{"--uploads=0"}, want: []string{"from 1 to"}},
		{name: "http", args: []string{"--endpoint=http://example.com/"}, want: []string{"in the clear"}},
		{name: "no address", args: []string{"--endpoint=drive"}, want: []string{"https://"}},
		{name: "root", args: []string{"--root=/a/../b"}, want: []string{".."}},
		{name: "profile", args: []string{"--profile=../x"}, want: []string{"profile"}},
		{name: "option", args: []string{"-o", "rw,upload_limits=3"}, want: []string{"upload-limits", "unknown mount option", `"upload-limit"`}},
		{name: "option of another verb", args: []string{"-o", "listen=:1"}, want: []string{"unknown mount option"}},
		{name: "option without value", args: []string{"-o", "uploads"}, want: []string{"needs a value"}},
		{name: "no such file", args: []string{"--config=/nonexistent/x.toml"}, want: []string{"/nonexistent/x.toml", "no such"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			home := t.TempDir()
			if test.file != "" {
				write(t, filepath.Join(home, ".config/drivefs/config.toml"), test.file)
			}
			_, err := load(t, env(append(test.env, "HOME", home)...), test.args...)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			var mistake *Error
			if len(test.args) == 0 && !errors.As(err, &mistake) {
				t.Errorf("%T is not an *Error", err)
			}
		})
	}
}

func TestSecretIsNotShown(t *testing.T) {
	c, err := load(t, env("HOME", t.TempDir(), "DRIVEFS_CLIENT_SECRET", "marked"))
	if err != nil {
		t.Fatal(err)
	}
	if c.ClientSecret != "marked" || find("client-secret").Text(c) != "********" {
		t.Errorf("secret %q is shown as %q", c.ClientSecret, find("client-secret").Text(c))
	}
}

// Tokens of a local drive are renewed there and nowhere else, unless told.
func TestLocalDriveHasItsOwnLogins(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, DefaultTokenURL},
		{[]string{"--endpoint=https://proxy.example/drive/v1/"}, DefaultTokenURL},
		{[]string{"--endpoint=http://127.0.0.1:8300/drive/v1/"}, "http://127.0.0.1:8300/auth/o2/token"},
		{[]string{"--endpoint=http://127.0.0.1:8300/drive/v1/", "--token-url=https://proxy.example/token"}, "https://proxy.example/token"},
	} {
		c, err := load(t, env("HOME", t.TempDir()), test.args...)
		if err != nil || c.TokenURL != test.want {
			t.Errorf("%v: %v, %v; want %s", test.args, c, err, test.want)
		}
	}
}

func TestMountOptions(t *testing.T) {
	c, err := load(t, env("HOME", t.TempDir()), "-o", "defaults,ro,nodev,nosuid,exec,noexec,_netdev,noauto,user=me,x-systemd.automount,comment=hi,allow_other,cache_disk=1GiB,upload-limit=5MiB", "-o", "umask=022")
	if err != nil {
		t.Fatal(err)
	}
	if !c.ReadOnly || !c.AllowOther || c.CacheDisk != 1<<30 || c.UploadLimit != 5<<20 || c.Umask != 0o022 || !c.NoExec {
		t.Errorf("%+v", c)
	}
}

func TestPlaces(t *testing.T) {
	runtime := t.TempDir()
	for _, test := range []struct {
		name string
		env  Env
		want Places
	}{
		{"home", env("HOME", "/h"), Places{"/h/.config/drivefs", "/h/.local/state/drivefs", "/h/.cache/drivefs", ""}},
		{"not this user's runtime directory", env("HOME", "/h", "XDG_RUNTIME_DIR", "/none"), Places{"/h/.config/drivefs", "/h/.local/state/drivefs", "/h/.cache/drivefs", ""}},
		{"xdg", env("HOME", "/h", "XDG_CONFIG_HOME", "/c", "XDG_STATE_HOME", "/s", "XDG_CACHE_HOME", "/k", "XDG_RUNTIME_DIR", runtime),
			Places{"/c/drivefs", "/s/drivefs", "/k/drivefs", runtime + "/drivefs"}},
		{"relative is ignored", env("HOME", "/h", "XDG_CONFIG_HOME", "c"), Places{"/h/.config/drivefs", "/h/.local/state/drivefs", "/h/.cache/drivefs", ""}},
		{"system unit", env(), Places{"/etc/drivefs", "/var/lib/drivefs", "/var/cache/drivefs", "/run/drivefs"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, FindPlaces(test.env)); diff != "" {
				t.Error(diff)
			}
		})
	}
	c, err := load(t, env(), "--profile", "work")
	if err != nil {
		t.Fatal(err)
	}
	got := []string{c.File, c.TokenFile, c.StateDir, c.CacheDir}
	want := []string{"/etc/drivefs/config.toml", "/etc/drivefs/work.token.json", "/var/lib/drivefs/work", "/var/cache/drivefs/work"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestValues(t *testing.T) {
	for _, test := range []struct{ setting, text, want string }{
		{"cache-disk", "0", "0"},
		{"cache-disk", "1.5GiB", "1536MiB"},
		{"cache-disk", "10GB", "9765625KiB"},
		{"cache-disk", "1000001", "1000001"},
		{"upload-limit", "5MiB/s", "5MiB"},
		{"upload-limit", "none", "none"},
		{"poll-interval", "0", "0s"},
		{"poll-interval", "90s", "1m30s"},
		{"upload-wait-per-gb", "1h", "1h"},
		{"umask", "22", "022"},
		{"endpoint", "http://127.0.0.1:99/drive/v1", "http://127.0.0.1:99/drive/v1/"},
		{"endpoint", "http://[::1]:99/", "http://[::1]:99/"},
		{"metrics", "9100", "127.0.0.1:9100"},
		{"metrics", ":9100", "127.0.0.1:9100"},
		{"metrics", "0.0.0.0:9100", "0.0.0.0:9100"},
		{"root", "a/b/", "/a/b"},
		{"log-level", "WARN", "warn"},
	} {
		t.Run(test.setting+"="+test.text, func(t *testing.T) {
			var c Config
			s := find(test.setting)
			if err := s.assign(&c, "", test.text); err != nil {
				t.Fatal(err)
			}
			got := s.Text(&c)
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			var again Config
			if err := s.assign(&again, "", got); err != nil || s.Text(&again) != got {
				t.Errorf("%q does not survive being read again: %v", got, err)
			}
		})
	}
}

func FuzzFile(f *testing.F) {
	f.Add("[default]\nuploads = 1\n")
	f.Add("[a]\nroot = \"\"\"\nx\"\"\"\n[[b]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		tables, err := parseFile("x", []byte(text))
		if err == nil && tables == nil {
			t.Error("neither tables nor an error")
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
