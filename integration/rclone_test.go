package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// Is drivetest the service? The last rclone that could speak to it (its
// backend acd, removed in 1.66) was written against the real one and knows
// nothing of us. Its hosts are compiled in, so it runs behind a proxy that
// leads them to the fake, with a certificate authority of the test's own.

// amazonHosts are those that rclone's backend names itself.
var amazonHosts = []string{"drive.amazonaws.com", "api.amazon.com", "www.amazon.com"}

// rcloneWorld is an rclone that believes it speaks to Amazon.
type rcloneWorld struct {
	t      *testing.T
	s      *drivetest.Server
	config string
	env    []string
	proxy  *connectProxy
}

func newRcloneWorld(t *testing.T, o drivetest.Options) *rcloneWorld {
	t.Helper()
	if _, err := exec.LookPath("rclone"); err != nil {
		t.Skip("rclone is not installed: it is the independent witness here, nothing can stand in for it")
	}
	if out, err := exec.Command("rclone", "help", "backend", "acd").CombinedOutput(); err != nil || !bytes.Contains(out, []byte("acd-templink-threshold")) {
		t.Skip("this rclone has no backend acd (it was removed in 1.66)")
	}
	dir := t.TempDir()
	w := &rcloneWorld{t: t, s: drivetest.New(t, o), config: filepath.Join(dir, "rclone.conf")}
	ca, cert := amazonCertificate(t)
	caFile := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	rcloneServe(t, ln, w.s.Handler())
	w.proxy = &connectProxy{to: ln.Addr().String()}
	pln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rcloneServe(t, pln, w.proxy)
	t.Cleanup(w.proxy.close)
	// The token has expired, so that rclone has to refresh it first.
	tok := w.s.Token()
	tok.Expiry = time.Now().Add(-time.Hour)
	w.s.ExpireTokens()
	tj, err := json.Marshal(tok)
	if err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf("[d]\ntype = acd\nclient_id = %s\nclient_secret = %s\nauth_url = https://www.amazon.com/ap/oa\ntoken_url = https://api.amazon.com/auth/o2/token\ntoken = %s\n",
		w.s.ClientID(), w.s.ClientSecret(), tj)
	if err := os.WriteFile(w.config, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	w.env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "SSL_CERT_FILE=" + caFile, "SSL_CERT_DIR=" + dir, "HTTPS_PROXY=http://" + pln.Addr().String()}
	return w
}

// rcloneServe runs a server until the test ends and waits for it.
func rcloneServe(t *testing.T, ln net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // http.ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// amazonCertificate makes an authority and a certificate for Amazon's hosts.
func amazonCertificate(t *testing.T) (caPEM []byte, cert tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "drivefs tests"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: amazonHosts,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// connectProxy leads every CONNECT to one address and notes who was meant.
type connectProxy struct {
	to string

	mu     sync.Mutex
	hosts  map[string]bool
	closed bool
	pipes  sync.WaitGroup // handlers and pipes; added to under mu while not closed
}

func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.Host)
	if !p.enter(host) {
		http.Error(w, "the test is over", http.StatusServiceUnavailable)
		return
	}
	defer p.pipes.Done()
	if r.Method != http.MethodConnect {
		http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
		return
	}
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	down, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = up.Close()
		return
	}
	_, _ = io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n")
	for _, d := range [][2]net.Conn{{up, down}, {down, up}} {
		p.pipes.Go(func() {
			_, _ = io.Copy(d[0], d[1]) // ends when either side does
			_ = d[0].Close()
			_ = d[1].Close()
		})
	}
}

// asked are the hosts that were meant.
func (p *connectProxy) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.hosts))
}

// enter notes a CONNECT, unless the proxy is closed.
func (p *connectProxy) enter(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if p.hosts == nil {
		p.hosts = map[string]bool{}
	}
	p.hosts[host] = true
	p.pipes.Add(1)
	return true
}

// close lets nothing new in and waits for what is there; rclone has ended.
func (p *connectProxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.pipes.Wait()
}

