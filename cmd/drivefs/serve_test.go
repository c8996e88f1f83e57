package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// selfSigned writes a certificate for 127.0.0.1, which is its own authority.
func selfSigned(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := errors.Join(
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// A drive that others may reach is one over https, and it can be mounted by
// what serve prints.
func TestServeBeyondLoopback(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	data, token := filepath.Join(w.home, "data"), filepath.Join(w.home, "served.json")
	cert, key := selfSigned(t, w.home)
	_, stderr, code := w.run("serve", "--data", data, "--listen", "0.0.0.0:0")
	if code != 2 {
		t.Errorf("plain http beyond loopback: exit code %d", code)
	}
	oneLine(t, stderr, "--tls-cert")
	if _, err := os.Stat(data); err == nil {
		t.Error("a drive was made all the same")
	}
	_, stderr, code = w.run("serve", "--data", data, "--tls-cert", cert)
	if code != 2 {
		t.Errorf("half a certificate: exit code %d", code)
	}
	oneLine(t, stderr, "--tls-key")

	p := w.start("serve", "--data", data, "--listen", "0.0.0.0:0", "--tls-cert", cert, "--tls-key", key, "--token-file", token)
	endpoint := strings.TrimSpace(p.line())
	if !strings.HasPrefix(endpoint, "https://127.0.0.1:") || !strings.HasSuffix(endpoint, "/drive/v1/") {
		t.Errorf("the endpoint is %q", endpoint)
	}
	command, ok := strings.CutPrefix(strings.TrimSpace(p.line()), "mount it: drivefs ")
	if !ok {
		t.Fatalf("no word how to mount it: %q", command)
	}
	w.env = append(w.env, "SSL_CERT_FILE="+cert)
	args := strings.Fields(strings.Replace(command, "MOUNTPOINT", w.mountpoint, 1))
	m := w.start(append(args, "--profile", "served", "--state-dir", filepath.Join(w.home, "served"))...)
	if got := m.line(); !strings.HasPrefix(got, "mounted served on ") {
		t.Fatalf("%q: %s", got, m.stderr())
	}
	w.write("f", "over https")
	w.must("flush", w.mountpoint)
	w.must("unmount", w.mountpoint)
	if code := m.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, m.stderr())
	}
	p.signal(15)
	p.end()
}

// The address that serve prints leads through the consent page, what it guards
// does not go without the secret.
func TestServeIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	data := filepath.Join(w.home, "data")
	p := w.start("serve", "--data", data, "--public-url", "https://drive.example")
	if endpoint := strings.TrimSpace(p.line()); endpoint != "https://drive.example/drive/v1/" {
		t.Errorf("the public endpoint is %q", endpoint)
	}
	if hint := p.line(); !strings.Contains(hint, "--auth-url 'https://drive.example/ap/oa?secret=") || !strings.Contains(hint, "--token-url https://drive.example/auth/o2/token") {
		t.Errorf("the hint is %q", hint)
	}
	p.signal(15)
	p.end()

	p = w.start("serve", "--data", data)
	endpoint := strings.TrimSpace(p.line())
	command := strings.TrimSpace(p.line())
	secret := strings.TrimSpace(read(t, filepath.Join(data, "secret")))
	if st, err := os.Stat(filepath.Join(data, "secret")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the secret's file: %v %v", st, err)
	}
	if !strings.Contains(command, "?secret="+secret) {
		t.Errorf("the printed address does not carry the secret: %q", command)
	}
	get := func(path string) int {
		t.Helper()
		resp, err := http.Get(strings.TrimSuffix(endpoint, "/drive/v1/") + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for path, want := range map[string]int{"/admin/faults": 401, "/admin/faults?secret=x": 401, "/admin/faults?secret=" + secret: 200} {
		if got := get(path); got != want {
			t.Errorf("%s: %d", strings.ReplaceAll(path, secret, "SECRET"), got)
		}
	}
	args, ok := strings.CutPrefix(command, "log in to it: drivefs ")
	if !ok {
		t.Fatalf("%q", command)
	}
	token := filepath.Join(w.home, "own.json")
	login := w.start(append(strings.Fields(strings.ReplaceAll(args, "'", "")), "--redirect-port=53703", "--token-file", token)...)
	a := address(login)
	if got := query(t, a).Get("secret"); got != secret {
		t.Errorf("the login goes without the secret: %q", got)
	}
	resp, err := http.Get(press(t, a, "allow"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if code := login.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, login.stderr())
	}
	w.must("about", "--endpoint", endpoint, "--token-file", token, "--state-dir", filepath.Join(w.home, "own"))
	p.signal(15)
	p.end()
}

// A drive that names other people's hosts gets no token sent there, and says so.
func TestUntrustedHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{BaseURL: "https://thief.example"})
	endpoint := "http://" + w.drive.Addr().String() + "/drive/v1/"
	for _, verb := range []string{"mount", "about"} {
		args := []string{verb, "--endpoint", endpoint, "--token-file", w.token()}
		if verb == "mount" {
			args = append(args, w.mountpoint)
		}
		_, stderr, code := w.run(args...)
		if code != 1 {
			t.Errorf("%s: exit code %d", verb, code)
		}
		oneLine(t, stderr, "thief.example", "--trust-endpoints")
	}
}
