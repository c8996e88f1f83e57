package fs

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// interrupted is a request that the kernel has interrupted.
func interrupted() context.Context {
	gone := make(chan struct{})
	close(gone)
	return &fuse.Context{Caller: fuse.Caller{Pid: 7}, Cancel: gone}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name, status string
		want         verdict
	}{
		{"nothing", "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n", waits},
		{"alarm", "SigPnd:\t0\nShdPnd:\t0000000000002000\nSigBlk:\t0\n", waits},
		{"child and urgent", "SigPnd:\t0\nShdPnd:\t0000000000410000\nSigBlk:\t0\n", waits},
		{"kill", "SigPnd:\t0000000000000100\nShdPnd:\t0\nSigBlk:\t0\n", gaveUp},
		{"term for the process", "SigPnd:\t0\nShdPnd:\t0000000000004000\nSigBlk:\t0\n", gaveUp},
		{"int for the thread", "SigPnd:\t0000000000000002\nShdPnd:\t0\nSigBlk:\t0\n", gaveUp},
		{"hup", "SigPnd:\t0\nShdPnd:\t0000000000000001\nSigBlk:\t0\n", gaveUp},
		{"quit", "SigPnd:\t0\nShdPnd:\t0000000000000004\nSigBlk:\t0\n", gaveUp},
		{"blocked term", "SigPnd:\t0\nShdPnd:\t0000000000004000\nSigBlk:\t0000000000004000\n", waits},
		{"kill cannot be blocked", "SigPnd:\t0000000000000100\nShdPnd:\t0\nSigBlk:\tffffffffffffffff\n", gaveUp},
		{"cut", "SigPnd:\t0\n", unseen},
		{"not a number", "SigPnd:\tx\nShdPnd:\t0\nSigBlk:\t0\n", unseen},
	} {
		if got := judge([]byte(c.status)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSignalsOfThisProcess(t *testing.T) {
	if got := signalsOf(uint32(os.Getpid())); got != waits {
		t.Errorf("a process without signals: %v", got)
	}
	if got := signalsOf(0); got != unseen {
		t.Errorf("a process of another namespace: %v", got)
	}
	// Beyond the largest pid there is.
	if got := signalsOf(1 << 30); got != gaveUp {
		t.Errorf("no such process: %v", got)
	}
}

// TestCallOutlivesTimers: signals that mean nothing do not end a wait, and one
// that comes later does.
func TestCallOutlivesTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Int32
		tr := &tree{signals: func(pid uint32) verdict {
			if pid != 7 {
				t.Errorf("asked for pid %d", pid)
			}
			return verdict(now.Load())
		}}
		c := tr.enter(interrupted(), "read")
		defer c.end(nil)
		done := c.Done()
		time.Sleep(5 * time.Second)
		select {
		case <-done:
			t.Fatal("a timer ended the wait")
		default:
		}
		if c.Err() != nil {
			t.Fatalf("Err while waiting: %v", c.Err())
		}
		start := time.Now()
		now.Store(int32(gaveUp))
		<-done
		if took := time.Since(start); took > signalPoll {
			t.Errorf("ended after %v", took)
		}
		if c.Err() != context.Canceled {
			t.Errorf("Err: %v", c.Err())
		}
	})
}

func TestCallOfUnseenProcessEndsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &tree{signals: func(uint32) verdict { return unseen }}
		c := tr.enter(interrupted(), "read")
		defer c.end(nil)
		start := time.Now()
		<-c.Done()
		if took := time.Since(start); took != blindPatience {
			t.Errorf("ended after %v, want %v", took, blindPatience)
		}
	})
}

// TestCallEnds: end stops the watcher, in whatever state it is (the bubble
// fails when a goroutine is left).
func TestCallEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &tree{signals: func(uint32) verdict { return waits }}
		never := &fuse.Context{Cancel: make(chan struct{})}

		unasked := tr.enter(never, "read")
		unasked.end(nil)
		<-time.After(time.Second)
		if unasked.Err() != nil {
			t.Error("ended by itself")
		}
		select {
		case <-unasked.Done():
			t.Error("Done after the end is closed")
		default:
		}

		quiet := tr.enter(never, "read")
		quiet.Done()
		quiet.end(nil)

		noisy := tr.enter(interrupted(), "read")
		noisy.Done()
		time.Sleep(3 * time.Second)
		noisy.end(nil)
	})
}
