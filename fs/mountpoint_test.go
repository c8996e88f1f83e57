package fs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestParseMount(t *testing.T) {
	m, ok := parseMount(`36 35 98:0 /mnt1 /mnt/a\040b\134c rw,noatime master:1 shared:2 - fuse.drivefs Amazon\040Drive rw,errors=continue` + "\n")
	want := mountLine{dev: "98:0", path: `/mnt/a b\c`, fstype: "fuse.drivefs", source: "Amazon Drive"}
	if !ok || m != want {
		t.Errorf("got %+v, want %+v", m, want)
	}
	for _, bad := range []string{"", "36 35 98:0 / /mnt rw", " - ", "1 2 - fuse x"} {
		if m, ok := parseMount(bad); ok {
			t.Errorf("%q parsed as %+v", bad, m)
		}
	}
	if got := unescape(`a\0`); got != `a\0` {
		t.Errorf("a cut escape became %q", got)
	}
}

func TestPrepare(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(base, name) }
	for _, d := range []string{"empty", "full/x"} {
		if err := os.MkdirAll(in(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(in("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"link": "empty", "dangling": "nowhere"} {
		if err := os.Symlink(to, in(link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		at   string
		want error
	}{
		{in("missing"), ErrMissing},
		{in("dangling"), ErrMissing},
		{in("file"), ErrNotDir},
		{in("file/x"), ErrNotDir},
		{in("full"), ErrNotEmpty},
		{"/proc", ErrMounted},
	} {
		if _, err := prepare(t.Context(), c.at, false); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.at, err, c.want)
		}
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse here: what is fit cannot be tried")
	}
	for _, at := range []string{in("empty"), in("link"), in("empty") + "/", in("full/../empty")} {
		got, err := prepare(t.Context(), at, false)
		if err != nil || got != in("empty") {
			t.Errorf("%s: %q, %v; want %q", at, got, err, in("empty"))
		}
	}
}

func TestMountOf(t *testing.T) {
	m, ok := mountOf("/proc/self")
	if !ok || m.path != "/proc" || m.fstype != "proc" {
		t.Errorf("/proc/self lies in %+v", m)
	}
	if mounted("/proc") {
		t.Error("/proc is taken for a drivefs")
	}
}
