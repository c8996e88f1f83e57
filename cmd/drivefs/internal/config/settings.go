package config

import (
	"log/slog"
	"slices"
	"time"

	"github.com/drivefs/drivefs/drive/redact"
)

// DefaultEndpoint is the service's discovery base. API document §4.1.
const DefaultEndpoint = "https://drive.amazonaws.com/drive/v1/"

// Amazon's authorization and token addresses. API document §2.
const (
	DefaultAuthURL  = "https://www.amazon.com/ap/oa"
	DefaultTokenURL = "https://api.amazon.com/auth/o2/token"
)

// Config is what one run of the program goes by. Load fills it completely.
type Config struct {
	Places Places
	File   string            // the configuration file, read or not there
	Source map[string]string // name of a setting → "flag", "environment", "FILE:LINE" or "default"

	Profile            string
	Endpoint           string
	TokenFile          string
	ClientID           string
	ClientSecret       redact.Secret
	AuthURL, TokenURL  string
	RedirectPort       int
	StateDir, CacheDir string
	TrustEndpoints     bool

	CacheMemory, CacheDisk       int64 // bytes
	ReadOnly, NamesExact, Xattrs bool
	Root                         string
	PollInterval                 time.Duration
	Uploads, Downloads           int
	UploadLimit, DownloadLimit   int64 // bytes a second, 0 = none
	UploadDelay                  time.Duration
	FsyncDrive                   bool
	TempLinkThreshold            int64
	UploadWaitPerGB              time.Duration
	MaxFileSize                  int64
	UID, GID, Umask              uint32
	AllowOther, AllowRoot        bool
	AllowNonEmpty, Mkdir         bool
	Checkpoint                   string
	NoExec                       bool // -o noexec: no programs are run from the mount
	Background                   bool
	Metrics                      string // "" = none
	LogLevel                     slog.Level
	LogJSON                      bool
	LogFile                      string // "" = stderr

	Listen, Data, Import, Faults string // serve
	TLSCert, TLSKey, PublicURL   string // serve
}

// Group says which verbs take a setting as a flag.
type Group uint8

// Which mount is meant; how to reach the account; how to log in; what to log;
// how to mount; how to serve; what can be limited while mounted; what a
// logout can purge.
const (
	Which Group = 1 << iota
	Account
	Login
	Logging
	Mount
	Serve
	Limits
	Purge
)

// Setting is one row of the table.
type Setting struct {
	Name    string
	Meta    string // what the value is, for --help; "" for a switch
	Default string // text, parsed like any other; "" leaves the zero value
	Usage   string
	Group   Group
	Secret  bool // masked wherever values are shown
	field   func(*Config) value
}

