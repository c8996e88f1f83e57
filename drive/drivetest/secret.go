package drivetest

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/drivefs/drivefs/drive/local"
)

// Whoever can reach the listener is not yet whoever may use the drive: other
// users of the machine, pages in a browser, and with TLS the network. Tokens
// and the part that changes faults are for who knows the secret of the data
// directory, which its owner alone can read, as notebook servers do it.

const secretFile = "secret"

// openSecret reads the secret of a data directory, or makes one.
func openSecret(dir string) (string, error) {
	path := filepath.Join(dir, secretFile)
	b, err := os.ReadFile(path)
	if s := strings.TrimSpace(string(b)); err == nil && s != "" {
		return s, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the secret of the drive: %w", err)
	}
	s := rand.Text()
	if err := local.ReplaceFile(path, []byte(s+"\n")); err != nil {
		return "", fmt.Errorf("make a secret for the drive: %w", err)
	}
	return s, nil
}

// Secret is what the consent page and /admin/ ask for. It stands in the file
// "secret" of the directory, mode 0600.
func (s *Server) Secret() string { return s.secret }

// SecretFile is where it stands.
func (s *Server) SecretFile() string { return filepath.Join(s.Dir(), secretFile) }

func (s *Server) knows(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(secret), []byte(s.secret)) == 1
}

// front is the service behind its own listener, where the Host of a request
// says whether a name was made to lead here (DNS rebinding).
func (s *Server) front(w http.ResponseWriter, r *http.Request) {
	if !s.ours(r.Host) {
		http.Error(w, "unknown host", http.StatusMisdirectedRequest)
		return
	}
	s.ServeHTTP(w, r)
}

// ours: this machine by name or number, or the host of the public address.
// A listener with a certificate leaves that question to TLS.
func (s *Server) ours(host string) bool {
	if s.o.TLSCert != "" || local.Loopback(host) || host == s.ln.Addr().String() {
		return true
	}
	_, public, _ := strings.Cut(strings.TrimSuffix(s.o.BaseURL, "/"), "://")
	public, _, _ = strings.Cut(public, "/")
	return public != "" && strings.EqualFold(host, public)
}
