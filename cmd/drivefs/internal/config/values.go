package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/drivefs/drivefs/drive/local"
)

// A value reads and writes one field as text. set's error says what is wrong
// with the text and what would be right, without repeating the text.
type value struct {
	set func(text string) error
	get func() string
}

func textValue(p *string) value {
	return value{
		set: func(s string) error { *p = s; return nil },
		get: func() string { return *p },
	}
}

func pathValue(p *string) value {
	return value{
		set: func(s string) (err error) {
			if s == "" {
				return errors.New("expected a path")
			}
			*p, err = absolute(s)
			return err
		},
		get: func() string { return *p },
	}
}

// drivePathValue is a path in the drive: absolute, clean.
func drivePathValue(p *string) value {
	return value{
		set: func(s string) error {
			if slices.Contains(strings.Split(s, "/"), "..") {
				return errors.New(`expected a folder of the drive without ".."`)
			}
			*p = path.Clean("/" + s)
			return nil
		},
		get: func() string { return *p },
	}
}

func profileValue(p *string) value {
	return value{
		set: func(s string) error {
			if s == "" || s[0] == '.' || s[0] == '-' || strings.ContainsAny(s, "/\x00\n") || len(s) > 64 {
				return errors.New("expected a name that can be a file name: no slash, no leading dot or dash, at most 64 bytes")
			}
			*p = s
			return nil
		},
		get: func() string { return *p },
	}
}

func boolValue(p *bool) value {
	return value{
		set: func(s string) error {
			switch strings.ToLower(s) {
			case "true", "on", "yes", "1":
				*p = true
			case "false", "off", "no", "0":
				*p = false
			default:
				return errors.New("expected true or false")
			}
			return nil
		},
		get: func() string { return strconv.FormatBool(*p) },
	}
}

func onOffValue(p *bool) value {
	return value{
		set: func(s string) error {
			switch s {
			case "on", "true":
				*p = true
			case "off", "false":
				*p = false
			default:
				return errors.New("expected on or off")
			}
			return nil
		},
		get: func() string {
			if *p {
				return "on"
			}
			return "off"
		},
	}
}

// choiceValue is true for words[1].
func choiceValue(p *bool, words [2]string) value {
	return value{
		set: func(s string) error {
			i := slices.Index(words[:], s)
			if i < 0 {
				return fmt.Errorf("expected %s or %s", words[0], words[1])
			}
			*p = i == 1
			return nil
		},
		get: func() string {
			if *p {
				return words[1]
			}
			return words[0]
		},
	}
}

func levelValue(p *slog.Level) value {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	return value{
		set: func(s string) error {
			l, ok := levels[strings.ToLower(s)]
			if !ok {
				return errors.New("expected debug, info, warn or error")
			}
			*p = l
			return nil
		},
		get: func() string { return strings.ToLower(p.String()) },
	}
}

// parseSize reads "10GiB", "1.5 TB" or a plain number of bytes.
func parseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || s == "" || n > math.MaxInt64 {
		return 0, errors.New("expected a size such as 512MiB, 10GB or a number of bytes")
	}
	return int64(n), nil
}

// formatSize writes a size so that parseSize gives it back exactly.
func formatSize(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n != 0 && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// mostMemory is more than any machine has, and far below what overflows.
const mostMemory = 16 << 40

// memoryValue is a sizeValue that fits into a machine.
func memoryValue(p *int64, least int64) value {
	inner := sizeValue(p, least)
	return value{get: inner.get, set: func(s string) error {
		n, err := parseSize(s)
		if most := machineMemory(); err == nil && n > most {
			return fmt.Errorf("expected at most %s, which is what this machine has", formatSize(most))
		}
		return inner.set(s)
	}}
}

// machineMemory is this machine's, in bytes.
func machineMemory() int64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return mostMemory
	}
	return min(int64(info.Totalram)*int64(info.Unit), mostMemory)
}

// pollValue is 0 or a pause that a service can bear.
func pollValue(p *time.Duration) value {
	inner := durationValue(p)
	return value{get: inner.get, set: func(s string) error {
		if d, err := time.ParseDuration(s); err == nil && d > 0 && d < time.Second {
			return errors.New("expected at least 1s, or 0 for never")
		}
		return inner.set(s)
	}}
}

