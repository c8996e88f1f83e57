package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// save is how a program puts new content into a document in dir, as recorded
// with strace from the program itself.
type save struct {
	program string
	do      func(s *saving)
	fresh   bool // the document is not there before
}

type saving struct {
	testing.TB
	dir, doc string
	content  []byte
}

func (s *saving) path(name string) string { return filepath.Join(s.dir, name) }

func (s *saving) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// put creates a file and writes to it, in pieces as programs do.
func (s *saving) put(name string, flags int, mode os.FileMode, content []byte, sync bool) {
	s.Helper()
	f, err := os.OpenFile(s.path(name), os.O_CREATE|flags, mode)
	s.ok(err)
	for len(content) > 0 {
		n := min(len(content), 7000)
		_, err := f.Write(content[:n])
		s.ok(err)
		content = content[n:]
	}
	if sync {
		s.ok(f.Sync())
	}
	s.ok(f.Close())
}

var saves = []save{
	{program: "GLib 2.74, g_file_replace (gedit, gio save)", do: func(s *saving) {
		if _, err := os.OpenFile(s.path(s.doc), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666); !os.IsExist(err) {
			s.Errorf("O_EXCL on the document: %v", err)
		}
		f, err := os.OpenFile(s.path(s.doc), os.O_WRONLY|os.O_CREATE, 0o666)
		s.ok(err)
		s.put(".goutputstream-VHKCZ3", os.O_WRONLY|os.O_EXCL, 0o666, s.content, false)
		s.ok(os.Rename(s.path(".goutputstream-VHKCZ3"), s.path(s.doc)))
		s.ok(f.Close())
	}},
	{program: "LibreOffice 7.4", do: func(s *saving) {
		s.put("lu1055134j6o.tmp", os.O_RDWR|os.O_EXCL, 0o600, nil, false)
		doc, err := os.OpenFile(s.path(s.doc), os.O_RDWR, 0)
		s.ok(err)
		s.put(".~lock."+s.doc+"#", os.O_RDWR|os.O_EXCL, 0o666, []byte(",me,host,20.11.2026 12:00,file:///home/me;"), false)
		s.put("lu1055134j6o.tmp", os.O_RDWR, 0o600, s.content, false)
		s.ok(os.Rename(s.path("lu1055134j6o.tmp"), s.path(s.doc)))
		s.ok(os.Chmod(s.path(s.doc), 0o644))
		s.ok(doc.Close())
		s.ok(os.Remove(s.path(".~lock." + s.doc + "#")))
	}},
	{program: "KeePassXC 2.7, QSaveFile without O_TMPFILE", do: func(s *saving) {
		temp := s.doc + ".FyEGWR"
		s.put(temp, os.O_RDWR|os.O_EXCL, 0o600, s.content, true)
		s.ok(os.Chmod(s.path(temp), 0o600))
		s.ok(os.Rename(s.path(temp), s.path(s.doc)))
	}},
	{program: "rsync 3.2", do: func(s *saving) {
		temp := "." + s.doc + ".k3Xq9Z"
		s.put(temp, os.O_RDWR|os.O_EXCL, 0o600, s.content, false)
		at := time.Unix(1_700_000_000, 0)
		s.ok(os.Chtimes(s.path(temp), at, at))
		s.ok(os.Chmod(s.path(temp), 0o644))
		s.ok(os.Rename(s.path(temp), s.path(s.doc)))
	}},
	{program: "Firefox 115, a download", fresh: true, do: func(s *saving) {
		s.put(s.doc, os.O_WRONLY|os.O_EXCL, 0o600, nil, false)
		s.put("pQ3_xY7z."+s.doc+".part", os.O_WRONLY|os.O_EXCL, 0o600, s.content, false)
		s.ok(os.Rename(s.path("pQ3_xY7z."+s.doc+".part"), s.path(s.doc)))
	}},
	{program: "Chromium 119, a download", fresh: true, do: func(s *saving) {
		s.put("Unconfirmed 771.crdownload", os.O_RDWR|os.O_EXCL, 0o600, s.content, true)
		s.ok(os.Rename(s.path("Unconfirmed 771.crdownload"), s.path(s.doc)))
	}},
}

// TestSaves replays how programs save, and runs those that are installed.
// What the drive has afterwards is one node for the document, the one it was;
// it never hears of a temporary name, and its trash is as the user left it.
func TestSaves(t *testing.T) {
	p := newProc(t, nil, "--upload-delay", "50ms")
	if _, err := exec.LookPath("gio"); err == nil {
		saves = append(saves, save{program: "gio, installed here", do: func(s *saving) {
			cmd := exec.Command("gio", "save", s.path(s.doc))
			cmd.Stdin = bytes.NewReader(s.content)
			if out, err := cmd.CombinedOutput(); err != nil {
				s.Errorf("%v: %s", err, out)
			}
		}})
	}
	for i, how := range saves {
		t.Run(how.program, func(t *testing.T) {
			folder := fmt.Sprintf("saved%d", i)
			s := &saving{TB: t, dir: p.path(folder), doc: "doc.odt"}
			s.ok(os.Mkdir(s.dir, 0o755))
			if !how.fresh {
				s.put(s.doc, os.O_WRONLY, 0o644, []byte("the first version"), false)
			}
			id := ""
			for round := range 3 {
				if round > 0 || !how.fresh {
					p.flush()
					n, err := p.other.Lookup(folder + "/" + s.doc)
					s.ok(err)
					if id != "" && n.ID != id {
						t.Errorf("save %d made another node of the document", round)
					}
					id = n.ID
				}
				if round > 0 && how.fresh {
					break
				}
				s.content = bytes.Repeat(fmt.Appendf(nil, "version %d of %s\n", round, how.program), 1000)
				how.do(s)
				if got, err := os.ReadFile(s.path(s.doc)); err != nil || !bytes.Equal(got, s.content) {
					t.Errorf("after save %d the document holds %s (%v)", round, brief(got), err)
				}
			}
			p.flush()
			got, err := p.other.ReadFile(folder + "/" + s.doc)
			if err != nil || !bytes.Equal(got, s.content) {
				t.Errorf("the drive has %s (%v)", brief(got), err)
			}
			n, err := p.other.Lookup(folder)
			s.ok(err)
			if kids := p.other.Children(n.ID); len(kids) != 1 {
				t.Errorf("on the drive: %+v", kids)
			}
		})
	}
	for _, n := range p.other.TrashList() {
		t.Errorf("in the trash: %s", n.Name)
	}
	for _, e := range p.srv.RequestLog() {
		if e.Op == "content.upload" && e.Name != "doc.odt" || e.Op == "nodes.create" && e.Name[:5] != "saved" {
			t.Errorf("the drive was sent a %s named %q", e.Op, e.Name)
		}
	}
}
