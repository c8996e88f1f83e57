package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
)

// Error is a mistake in what the user asked for.
type Error struct {
	Where string // "--umask", "DRIVEFS_UMASK", "/etc/drivefs/config.toml:7: umask", "-o umask"
	Text  string // the offending value, "" where it must not be shown or there is none
	Err   error
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Where + ": " + e.Err.Error()
	}
	return fmt.Sprintf("%s: %q: %v", e.Where, e.Text, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// assign parses text into the setting's field of c.
func (s *Setting) assign(c *Config, where, text string) error {
	if err := s.field(c).set(text); err != nil {
		if s.Secret {
			text = ""
		}
		return &Error{Where: where, Text: text, Err: err}
	}
	return nil
}

// Flags are the settings that one verb takes, as they were given.
type Flags struct {
	given   map[string]string // by flag
	options map[string]string // by -o
	noExec  bool              // by -o
	file    string            // --config
	set     *pflag.FlagSet
}

// Register adds the settings of the groups to a verb's flags, and --config.
func Register(set *pflag.FlagSet, groups Group) *Flags {
	f := &Flags{given: map[string]string{}, options: map[string]string{}, set: set}
	set.SortFlags = false
	for i := range Settings {
		s := &Settings[i]
		if s.Group&groups == 0 {
			continue
		}
		flag := set.VarPF(&flagValue{setting: s, given: f.given}, s.Name, "", s.Usage)
		if s.Meta == "" {
			flag.NoOptDefVal = "true"
		} else {
			flag.DefValue = s.ShownDefault()
		}
		flag.Annotations = map[string][]string{Annotation: {}}
	}
	set.StringVar(&f.file, "config", "", "configuration `FILE` (default config.toml in the XDG configuration directory)")
	return f
}

// flagValue keeps what a flag was given after trying it.
type flagValue struct {
	setting *Setting
	given   map[string]string
}

func (v *flagValue) String() string {
	if v.setting == nil || v.setting.Meta == "" {
		return ""
	}
	return v.given[v.setting.Name]
}

func (v *flagValue) Type() string {
	if v.setting.Meta == "" {
		return "bool" // so that --help shows no value
	}
	return v.setting.Meta
}

func (v *flagValue) Set(text string) error {
	if err := v.setting.field(new(Config)).set(text); err != nil {
		return err
	}
	v.given[v.setting.Name] = text
	return nil
}

// Variable is the environment variable of a setting.
func Variable(name string) string {
	return "DRIVEFS_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// LoadFlags is Load by flags and defaults alone: neither the file nor DRIVEFS_*
// are looked at.
func (f *Flags) LoadFlags(env Env) (*Config, error) {
	c := &Config{Places: FindPlaces(env), Source: map[string]string{}, NoExec: f.noExec}
	if _, err := f.locate(c, env); err != nil {
		return nil, err
	}
	for i := range Settings {
		if err := f.one(c, &Settings[i], func(string) (string, bool) { return "", false }, nil); err != nil {
			return nil, err
		}
	}
	f.places(c)
	return c, nil
}

// Load puts together what the user asked for. The profile decides which table
// of the file counts, so it cannot be set there.
func (f *Flags) Load(env Env) (*Config, error) {
	c := &Config{Places: FindPlaces(env), Source: map[string]string{}, NoExec: f.noExec}
	explicit, err := f.locate(c, env)
	if err != nil {
		return nil, err
	}
	profile, err := f.profile(c, env)
	if err != nil {
		return nil, err
	}
	table, err := readFile(c.File, profile)
	switch {
	case errors.Is(err, os.ErrNotExist) && explicit == "":
		// no file is the common case
	case errors.Is(err, os.ErrNotExist):
		return nil, &Error{Where: c.File, Err: errors.New("no such configuration file")}
	case err != nil:
		return nil, err
	}
	for i := range Settings {
		s := &Settings[i]
		if err := f.one(c, s, env, table); err != nil {
			return nil, err
		}
	}
	f.places(c)
	if profile == Demo && table == nil && !c.Given("state-dir") && !c.Given("token-file") && !exists(c.TokenFile) {
		c.StateDir = filepath.Join(c.Places.State, DemoDir) // no account has that name: the demo is meant
	}
	return c, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// locate finds the configuration file; explicit = it was named, "" = it is where
// it always is.
func (f *Flags) locate(c *Config, env Env) (explicit string, err error) {
	c.File = filepath.Join(c.Places.Config, "config.toml")
	if explicit = f.file; explicit == "" {
		explicit = env.get("DRIVEFS_CONFIG")
	}
	if explicit != "" {
		if c.File, err = absolute(explicit); err != nil {
			return "", &Error{Where: "--config", Text: explicit, Err: err}
		}
	}
	return explicit, nil
}

func (f *Flags) profile(c *Config, env Env) (string, error) {
	s := find("profile")
	err := f.one(c, s, env, nil)
	return c.Profile, err
}

// one gives a setting its value: flag, -o, environment, file, default.
func (f *Flags) one(c *Config, s *Setting, env Env, table map[string]entry) error {
	if v, ok := f.given[s.Name]; ok {
		c.Source[s.Name] = "flag"
		return s.assign(c, "--"+s.Name, v)
	}
	if v, ok := f.options[s.Name]; ok {
		c.Source[s.Name] = "-o"
		return s.assign(c, "-o "+s.Name, v)
	}
	if v := env.get(Variable(s.Name)); v != "" {
		c.Source[s.Name] = "environment"
		return s.assign(c, Variable(s.Name), v)
	}
	if e, ok := table[s.Name]; ok {
		c.Source[s.Name] = e.where
		return s.assign(c, e.where+": "+s.Name, e.text)
	}
	c.Source[s.Name] = "default"
	if s.Default != "" {
		return s.assign(c, s.Name, s.Default)
	}
	return nil
}

// Demo is what the demo calls itself, and the name of its directories. A profile
// cannot have such a name, and none has the demo's directories.
const (
	Demo    = "demo"
	DemoDir = ".demo"
)

// places fills in what depends on other settings: paths on the profile, the
// addresses of a local drive on its endpoint.
func (f *Flags) places(c *Config) {
	if c.TokenFile == "" {
		c.TokenFile = filepath.Join(c.Places.Config, c.Profile+".token.json")
	}
	if c.StateDir == "" {
		c.StateDir = filepath.Join(c.Places.State, c.Profile)
	}
	if c.CacheDir == "" {
		c.CacheDir = filepath.Join(c.Places.Cache, c.Profile)
	}
	if c.Data == "" {
		c.Data = filepath.Join(c.Places.State, "serve")
	}
	if u, err := url.Parse(c.Endpoint); err == nil && u.Scheme == "http" {
		c.local("http://" + u.Host)
	}
}

// local fills in the addresses of a drive on loopback (drivefs serve): it has
// its own logins, so its tokens are nothing to bother Amazon with. What the file
// says of an account's login is said of the file's endpoint; of another one,
// given for this run, it is none of the business.
func (c *Config) local(origin string) {
	if !c.fromFile("endpoint") {
		for name, field := range map[string]*string{"client-id": &c.ClientID, "client-secret": (*string)(&c.ClientSecret), "auth-url": &c.AuthURL, "token-url": &c.TokenURL} {
			if c.fromFile(name) {
				*field, c.Source[name] = "", "default"
			}
		}
	}
	if !c.Given("auth-url") {
		c.AuthURL = origin + "/ap/oa"
	}
	if !c.Given("token-url") {
		c.TokenURL = origin + "/auth/o2/token"
	}
}

// fromFile reports whether the setting is from the configuration file.
func (c *Config) fromFile(name string) bool { return strings.HasPrefix(c.Source[name], c.File+":") }

// Given reports whether the setting was set by the user in any way.
func (c *Config) Given(name string) bool { return c.Source[name] != "default" }
