package main

import (
	"crypto/x509"
	"errors"
	"net/http"
	"sync/atomic"
	"time"
)

// mostSkew of the clock; beyond it tokens look expired, or too young.
const mostSkew = 2 * time.Minute

// skewOf is how far this machine's clock is ahead of the one that dated an
// answer; ok is false when the answer has no date. A date has whole seconds,
// and is as old as the answer's way.
func skewOf(h http.Header) (ahead time.Duration, ok bool) {
	theirs, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0, false
	}
	return time.Since(theirs).Round(time.Second), true
}

// clockProblem says what is wrong with a clock that is so far ahead, "" for a
// right one.
func clockProblem(ahead time.Duration) string {
	const remedy = ": set it, as with timedatectl set-ntp true"
	switch {
	case ahead > mostSkew:
		return "this machine's clock is " + ahead.String() + " ahead" + remedy
	case ahead < -mostSkew:
		return "this machine's clock is " + (-ahead).String() + " behind" + remedy
	}
	return ""
}

// untimely reports whether a certificate was refused for the time it is here.
func untimely(err error) bool {
	var bad x509.CertificateInvalidError
	return errors.As(err, &bad) && bad.Reason == x509.Expired
}

// dated is a transport that keeps how the dates of answers compare to the clock.
type dated struct {
	next  http.RoundTripper
	ahead atomic.Int64 // of the last answer with a date
}

func (d *dated) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.next.RoundTrip(req)
	if err == nil {
		if ahead, ok := skewOf(resp.Header); ok {
			d.ahead.Store(int64(ahead))
		}
	}
	return resp, err
}

func (d *dated) problem() string { return clockProblem(time.Duration(d.ahead.Load())) }
