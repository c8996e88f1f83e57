package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/integration"
)

// bothNames runs fn under each value of --names.
func bothNames(t *testing.T, fn func(t *testing.T, exactly bool, w *integration.World)) {
	for _, exactly := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact=%v", exactly), func(t *testing.T) {
			fn(t, exactly, integration.NewWorld(t, integration.Config{Store: func(o *cache.Options) { o.NamesExact = exactly }}))
		})
	}
}

// spellings are two names each; one tells whether the drive takes them for one.
var spellings = []struct {
	a, b string
	one  bool
}{
	{"readme.txt", "README.TXT", true},
	{"äöü ñ", "ÄÖÜ Ñ", true},
	{"привет", "ПРИВЕТ", true},
	{"İstanbul", "istanbul", true}, // rune by rune, as the service does
	{"ısı", "ISI", false},          // dotless i is a letter of its own
	{"straße", "STRAẞE", true},
	{"gasse", "GAßE", false},
	{"e\u0301", "E\u0301", true}, // combining marks
	{"é", "o\u0301", false},      // … and not composed
	{"𐐨", "𐐀", true},             // four bytes
	{"😀.JPG", "😀.jpg", true},
	{"-rf", "-RF", true},
	{"--", "-", false},
	{"trailing dot.", "TRAILING DOT.", true},
	{"trailing dot", "trailing blank ", false},
	{" blanks ", " BLANKS ", true},
	{"a／b", "A／B", true},
	{"\\ * ? : \" < > | '", "% & # ~", false},
	{strings.Repeat("é", 127) + "x", strings.Repeat("É", 127) + "X", true}, // 255 bytes
	{strings.Repeat("x", 254), strings.Repeat("x", 255), false},
}

