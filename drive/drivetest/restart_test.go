package drivetest_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s, err := drivetest.Start(drivetest.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	a := apiOf(t, s)
	d := a.mkdir(a.root(), "d").id()
	f := a.put(d, "f", "one").id()
	gone := a.put(d, "gone", "two").id()
	a.do("PUT", "/drive/v1/trash/"+gone, nil).want(t, 200)
	a.overwrite(f, "three").want(t, 200)
	a.json("POST", "/drive/v1/nodes?localId=L", obj{"name": "x", "kind": "FOLDER", "properties": obj{"drivefs": obj{"k": "v"}}, "labels": []string{"l"}}).want(t, 201)
	cp := a.changes(nil).checkpoint
	last := a.put(d, "last", "four").id()
	before := s.Else().Tree()
	refresh := s.Token()
	if _, err := drivetest.Start(drivetest.Options{Dir: dir}); err == nil {
		t.Error("two servers in one directory")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = drivetest.New(t, drivetest.Options{Dir: dir})
	b := apiOf(t, s)
	if diff := cmp.Diff(before, s.Else().Tree()); diff != "" {
		t.Errorf("after the restart: %s", diff)
	}
	b.token = refresh.AccessToken
	if n := b.changes(obj{"checkpoint": cp}); n.reset || len(n.nodes) != 1 || n.nodes[0].id() != last {
		t.Errorf("checkpoint after the restart: %+v", n)
	}
	if got, err := s.Else().ReadFile("d/f"); err != nil || string(got) != "three" {
		t.Errorf("content: %q %v", got, err)
	}
	b.json("POST", "/drive/v1/nodes?localId=L", obj{"name": "y", "kind": "FOLDER"}).want(t, 409)
	b.do("POST", "/drive/v1/trash/"+gone+"/restore", nil).want(t, 200)
	if n := len(contents(t, dir)); n != 3 {
		t.Errorf("%d contents for three files", n)
	}
}

func contents(t *testing.T, dir string) (files []string) {
	t.Helper()
	for _, sub := range []string{"content", "incoming"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, p)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

const childDir = "DRIVETEST_CHILD_DIR"

// TestServeChild is the server that TestKill kills.
func TestServeChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("runs only as a child of TestKill")
	}
	s, err := drivetest.Start(drivetest.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("serving %s %s\n", s.Endpoint(), s.Token().AccessToken)
	select {}
}

// What was answered is there after kill -9, what was half written is not.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestServeChild$")
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var endpoint, token string
	if _, serr := fmt.Sscanf(line, "serving %s %s", &endpoint, &token); err != nil || serr != nil {
		t.Fatalf("child said %q: %v", line, err)
	}
	a := apiOf(t, drivetest.New(t)) // only its client is used
	base := strings.TrimSuffix(endpoint, "/drive/v1/")
	answered := map[string]string{}
	acks := make(chan string, 1000)
	stop := make(chan struct{})
	for w := range 4 {
		go func() {
			defer func() { acks <- "" }()
			for i := 0; ; i++ {
				name := fmt.Sprintf("w%d-%d", w, i)
				ct, body := form(obj{"name": name, "kind": "FILE"}, strings.Repeat(name, 1000))
				r, err := a.try("POST", base+"/cdproxy/nodes?suppress=deduplication", bytes.NewReader(body), "Content-Type", ct, "Authorization", "Bearer "+token)
				if err != nil {
					return
				}
				if r.status == 201 {
					acks <- name
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
	}
	for len(answered) < 40 {
		name := <-acks
		if name == "" {
			t.Fatal("a client met an error before the kill")
		}
		answered[name] = strings.Repeat(name, 1000)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	close(stop)
	for ended := 0; ended < 4; {
		if name := <-acks; name == "" {
			ended++
		} else {
			answered[name] = strings.Repeat(name, 1000)
		}
	}
	s := drivetest.New(t, drivetest.Options{Dir: dir}) // its end checks every content
	for name, want := range answered {
		if got, err := s.Else().ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	files, nodes := contents(t, dir), s.Else().Children(s.Else().Root())
	if len(files) != len(nodes) {
		t.Errorf("%d files on disk for %d nodes", len(files), len(nodes))
	}
}

func TestImportAndBulk(t *testing.T) {
	src := t.TempDir()
	for name, content := range map[string]string{"a/b/c.txt": "c", "a/d.jpg": "d", "e": ""} {
		p := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("e", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	s := drivetest.New(t)
	for range 2 { // again: the same tree, new versions
		if err := s.Import(src); err != nil {
			t.Fatal(err)
		}
	}
	tree := s.Else().Tree()
	if len(tree) != 6 || tree["a/b/c.txt"].Content.Version != 2 || tree["e"].Size() != 0 || tree["a/b"].Kind != drivetest.KindFolder {
		t.Errorf("imported: %v", tree)
	}
	if err := s.Bulk(1000, 99); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Else().Tree()); n != 1006 {
		t.Errorf("%d nodes after Bulk", n)
	}
	if err := s.Bulk(10, 0); err == nil {
		t.Error("folders of no files")
	}
	n, err := s.Else().Lookup("bulk-0000003/FILE-000042.txt")
	if err != nil {
		t.Fatal(err)
	}
	// The shared content outlives the overwrite of one of its files.
	if _, err := s.Else().Overwrite(n.ID, strings.NewReader("own")); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Else().ReadFile("bulk-0000003/file-000041.txt"); err != nil || len(b) == 0 {
		t.Errorf("shared content: %q %v", b, err)
	}
}

func TestElse(t *testing.T) {
	a := newAPI(t, drivetest.Options{Faults: drivetest.Faults{Rules: []drivetest.Rule{{Fault: drivetest.Fault{Status: 500}}}}})
	el := a.s.Else()
	n, err := el.PutPath("/x/y/z.txt", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := el.PutPath("X/Y/Z.TXT", []byte("22")); err != nil || m.ID != n.ID || m.Content.Version != 2 || m.CreatedBy != "CloudDriveWeb" {
		t.Errorf("overwritten by path: %+v %v", m, err)
	}
	x, y := mustLookup(t, el, "x"), mustLookup(t, el, "x/y")
	if _, err := el.Move(n.ID, y.ID, x.ID); err != nil {
		t.Error(err)
	}
	if _, err := el.Rename(n.ID, "new"); err != nil {
		t.Error(err)
	}
	if _, err := el.Trash(n.ID); err != nil || len(el.TrashList()) != 1 {
		t.Errorf("trashed: %v %v", el.TrashList(), err)
	}
	if _, err := el.Restore(n.ID); err != nil {
		t.Error(err)
	}
	v := "1"
	if m, err := el.SetProperty(n.ID, "any", "k", &v); err != nil || m.Properties["any"]["k"] != "1" {
		t.Errorf("property: %+v %v", m, err)
	}
	before := mustLookup(t, el, "x/new")
	if m, err := el.Touch(n.ID); err != nil || m.Version != before.Version+1 || m.ETag == before.ETag || m.Content.MD5 != before.Content.MD5 {
		t.Errorf("touched: %+v %v", m, err)
	}
	if _, err := el.Mkdir("", "X"); err == nil {
		t.Error("a taken name")
	}
	if _, err := el.Lookup("x/none"); err == nil {
		t.Error("found what is not there")
	}
	if len(el.Children(el.Root())) != 1 {
		t.Errorf("children: %v", el.Children(el.Root()))
	}
}

func mustLookup(t *testing.T, el *drivetest.Client, p string) drivetest.Node {
	t.Helper()
	n, err := el.Lookup(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMediaDelay(t *testing.T) {
	a := newAPI(t, drivetest.Options{MediaDelay: time.Hour})
	n := a.put(a.root(), "p.jpg", "x")
	a.put(a.root(), "t.txt", "y")
	if a.s.Late() != 1 {
		t.Fatalf("%d late", a.s.Late())
	}
	a.s.Settle()
	m := a.get(n.id())
	if m.num("version") != n.num("version")+1 || m.sub("contentProperties").sub("image").num("width") == 0 || m.sub("contentProperties").num("version") != 1 {
		t.Errorf("after the detection: %v", m)
	}
}

func TestRateAndLatency(t *testing.T) {
	a := newAPI(t, drivetest.Options{Latency: 20 * time.Millisecond, Rate: 1 << 20})
	begin := time.Now()
	id := a.put(a.root(), "f", strings.Repeat("x", 200<<10)).id()
	a.do("GET", "/cdproxy/nodes/"+id+"/content", nil).want(t, 200)
	if d := time.Since(begin); d < 350*time.Millisecond {
		t.Errorf("2 × 200 KiB at 1 MiB/s with 20 ms latency took %v", d)
	}
}
