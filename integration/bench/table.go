package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// unit says how a figure is written, and whether more of it is better.
type unit struct {
	text func(float64) string
	more bool
}

var (
	rate    = unit{func(v float64) string { return bytesText(v) + "/s" }, true}     // bytes a second
	size    = unit{bytesText, false}                                                // bytes
	seconds = unit{secondsText, false}                                              // seconds
	count   = unit{func(v float64) string { return number(v) }, false}              // things
	perSec  = unit{func(v float64) string { return number(v) + "/s" }, true}        // things a second
	trips   = unit{func(v float64) string { return fmt.Sprintf("%.2f", v) }, false} // round trips, or another ratio
)

// none is the figure of a subject that was not measured.
var none = math.NaN()

// row is one line of a table: figures in the same unit.
type row struct {
	what                   string
	unit                   unit
	drivefs, limit, rclone float64
	note                   string
	targets                []target
}

// target is what the row should reach.
type target struct {
	of   string // "" = the figure itself, "limit" or "rclone" = how many times as good as that
	op   string // "≥" or "≤"
	want float64
}

// table prints rows as they come: a run that is broken off has told all that
// it knew.
type table struct {
	name, about string
	out         io.Writer
	missed      int
}

func (t *table) head() {
	fmt.Fprintf(t.out, "\n## %s: %s\n%-58s %12s %12s %12s  %s\n", t.name, t.about, "", "drivefs", "limit", "rclone", "ratios and targets")
}

// note prints a line between rows.
func (t *table) note(format string, args ...any) {
	fmt.Fprintf(t.out, "  %s\n", fmt.Sprintf(format, args...))
}

// row prints one.
func (t *table) row(r row) {
	cell := func(v float64) string {
		if math.IsNaN(v) {
			return "-"
		}
		return r.unit.text(v)
	}
	var tail []string
	told := map[string]bool{}
	for _, g := range r.targets {
		v, text := r.drivefs, ""
		if g.of != "" {
			v = r.than(g.of)
			told[g.of] = true
			text = fmt.Sprintf("%s ×%.2f ", g.of, v)
		}
		if math.IsNaN(v) {
			continue
		}
		want := r.unit.text(g.want)
		if g.of != "" {
			want = fmt.Sprintf("%.2f", g.want)
		}
		verdict := "ok"
		if !g.met(v) {
			verdict = "MISSED"
			t.missed++
		}
		tail = append(tail, fmt.Sprintf("%s(%s %s) %s", text, g.op, want, verdict))
	}
	for _, of := range []string{"limit", "rclone"} {
		if v := r.than(of); !told[of] && !math.IsNaN(v) {
			tail = append(tail, fmt.Sprintf("%s ×%.2f", of, v))
		}
	}
	if r.note != "" {
		tail = append(tail, r.note)
	}
	fmt.Fprintf(t.out, "%s %12s %12s %12s  %s\n", pad(r.what, 58), cell(r.drivefs), cell(r.limit), cell(r.rclone), strings.Join(tail, "; "))
}

func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-len([]rune(s))))
}

func (g target) met(v float64) bool {
	if g.op == "≤" {
		return v <= g.want
	}
	return v >= g.want
}

// than is how many times as good drivefs is as another subject: 2 = twice the
// rate, or half the time.
func (r row) than(of string) float64 {
	other := r.limit
	if of == "rclone" {
		other = r.rclone
	}
	if r.unit.more {
		return r.drivefs / other
	}
	return other / r.drivefs
}

func bytesText(v float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if v >= u.size {
			return fmt.Sprintf("%.4g %s", round3(v/u.size), u.name)
		}
	}
	return fmt.Sprintf("%.0f B", v)
}

func secondsText(v float64) string {
	switch {
	case v < 1e-3:
		return fmt.Sprintf("%.0f µs", v*1e6)
	case v < 1:
		return fmt.Sprintf("%.3g ms", v*1e3)
	}
	return fmt.Sprintf("%.4g s", round3(v))
}

func number(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// round3 keeps three digits, or all before the point.
func round3(v float64) float64 {
	if v == 0 {
		return 0
	}
	p := math.Pow(10, math.Max(0, 2-math.Floor(math.Log10(math.Abs(v)))))
	return math.Round(v*p) / p
}

func sec(d time.Duration) float64 { return d.Seconds() }

// perSecond is n things in d.
func perSecond(n float64, d time.Duration) float64 {
	if d <= 0 {
		return none
	}
	return n / d.Seconds()
}

// shared is the rate of two stages that share the processors, so that their
// times add up: 1/(1/a + 1/b).
func shared(a, b float64) float64 { return 1 / (1/a + 1/b) }

// waves is how long n calls of one round trip each take on w connections.
func waves(n, w int, trip time.Duration) time.Duration {
	return time.Duration(float64(n) / float64(w) * float64(trip))
}

// quantile of sorted or unsorted durations, by the nearest rank.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	s := append([]time.Duration(nil), ds...)
	sortDurations(s)
	return s[min(len(s)-1, max(0, int(math.Ceil(q*float64(len(s))))-1))]
}
