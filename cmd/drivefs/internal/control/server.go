package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Emit sends an event to the verb while its call is under way. It may be
// called from any goroutine until the call's function returned.
type Emit func(Event)

// Call answers one verb: the result to be encoded, or an error. Its context
// ends when the verb goes away or the server closes.
type Call func(ctx context.Context, body []byte, emit Emit) (any, error)

// Handle makes a Call of a function that takes the decoded request.
func Handle[Req any](fn func(context.Context, Req, Emit) (any, error)) Call {
	return func(ctx context.Context, body []byte, emit Emit) (any, error) {
		var req Req
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		return fn(ctx, req, emit)
	}
}

// Server answers on one socket.
type Server struct {
	path   string
	dir    *os.File
	http   *http.Server
	cancel context.CancelFunc
	served chan struct{}
}

// Path is where the socket of a mountpoint is: in the runtime directory when
// there is one, else in a directory of its own below the state directory. It is
// named by a hash, so that its length does not depend on the mountpoint's.
func Path(runtime, state, mountpoint string) string {
	sum := sha256.Sum256([]byte(mountpoint))
	dir := runtime
	if dir == "" {
		dir = filepath.Join(state, "run")
	}
	return filepath.Join(dir, hex.EncodeToString(sum[:8])+".sock")
}

// guestVerbs are what the user may ask for whom a mount of root's is made:
// nothing that ends it or changes the drive.
var guestVerbs = []string{VerbStatus, VerbRefresh, VerbFlush}

// Listen serves calls by verb on the socket at path, replacing one that a dead
// process left there. fault turns an error into what crosses the socket. The
// user guest, whom root's mount is made for, may ask too; this process's own
// user is nobody's guest.
func Listen(path string, guest int, calls map[string]Call, fault func(error) *Fault) (*Server, error) {
	mode := os.FileMode(0o700)
	if guest != os.Geteuid() {
		mode = 0o711 // to be passed through, not to be looked into
	}
	dir, err := privateDir(filepath.Dir(path), mode)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		dir.Close()
		return nil, err
	}
	ln, err := net.Listen("unix", short(dir, path))
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // Close does, by its real name
	// Nobody else can come this way before: the directory is ours and closed.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close(), dir.Close())
	}
	if guest != os.Geteuid() {
		if err := os.Chown(path, guest, -1); err != nil {
			return nil, errors.Join(err, ln.Close(), dir.Close())
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{path: path, dir: dir, cancel: cancel, served: make(chan struct{})}
	mux := http.NewServeMux()
	for verb, call := range calls {
		if !slices.Contains(guestVerbs, verb) {
			call = ownersOnly(call)
		}
		mux.HandleFunc("POST /v1/"+verb, func(w http.ResponseWriter, r *http.Request) { serve(w, r, call, fault) })
	}
	mux.HandleFunc("/debug/pprof/", ownersPage(pprof.Index))
	mux.HandleFunc("/debug/pprof/cmdline", ownersPage(pprof.Cmdline))
	mux.HandleFunc("/debug/pprof/profile", ownersPage(pprof.Profile))
	mux.HandleFunc("/debug/pprof/symbol", ownersPage(pprof.Symbol))
	mux.HandleFunc("/debug/pprof/trace", ownersPage(pprof.Trace))
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
	}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(ln) // http.ErrServerClosed
	}()
	return s, nil
}

// Path is the socket's.
func (s *Server) Path() string { return s.path }

// closing is how long calls that were cancelled may take to say so.
const closing = 2 * time.Second

// Close cancels what is under way, waits for it and removes the socket.
func (s *Server) Close() error {
	err := os.Remove(s.path)
	s.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	if serr := s.http.Shutdown(ctx); serr != nil {
		err = errors.Join(err, s.http.Close())
	}
	<-s.served
	return errors.Join(err, s.dir.Close())
}

// privateDir makes or takes a directory that only we can change; another one is
// refused and left as it is, since it may be so on purpose. The returned file lets sockets
// be named independently of the length of its path.
func privateDir(path string, mode os.FileMode) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	err := os.Mkdir(path, mode)
	made := err == nil
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := dir.Stat()
	if err == nil {
		sys, ok := st.Sys().(*syscall.Stat_t)
		switch {
		case ok && int(sys.Uid) != os.Geteuid():
			err = fmt.Errorf("%s belongs to another user", path)
		case made || mode&0o011 != 0 && st.Mode().Perm() == 0o700:
			err = dir.Chmod(mode) // whatever the umask is
		case st.Mode().Perm()&0o022 != 0:
			err = fmt.Errorf("%s can be changed by others: chmod 700 %s", path, path)
		}
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// longest is what sun_path holds with its final NUL. Source: unix(7).
const longest = 107

// short is an address for path that fits into a socket's.
func short(dir *os.File, path string) string {
	if len(path) <= longest {
		return path
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
}

// mostRequest bounds what a verb may send.
const mostRequest = 1 << 20

func serve(w http.ResponseWriter, r *http.Request, call Call, fault func(error) *Fault) {
	var mu sync.Mutex // guards enc: emit may be called from several goroutines
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	emit := func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(e) // a verb that went away has cancelled the context
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostRequest))
	var result any
	if err == nil {
		result, err = call(r.Context(), body, emit)
	}
	if err == nil {
		var raw json.RawMessage
		if raw, err = json.Marshal(result); err == nil {
			emit(Event{Result: raw})
		}
	}
	if err != nil {
		emit(Event{Fault: fault(err)})
	}
}
