package show

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
)

// plainEvery is how often a line is written where there is no terminal.
const plainEvery = 5 * time.Second

// Meter shows how uploads go: a bar on a terminal, else a line now and then.
// It is for one goroutine.
type Meter struct {
	w     io.Writer
	bar   bool  // w is a terminal
	most  int64 // the most that was pending, in bytes
	said  time.Time
	drawn bool // a bar stands in the terminal's line
	state control.Progress
	past  []remainder
}

// remainder is how much was left to send at a moment.
type remainder struct {
	at   time.Time
	left int64
}

// paceOver is how far back the estimate looks.
const paceOver = 20 * time.Second

// NewMeter begins a meter on w. Nothing shows before the first update.
func NewMeter(w io.Writer) *Meter {
	return &Meter{w: w, bar: IsTerminal(w), said: time.Now()}
}

// Update shows how far it is now.
func (m *Meter) Update(p control.Progress) {
	m.state = p
	m.note(p.PendingBytes - p.Sent)
	m.most = max(m.most, p.PendingBytes)
	if p.Pending == 0 {
		return
	}
	if !m.bar {
		if time.Since(m.said) >= plainEvery {
			m.said = time.Now()
			fmt.Fprintln(m.w, "uploading: "+m.brief())
		}
		return
	}
	// What does not fit would wrap, and stay behind as a line of its own.
	line := []rune(fmt.Sprintf("uploading [%s] %s", m.filled(barWidth), m.brief()))
	fmt.Fprintf(m.w, "\r\x1b[K%s", string(line[:min(len(line), Columns(m.w)-1)]))
	m.drawn = true
}

const barWidth = 20 // of the bar, in columns

// filled is the bar: what is sent of the most that was pending.
func (m *Meter) filled(width int) string {
	done := m.most - m.state.PendingBytes + m.state.Sent
	n := 0
	if m.most > 0 {
		n = int(int64(width) * min(done, m.most) / m.most)
	}
	return strings.Repeat("=", n) + strings.Repeat("-", width-n)
}

// Event takes what a mount sends while it uploads.
func (m *Meter) Event(e control.Event) {
	if e.Progress != nil {
		m.Update(*e.Progress)
	}
}

// note keeps what is left for the estimate. When it grew, somebody writes, or
// an upload began again: what was before says nothing about what comes.
func (m *Meter) note(left int64) {
	now := time.Now()
	if n := len(m.past); n > 0 && left > m.past[n-1].left {
		m.past = m.past[:0]
	}
	m.past = append(m.past, remainder{now, left})
	for now.Sub(m.past[0].at) > paceOver {
		m.past = m.past[1:]
	}
}

// remaining is how long the rest will take at the pace of late, 0 = no idea.
func (m *Meter) remaining() time.Duration {
	if len(m.past) == 0 || m.state.Remote != "online" && m.state.Remote != "" {
		return 0
	}
	first, last := m.past[0], m.past[len(m.past)-1]
	took, sent := last.at.Sub(first.at), first.left-last.left
	if took < time.Second || sent <= 0 || last.left <= 0 {
		return 0
	}
	d := time.Duration(float64(took) * float64(last.left) / float64(sent))
	return max(d.Round(time.Second), time.Second)
}

// brief stands beside the bar, and in a line.
func (m *Meter) brief() string {
	s := pendingText(m.state)
	if d := m.remaining(); d > 0 {
		s += ", about " + d.String() + " left"
	}
	return s
}

func pendingText(p control.Progress) string {
	s := fmt.Sprintf("%s, %s pending", Count(p.Pending, "change"), Size(p.PendingBytes-p.Sent))
	if p.Remote != "online" && p.Remote != "" {
		s += " (the drive is " + p.Remote + ")"
	}
	return s
}

// End takes the bar away.
func (m *Meter) End() {
	if m.drawn {
		fmt.Fprint(m.w, "\r\x1b[K")
		m.drawn = false
	}
}
