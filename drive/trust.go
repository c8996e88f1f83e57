package drive

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/drivefs/drivefs/drive/local"
)

// ErrUntrusted: discovery names a host that may not have this account's
// tokens; see Options.TrustEndpoints.
var ErrUntrusted = errors.New("the drive names a host that is not trusted")

// amazonDiscovery is Amazon's own discovery host.
const amazonDiscovery = "drive.amazonaws.com"

// amazonHosts are those Amazon's discovery named over the years: API §1.1, and
// the hosts of its relative Photos.
var amazonHosts = regexp.MustCompile(`^(?:drive\.amazonaws\.com|content-[a-z]{2}\.drive\.amazonaws\.com|cdws(?:-[a-z]{2})?\.[a-z]{2}-[a-z]+-\d\.amazonaws\.com|` +
	`(?:www|(?:download|upload|thumbnails)-photos)\.amazon\.(?:com|ca|com\.mx|com\.br|co\.uk|ie|de|fr|it|es|nl|se|pl|com\.be|com\.tr|ae|sa|eg|in|co\.jp|sg|com\.au|co\.za|cn))$`)

// trusted reports whether a host that the discovery at from named may get
// tokens: the host that was asked, one of the same registered domain, this
// machine for a discovery on this machine, and Amazon's for Amazon's. The rule
// of parseAddress comes first.
func trusted(from, u *url.URL) bool {
	ours, host := strings.ToLower(from.Hostname()), strings.ToLower(u.Hostname())
	switch {
	case host == ours:
		return true
	case local.Loopback(ours) || local.Loopback(host):
		return local.Loopback(ours) && local.Loopback(host)
	case u.Scheme != "https":
		return false
	case ours == amazonDiscovery:
		return amazonHosts.MatchString(host)
	}
	a, aerr := publicsuffix.EffectiveTLDPlusOne(ours)
	b, berr := publicsuffix.EffectiveTLDPlusOne(host)
	return aerr == nil && berr == nil && a == b
}

// untrusted is an ErrUntrusted that says which host it is.
type untrusted struct{ field, host, by string }

func (e untrusted) Error() string {
	return fmt.Sprintf("%s leads to %s, which discovery at %s has no business with", e.field, e.host, e.by)
}

func (untrusted) Is(target error) bool { return target == ErrUntrusted }

// checkEndpoints holds both addresses against the rules and ends them in a slash.
func (c *Client) checkEndpoints(e *Endpoints) error {
	fields := []string{"metadataUrl", "contentUrl"}
	hosts := make([]string, 2)
	for i, to := range []*string{&e.Metadata, &e.Content} {
		u, err := parseBase(*to)
		if err != nil {
			return fmt.Errorf("%s: %w", fields[i], err)
		}
		if *to = u.String(); !c.trustAll && !trusted(c.endpoint, u) {
			hosts[i] = u.Host
		}
	}
	for i, host := range hosts {
		if host != "" {
			return untrusted{fields[i], host, c.endpoint.Host}
		}
	}
	return nil
}