func sizeValue(p *int64, least int64) value {
	return value{
		set: func(s string) error {
			n, err := parseSize(s)
			if err != nil {
				return err
			}
			if n < least {
				return fmt.Errorf("expected at least %s", formatSize(least))
			}
			*p = n
			return nil
		},
		get: func() string { return formatSize(*p) },
	}
}

// rateValue is bytes a second; 0 is no limit.
func rateValue(p *int64) value {
	return value{
		set: func(s string) error {
			if s == "none" {
				s = "0"
			}
			n, err := parseSize(strings.TrimSuffix(s, "/s"))
			if err != nil {
				return errors.New("expected bytes a second such as 5MiB, or none")
			}
			*p = n
			return nil
		},
		get: func() string {
			if *p == 0 {
				return "none"
			}
			return formatSize(*p)
		},
	}
}

func durationValue(p *time.Duration) value {
	return value{
		set: func(s string) error {
			d, err := time.ParseDuration(s)
			if err != nil || d < 0 {
				return errors.New("expected a duration with its unit, such as 30s, 3m or 1h30m")
			}
			*p = d
			return nil
		},
		get: func() string {
			s := p.String() // 3m0s reads worse than 3m
			if strings.HasSuffix(s, "m0s") {
				s = strings.TrimSuffix(s, "0s")
			}
			if strings.HasSuffix(s, "h0m") {
				s = strings.TrimSuffix(s, "0m")
			}
			return s
		},
	}
}

func countValue(p *int, most int) value {
	return value{
		set: func(s string) error {
			n, err := strconv.Atoi(s)
			if err != nil || n < 1 || n > most {
				return fmt.Errorf("expected a number from 1 to %d", most)
			}
			*p = n
			return nil
		},
		get: func() string { return strconv.Itoa(*p) },
	}
}

func idValue(p *uint32) value {
	return value{
		set: func(s string) error {
			n, err := strconv.ParseUint(s, 10, 32)
			if err != nil || n == math.MaxUint32 {
				return errors.New("expected a numeric id")
			}
			*p = uint32(n)
			return nil
		},
		get: func() string { return strconv.FormatUint(uint64(*p), 10) },
	}
}

func umaskValue(p *uint32) value {
	return value{
		set: func(s string) error {
			n, err := strconv.ParseUint(s, 8, 32)
			if err != nil || n > 0o777 {
				return errors.New("expected an octal mask from 000 to 777")
			}
			*p = uint32(n)
			return nil
		},
		get: func() string { return fmt.Sprintf("%03o", *p) },
	}
}

// endpointValue is https, or http on loopback: tokens must not cross a network
// in the clear. It ends in a slash, so that names can be appended.
func endpointValue(p *string) value {
	inner := urlValue(p)
	return value{
		set: func(s string) error {
			err := inner.set(s)
			if err == nil && !strings.HasSuffix(*p, "/") {
				*p += "/"
			}
			return err
		},
		get: inner.get,
	}
}

func urlValue(p *string) value {
	return value{
		set: func(s string) error {
			u, err := url.Parse(s)
			if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
				return errors.New("expected an address that begins with https://")
			}
			if u.Scheme == "http" && !local.Loopback(u.Hostname()) {
				return errors.New("http would send the token in the clear: use https (http is for loopback only)")
			}
			*p = s
			return nil
		},
		get: func() string { return *p },
	}
}

// addressValue is where to listen: loopback unless an address is given.
func addressValue(p *string) value {
	return value{
		set: func(s string) error {
			if !strings.Contains(s, ":") {
				s = ":" + s
			}
			host, port, err := net.SplitHostPort(s)
			if err == nil {
				_, err = strconv.ParseUint(port, 10, 16)
			}
			if err != nil {
				return errors.New("expected PORT or HOST:PORT")
			}
			if host == "" {
				host = "127.0.0.1"
			}
			*p = net.JoinHostPort(host, port)
			return nil
		},
		get: func() string { return *p },
	}
}

func callerID(id func() int) string { return strconv.Itoa(id()) }

var (
	callerUID = callerID(os.Getuid)
	callerGID = callerID(os.Getgid)
)
