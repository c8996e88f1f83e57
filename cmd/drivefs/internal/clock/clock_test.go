package clock

import (
	"errors"
	"net/http"
	"testing"
	"time"
)

func TestClockProblem(t *testing.T) {
	for _, test := range []struct {
		ahead time.Duration
		want  string
	}{
		{0, ""}, {Most, ""}, {-Most, ""},
		{3*time.Hour + time.Minute, "this machine's clock is 3 hours ahead: set it, as with timedatectl set-ntp true"},
		{-10 * time.Minute, "this machine's clock is 10 minutes behind: set it, as with timedatectl set-ntp true"},
	} {
		if got := Problem(test.ahead); got != test.want {
			t.Errorf("%v: %q, want %q", test.ahead, got, test.want)
		}
	}
	if skew, ok := Skew(http.Header{"Date": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}); !ok || skew > -59*time.Minute {
		t.Errorf("%v, %v", skew, ok)
	}
	if _, ok := Skew(http.Header{}); ok {
		t.Error("an answer without a date tells the time")
	}
	if Untimely(errors.New("x")) {
		t.Error("any error is about the time")
	}
}
