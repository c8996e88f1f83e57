package drivetest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// Nobody gets a token who only can reach the listener.
func TestConsentNeedsTheSecret(t *testing.T) {
	a := newAPI(t)
	for _, kind := range []string{"code", "token"} {
		for name, secret := range map[string][]string{"without": nil, "empty": {""}, "wrong": {"x"}, "longer": {a.s.Secret() + "x"}} {
			q := a.consentQuery()
			q["secret"], q["response_type"] = secret, []string{kind}
			f := url.Values{"decision": {"allow"}}
			for k, v := range q {
				f[k] = v
			}
			r := a.form("/ap/oa", f)
			if r.status != 403 || r.header.Get("Location") != "" || !strings.Contains(string(r.body), `name="secret"`) || strings.Contains(string(r.body), a.s.Secret()) {
				t.Errorf("%s, %s secret: %d %v %s", kind, name, r.status, r.header, r.body)
			}
			page := a.do("GET", "/ap/oa?"+q.Encode(), nil, "Authorization", "")
			if page.status != 200 || !strings.Contains(string(page.body), `type="password" name="secret"`) || strings.Contains(string(page.body), a.s.Secret()) {
				t.Errorf("%s, %s secret: the page: %d %s", kind, name, page.status, page.body)
			}
			for k, want := range map[string]string{"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"} {
				if page.header.Get(k) != want {
					t.Errorf("%s: %q", k, page.header.Get(k))
				}
			}
		}
	}
	q := a.consentQuery()
	if r := a.do("GET", "/ap/oa?"+q.Encode(), nil, "Authorization", ""); strings.Contains(string(r.body), "password") {
		t.Errorf("who brings it is asked for it: %s", r.body)
	}
	if u, err := url.Parse(a.s.AuthURL()); err != nil || u.Query().Get("secret") != a.s.Secret() {
		t.Errorf("the printed address does not carry it: %v", err)
	}
}

func TestAdminNeedsTheSecret(t *testing.T) {
	a := newAPI(t)
	for _, path := range []string{"faults", "requests", "log", "check", "nope"} {
		for _, auth := range []string{"", "Bearer x", "Bearer " + a.token, a.s.Secret()} {
			if r := a.do("GET", "/admin/"+path, nil, "Authorization", auth); r.status != 401 {
				t.Errorf("%s with %q: %d", path, auth, r.status)
			}
		}
	}
	a.do("GET", "/admin/check?secret="+a.s.Secret(), nil, "Authorization", "").want(t, 200)
}

func TestSecretFile(t *testing.T) {
	dir := t.TempDir()
	s := drivetest.New(t, drivetest.Options{Dir: dir})
	secret := s.Secret()
	st, err := os.Stat(s.SecretFile())
	if err != nil || st.Mode().Perm() != 0o600 || filepath.Dir(s.SecretFile()) != dir {
		t.Fatalf("%v, %v", st, err)
	}
	if b, err := os.ReadFile(s.SecretFile()); err != nil || strings.TrimSpace(string(b)) != secret || len(secret) < 20 {
		t.Errorf("%q, %v", b, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if again := drivetest.New(t, drivetest.Options{Dir: dir}); again.Secret() != secret {
		t.Error("another secret after a restart")
	}
	if other := drivetest.New(t); other.Secret() == secret || len(other.Secret()) < 20 {
		t.Error("two drives of one secret")
	}
}

// A name made to lead to this machine does not lead into the drive.
func TestUnknownHost(t *testing.T) {
	try := func(s *drivetest.Server, host string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", s.Endpoint()+"account/endpoint", nil)
		if err != nil {
			t.Fatal(err)
		}
		if req.URL.Host, req.URL.Scheme = address(t, s), "http"; host != "" {
			req.Host = host
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	s := drivetest.New(t)
	public := drivetest.New(t, drivetest.Options{BaseURL: "https://drive.example:8443/"})
	for _, tt := range []struct {
		s    *drivetest.Server
		host string
		want int
	}{
		{s, "", 401}, {s, "localhost:1", 401}, {s, "[::1]:80", 401}, {s, "evil.example", 421}, {s, "drive.example:8443", 421},
		{public, "", 401}, {public, "drive.example:8443", 401}, {public, "evil.example:8443", 421},
	} {
		if got := try(tt.s, tt.host); got != tt.want {
			t.Errorf("Host %q: %d, want %d", tt.host, got, tt.want)
		}
	}
	if got := public.Endpoint(); got != "https://drive.example:8443/drive/v1/" {
		t.Errorf("the public address is %s", got)
	}
}

// address is where a server really listens.
func address(t *testing.T, s *drivetest.Server) string {
	t.Helper()
	a, ok := s.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("no TCP: %v", s.Addr())
	}
	return a.String()
}

// certificate writes one for 127.0.0.1, and the pool that trusts it.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
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
	b, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	c := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(cert, c, 0o600), os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}), 0o600)); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(c)
	return cert, key, pool
}

