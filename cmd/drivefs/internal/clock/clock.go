// Package clock answers one question: is this machine's clock right? It compares
// it with the dates of answers.
package clock

import (
	"crypto/x509"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
)

// Most skew of the clock; beyond it tokens look expired, or too young.
const Most = 2 * time.Minute

// Skew is how far this machine's clock is ahead of the one that dated an
// answer; ok is false when the answer has no date. A date has whole seconds,
// and is as old as the answer's way.
func Skew(h http.Header) (ahead time.Duration, ok bool) {
	theirs, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0, false
	}
	return time.Since(theirs).Round(time.Second), true
}

// Problem says what is wrong with a clock that is so far ahead, "" for a
// right one.
func Problem(ahead time.Duration) string {
	const remedy = ": set it, as with timedatectl set-ntp true"
	switch {
	case ahead > Most:
		return "this machine's clock is " + show.Duration(ahead) + " ahead" + remedy
	case ahead < -Most:
		return "this machine's clock is " + show.Duration(-ahead) + " behind" + remedy
	}
	return ""
}

// Untimely reports whether a certificate was refused for the time it is here.
func Untimely(err error) bool {
	var bad x509.CertificateInvalidError
	return errors.As(err, &bad) && bad.Reason == x509.Expired
}

// Dated is a transport that keeps how the dates of answers compare to the clock.
type Dated struct {
	Next  http.RoundTripper
	ahead atomic.Int64 // of the last answer with a date
}

func (d *Dated) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.Next.RoundTrip(req)
	if err == nil {
		if ahead, ok := Skew(resp.Header); ok {
			d.ahead.Store(int64(ahead))
		}
	}
	return resp, err
}

// Problem is what the last date told, "" for a right clock.
func (d *Dated) Problem() string { return Problem(time.Duration(d.ahead.Load())) }
