package mounts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		line string
		want Mount
	}{
		{"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue", Mount{"/mnt2", "ext3", "/dev/root", 98, 0, -1}},
		{`40 35 0:52 / /home/me/My\040Drive rw,nosuid,nodev - fuse.drivefs demo\134x rw,user_id=1000,group_id=0`, Mount{"/home/me/My Drive", Type, `demo\x`, 0, 52, 1000}},
		{"41 35 0:53 / /x rw shared:1 master:2 propagate_from:3 - proc proc rw", Mount{"/x", "proc", "proc", 0, 53, -1}},
	} {
		infos, err := mountinfo.GetMountsFromReader(strings.NewReader(test.line+"\n"), nil)
		if got := convert(infos); err != nil || len(got) != 1 || got[0] != test.want {
			t.Errorf("%s\n%+v, %v; want %+v", test.line, got, err, test.want)
		}
	}
}

func TestBelow(t *testing.T) {
	for _, test := range []struct {
		path, dir string
		want      bool
	}{
		{"/a/b", "/a", true}, {"/a", "/a", true}, {"/ab", "/a", false}, {"/", "/a", false}, {"/a", "/", true},
	} {
		if Below(test.path, test.dir) != test.want {
			t.Errorf("Below(%q, %q) is not %v", test.path, test.dir, test.want)
		}
	}
}

func TestListSeesProc(t *testing.T) {
	m, ok, err := At("/proc")
	if err != nil || !ok || m.FSType != "proc" {
		t.Errorf("%+v, %v, %v", m, ok, err)
	}
}

// A directory stands for a mount here: the search compares paths.
func TestHolders(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, what string
		prepare    func(*exec.Cmd)
	}{
		{"working directory", "works in", func(c *exec.Cmd) { c.Dir = dir }},
		{"descriptor", "has open", func(c *exec.Cmd) {
			f, err := os.Create(filepath.Join(dir, "held"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			c.ExtraFiles = []*os.File{f}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			// cat holds until its input ends; it has been executed once it echoes.
			cmd := exec.Command("cat")
			test.prepare(cmd)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			found := false
			for _, h := range Holders(Mount{Mountpoint: dir, Major: 1 << 20}) {
				found = found || h.PID == cmd.Process.Pid && h.Command == "cat" && h.What == test.what && Below(h.Path, dir)
			}
			if !found {
				t.Errorf("%v does not name cat", Holders(Mount{Mountpoint: dir}))
			}
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := Resolve(filepath.Join(dir, "link")); err != nil || got != filepath.Join(dir, "real") {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Resolve(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("missing: %v", err)
	}
}
