package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	p := w.mount("--metrics=0", "--log-format=json")
	var address string
	for line := range strings.Lines(p.stderr()) {
		var record struct{ Msg, Address string }
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Errorf("%q is not JSON: %v", line, err)
		}
		switch record.Msg {
		case "metrics":
			address = record.Address
		case "drive":
			t.Errorf("measuring makes the log talk: %s", line)
		}
	}
	if !strings.HasPrefix(address, "http://127.0.0.1:") {
		t.Fatalf("the log does not name the address: %s", p.stderr())
	}
	w.write("waiting", "x")
	w.must("flush")
	w.must("limit", "--pause")
	w.write("waits", "x")
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	text := string(body)
	for _, want := range []string{
		`drivefs_remote_state{state="online"} 1`,
		`drivefs_requests_total{operation="account.info"} `,
		`drivefs_request_seconds_count{class="ok",operation="content.upload"} 1`,
		`drivefs_fuse_operations_total{operation="create",result="ok"} 2`,
		`drivefs_fuse_operations_total{operation="lookup",result="ENOENT"} `,
		`drivefs_fuse_seconds_count{operation="create"} 2`,
		`drivefs_uploads_pending 1`,
		`drivefs_uploads_paused 1`,
		`drivefs_info{mountpoint="` + w.mountpoint + `",profile="default"`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if strings.Contains(text, "\ndrivefs_uploads_oldest_age_seconds 0\n") {
		t.Error("what waits has no age")
	}
	w.must("limit", "--resume")
	w.must("unmount", w.mountpoint)

	// What is drawn and what alarms is there, and the other way round.
	used := map[string]bool{}
	connections, err := os.ReadDir("/sys/fs/fuse/connections")
	controlled := err == nil && len(connections) > 0
	for _, expr := range append(dashboard(t), alerts(t)...) {
		for _, name := range regexp.MustCompile(`drivefs_[a-z_]+`).FindAllString(expr, -1) {
			for _, part := range []string{"_bucket", "_count", "_sum"} {
				name = strings.TrimSuffix(name, part)
			}
			used[name] = true
			// The kernel's own count needs fusectl.
			if !strings.Contains(text, "\n# TYPE "+name+" ") && (controlled || name != "drivefs_fuse_requests_waiting") {
				t.Errorf("there is no metric %s: %s", name, expr)
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (drivefs_[a-z_]+) `).FindAllStringSubmatch(text, -1) {
		if name := m[1]; !used[name] && name != "drivefs_limit_bytes_per_second" {
			t.Errorf("%s is on no panel and in no alert", name)
		}
	}
}

// dashboard gives the expressions of the Grafana dashboard.
func dashboard(t *testing.T) (exprs []string) {
	t.Helper()
	b, err := os.ReadFile("packaging/monitoring/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Title, UID string
		Templating struct{ List []struct{ Query string } }
		Panels     []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	for _, v := range d.Templating.List {
		exprs = append(exprs, v.Query)
	}
	for _, p := range d.Panels {
		if p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("a panel without title or targets: %+v", p)
		}
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	return exprs
}

// alerts gives the expressions of the example alerts.
func alerts(t *testing.T) (exprs []string) {
	t.Helper()
	f, err := os.Open("packaging/monitoring/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || r.Expr == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("incomplete: %+v", r)
			}
			exprs = append(exprs, r.Expr)
		}
	}
	return exprs
}
