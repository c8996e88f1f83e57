package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
)

// plainEvery is how often a line is written where there is no terminal.
const plainEvery = 5 * time.Second

// meter shows how uploads go: a bar on a terminal, else a line now and then.
// It is for one goroutine.
type meter struct {
	w     io.Writer
	bars  *mpb.Progress // nil without a terminal
	bar   *mpb.Bar
	most  int64 // the most that was pending, in bytes
	said  time.Time
	state control.Progress
	past  []remainder
	text  atomic.Pointer[string] // of the bar, which is drawn by another goroutine
}

// remainder is how much was left to send at a moment.
type remainder struct {
	at   time.Time
	left int64
}

// paceOver is how far back the estimate looks.
const paceOver = 20 * time.Second

// newMeter begins a meter on w. Nothing shows before the first update.
func newMeter(w io.Writer) *meter {
	m := &meter{w: w, said: time.Now()}
	if isTerminal(w) {
		m.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithRefreshRate(200*time.Millisecond))
	}
	return m
}

func (m *meter) update(p control.Progress) {
	m.state = p
	m.note(p.PendingBytes - p.Sent)
	text := m.brief()
	m.text.Store(&text)
	m.most = max(m.most, p.PendingBytes)
	done := m.most - p.PendingBytes + p.Sent
	if m.bars == nil {
		if p.Pending > 0 && time.Since(m.said) >= plainEvery {
			m.said = time.Now()
			fmt.Fprintln(m.w, "uploading: "+text)
		}
		return
	}
	if m.bar == nil {
		if p.Pending == 0 {
			return
		}
		m.bar = m.bars.AddBar(0, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return "uploading" })),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return *m.text.Load() })))
	}
	m.bar.SetTotal(max(m.most, 1), false)
	m.bar.SetCurrent(min(done, m.most))
}

// note keeps what is left for the estimate. When it grew, somebody writes, or
// an upload began again: what was before says nothing about what comes.
func (m *meter) note(left int64) {
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
func (m *meter) remaining() time.Duration {
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
func (m *meter) brief() string {
	s := pendingText(m.state)
	if d := m.remaining(); d > 0 {
		s += ", about " + d.String() + " left"
	}
	return s
}

func pendingText(p control.Progress) string {
	s := fmt.Sprintf("%s, %s pending", count(p.Pending, "change"), size(p.PendingBytes-p.Sent))
	if p.Remote != "online" && p.Remote != "" {
		s += " (the drive is " + p.Remote + ")"
	}
	return s
}

// end takes the bar away.
func (m *meter) end() {
	if m.bars == nil {
		return
	}
	if m.bar != nil {
		m.bar.Abort(true)
	}
	m.bars.Wait()
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return humanize.Comma(int64(n)) + " " + what + "s"
}
