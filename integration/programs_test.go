package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// goSrc is a tree of some ten thousand real files, or a part of it.
func goSrc(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(strings.TrimSpace(string(out)), "src")
	if !soak() {
		src = filepath.Join(src, "net")
	}
	return src
}

func TestCopyTreeAndRsync(t *testing.T) {
	need(t, "rsync")
	p := newProc(t, nil, "--upload-delay", "100ms")
	src := goSrc(t)
	p.sh("cp -r " + src + " tree")
	p.flush()
	p.driveMatches(src, "/tree")
	p.sh("rsync -a --delete " + src + "/ tree/")
	p.flush()
	out := p.sh("rsync -a --delete --stats " + src + "/ tree/")
	if !strings.Contains(out, "Number of regular files transferred: 0") {
		t.Errorf("the second rsync found something to do:\n%s", out)
	}
	p.unmount()
	p.srv.ResetRequests()
	p.start()
	out = p.sh("rsync -a --delete --stats " + src + "/ tree/")
	if !strings.Contains(out, "Number of regular files transferred: 0") {
		t.Errorf("rsync after a remount found something to do:\n%s", out)
	}
	p.flush()
	for op, n := range p.srv.Requests() {
		if n > 0 && strings.HasPrefix(op, "content.") {
			t.Errorf("%d × %s after a remount, for nothing", n, op)
		}
	}
	p.driveMatches(src, "/tree")
}

func TestTar(t *testing.T) {
	p := newProc(t, nil, "--upload-delay", "100ms")
	src := filepath.Join(goSrc(t), "http")
	if _, err := os.Stat(src); err != nil {
		src = filepath.Join(goSrc(t), "net", "http")
	}
	p.sh("tar c -C " + filepath.Dir(src) + " http | tar x")
	p.flush()
	p.driveMatches(src, "/http")
	p.sh("tar c http | tar t > /dev/null; diff -r http " + src)
}

func TestGitCloneOntoMount(t *testing.T) {
	need(t, "git")
	repo := t.TempDir()
	p := newProc(t, nil, "--upload-delay", "100ms")
	p.sh("cd " + repo + " && git init -q -b main && cp -r " + filepath.Join(goSrcDir(t), "strings") + " s && git add . && git commit -q -m one && echo more >> s/builder.go && git commit -qam two")
	p.sh("git clone -q " + repo + " clone && cd clone && git status --porcelain && git fsck --full && echo x > new && git add new && git commit -qm three && git gc -q && git fsck --full")
	if out := p.sh("cd clone && git status --porcelain"); out != "" {
		t.Errorf("git status after a clone: %s", out)
	}
	p.flush()
	copied := filepath.Join(t.TempDir(), "copy")
	p.sh("cp -r clone " + copied)
	p.driveMatches(copied, "/clone")
}

func goSrcDir(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src")
}

func TestLargeFile(t *testing.T) {
	size := "150M"
	if soak() {
		size = "3G"
	}
	p := newProc(t, nil, "--upload-delay", "100ms")
	local := filepath.Join(t.TempDir(), "local")
	if err := os.MkdirAll(local, 0o755); err != nil {
		t.Fatal(err)
	}
	// Content that repeats nowhere, made quickly.
	p.sh(fmt.Sprintf("openssl enc -aes-128-ctr -pass pass:x -nosalt -iter 1 < /dev/zero 2>/dev/null | head -c %s > %s/big || true", size, local))
	p.sh("cp " + local + "/big big && cmp big " + local + "/big")
	p.flush()
	p.driveMatches(local, "")
	p.sh("dd if=" + local + "/big of=big bs=4k conv=notrunc 2>/dev/null; dd if=" + local + "/big of=again bs=4k 2>/dev/null")
	p.sh("cp " + local + "/big " + local + "/again")
	p.flush()
	p.driveMatches(local, "")
}

func TestSqlite(t *testing.T) {
	need(t, "sqlite3")
	p := newProc(t, nil, "--upload-delay", "100ms")
	for _, mode := range []string{"delete", "wal"} {
		db := mode + ".db"
		p.sh("sqlite3 " + db + ` "pragma journal_mode=` + mode + `; create table t(a,b); with recursive c(x) as (select 1 union all select x+1 from c where x<2000) insert into t select x, hex(randomblob(50)) from c; update t set b='x' where a%7=0; delete from t where a%11=0;"`)
		out := p.sh("sqlite3 " + db + ` "pragma integrity_check; select count(*) from t"`)
		if out != "ok\n1819\n" {
			t.Errorf("%s: %q", mode, out)
		}
	}
	p.flush()
	dir := t.TempDir()
	p.sh("cp *.db " + dir)
	p.driveMatches(dir, "")
}

func TestEditors(t *testing.T) {
	need(t, "vim")
	p := newProc(t, nil, "--upload-delay", "2s")
	n, err := p.other.PutPath("/doc.txt", []byte("one\n"))
	if err != nil {
		t.Fatal(err)
	}
	p.refresh()
	for i, edit := range []string{
		`vim -u NONE -es -c 'normal Gotwo' -c wq doc.txt`,
		`vim -u NONE -es -c 'set backup backupcopy=no' -c 'normal Gothree' -c wq doc.txt; rm -f doc.txt~`,
		`vim -u NONE -es -c 'set backupcopy=yes' -c 'normal Gofour' -c wq doc.txt`,
		`sed -i s/one/1/ doc.txt`,
		`printf 'five\n' >> doc.txt`,
		`t=$(mktemp .doc.txt.XXXXXX); sed s/two/2/ doc.txt > $t; mv $t doc.txt`,
	} {
		p.sh(edit)
		p.flush()
		got, err := p.other.Lookup("/doc.txt")
		if err != nil {
			t.Fatalf("after edit %d (%s): %v", i, edit, err)
		}
		if got.ID != n.ID {
			t.Errorf("after edit %d (%s) the document is another node", i, edit)
		}
		for path := range p.other.Tree() {
			if path != "" && path != "doc.txt" {
				t.Errorf("after edit %d (%s) the drive has %s", i, edit, path)
			}
		}
		if tr := p.other.TrashList(); len(tr) != 0 {
			t.Errorf("after edit %d (%s) the trash has %v", i, edit, tr)
		}
	}
	b, err := p.other.ReadFile("/doc.txt")
	if err != nil {
		t.Fatal(err)
	}
	if want := "1\n2\nthree\nfour\nfive\n"; string(b) != want {
		t.Errorf("got %q, want %q", b, want)
	}
}

