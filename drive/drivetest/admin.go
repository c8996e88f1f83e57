package drivetest

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/drivefs/drivefs/drive/local"
)

// admin is the part of the server that the service never had: faults and
// counters of a running `drivefs serve`, for this machine only, and for who
// knows the secret of the data directory ("Authorization: Bearer SECRET", or
// ?secret=SECRET). A web page in a browser here cannot reach it: it would send
// Origin, or another Host.
//
//	GET  /admin/faults    the faults in force     POST /admin/faults   replace them
//	GET  /admin/requests  counts by operation     POST /admin/settle   late uploads appear now
//	GET  /admin/log       the last requests       POST /admin/expire   access tokens expire
//	GET  /admin/check     the invariants          POST /admin/revoke   refresh tokens are revoked
//	POST /admin/emptytrash  purge what is in the trash
func (s *Server) admin(w http.ResponseWriter, r *http.Request) {
	if !local.Loopback(r.RemoteAddr) || !local.Loopback(r.Host) || r.Header.Get("Origin") != "" {
		http.Error(w, "only from this machine", http.StatusForbidden)
		return
	}
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		given = r.URL.Query().Get("secret")
	}
	if !s.knows(given) {
		http.Error(w, "only with the secret of the data directory: Authorization: Bearer SECRET", http.StatusUnauthorized)
		return
	}
	what := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/admin/")
	var out any = struct{}{}
	switch what {
	case "GET faults":
		out = s.Faults()
	case "POST faults", "PUT faults":
		b, err := io.ReadAll(io.LimitReader(r.Body, maxJSON))
		var f Faults
		if err == nil {
			f, err = ParseFaults(b)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.SetFaults(f)
		out = f
	case "DELETE faults":
		s.SetFaults(Faults{})
	case "GET requests":
		out = map[string]any{"requests": s.Requests(), "bytes_served": s.BytesServed(), "bytes_received": s.BytesReceived(), "late": s.Late()}
	case "POST requests", "DELETE requests":
		s.ResetRequests()
	case "GET log":
		out = s.RequestLog()
	case "POST settle":
		s.Settle()
	case "POST expire":
		s.ExpireTokens()
	case "POST revoke":
		s.RevokeRefresh()
	case "POST emptytrash":
		if err := s.Else().EmptyTrash(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	case "GET check":
		if err := s.Check(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the client may be gone
}