// TestSpellings takes each pair of names through making, finding, renaming to
// another case in every way there is, and removing.
func TestSpellings(t *testing.T) {
	bothNames(t, func(t *testing.T, exactly bool, w *integration.World) {
		for i, s := range spellings {
			dir := fmt.Sprintf("d%02d", i)
			a, b := dir+"/"+s.a, dir+"/"+s.b
			if err := os.Mkdir(w.Path(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := os.Lstat(w.Path(b)) // and afterwards another case is made
			wantErr(t, b+" before", err, syscall.ENOENT)
			w.Write(a, "one")
			w.Want(a, "one")
			if !s.one {
				w.Write(b, "two")
				w.Want(a, "one")
				w.Want(b, "two")
				if len(names(t, w.Path(dir))) != 2 {
					t.Errorf("%q and %q: %q", s.a, s.b, names(t, w.Path(dir)))
				}
				continue
			}
			wantNames(t, w.Path(dir), s.a)
			_, err = os.OpenFile(w.Path(b), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			wantErr(t, "O_EXCL "+b, err, syscall.EEXIST)
			wantErr(t, "mkdir "+b, os.Mkdir(w.Path(b), 0o755), syscall.EEXIST)
			wantErr(t, "link "+b, os.Link(w.Path(a), w.Path(b)), syscall.EEXIST)
			if exactly {
				_, err = os.Lstat(w.Path(b))
				wantErr(t, "stat "+b, err, syscall.ENOENT)
				wantErr(t, "rm "+b, os.Remove(w.Path(b)), syscall.ENOENT)
				if err := os.Rename(w.Path(a), w.Path(b)); err != nil {
					t.Errorf("mv %s: %v", a, err)
				}
			} else {
				if inode(t, w.Path(b)) != inode(t, w.Path(a)) {
					t.Errorf("%q and %q are two files", a, b)
				}
				w.Write(b, "two")
				w.Want(a, "two")
				wantNames(t, w.Path(dir), s.a)
				// Two steps, since the kernel answers the one by itself.
				for _, step := range [][2]string{{a, dir + "/step"}, {dir + "/step", b}} {
					if err := os.Rename(w.Path(step[0]), w.Path(step[1])); err != nil {
						t.Errorf("mv %s: %v", step[0], err)
					}
				}
			}
			wantNames(t, w.Path(dir), s.b)
			// drivefs rename does it in one.
			ino := inode(t, w.Path(b))
			if err := w.Store.RenameExact(t.Context(), inode(t, w.Path(dir)), s.b, s.a); err != nil {
				t.Errorf("drivefs rename %s: %v", b, err)
			}
			check(w, w.Server.Settle(t.Context()))
			wantNames(t, w.Path(dir), s.a)
			if got := inode(t, w.Path(a)); got != ino {
				t.Errorf("%s was inode %d and is %d", a, ino, got)
			}
		}
		w.Flush()
		w.Poll()
		for i, s := range spellings {
			dir := fmt.Sprintf("d%02d", i)
			n := w.Node(dir + "/" + s.a)
			if n.Name != s.a {
				t.Errorf("%q is called %q on the drive", s.a, n.Name)
			}
			if s.one { // somebody else
				_, err := w.Else.Rename(n.ID, s.b)
				check(w, err)
			}
		}
		w.Poll()
		for i, s := range spellings {
			if s.one {
				dir := fmt.Sprintf("d%02d", i)
				wantNames(t, w.Path(dir), s.b)
				content := "two"
				if exactly {
					content = "one"
					_, err := os.Lstat(w.Path(dir, s.a))
					wantErr(t, "the old case of "+s.b, err, syscall.ENOENT)
				}
				w.Want(dir+"/"+s.b, content)
				gone := s.a // through the other spelling, where it is one
				if exactly {
					gone = s.b
				}
				if err := os.Remove(w.Path(dir, gone)); err != nil {
					t.Error(err)
				}
				for _, name := range []string{s.a, s.b} {
					w.Until(name+" is gone", func() bool {
						_, err := os.Lstat(w.Path(dir, name))
						return errors.Is(err, os.ErrNotExist)
					})
				}
			}
		}
		w.Flush()
	})
}

// TestLongNamesOfTheDrive: names that only the drive can hold are shown cut,
// found in any case, and keep what they are called when they are moved.
func TestLongNamesOfTheDrive(t *testing.T) {
	bothNames(t, func(t *testing.T, exactly bool, w *integration.World) {
		for _, name := range []string{
			strings.Repeat("q", 256), strings.Repeat("q", 276) + ".txt", strings.Repeat("Ä", 200) + ".jpeg", strings.Repeat("😀", 70),
		} {
			n, err := w.Else.Put("", name, strings.NewReader("long"))
			check(w, err)
			w.Poll()
			shown := names(t, w.Mnt)
			if len(shown) != 1 || len(shown[0]) > 255 || !strings.Contains(shown[0], n.ID[:8]) || filepath.Ext(shown[0]) != filepath.Ext(name) {
				t.Fatalf("%q shows as %q", name, shown)
			}
			w.Want(shown[0], "long")
			_, err = os.Lstat(w.Path(strings.ToLower(shown[0])))
			if differs := strings.ToLower(shown[0]) != shown[0]; (err == nil) != (!differs || !exactly) {
				t.Errorf("in lower case: %v", err)
			}
			if err := os.Mkdir(w.Path("moved"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(w.Path(shown[0]), w.Path("moved", shown[0])); err != nil {
				t.Error(err)
			}
			w.Flush()
			if got := w.Node("moved/" + name); got.ID != n.ID {
				t.Errorf("on the drive it is %q", got.Name)
			}
			if err := os.RemoveAll(w.Path("moved")); err != nil {
				t.Error(err)
			}
			w.Flush()
		}
	})
}

// TestTwoSpellingsOpen: what is written through one is read through the other.
func TestTwoSpellingsOpen(t *testing.T) {
	w := integration.NewWorld(t, integration.Config{})
	w.Write("file", "0123456789")
	a, err := os.OpenFile(w.Path("File"), os.O_RDWR, 0)
	check(w, err)
	defer a.Close()
	b, err := os.OpenFile(w.Path("FILE"), os.O_RDWR|os.O_APPEND, 0)
	check(w, err)
	defer b.Close()
	for range 50 {
		_, err := a.WriteAt([]byte("ab"), 3)
		check(w, err)
		_, err = b.Write([]byte("c"))
		check(w, err)
	}
	want := "012ab56789" + strings.Repeat("c", 50)
	got, err := io.ReadAll(io.NewSectionReader(a, 0, 1000))
	if err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	check(w, os.Rename(w.Path("fILE"), w.Path("other")))
	_, err = a.WriteAt([]byte("x"), 0)
	check(w, err)
	check(w, errors.Join(a.Close(), b.Close()))
	w.Want("OTHER", "x"+want[1:])
	w.Flush()
	w.WantRemote("other", "x"+want[1:])
}

// shell runs a script in dir and fails unless it succeeds; `no` is a command
// that is to fail.
func shell(t *testing.T, dir, script string) {
	t.Helper()
	const no = `no() { if "$@" 2>/dev/null; then echo "should fail: $*"; exit 1; fi; }; `
	cmd := exec.Command("bash", "-eu", "-c", no+script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "HOME="+t.TempDir(), "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@test")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", script, err, out)
	}
}

// need skips a test that uses programs that are not there.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// TestCommandsAndCase is what users do with two spellings, and find there.
func TestCommandsAndCase(t *testing.T) {
	scripts := map[bool]string{
		false: `
			printf one > a
			no cp a A; no ln a A; [ a -ef A ]; no mv a A; mv -n a A; [ "$(cat a)" = one ]; [ "$(ls)" = a ]
			no cp --remove-destination a A; [ "$(cat a)" = one ]
			no [ -e New ]; echo two > NEW; [ "$(cat new)" = two ]; rm nEw; no [ -e NEW ]
			mkdir d; no mkdir D; echo x > d/x; [ d -ef D ]; [ "$(cat D/X)" = x ]; no mv d D; mv d e; mv e D
			[ "$(cat d/x)" = x ]; [ "$(ls)" = "$(printf 'D\na')" ]
			cd d; echo y > ../A; cd ..; [ "$(cat a)" = y ]; mv A b; [ "$(cat B)" = y ]; rm -r D; [ "$(ls)" = b ]
			exec 3>B 4<b; echo text >&3; read -r line <&4; [ "$line" = text ]`,
		true: `
			printf one > a
			no cp a A; no ln a A; no [ a -ef A ]; [ "$(cat a)" = one ]; mv a A; [ "$(ls)" = A ]; mv -T A a; [ "$(cat a)" = one ]
			no [ -e New ]; echo two > NEW; no [ -e new ]; no rm nEw; rm NEW; no [ -e NEW ]; echo two > new; rm new
			mkdir d; no mkdir D; echo x > d/x; no [ -e D ]; no [ -e d/X ]; mv d D; [ "$(cat D/x)" = x ]
			[ "$(ls)" = "$(printf 'D\na')" ]
			no bash -c 'echo y > A'; [ "$(cat a)" = one ]; no mv A b; mv a b; rm -r D; [ "$(ls)" = b ]`,
	}
	bothNames(t, func(t *testing.T, exactly bool, w *integration.World) {
		shell(t, w.Mnt, scripts[exactly])
		w.Flush()
	})
}

// TestGitAndCase: a repository on the mount in which names change their case.
func TestGitAndCase(t *testing.T) {
	need(t, "git")
	bothNames(t, func(t *testing.T, exactly bool, w *integration.World) {
		shell(t, w.Mnt, `git init -q -b main repo; cd repo; mkdir src; echo 1 > readme; echo 2 > src/Code.go; git add .; git commit -qm one
			[ "$(git config core.ignorecase || echo false)" = `+fmt.Sprint(!exactly)+` ]`)
		rename := `git mv readme README; git mv src Src`
		if !exactly {
			rename = `git mv readme x; git mv x README; git mv src x; git mv x Src`
		}
		shell(t, w.Path("repo"), rename+`; git commit -qm two; [ -z "$(git status --porcelain)" ]; [ "$(ls)" = "$(printf 'README\nSrc')" ]`)
		shell(t, w.Path("repo"), `git checkout -q HEAD~1; [ -z "$(git status --porcelain)" ]; [ "$(cat readme src/Code.go)" = "$(printf '1\n2')" ]
			git checkout -q main; [ -z "$(git status --porcelain)" ]; [ "$(cat README Src/Code.go)" = "$(printf '1\n2')" ]; git fsck --full`)
		w.Flush()
	})
}

// TestRsyncAndCase: a copy of what is there in another case changes nothing
// that it should not.
func TestRsyncAndCase(t *testing.T) {
	need(t, "rsync")
	bothNames(t, func(t *testing.T, exactly bool, w *integration.World) {
		src := t.TempDir()
		shell(t, src, `mkdir Dir; echo 1 > Dir/Readme; echo 2 > 'e.TXT'; touch -d 2001-02-03 Dir/Readme e.TXT`)
		shell(t, w.Mnt, `mkdir tree; rsync -a `+src+`/ tree/; [ -z "$(rsync -ani `+src+`/ tree/)" ]; [ "$(ls tree)" = "$(printf 'Dir\ne.TXT')" ]`)
		// The source changes its case: one and the same for the drive.
		shell(t, src, `mv e.TXT E.txt`)
		if exactly {
			shell(t, w.Mnt, `no rsync -a `+src+`/ tree/; [ "$(cat tree/e.TXT)" = 2 ]`)
		} else {
			shell(t, w.Mnt, `rsync -a `+src+`/ tree/; [ "$(cat tree/E.txt)" = 2 ]; [ "$(ls tree)" = "$(printf 'Dir\ne.TXT')" ]`)
		}
		w.Flush()
		if got, err := w.Else.ReadFile("tree/e.TXT"); err != nil || !bytes.Equal(got, []byte("2\n")) {
			t.Errorf("on the drive: %q, %v", got, err)
		}
	})
}