func TestTruncateAndAllocate(t *testing.T) {
	p := newProc(t, nil, "--upload-delay", "100ms")
	p.sh(`truncate -s 1000 a; printf abc > b; truncate -s 5 b; truncate -s 2 b; fallocate -l 3000 c; fallocate -n -l 9000 c; test $(stat -c %s c) = 3000`)
	if out, err := p.trySh("fallocate -p -o 0 -l 10 c"); err == nil || !strings.Contains(out, "unsupported") {
		t.Errorf("punching a hole: %v %s", err, out)
	}
	p.flush()
	dir := t.TempDir()
	p.sh("truncate -s 1000 " + dir + "/a; printf ab > " + dir + "/b; truncate -s 3000 " + dir + "/c")
	p.driveMatches(dir, "")
}

func TestMoveAndRemoveFolder(t *testing.T) {
	p := newProc(t, nil, "--upload-delay", "300ms")
	p.sh(`mkdir -p from to; for i in $(seq 1000); do echo $i > from/$i; done`)
	p.flush()
	top, err := p.other.Lookup("/from")
	if err != nil {
		t.Fatal(err)
	}
	p.srv.ResetRequests()
	p.sh("mv from to/moved")
	p.flush()
	writes := 0
	for op, n := range p.srv.Requests() {
		switch op {
		case "nodes.update", "nodes.move", "nodes.create", "nodes.addparent", "nodes.removeparent", "trash.put", "content.upload":
			writes += n
		}
	}
	if writes > 2 {
		t.Errorf("moving and renaming one folder took %d calls: %v", writes, p.srv.Requests())
	}
	p.sh("mv to/moved from2")
	p.flush()
	p.srv.ResetRequests()
	p.sh("rm -r from2")
	p.flush()
	if n := p.srv.Requests()["trash.put"]; n != 1 {
		t.Errorf("rm -r took %d trash calls", n)
	}
	if out := p.sh("ls"); out != "to\n" {
		t.Errorf("left: %q", out)
	}
	p.must("trash", "restore", top.ID, "--state-dir", p.state)
	p.refresh()
	if out := p.sh("ls from2 | wc -l; cat from2/777"); strings.TrimSpace(out) != "1000\n777" {
		t.Errorf("after the restore: %q", out)
	}
}

func TestRemountKeepsIdentity(t *testing.T) {
	p := newProc(t, nil, "--upload-delay", "100ms")
	p.sh("mkdir -p a/b; echo x > a/b/f; chmod 640 a/b/f; touch -d '2001-02-03 04:05:06.789' a/b/f")
	p.flush()
	before := p.sh("stat -c '%n %i %s %a %y' a/b/f; stat -c '%n %i %s %a' a a/b")
	p.unmount()
	p.srv.ResetRequests()
	p.start()
	if after := p.sh("stat -c '%n %i %s %a %y' a/b/f; stat -c '%n %i %s %a' a a/b"); after != before {
		t.Errorf("before the remount\n%safter it\n%s", before, after)
	}
	p.flush()
	r := p.srv.Requests()
	if r["content.upload"]+r["content.overwrite"] > 0 || r["changes"] > 1 {
		t.Errorf("a remount cost %v", r)
	}
}

func TestKillInTheMiddleOfCopy(t *testing.T) {
	p := newProc(t, nil, "--upload-delay", "50ms")
	src := filepath.Join(goSrcDir(t), "net")
	cp := exec.Command("cp", "-r", "-v", src, p.path("net"))
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cp.Stdout = out
	if err := cp.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		if fi, err := out.Stat(); err == nil && fi.Size() > 20_000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("cp does not get on")
		}
		pause()
	}
	// cp -v prints a name before it copies: all but the last were closed.
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	p.kill()
	_ = cp.Process.Kill()
	_ = cp.Wait()
	p.start()
	p.flush()
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	tree := p.other.Tree()
	missing := 0
	for _, l := range lines[:len(lines)-2] {
		from, _, ok := strings.Cut(strings.TrimPrefix(l, "'"), "' -> '")
		if !ok {
			continue
		}
		rel, err := filepath.Rel(filepath.Dir(src), from)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(from)
		if err != nil {
			t.Fatal(err)
		}
		n, ok := tree[rel]
		if !ok {
			missing++
			t.Errorf("%s was closed and is not on the drive", rel)
			continue
		}
		if fi.IsDir() {
			continue
		}
		sum, size, err := md5File(from)
		if err != nil {
			t.Fatal(err)
		}
		if n.Content.Size != size || n.Content.MD5 != sum {
			t.Errorf("%s: %+v", rel, n.Content)
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d are missing", missing, len(lines))
	}
}

// pause lets another process get on; what is waited for is always a
// condition with a deadline of its own.
func pause() { <-time.After(10 * time.Millisecond) }
