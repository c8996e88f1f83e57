package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestServiceManager(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	address := &net.UnixAddr{Net: "unixgram", Name: filepath.Join(w.home, "notify")}
	conn, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	w.env = append(w.env, "NOTIFY_SOCKET="+address.Name, "WATCHDOG_USEC=400000")
	p := w.mount()
	// Read at once: a full socket would stop the one that tells.
	lines := make(chan string, 10000)
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return // closed
			}
			for line := range strings.Lines(string(buf[:n])) {
				lines <- strings.TrimSpace(line)
			}
		}
	}()
	defer func() {
		conn.Close()
		<-read
	}()
	hear := func(what string) {
		t.Helper()
		for late := time.After(limit); ; {
			select {
			case line := <-lines:
				if line == what {
					return
				}
			case <-late:
				t.Fatalf("not said: %s", what)
			}
		}
	}
	hear("STATUS=starting")
	hear("READY=1")
	hear("STATUS=ready on " + w.mountpoint + "; drive online")
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	w.must("limit", "--pause")
	w.write("a", "b")
	hear("STATUS=ready on " + w.mountpoint + "; drive online; 1 change pending; uploads paused")
	hear("WATCHDOG=1")
	w.must("limit", "--resume")
	w.must("unmount", w.mountpoint)
	hear("STOPPING=1")
	p.end()
	if log := p.stderr(); strings.Contains(log, "does not answer") {
		t.Errorf("ending it was taken for being stuck: %s", log)
	}
}

// The units are what systemd takes them for.
func TestUnits(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed: apt-get install systemd")
	}
	for _, scope := range []string{"user", "system"} {
		t.Run(scope, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("packaging", scope, "drivefs@.service"))
			if err != nil {
				t.Fatal(err)
			}
			// Where make install puts the program nothing may be yet.
			unit := strings.ReplaceAll(string(text), "=drivefs ", "="+os.Args[0]+" ")
			unit = strings.ReplaceAll(unit, "=-drivefs ", "=-"+os.Args[0]+" ")
			for _, part := range []string{"Type=notify", "WatchdogSec=", "Restart=on-failure", "RestartPreventExitStatus=2 3", "ExecStopPost=-" + os.Args[0] + " unmount"} {
				if !strings.Contains(unit, part) {
					t.Errorf("no %s", part)
				}
			}
			for _, line := range []string{"mount --background=false ", " --mkdir "} {
				if !strings.Contains(unit, line) {
					t.Errorf("no %s", line)
				}
			}
			// Keys of systemd 254 are unknown to older ones, which pass them over.
			for _, key := range []string{"RestartSteps=", "RestartMaxDelaySec="} {
				i := strings.Index(unit, key)
				if i < 0 {
					t.Fatalf("no %s", key)
				}
				unit = unit[:i] + unit[i+strings.IndexByte(unit[i:], '\n')+1:]
			}
			dir := t.TempDir()
			put(t, filepath.Join(dir, "drivefs@default.service"), unit)
			cmd := exec.Command("systemd-analyze", "--"+scope, "--man=no", "verify", filepath.Join(dir, "drivefs@default.service"))
			cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "SYSTEMD_LOG_LEVEL=warning")
			out, err := cmd.CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
