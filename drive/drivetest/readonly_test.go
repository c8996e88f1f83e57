package drivetest

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// After a commit that failed nothing of it is told, nothing is changed any
// more, the log says so, and a restart finds what was told.
func TestReadOnlyAfterAFailedCommit(t *testing.T) {
	full := errors.New("no space left on device")
	name := "new"
	changes := map[string]func(c *Client, f, d string) error{
		"create":   func(c *Client, f, d string) error { _, err := c.Put(d, name, strings.NewReader("x")); return err },
		"mkdir":    func(c *Client, f, d string) error { _, err := c.Mkdir(d, name); return err },
		"write":    func(c *Client, f, d string) error { _, err := c.Overwrite(f, strings.NewReader("other")); return err },
		"rename":   func(c *Client, f, d string) error { _, err := c.Rename(f, name); return err },
		"move":     func(c *Client, f, d string) error { _, err := c.Move(f, c.Root(), d); return err },
		"link":     func(c *Client, f, d string) error { _, err := c.AddParent(f, d); return err },
		"trash":    func(c *Client, f, d string) error { _, err := c.Trash(f); return err },
		"purge":    func(c *Client, f, d string) error { return c.Purge(f) },
		"touch":    func(c *Client, f, d string) error { _, err := c.Touch(f); return err },
		"property": func(c *Client, f, d string) error { _, err := c.SetProperty(f, "drivefs", "k", &name); return err },
		"raw":      func(c *Client, f, d string) error { _, err := c.PutRaw(Node{Name: name}); return err },
		"bulk":     func(c *Client, f, d string) error { return c.s.Bulk(10, 3) },
	}
	for what, change := range changes {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			var said strings.Builder
			s, err := Start(Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&said, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			c := s.Else()
			d, err := c.Mkdir("", "d")
			if err != nil {
				t.Fatal(err)
			}
			f, err := c.PutPath("f", []byte("old"))
			if err != nil {
				t.Fatal(err)
			}
			before, told := c.Tree(), feedOf(t, s)
			s.st.spoilCommit = func() error { return full }
			if err := change(c, f.ID, d.ID); err == nil || !strings.Contains(err.Error(), full.Error()) {
				t.Errorf("the change: %v", err)
			}
			s.st.spoilCommit = nil // what was full has room again; memory and disk are one, but who knows
			for again, change := range changes {
				if err := change(c, f.ID, d.ID); err == nil || !strings.Contains(err.Error(), "read-only") {
					t.Errorf("%s afterwards: %v", again, err)
				}
			}
			if diff := cmp.Diff(before, c.Tree()); diff != "" {
				t.Errorf("the tree differs: %s", diff)
			}
			if b, err := c.ReadFile("f"); err != nil || string(b) != "old" {
				t.Errorf("the file: %q, %v", b, err)
			}
			if now := feedOf(t, s); now != told {
				t.Errorf("the feed tells %s\nbefore: %s", now, told)
			}
			if err := s.Check(); err != nil {
				t.Error(err)
			}
			if !strings.Contains(said.String(), "read-only") || !strings.Contains(said.String(), full.Error()) {
				t.Errorf("it said %q", said.String())
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			again, err := Start(Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if diff := cmp.Diff(before, again.Else().Tree()); diff != "" {
				t.Errorf("after a restart the tree differs: %s", diff)
			}
			if err := again.Check(); err != nil {
				t.Error(err)
			}
			if err := change(again.Else(), f.ID, d.ID); err != nil {
				t.Errorf("after a restart: %v", err)
			}
		})
	}
}

// feedOf is what the feed tells from the start, "" when it is cut.
func feedOf(t *testing.T, s *Server) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.Endpoint()+"changes", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Token().AccessToken)
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasSuffix(string(b), "{\"end\":true}\n") {
		return ""
	}
	for line := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n") {
		if !json.Valid([]byte(line)) {
			t.Errorf("the feed tells %s", line)
		}
	}
	return string(b)
}