func TestListenBeyondLoopback(t *testing.T) {
	if s, err := drivetest.Start(drivetest.Options{Listen: "0.0.0.0:0"}); !errors.Is(err, drivetest.ErrPlainListen) {
		t.Errorf("plain http beyond loopback: %v", err)
		if err == nil {
			s.Close()
		}
	}
	cert, key, pool := certificate(t)
	if _, err := drivetest.Start(drivetest.Options{TLSCert: cert, TLSKey: cert}); err == nil {
		t.Error("a certificate without its key was taken")
	}
	s := drivetest.New(t, drivetest.Options{Listen: "0.0.0.0:0", TLSCert: cert, TLSKey: key})
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.Endpoint()+"account/endpoint", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Token().AccessToken)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || bytes.Count(b, []byte(`"https://127.0.0.1:`)) != 2 {
		t.Errorf("%d %s %v", resp.StatusCode, b, err)
	}
}

// endless is a body that counts what is taken of it.
type endless struct{ n, most int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.n >= e.most {
		return 0, errors.New("the whole body was taken")
	}
	e.n += int64(len(p))
	return len(p), nil
}

// What is too large is refused while it comes in.
func TestBodiesAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name   string
		o      drivetest.Options
		status int
	}{
		{"upload limit", drivetest.Options{MaxUpload: 1 << 20}, 400},
		{"quota", drivetest.Options{Quota: 1 << 20}, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAPI(t, tt.o)
			old := a.put(a.root(), "old", strings.Repeat("x", 512<<10)).id()
			ct, body := form(obj{"name": "big", "kind": "FILE"}, "")
			head := body[:bytes.LastIndex(body, []byte("\r\n--"))]
			for _, call := range [][2]string{{"POST", "/cdproxy/nodes?suppress=deduplication"}, {"PUT", "/cdproxy/nodes/" + old + "/content"}} {
				more := &endless{most: 64 << 20}
				r, err := a.try(call[0], call[1], io.MultiReader(bytes.NewReader(head), more), "Content-Type", ct)
				if err != nil || r.status != tt.status {
					t.Errorf("%s: %d %s %v", call[0], r.status, r.body, err)
				}
				if more.n > 32<<20 { // the limit, and what the sockets hold
					t.Errorf("%s: %d bytes were sent", call[0], more.n)
				}
			}
			left, err := os.ReadDir(filepath.Join(a.s.Dir(), "incoming"))
			if err != nil || len(left) != 0 {
				t.Errorf("something is left behind: %v %v", left, err)
			}
			a.overwrite(old, strings.Repeat("y", 900<<10)).want(t, 200) // its own old bytes do not count
		})
	}
	a := newAPI(t)
	big := url.Values{"grant_type": {strings.Repeat("x", 1<<20)}}
	if r := a.form("/auth/o2/token", big); r.status != 400 {
		t.Errorf("a huge token request: %d", r.status)
	}
}
