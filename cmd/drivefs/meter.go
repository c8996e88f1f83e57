package main

import (
	"fmt"
	"io"
	"os"
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
}

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
	m.most = max(m.most, p.PendingBytes)
	done := m.most - p.PendingBytes + p.Sent
	if m.bars == nil {
		if p.Pending > 0 && time.Since(m.said) >= plainEvery {
			m.said = time.Now()
			fmt.Fprintln(m.w, m.line())
		}
		return
	}
	if m.bar == nil {
		if p.Pending == 0 {
			return
		}
		m.bar = m.bars.AddBar(0, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return "uploading" })),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return m.brief() })))
	}
	m.bar.SetTotal(max(m.most, 1), false)
	m.bar.SetCurrent(min(done, m.most))
}

// brief stands beside the bar; a line says the same.
func (m *meter) brief() string { return pendingText(m.state) }

func (m *meter) line() string { return "uploading: " + pendingText(m.state) }

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
