package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// edit leaves one change of each kind pending. The drive has old, gone and
// named.
func (w *world) edit() {
	w.t.Helper()
	w.drive.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{
		{Op: "content.upload", Fault: drivetest.Fault{Status: 503}}, {Op: "content.overwrite", Fault: drivetest.Fault{Status: 503}},
		{Op: "nodes.*", Fault: drivetest.Fault{Status: 503}}, {Op: "trash.*", Fault: drivetest.Fault{Status: 503}}}})
	w.write("old", "edited here")
	w.write("new", "made here")
	if err := os.Remove(w.file("gone")); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.file("named"), w.file("renamed")); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) fill(s *drivetest.Server) {
	w.t.Helper()
	for _, name := range []string{"old", "gone", "named"} {
		if _, err := s.Else().PutPath(name, []byte("first "+name)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// arrived expects the edits on the drive.
func (w *world) arrived() {
	w.t.Helper()
	w.drive.SetFaults(drivetest.Faults{})
	w.must("flush")
	for name, want := range map[string]string{"old": "edited here", "new": "made here", "gone": "", "named": "", "renamed": "first named"} {
		if got := w.onDrive(name); got != want {
			w.t.Errorf("%s on the drive is %q, want %q", name, got, want)
		}
	}
}

// unchanged expects a drive that has what fill put there and nothing else.
func unchanged(t *testing.T, s *drivetest.Server) {
	t.Helper()
	other := s.Else()
	var names []string
	for _, n := range other.Children(other.Root()) {
		names = append(names, n.Name)
		if b, err := other.ReadFile(n.Name); err != nil || string(b) != "first "+n.Name {
			t.Errorf("%s is %q, %v", n.Name, b, err)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"gone", "named", "old"}) {
		t.Errorf("the other account's drive has %q", names)
	}
}

// A profile whose endpoint leads to another account's drive is refused, and
// nothing is sent there or lost here.
func TestAnotherAccountAtStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	w.fill(w.drive)
	w.mount()
	w.must("refresh")
	w.edit()
	if _, _, code := w.run("unmount", "--no-wait", w.mountpoint); code != 6 {
		t.Fatalf("exit code %d", code)
	}
	other := drivetest.New(t, drivetest.Options{})
	w.fill(other)
	theirs := filepath.Join(w.home, "theirs.json")
	if err := other.WriteToken(theirs); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--endpoint=" + other.Endpoint(), "--token-file=" + theirs}
	for _, verb := range [][]string{{"mount"}, {"check"}, {"mount", "--background"}} {
		args := append(slices.Clone(verb), flags...)
		if verb[0] == "mount" {
			args = append(args, w.mountpoint)
		}
		_, stderr, code := w.run(args...)
		if code != 2 {
			t.Errorf("%q: exit code %d", verb, code)
		}
		oneLine(t, stderr, origin(w.drive), origin(other), "--profile", "logout --purge-local")
	}
	// Without the mirror too: the journal knows.
	if err := os.Rename(filepath.Join(w.home, ".local/state/drivefs/default/mirror.db"), filepath.Join(w.home, "mirror.db")); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := w.run(append(append([]string{"mount"}, flags...), w.mountpoint)...); code != 2 || !strings.Contains(stderr, origin(other)) {
		t.Errorf("without a mirror: exit code %d: %s", code, stderr)
	}
	if err := os.Rename(filepath.Join(w.home, "mirror.db"), filepath.Join(w.home, ".local/state/drivefs/default/mirror.db")); err != nil {
		t.Fatal(err)
	}
	unchanged(t, other)
	w.mount()
	w.arrived()
	w.must("unmount", w.mountpoint)
}

func origin(s *drivetest.Server) string { return strings.TrimSuffix(s.Endpoint(), "/drive/v1/") }

// accounts is one address with two accounts behind it, told apart by their
// tokens; without a connection while it is off.
type accounts struct {
	off   atomic.Bool
	first atomic.Pointer[drivetest.Server]
	other atomic.Pointer[drivetest.Server]
	token atomic.Pointer[string] // of the other account
}

func (a *accounts) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if a.off.Load() {
		panic(http.ErrAbortHandler)
	}
	to := a.first.Load()
	if t := a.token.Load(); t != nil && r.Header.Get("Authorization") == "Bearer "+*t {
		to = a.other.Load()
	}
	to.Handler().ServeHTTP(rw, r)
}

// newAccounts gives a world whose drive shares its address with other.
func newAccounts(t *testing.T) (w *world, a *accounts, other *drivetest.Server, theirs string) {
	a = &accounts{}
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	w = newWorld(t, drivetest.Options{BaseURL: srv.URL})
	other = drivetest.New(t, drivetest.Options{BaseURL: srv.URL})
	w.fill(w.drive)
	w.fill(other)
	token := other.Token()
	a.first.Store(w.drive)
	a.other.Store(other)
	a.token.Store(&token.AccessToken)
	return w, a, other, `{"access_token":"` + token.AccessToken + `","token_type":"bearer"}`
}

// Another account's token that comes while mounted, or is there at a start
// without a network, sends nothing and applies nothing; the right one goes on.
func TestAnotherAccountWhileMounted(t *testing.T) {
	t.Parallel()
	for _, offline := range []bool{false, true} {
		name := "a new token"
		if offline {
			name = "after an offline start"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, a, other, theirs := newAccounts(t)
			mine := read(t, w.token())
			w.mount()
			w.must("refresh")
			read(t, w.file("old"))
			w.edit()
			if offline {
				if _, _, code := w.run("unmount", "--no-wait", w.mountpoint); code != 6 {
					t.Fatalf("exit code %d", code)
				}
				a.off.Store(true)
			}
			put(t, w.token(), theirs)
			if offline {
				w.mount()
				a.off.Store(false)
			}
			w.drive.SetFaults(drivetest.Faults{}) // nothing but the account holds it back
			w.run("refresh")
			w.eventually("the other account is noticed", func() bool {
				s := w.status()
				return s.Remote.State == "auth-required" && strings.Contains(s.Remote.Error, "another account") && strings.Count(s.Remote.Error, "root ") == 2
			})
			if _, _, code := w.run("refresh"); code == 0 {
				t.Error("the feed of another account was read")
			}
			if list := names(t, w.mountpoint); !slices.Equal(list, []string{"new", "old", "renamed"}) {
				t.Errorf("shown: %q", list)
			}
			if got := read(t, w.file("old")); got != "edited here" {
				t.Errorf("old is %q", got)
			}
			unchanged(t, other)
			put(t, w.token(), mine)
			w.eventually("the right account goes on", func() bool { return w.status().Remote.State == "online" })
			w.arrived()
			unchanged(t, other)
			w.must("unmount", w.mountpoint)
		})
	}
}
