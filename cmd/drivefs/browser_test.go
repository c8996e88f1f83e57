package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// browser is a Chromium that is spoken to over two pipes, in the DevTools
// protocol: JSON objects, each ended by a NUL.
type browser struct {
	t       *testing.T
	to      *os.File
	from    *bufio.Reader
	calls   int
	session string
}

// startBrowser opens address in a headless Chromium, or skips.
func startBrowser(t *testing.T, home, address string) *browser {
	t.Helper()
	var program string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		t.Skip("no Chromium is installed: apt-get install chromium")
	}
	theirs, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, theirs2, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit) // it is asked to end before it is made to
	cmd := exec.CommandContext(ctx, program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
		"--user-data-dir="+filepath.Join(home, "chromium"), "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{theirs, theirs2} // 3 to hear, 4 to answer
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = 10 * time.Second // for those of its processes that keep the pipes
	err = cmd.Start()
	theirs.Close()
	theirs2.Close()
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	b := &browser{t: t, to: to, from: bufio.NewReader(from)}
	if err := from.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		to.Close() // it ends when nobody speaks to it any more
		from.Close()
		_ = cmd.Wait() // how it ends is its own affair
		cancel()
		if t.Failed() {
			t.Logf("Chromium says: %s", said.String())
		}
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": address}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	return b
}

func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	b.calls++
	message, err := json.Marshal(map[string]any{"id": b.calls, "method": method, "params": params, "sessionId": b.session})
	if err != nil {
		b.t.Fatal(err)
	}
	if b.session == "" {
		message = bytes.Replace(message, []byte(`,"sessionId":""`), nil, 1)
	}
	if _, err := b.to.Write(append(message, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		answer, err := b.from.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s: no answer: %v", method, err)
		}
		var a struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		switch err := json.Unmarshal(bytes.TrimSuffix(answer, []byte{0}), &a); {
		case err != nil:
			b.t.Fatal(err)
		case a.ID != b.calls:
			continue // an event
		case a.Error != nil:
			b.t.Fatalf("%s: %s", method, a.Error.Message)
		}
		if err := json.Unmarshal(a.Result, result); err != nil {
			b.t.Fatal(err)
		}
		return
	}
}

// eval is the text an expression gives in the page; "" while it fails, as it
// does between two pages.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	var r struct{ Result struct{ Value any } }
	b.call("Runtime.evaluate", map[string]any{"expression": expression}, &r)
	return fmt.Sprint(r.Result.Value)
}

// A person signs in: sees the consent page, presses the button, and is told
// that all is done.
func TestLoginInBrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	if err := os.Remove(w.token()); err != nil {
		t.Fatal(err)
	}
	p := w.start("login", "--redirect-port=53701")
	address := ""
	for address == "" {
		if l := strings.TrimSpace(p.line()); strings.HasPrefix(l, "http") {
			address = l
		}
	}
	b := startBrowser(t, w.home, address)
	const text = "document.body.innerText"
	w.eventually("the consent page shows", func() bool { return strings.Contains(b.eval(text), "Allow") })
	if page := b.eval(text); !strings.Contains(page, "clouddrive:read_all") || !strings.Contains(page, "clouddrive:write") {
		t.Errorf("it does not say what is asked for: %q", page)
	}
	if page := b.eval(text); !strings.Contains(page, "Secret of the drive") {
		t.Errorf("it does not ask for the secret: %q", page)
	}
	b.eval(fmt.Sprintf(`document.querySelector("input[name=secret]").value = %q`, w.drive.Secret()))
	b.eval(`document.querySelector("button[value=allow]").click()`)
	w.eventually("the last page shows", func() bool { return strings.Contains(b.eval(text), "You can close this page") })
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.stderr())
	}
	if at := b.eval("location.host"); at != "127.0.0.1:53701" {
		t.Errorf("the browser ended at %s", at)
	}
	w.must("about")
}