// try runs rclone; run expects it to succeed.
func (w *rcloneWorld) try(args ...string) (stdout, stderr string, err error) {
	w.t.Helper()
	cmd := exec.Command("rclone", append([]string{"--config", w.config, "--retries", "1", "--low-level-retries", "5", "-vv"}, args...)...)
	var out, serr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &serr, w.env
	err = cmd.Run()
	return out.String(), serr.String(), err
}

func (w *rcloneWorld) run(args ...string) string {
	w.t.Helper()
	out, serr, err := w.try(args...)
	if err != nil {
		w.t.Fatalf("rclone %s: %v\n%s", strings.Join(args, " "), err, serr)
	}
	return out
}

func (w *rcloneWorld) tree(files map[string]string) string {
	w.t.Helper()
	dir := w.t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

func (w *rcloneWorld) content(path, want string) {
	w.t.Helper()
	if got, err := w.s.Else().ReadFile(path); err != nil || string(got) != want {
		w.t.Errorf("%s holds %.40q (%d bytes, %v), want %.40q", path, got, len(got), err, want)
	}
}

func TestRclone(t *testing.T) {
	w := newRcloneWorld(t, drivetest.Options{})
	big := strings.Repeat("0123456789abcdef", 200_000)
	files := map[string]string{
		"one.txt": "one", "empty": "", "a dir/b (1) & c's.txt": "odd", "a dir/sub/漢字 ü.jpg": "unicode", "big.bin": big, "-dash": "dash", "x+y~z!.^": "signs",
	}
	up := w.tree(files)
	w.run("copy", up, "d:up")
	for name, content := range files {
		w.content("up/"+name, content)
	}
	if w.s.Requests()["auth.token"] == 0 {
		t.Error("the expired token was not refreshed")
	}
	if out := w.run("lsd", "d:up"); !strings.Contains(out, "a dir") {
		t.Errorf("lsd: %q", out)
	}
	if out := w.run("lsf", "-R", "--files-only", "d:up"); strings.Count(out, "\n") != len(files) {
		t.Errorf("lsf: %q", out)
	}
	w.run("check", up, "d:up") // sizes and MD5
	down := t.TempDir()
	w.run("copy", "d:up", down)
	for name, content := range files {
		if got, err := os.ReadFile(filepath.Join(down, name)); err != nil || string(got) != content {
			t.Errorf("copied down: %s, %d bytes, %v", name, len(got), err)
		}
	}
	// Overwrite keeps the node.
	before, err := w.s.Else().Lookup("up/one.txt")
	if err != nil {
		t.Fatal(err)
	}
	w.run("copyto", filepath.Join(w.tree(map[string]string{"f": "one and more"}), "f"), "d:up/one.txt")
	w.content("up/one.txt", "one and more")
	if n, _ := w.s.Else().Lookup("up/one.txt"); n.ID != before.ID || n.Content.Version != 2 {
		t.Errorf("overwritten: %+v", n)
	}
	// Rename, move, both; the node stays.
	for _, to := range []string{"up/two.txt", "up/a dir/two.txt", "up/three.txt"} {
		from := map[string]string{"up/two.txt": "up/one.txt", "up/a dir/two.txt": "up/two.txt", "up/three.txt": "up/a dir/two.txt"}[to]
		w.run("moveto", "d:"+from, "d:"+to)
		if n, err := w.s.Else().Lookup(to); err != nil || n.ID != before.ID {
			t.Errorf("moved to %s: %+v %v", to, n, err)
		}
		if _, err := w.s.Else().Lookup(from); !errors.Is(err, drivetest.ErrNotFound) {
			t.Errorf("still at %s: %v", from, err)
		}
	}
	w.run("moveto", "d:up/a dir", "d:moved/dir")
	w.content("moved/dir/sub/漢字 ü.jpg", "unicode")
	if out := w.run("cat", "--offset", "1000003", "--count", "20", "d:up/big.bin"); out != big[1000003:1000023] {
		t.Errorf("cat: %q", out)
	}
	// Delete is trash; nothing empties it.
	w.run("delete", "d:up/three.txt")
	w.run("purge", "d:moved")
	var trashed []string
	for _, n := range w.s.Else().TrashList() {
		trashed = append(trashed, n.Name)
	}
	if fmt.Sprint(trashed) != "[moved three.txt]" {
		t.Errorf("trash: %v", trashed)
	}
	if _, serr, err := w.try("cleanup", "d:"); err == nil {
		t.Errorf("cleanup: %s", serr)
	}
	w.run("mkdir", "d:up/new/deep")
	w.run("rmdir", "d:up/new/deep")
	if _, _, err := w.try("rmdir", "d:up"); err == nil {
		t.Error("rmdir of a full folder succeeded")
	}
	for _, host := range w.proxy.asked() {
		if host != "drive.amazonaws.com" && host != "api.amazon.com" {
			t.Errorf("rclone asked for %s", host)
		}
	}
	for _, e := range w.s.RequestLog() {
		if e.Status >= 500 || e.Op == "" {
			t.Errorf("%s %s?%s: status %d", e.Method, e.Path, e.Query, e.Status)
		}
	}
}

// Above the threshold rclone reads through the tempLink, without its token.
func TestRcloneTempLink(t *testing.T) {
	w := newRcloneWorld(t, drivetest.Options{})
	body := strings.Repeat("templink ", 10_000)
	if _, err := w.s.Else().PutPath("f", []byte(body)); err != nil {
		t.Fatal(err)
	}
	if out := w.run("--acd-templink-threshold", "10k", "cat", "--offset", "9", "d:f"); out != body[9:] {
		t.Errorf("%d bytes", len(out))
	}
	if c := w.s.Requests(); c["content.templink"] == 0 || c["content.download"] != 0 {
		t.Errorf("requests: %v", c)
	}
	for _, e := range w.s.RequestLog() {
		if e.Op == "content.templink" && e.Authorization {
			t.Error("the tempLink was sent a token")
		}
	}
}

// A name that listings do not show yet is refused with 409, and what is there
// stays as it is.
func TestRcloneConflict(t *testing.T) {
	w := newRcloneWorld(t, drivetest.Options{ListingLag: time.Hour})
	if _, err := w.s.Else().PutPath("Taken.txt", []byte("first")); err != nil {
		t.Fatal(err)
	}
	src := w.tree(map[string]string{"f": "second"})
	_, serr, err := w.try("copyto", filepath.Join(src, "f"), "d:taken.TXT")
	if err == nil || !strings.Contains(serr, "409") || !strings.Contains(serr, "NAME_ALREADY_EXISTS") {
		t.Errorf("rclone said %v\n%s", err, serr)
	}
	w.content("Taken.txt", "first")
	// How often it tries again after a connection that broke is rclone's affair.
	if n := w.s.Requests()["content.upload"]; n == 0 {
		t.Error("rclone did not upload")
	}
}

// The upload that fails and succeeds: rclone waits, looks, and is content.
func TestRcloneLateUpload(t *testing.T) {
	w := newRcloneWorld(t, drivetest.Options{Faults: drivetest.Faults{Rules: []drivetest.Rule{
		{Op: "nodes.list", Nth: 3, Fault: drivetest.Fault{Status: 429, RetryAfter: 1}},
		{Op: "nodes.list", Nth: 2, Fault: drivetest.Fault{Status: 502, Body: "html"}},
		{Op: "content.upload", Times: 1, Fault: drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectDone}},
	}}})
	src := w.tree(map[string]string{"f": strings.Repeat("x", 1<<20)})
	_, serr, err := w.try("--acd-upload-wait-per-gb", "3h", "copy", src, "d:")
	if err != nil || !strings.Contains(serr, "found with correct size") {
		t.Errorf("rclone said %v\n%s", err, serr)
	}
	if c := w.s.Requests(); c["content.upload"] != 1 {
		t.Errorf("requests: %v", c)
	}
	w.run("check", src, "d:")
}
