package show

import (
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                        "0 seconds",
		1400 * time.Millisecond:  "1 second",
		119 * time.Second:        "119 seconds",
		2 * time.Minute:          "2 minutes",
		90 * time.Minute:         "90 minutes",
		26 * time.Hour:           "26 hours",
		50 * time.Hour:           "2 days",
		8760 * time.Hour:         "12 months",
		3 * 365 * 24 * time.Hour: "3 years",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%v is said as %q, want %q", d, got, want)
		}
	}
}