// Settings is every setting of the program, in the order of --help.
var Settings = []Setting{
	{Name: "profile", Meta: "NAME", Default: "default", Group: Which, Usage: "which account",
		field: func(c *Config) value { return profileValue(&c.Profile) }},
	{Name: "endpoint", Meta: "URL", Default: DefaultEndpoint, Group: Account, Usage: "discovery base of the service",
		field: func(c *Config) value { return endpointValue(&c.Endpoint) }},
	{Name: "trust-endpoints", Default: "false", Group: Account, Usage: "send the token to whatever hosts the endpoint names, not to those of its own domain alone",
		field: func(c *Config) value { return boolValue(&c.TrustEndpoints) }},
	{Name: "token-file", Meta: "FILE", Group: Account, Usage: "the account's token, as golang.org/x/oauth2 writes it (default PROFILE.token.json beside the configuration)",
		field: func(c *Config) value { return pathValue(&c.TokenFile) }},
	{Name: "client-id", Meta: "ID", Group: Account, Usage: "own key, or the OAuth proxy's",
		field: func(c *Config) value { return textValue(&c.ClientID) }},
	{Name: "client-secret", Meta: "SECRET", Group: Account, Secret: true, Usage: "own secret (better in the file or the environment: arguments are visible to others)",
		field: func(c *Config) value { return textValue((*string)(&c.ClientSecret)) }},
	{Name: "auth-url", Meta: "URL", Default: DefaultAuthURL, Group: Account, Usage: "where a login begins; an endpoint on loopback has its own",
		field: func(c *Config) value { return urlValue(&c.AuthURL) }},
	{Name: "token-url", Meta: "URL", Default: DefaultTokenURL, Group: Account, Usage: "where tokens are refreshed; likewise",
		field: func(c *Config) value { return urlValue(&c.TokenURL) }},
	{Name: "state-dir", Meta: "DIR", Group: Which, Usage: "mirror, journal and what is not uploaded yet (default PROFILE in the XDG state directory)",
		field: func(c *Config) value { return pathValue(&c.StateDir) }},
	{Name: "redirect-port", Meta: "PORT", Default: "53682", Group: Login, Usage: "port on loopback that a login sends the browser to",
		field: func(c *Config) value { return countValue(&c.RedirectPort, 65535) }},
	{Name: "cache-dir", Meta: "DIR", Group: Mount | Purge, Usage: "downloaded chunks (default PROFILE in the XDG cache directory)",
		field: func(c *Config) value { return pathValue(&c.CacheDir) }},

	{Name: "cache-memory", Meta: "SIZE", Default: "512MiB", Group: Mount, Usage: "memory for contents, in all",
		field: func(c *Config) value { return memoryValue(&c.CacheMemory, 16<<20) }},
	{Name: "cache-disk", Meta: "SIZE", Default: "10GiB", Group: Mount, Usage: "disk for contents; 0 = none",
		field: func(c *Config) value { return sizeValue(&c.CacheDisk, 0) }},
	{Name: "read-only", Default: "false", Group: Mount | Login, Usage: "never change the drive; login then asks for reading only",
		field: func(c *Config) value { return boolValue(&c.ReadOnly) }},
	{Name: "names", Meta: "insensitive|exact", Default: "insensitive", Group: Mount, Usage: "which spellings a lookup accepts",
		field: func(c *Config) value { return choiceValue(&c.NamesExact, [2]string{"insensitive", "exact"}) }},
	{Name: "xattrs", Meta: "on|off", Default: "on", Group: Mount, Usage: "extended attributes; they cost every ls -l two calls a file",
		field: func(c *Config) value { return onOffValue(&c.Xattrs) }},
	{Name: "root", Meta: "PATH", Default: "/", Group: Mount, Usage: "folder of the drive to mount",
		field: func(c *Config) value { return drivePathValue(&c.Root) }},
	{Name: "poll-interval", Meta: "DURATION", Default: "30s", Group: Mount, Usage: "how often to ask for changes; 0 = only on refresh",
		field: func(c *Config) value { return pollValue(&c.PollInterval) }},
	{Name: "uploads", Meta: "N", Default: "16", Group: Mount, Usage: "most uploads at once",
		field: func(c *Config) value { return countValue(&c.Uploads, 128) }},
	{Name: "downloads", Meta: "N", Default: "16", Group: Mount, Usage: "most downloads at once",
		field: func(c *Config) value { return countValue(&c.Downloads, 128) }},
	{Name: "upload-limit", Meta: "RATE", Default: "none", Group: Mount | Limits, Usage: "bytes a second for uploads, as in 5MiB",
		field: func(c *Config) value { return rateValue(&c.UploadLimit) }},
	{Name: "download-limit", Meta: "RATE", Default: "none", Group: Mount | Limits, Usage: "bytes a second for downloads",
		field: func(c *Config) value { return rateValue(&c.DownloadLimit) }},
	{Name: "upload-delay", Meta: "DURATION", Default: "3s", Group: Mount, Usage: "how long a closed file settles before its upload starts",
		field: func(c *Config) value { return durationValue(&c.UploadDelay) }},
	{Name: "fsync", Meta: "local|drive", Default: "local", Group: Mount, Usage: "what fsync(2) waits for: this disk, or the drive's answer",
		field: func(c *Config) value { return choiceValue(&c.FsyncDrive, [2]string{"local", "drive"}) }},
	{Name: "templink-threshold", Meta: "SIZE", Default: "9GiB", Group: Mount, Usage: "larger files are read through their tempLink",
		field: func(c *Config) value { return sizeValue(&c.TempLinkThreshold, 0) }},
	{Name: "upload-wait-per-gb", Meta: "DURATION", Default: "3m", Group: Mount, Usage: "how long an ambiguous upload is looked for before it is sent again",
		field: func(c *Config) value { return durationValue(&c.UploadWaitPerGB) }},
	{Name: "max-file-size", Meta: "SIZE", Default: "50000MiB", Group: Mount, Usage: "beyond it writes fail with EFBIG",
		field: func(c *Config) value { return sizeValue(&c.MaxFileSize, 1) }},
	{Name: "uid", Meta: "ID", Default: callerUID, Group: Mount, Usage: "owner shown",
		field: func(c *Config) value { return idValue(&c.UID) }},
	{Name: "gid", Meta: "ID", Default: callerGID, Group: Mount, Usage: "group shown",
		field: func(c *Config) value { return idValue(&c.GID) }},
	{Name: "umask", Meta: "MASK", Default: "077", Group: Mount, Usage: "takes permissions from what has no mode of its own",
		field: func(c *Config) value { return umaskValue(&c.Umask) }},
	{Name: "allow-other", Default: "false", Group: Mount, Usage: "other users may use the mount, as far as modes permit",
		field: func(c *Config) value { return boolValue(&c.AllowOther) }},
	{Name: "allow-root", Default: "false", Group: Mount, Usage: "root may use the mount",
		field: func(c *Config) value { return boolValue(&c.AllowRoot) }},
	{Name: "allow-non-empty", Default: "false", Group: Mount, Usage: "mount over what lies in the mountpoint; it is there again afterwards",
		field: func(c *Config) value { return boolValue(&c.AllowNonEmpty) }},
	{Name: "mkdir", Default: "false", Group: Mount, Usage: "make the mountpoint when it is missing; nothing can be written into it while nothing is mounted there",
		field: func(c *Config) value { return boolValue(&c.Mkdir) }},
	{Name: "checkpoint", Meta: "TOKEN", Group: Mount, Usage: "start the changes feed there (debugging)",
		field: func(c *Config) value { return textValue(&c.Checkpoint) }},
	{Name: "background", Default: "false", Group: Mount, Usage: "return once the mount answers",
		field: func(c *Config) value { return boolValue(&c.Background) }},
	{Name: "metrics", Meta: "ADDR", Group: Mount, Usage: "serve Prometheus metrics on PORT or HOST:PORT; loopback unless HOST is given",
		field: func(c *Config) value { return addressValue(&c.Metrics) }},
	{Name: "log-level", Meta: "LEVEL", Default: "info", Group: Logging, Usage: "debug, info, warn or error",
		field: func(c *Config) value { return levelValue(&c.LogLevel) }},
	{Name: "log-format", Meta: "text|json", Default: "text", Group: Logging, Usage: "one line a record",
		field: func(c *Config) value { return choiceValue(&c.LogJSON, [2]string{"text", "json"}) }},
	{Name: "log-file", Meta: "FILE", Group: Logging, Usage: "append there instead of stderr",
		field: func(c *Config) value { return pathValue(&c.LogFile) }},

	{Name: "listen", Meta: "ADDR", Default: "127.0.0.1:0", Group: Serve, Usage: "where to listen; loopback unless a host is given",
		field: func(c *Config) value { return addressValue(&c.Listen) }},
	{Name: "data", Meta: "DIR", Group: Serve, Usage: "where the drive is kept (default \"serve\" in the XDG state directory)",
		field: func(c *Config) value { return pathValue(&c.Data) }},
	{Name: "import", Meta: "DIR", Group: Serve, Usage: "copy a local tree into the drive first",
		field: func(c *Config) value { return pathValue(&c.Import) }},
	{Name: "faults", Meta: "FILE|JSON", Group: Serve, Usage: "what to inject",
		field: func(c *Config) value { return textValue(&c.Faults) }},
	{Name: "tls-cert", Meta: "FILE", Group: Serve, Usage: "certificate in PEM, for https; needed beyond loopback",
		field: func(c *Config) value { return pathValue(&c.TLSCert) }},
	{Name: "tls-key", Meta: "FILE", Group: Serve, Usage: "its key",
		field: func(c *Config) value { return pathValue(&c.TLSKey) }},
	{Name: "public-url", Meta: "URL", Group: Serve, Usage: "what clients call this drive, where a proxy stands before it: https://host",
		field: func(c *Config) value { return urlValue(&c.PublicURL) }},
}

