package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// consent plays somebody with a browser who knows the secret of the drive.
func consent(t *testing.T, drive *drivetest.Server, address, decision string) string {
	t.Helper()
	return press(t, address+"&secret="+drive.Secret(), decision)
}

// press presses a button of the consent page and gives the address the answer
// is sent to.
func press(t *testing.T, address, decision string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	form := u.Query()
	form.Set("decision", decision)
	stay := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := stay.PostForm("http://"+u.Host+u.Path, form)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound {
		t.Fatalf("the consent page answers %s", resp.Status)
	}
	return resp.Header.Get("Location")
}

// address is where a login sends the browser.
func address(p *process) string {
	p.w.t.Helper()
	for {
		if l := strings.TrimSpace(p.line()); strings.HasPrefix(l, "http") {
			return l
		}
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	if err := os.Remove(w.token()); err != nil {
		t.Fatal(err)
	}
	t.Run("pasted", func(t *testing.T) {
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		defer out.Close()
		p := w.startWith(in, "login", "--no-browser", "--read-only")
		a := address(p)
		if scope := query(t, a).Get("scope"); scope != "clouddrive:read_all" {
			t.Errorf("a read-only login asks for %q", scope)
		}
		fmt.Fprintln(out, consent(t, w.drive, a, "allow"))
		if code := p.end(); code != 0 {
			t.Fatalf("exit code %d: %s", code, p.stderr())
		}
		if st, err := os.Stat(w.token()); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("token: %v, %v", st, err)
		}
		w.must("about")
		w.must("logout")
		if _, _, code := w.run("about"); code != 3 {
			t.Errorf("after logout: exit code %d", code)
		}
	})
	t.Run("browser", func(t *testing.T) {
		p := w.start("login", "--redirect-port=53699")
		a := address(p)
		for _, wrong := range []string{"", "?error=access_denied", "?error=x&error_description=%1b]0;x%07", "?code=x", "?code=x&state=y", "?state=y"} {
			resp, err := http.Get("http://127.0.0.1:53699/" + wrong)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 400 || !strings.Contains(string(body), "goes on waiting") {
				t.Errorf("%s: %d %q %v", wrong, resp.StatusCode, body, err)
			}
		}
		resp, err := http.Get(consent(t, w.drive, a, "allow"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), "close this page") {
			t.Errorf("the browser shows %q, %v", body, err)
		}
		if code := p.end(); code != 0 {
			t.Fatalf("exit code %d: %s", code, p.stderr())
		}
		w.must("about")
	})
	for _, test := range []struct {
		name, want string
		answer     func(address string) string
	}{
		{"denied", "denied", func(a string) string { return consent(t, w.drive, a, "deny") }},
		{"forged refusal", "another login", func(a string) string { return "http://127.0.0.1/?error=access_denied&state=x" }},
		{"refusal that paints", `Amazon refused: x: a\x1b]52;c;aGk=\ab`, func(a string) string {
			return "http://127.0.0.1/?error=x&error_description=a%1b]52%3bc%3baGk=%07b&state=" + query(t, a).Get("state")
		}},
		{"forged", "another login", func(a string) string { return strings.Replace(consent(t, w.drive, a, "allow"), "state=", "state=x", 1) }},
		{"nothing", "nothing was pasted", func(string) string { return "" }},
		{"no code", "no code", func(string) string { return "http://127.0.0.1/" }},
		{"wrong code", "used already or is too old", func(a string) string {
			return "http://127.0.0.1/?code=x&state=" + query(t, a).Get("state")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			in, out, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			defer out.Close()
			p := w.startWith(in, "login", "--no-browser")
			fmt.Fprintln(out, test.answer(address(p)))
			if code := p.end(); code != 3 {
				t.Errorf("exit code %d", code)
			}
			oneLine(t, p.stderr(), test.want)
		})
	}
}

func query(t *testing.T, address string) url.Values {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

// What is wrong with the token file stands in status; a logout stays one.
func TestTokenFileNotes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	if err := os.Chmod(w.token(), 0o644); err != nil {
		t.Fatal(err)
	}
	w.mount()
	note := func() string { return strings.Join(w.status().Problems, "; ") }
	if n := note(); !strings.Contains(n, "chmod 600 it") {
		t.Errorf("a token that others can read: %q", n)
	}
	if err := os.Remove(w.token()); err != nil {
		t.Fatal(err)
	}
	w.drive.ExpireTokens()
	w.must("refresh")
	if n := note(); !strings.Contains(n, "is gone") {
		t.Errorf("a token that cannot be kept: %q", n)
	}
	if _, err := os.Stat(w.token()); err == nil {
		t.Error("the token came back after a logout")
	}
	if err := w.drive.WriteToken(w.token()); err != nil {
		t.Fatal(err)
	}
	w.must("refresh")
	if n := note(); n != "" {
		t.Errorf("after a new login: %q", n)
	}
	w.must("unmount", w.mountpoint)
}

// A new token heals a mount that runs.
func TestLoginHeals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	w.mount()
	w.drive.RevokeRefresh() // first: what runs in the mount may need a token between the two
	w.drive.ExpireTokens()
	_, stderr, code := w.run("refresh")
	if code != 3 {
		t.Errorf("exit code %d", code)
	}
	oneLine(t, stderr, "login")
	if s := w.status(); s.Remote.State != "auth-required" {
		t.Errorf("%+v", s.Remote)
	}
	if err := w.drive.WriteToken(w.token()); err != nil {
		t.Fatal(err)
	}
	w.must("refresh")
	if s := w.status(); s.Remote.State != "online" {
		t.Errorf("%+v", s.Remote)
	}
	w.must("unmount", w.mountpoint)
}
