package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// examine runs the doctor, again when another test has a dead mount just then.
func (w *world) examine(args ...string) (out, stderr string, code int) {
	w.t.Helper()
	w.eventually("nobody has a dead mount", func() bool {
		out, stderr, code = w.run(append([]string{"doctor"}, args...)...)
		return !strings.Contains(out, "FAIL  dead mounts")
	})
	return out, stderr, code
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	needFuse(t)
	w := newWorld(t, drivetest.Options{})
	w.env = append(w.env, "DRIVEFS_CACHE_DISK=1MiB")
	out, stderr, code := w.examine()
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	at := 0
	for _, part := range []string{
		"ok    kernel       Linux ", "ok    /dev/fuse", "ok    settings     /", "ok    token", "ok    clock        right",
		"ok    network      " + w.drive.Endpoint() + " answers in ", "first byte", "ok    account      ACTIVE",
		"ok    permissions  reading and writing", "ok    quota", "ok    disk", "ok    dead mounts  none", "ok    state", "ok    journal      nothing waits",
	} {
		i := strings.Index(out[at:], part)
		if i < 0 {
			t.Fatalf("it does not say %q in its place: %s", part, out)
		}
		at += i
	}
	for _, test := range []struct {
		name, want string
		args       []string
		code       int
	}{
		{"no token", "drivefs login", []string{"--token-file=" + w.home + "/none"}, 3},
		{"nobody there", "cannot be reached", []string{"--endpoint=http://127.0.0.1:1/", "--token-file=" + w.home + "/none"}, 5},
	} {
		out, stderr, code := w.examine(test.args...)
		if code != test.code || !strings.Contains(out, "FAIL") {
			t.Errorf("%s: exit code %d: %s", test.name, code, out)
		}
		oneLine(t, stderr, test.want)
	}
	// A cache makes do with the room that there is, and has its own already.
	w.doctor(0, "note  disk         --cache-dir ", "--cache-disk=1000PiB")
	if err := os.Chmod(w.token(), 0o644); err != nil {
		t.Fatal(err)
	}
	_, stderr, code = w.examine()
	if code != 1 {
		t.Errorf("open token: exit code %d", code)
	}
	oneLine(t, stderr, "chmod 600")
}

// doctor expects a line of the doctor, and its exit code.
func (w *world) doctor(code int, want string, args ...string) {
	w.t.Helper()
	out, stderr, got := w.examine(append([]string{"--cache-disk=1MiB"}, args...)...)
	if got != code || !strings.Contains(out, want) {
		w.t.Errorf("exit code %d, want %d and %q: %s%s", got, code, want, out, stderr)
	}
}

// What a token permits shows, without a change on the drive.
func TestDoctorPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	give := func(scopes string) {
		t.Helper()
		b, err := json.Marshal(w.drive.TokenFor(scopes))
		if err != nil {
			t.Fatal(err)
		}
		put(t, w.token(), string(b))
	}
	before := len(w.drive.Else().Tree())
	give("clouddrive:read_all")
	w.doctor(3, "FAIL  permissions  the token does not permit writing")
	w.doctor(0, "ok    permissions  reading; writing is not wanted", "--read-only")
	give("clouddrive:write")
	w.doctor(3, "FAIL  permissions  the token does not permit reading")
	if n := len(w.drive.Else().Tree()); n != before {
		t.Errorf("the drive had %d nodes and has %d", before, n)
	}
}

// The doctor knows what waits, what fails, and what was damaged, mounted or not.
func TestDoctorJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	w.mount()
	w.must("limit", "--pause")
	w.write("waits", strings.Repeat("x", 1<<20))
	w.doctor(0, "note  journal      1 change pending (1.0 MiB), uploads are paused: drivefs limit --resume")
	w.drive.SetFaults(drivetest.Faults{OverQuota: true})
	w.must("limit", "--resume")
	if _, _, code := w.run("flush"); code != 6 {
		t.Errorf("flush: exit code %d", code)
	}
	w.doctor(6, "FAIL  journal      1 change pending (1.0 MiB), of which 1 failed, as /waits: ")
	if _, _, code := w.run("unmount", "--no-wait", w.mountpoint); code != 6 {
		t.Errorf("unmount: exit code %d", code)
	}
	w.doctor(0, "note  journal      1 change (1.0 MiB) for the next mount")
	state := filepath.Join(w.home, ".local/state/drivefs/default")
	put(t, filepath.Join(state, "aside/12-34"), "saved")
	w.doctor(1, "FAIL  set aside    1 file in "+filepath.Join(state, "aside"))
	if err := os.RemoveAll(filepath.Join(state, "aside")); err != nil {
		t.Fatal(err)
	}
	drafts, err := filepath.Glob(filepath.Join(state, "drafts/*"))
	if err != nil || len(drafts) != 1 {
		t.Fatalf("%v, %v", drafts, err)
	}
	if err := os.Remove(drafts[0]); err != nil {
		t.Fatal(err)
	}
	w.doctor(1, "FAIL  journal      damaged: ")
}

// clocked is a service that lives at another time.
func clocked(t *testing.T, ahead time.Duration) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_grant","error_description":"The request has an invalid grant parameter : code"}`))
	}))
	t.Cleanup(srv.Close)
	return srv
}

// A wrong clock is named at login and by the doctor, with what to do.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		ahead time.Duration // of the service
		want  string
	}{{26 * time.Hour, "behind: set it"}, {-26 * time.Hour, "ahead: set it"}} {
		w := newWorld(t, drivetest.Options{})
		srv := clocked(t, test.ahead)
		out, stderr, code := w.examine("--endpoint=" + srv.URL)
		if code == 0 || !strings.Contains(out, "FAIL  clock        this machine's clock is 2") || !strings.Contains(out, test.want) {
			t.Errorf("exit code %d: %s%s", code, out, stderr)
		}
		in, out2, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		defer out2.Close()
		p := w.startWith(in, "login", "--no-browser", "--client-id=x", "--token-url="+srv.URL)
		state := query(t, address(p)).Get("state")
		fmt.Fprintln(out2, "http://127.0.0.1:53682/?code=abcdefgh&state="+state)
		if code := p.end(); code != 3 {
			t.Errorf("login: exit code %d", code)
		}
		oneLine(t, p.stderr(), "clock is 2", test.want, "log in again")
	}
}