// Find is the setting of that name, nil when there is none.
func Find(name string) *Setting { return find(name) }

// ShownDefault is the default as people are told it, "" for none.
func (s *Setting) ShownDefault() string {
	switch {
	case s.Name == "uid" || s.Name == "gid":
		return "yours" // which is not the same for everybody who reads it
	case s.Meta == "":
		return ""
	}
	return s.Default
}

// Annotation marks the flags that are settings.
const Annotation = "drivefs_setting"

// sectionNames are the sections of --help; what is in none is of the first.
var sectionNames = []struct {
	title string
	names []string
}{
	{"Account", []string{"profile", "endpoint", "token-file", "client-id", "client-secret", "auth-url", "token-url", "trust-endpoints", "redirect-port", "state-dir", "service"}},
	{"What is shown", []string{"root", "names", "read-only", "xattrs", "symlinks", "by-date", "uid", "gid", "umask", "allow-other", "allow-root", "allow-non-empty", "mkdir"}},
	{"Cache", []string{"cache-dir", "cache-memory", "cache-disk"}},
	{"Changes and transfers", []string{"poll-interval", "feed", "uploads", "downloads", "upload-limit", "download-limit", "upload-delay", "fsync", "templink-threshold", "upload-wait-per-gb", "max-file-size", "checkpoint"}},
	{"Running", []string{"background", "notify", "inotify", "metrics", "log-level", "log-format", "log-file"}},
}

// Section is what a setting is about.
func (s *Setting) Section() string {
	for _, sec := range sectionNames {
		if slices.Contains(sec.names, s.Name) {
			return sec.title
		}
	}
	return ""
}

// SectionOrder is where a section stands; "" is first.
func SectionOrder(title string) int {
	for i, sec := range sectionNames {
		if sec.title == title {
			return i + 1
		}
	}
	return 0
}

func find(name string) *Setting {
	for i := range Settings {
		if Settings[i].Name == name {
			return &Settings[i]
		}
	}
	return nil
}

// Text is the setting's value in c, as it would be written; secrets are masked.
func (s *Setting) Text(c *Config) string {
	t := s.field(c).get()
	if s.Secret && t != "" {
		return "********"
	}
	return t
}
