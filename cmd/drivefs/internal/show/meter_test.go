package show

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/creack/pty"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
)

// Without a terminal: a plain line every few seconds, and none for what is
// over sooner.
func TestMeterPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		m := NewMeter(&b)
		m.Update(control.Progress{Pending: 2, PendingBytes: 3 << 20, Remote: "online"})
		if b.Len() != 0 {
			t.Errorf("too soon: %q", b.String())
		}
		time.Sleep(plainEvery)
		m.Update(control.Progress{Pending: 2, PendingBytes: 3 << 20, Sent: 1 << 20, Remote: "offline"})
		m.Update(control.Progress{Pending: 1, PendingBytes: 1 << 20, Remote: "online"})
		m.End()
		if got, want := b.String(), "uploading: 2 changes, 2.0 MiB pending (the drive is offline)\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// The time left is told by what was sent of late, and not told when nothing
// can be said of it.
func TestMeterEstimate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		m := NewMeter(&b)
		step := func(left int64, want string) {
			t.Helper()
			b.Reset()
			time.Sleep(plainEvery)
			m.Update(control.Progress{Pending: 1, PendingBytes: 100 << 20, Sent: 100<<20 - left, Remote: "online"})
			if got := strings.TrimPrefix(b.String(), "uploading: 1 change, "); got != want+"\n" {
				t.Errorf("%q, want %q", got, want)
			}
		}
		step(100<<20, "100 MiB pending")
		step(90<<20, "90 MiB pending, about 45s left")
		step(80<<20, "80 MiB pending, about 40s left")
		step(95<<20, "95 MiB pending") // it began again
		step(94<<20, "94 MiB pending, about 7m50s left")
		step(94<<20, "94 MiB pending, about 15m40s left")
		time.Sleep(paceOver)
		step(94<<20, "94 MiB pending") // it has stopped
		m.End()
	})
}

func TestMeterOnTerminal(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo-terminal: %v", err)
	}
	defer master.Close()
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 1)
	go func() {
		var all strings.Builder
		for r := bufio.NewReader(master); ; {
			b, err := r.ReadByte()
			if err != nil {
				seen <- all.String()
				return
			}
			all.WriteByte(b)
			if strings.Contains(all.String(), "1 change, 1.0 MiB pending") {
				seen <- all.String()
				return
			}
		}
	}()
	m := NewMeter(tty)
	m.Update(control.Progress{Pending: 3, PendingBytes: 4 << 20})
	m.Update(control.Progress{Pending: 1, PendingBytes: 2 << 20, Sent: 1 << 20})
	select {
	case got := <-seen:
		if !strings.Contains(got, "uploading") || !strings.Contains(got, "=") {
			t.Errorf("no bar in %q", got)
		}
	case <-time.After(time.Minute):
		t.Error("the bar does not say how much is pending")
	}
	m.End()
	tty.Close()
}
