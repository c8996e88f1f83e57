package main

import (
	"bufio"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	w.mount()
	for _, noColour := range []bool{false, true} {
		cmd := w.command("status", "--watch", w.mountpoint)
		if noColour {
			cmd.Env = append(cmd.Env, "NO_COLOR=1")
		}
		master, err := pty.Start(cmd)
		if err != nil {
			t.Skipf("no pseudo-terminal: %v", err)
		}
		var screen strings.Builder
		r := bufio.NewReader(master)
		for strings.Count(screen.String(), "requests") < 2 { // drawn again
			b, err := r.ReadByte()
			if err != nil {
				t.Fatalf("it ended: %v: %s", err, screen.String())
			}
			screen.WriteByte(b)
		}
		if coloured := strings.Contains(screen.String(), "\x1b[32m"); coloured == noColour {
			t.Errorf("NO_COLOR set: %v, but coloured: %v", noColour, coloured)
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = r.ReadByte() // what it still has to say
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("Ctrl-C: %v", err)
		}
		master.Close()
	}
	w.must("unmount", w.mountpoint)
}

func TestStatusForPeople(t *testing.T) {
	now := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	s := &control.Status{
		Mountpoint: "/home/me/Drive", PID: 7, Profile: "work", Since: now.Add(-3 * time.Hour), State: "ready", ReadOnly: true,
		Remote: control.Remote{State: "auth-required", Since: now.Add(-time.Minute), Error: "invalid_grant"},
		Mirror: control.Mirror{Nodes: 12345, CheckpointAge: -1},
		Uploads: control.Uploads{Pending: 2, PendingBytes: 5 << 20, Active: 1,
			Oldest:    []control.Waiting{{Path: "/c", Since: now.Add(-time.Minute), WaitsFor: "its turn"}, {Path: "/log", Since: now.Add(-time.Minute), WaitsFor: "its next writer"}},
			Unclosed:  []control.Waiting{{Path: "/log", Since: now.Add(-time.Minute), WaitsFor: "its next writer"}},
			Failed:    []control.Failure{{Path: "/a", Error: "the drive is full", RetryAt: now.Add(time.Minute)}},
			Transfers: []control.Transfer{{Path: "/b", Op: "upload", Sent: 1 << 20, Size: 4 << 20, Rate: 1 << 20}}},
		Cache:    control.Cache{Hits: 3, Misses: 1},
		Requests: map[string]control.Request{"nodes.get": {Count: 4, Errors: 1}, "changes": {Count: 9, Throttled: 2}},
		Problems: []string{"something happened"},
	}
	const want = `/home/me/Drive: ready, profile work, read-only, process 7, mounted 3 hours ago
  drive     auth-required (60 seconds ago): log in again: drivefs login, or put a new token in place
            invalid_grant
  mirror    12,345 nodes, still loading, never read to its end
  uploads   2 changes pending (5.0 MiB), 1 active, 1 failed
            /log waits for its next writer (60 seconds ago)
            /c waits for its turn (60 seconds ago)
            upload /b 25 % of 4.0 MiB, 1.0 MiB/s, 3s left
            failed /a: the drive is full (tried again in 60 seconds)
  cache     0 B in memory, 0 B on disk, 75.0 % hits; 0 B downloaded, 0 B served
  requests  13, 1 failed, 2 throttled (changes 9, nodes.get 4)
  note      something happened
`
	var b strings.Builder
	if err := writeStatus(&b, s, now, colours{}); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
