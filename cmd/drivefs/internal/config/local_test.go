package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// A local drive is not told the key and the secret that the file has for
// another endpoint.
func TestSecretsOfAnotherEndpoint(t *testing.T) {
	const keys = "client-id = \"amazon's\"\nclient-secret = \"hidden\"\n"
	for _, test := range []struct {
		name, file string
		args       []string
		env        map[string]string
		want       string
	}{
		{name: "Amazon", file: keys, want: "hidden"},
		{name: "local by flag", file: keys, args: []string{"--endpoint=http://127.0.0.1:1/"}},
		{name: "local by variable", file: keys, env: map[string]string{"DRIVEFS_ENDPOINT": "http://localhost:1/"}},
		{name: "local by file", file: keys + "endpoint = \"http://127.0.0.1:1/\"\n", want: "hidden"},
		{name: "secret by flag", file: keys, args: []string{"--endpoint=http://127.0.0.1:1/", "--client-id=x", "--client-secret=given"}, want: "given"},
		{name: "local, with Amazon's addresses too", file: keys + "token-url = \"https://api.amazon.com/auth/o2/token\"\n", args: []string{"--endpoint=http://127.0.0.1:1/"}},
		{name: "https elsewhere", file: keys, args: []string{"--endpoint=https://drive.example/"}, want: "hidden"},
	} {
		t.Run(test.name, func(t *testing.T) {
			home := t.TempDir()
			path := filepath.Join(home, "config.toml")
			if err := os.WriteFile(path, []byte("[default]\n"+test.file), 0o600); err != nil {
				t.Fatal(err)
			}
			set := pflag.NewFlagSet("", pflag.ContinueOnError)
			flags := Register(set, Which|Account)
			if err := set.Parse(append(test.args, "--config="+path)); err != nil {
				t.Fatal(err)
			}
			c, err := flags.Load(func(key string) (string, bool) {
				if key == "HOME" {
					return home, true
				}
				v, ok := test.env[key]
				return v, ok
			})
			if err != nil {
				t.Fatal(err)
			}
			if c.ClientSecret.Reveal() != test.want || (c.ClientID == "") != (test.want == "") {
				t.Errorf("id %q, secret %q; want %q", c.ClientID, c.ClientSecret, test.want)
			}
			if local := strings.HasPrefix(c.TokenURL, "http:"); local != strings.HasPrefix(c.Endpoint, "http:") {
				t.Errorf("endpoint %s, but tokens at %s", c.Endpoint, c.TokenURL)
			}
		})
	}
}
