package otherdrive

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/text/unicode/norm"
)

// Owner is the friendly name of the program under test: createdBy of what it
// makes, and the owner its properties must have.
const Owner = "the-app"

type content struct {
	path    string
	size    int64
	md5     string
	version int
}

type node struct {
	id, name, kind, status string
	isRoot, alone, with    bool // alone, with: exclusively and recursively trashed
	parents                []string
	version                int
	created, modified      time.Time
	createdBy              string
	labels                 []string
	description            string
	props                  map[string]map[string]string
	content                *content
}

// state is a node as it was from a moment on.
type state struct {
	node
	seq int64
	at  time.Time
}

// Server is one drive. Its methods besides Close are a second client.
type Server struct {
	opt Options
	dir string

	servers               []*http.Server
	wg                    sync.WaitGroup
	endpoint              string
	meta                  string
	contents              string
	storage               string // no token wanted here
	tokenURL              string
	metaPath, contentPath string
	metaMux, contentMux   *http.ServeMux

	closed chan struct{}
	hosts  sync.Mutex // guards meta and contents besides mu, taken after it

	mu         sync.Mutex
	rng        *rand.Rand
	nodes      map[string]*node
	order      []string // ids by age
	hist       map[string][]state
	seq        int64
	root       string
	localIDs   map[string]string
	files      int
	calls      int
	downloads  int
	feeds      int
	changed    int // calls that changed the tree
	uploads    int
	creations  int
	gets       int
	epoch      int             // of checkpoints
	shown      map[string]bool // files the feed has told as PENDING
	access     string
	left       int // calls the access token is good for
	refresh    string
	issued     int
	complaints []string
	log        []string
}

// Start serves an empty drive on loopback.
func Start(opt Options) (*Server, error) {
	dir, err := os.MkdirTemp("", "otherdrive")
	if err != nil {
		return nil, err
	}
	s := &Server{
		opt: opt, dir: dir, rng: rand.New(rand.NewPCG(7, 11)),
		nodes: map[string]*node{}, hist: map[string][]state{}, localIDs: map[string]string{}, shown: map[string]bool{},
		closed: make(chan struct{}),
	}
	root := &node{id: s.newID(), kind: "FOLDER", status: "AVAILABLE", isRoot: true, createdBy: "CloudDriveFiles"}
	s.root = root.id
	s.add(root)
	s.issueLocked()
	s.refresh = "Atzr|first"
	if opt.Strays {
		s.strays(root.id)
	}
	if err := s.listen(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) listen() error {
	s.metaPath, s.contentPath = "/drive/v1/", "/cdproxy/"
	discovery := http.NewServeMux()
	meta, contents := discovery, discovery
	if s.opt.Spread {
		meta, contents = http.NewServeMux(), http.NewServeMux()
		s.metaPath, s.contentPath = "/eu/meta/v1/", "/proxy/eu/"
	}
	storage := http.NewServeMux()
	storage.HandleFunc("/", s.serveStorage)
	discovery.HandleFunc("/drive/v1/account/endpoint", s.call(s.serveEndpoint))
	discovery.HandleFunc("/auth/o2/token", s.serveToken)
	meta.Handle(s.metaPath, http.StripPrefix(strings.TrimSuffix(s.metaPath, "/"), s.call(s.serveMeta)))
	contents.Handle(s.contentPath, http.StripPrefix(strings.TrimSuffix(s.contentPath, "/"), s.call(s.serveContent)))
	at := map[*http.ServeMux]string{}
	for _, mux := range []*http.ServeMux{discovery, meta, contents, storage} {
		if at[mux] != "" {
			continue
		}
		var err error
		if at[mux], err = s.serve(mux); err != nil {
			return err
		}
	}
	s.metaMux, s.contentMux = meta, contents
	s.endpoint = at[discovery] + "/drive/v1/"
	s.tokenURL = at[discovery] + "/auth/o2/token"
	s.meta, s.contents, s.storage = at[meta]+s.metaPath, at[contents]+s.contentPath, at[storage]+"/"
	return nil
}

// serve listens on a port of its own and returns the URL.
func (s *Server) serve(h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	srv.SetKeepAlivesEnabled(!s.opt.NoKeepAlive)
	s.servers = append(s.servers, srv)
	s.wg.Go(func() { _ = srv.Serve(l) })
	return "http://" + l.Addr().String(), nil
}

// MoveHosts gives the account other hosts, where Options say so: the old ones
// answer nothing any more.
func (s *Server) MoveHosts() error {
	if !s.opt.Moves {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.servers[1].Close(), s.servers[2].Close()
	meta, err := s.serve(s.metaMux)
	if err != nil {
		return err
	}
	contents, err := s.serve(s.contentMux)
	s.hosts.Lock()
	defer s.hosts.Unlock()
	s.meta, s.contents = meta+s.metaPath, contents+s.contentPath
	return err
}

// Forget makes the checkpoints given so far unusable, where Options say so.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opt.Forgets {
		s.epoch++
	}
}

// Close stops serving and removes the contents.
func (s *Server) Close() {
	close(s.closed)
	for _, srv := range s.servers {
		_ = srv.Close()
	}
	s.wg.Wait()
	_ = os.RemoveAll(s.dir)
}

// Endpoint is the discovery base.
func (s *Server) Endpoint() string { return s.endpoint }

// TokenURL is where tokens are refreshed, by the client "id" with "secret".
func (s *Server) TokenURL() string { return s.tokenURL }

// WriteToken writes a token file good for now.
func (s *Server) WriteToken(path string) error {
	s.mu.Lock()
	b, err := json.Marshal(map[string]any{
		"access_token": s.access, "token_type": "bearer", "refresh_token": s.refresh,
		"expiry": time.Now().Add(time.Hour).Format(time.RFC3339),
	})
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// Complaints are the requests no reading of the document permits.
func (s *Server) Complaints() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.complaints)
}

// Log is the last n requests with their answers' statuses.
func (s *Server) Log(n int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log[max(0, len(s.log)-n):])
}

func (s *Server) complainLocked(format string, args ...any) {
	s.complaints = append(s.complaints, fmt.Sprintf(format, args...))
}

func (s *Server) complain(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complainLocked(format, args...)
}

const idChars = "-_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

func (s *Server) newID() string {
	b := make([]byte, 22)
	for i := range b {
		b[i] = idChars[s.rng.IntN(len(idChars))]
	}
	if s.rng.IntN(5) == 0 {
		b[0] = '-'
	}
	return string(b)
}

func (s *Server) now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// add and touch record a state; with mu held, or before anybody is served.
func (s *Server) add(n *node) {
	n.created = s.now()
	s.nodes[n.id] = n
	s.order = append(s.order, n.id)
	s.touch(n)
}

func (s *Server) touch(n *node) {
	n.version++
	n.modified = s.now()
	s.record(n)
}

func (s *Server) record(n *node) {
	s.seq++
	c := *n
	c.parents = slices.Clone(n.parents)
	s.hist[n.id] = append(s.hist[n.id], state{c, s.seq, time.Now()})
}

// seen are the nodes as they were a while ago, oldest first.
func (s *Server) seen(ago time.Duration) []node {
	var all []node
	then := time.Now().Add(-ago)
	for _, id := range s.order {
		if ago == 0 {
			all = append(all, *s.nodes[id])
			continue
		}
		h := s.hist[id]
		for i := len(h) - 1; i >= 0; i-- {
			if !h[i].at.After(then) {
				all = append(all, h[i].node)
				break
			}
		}
	}
	return all
}

func (s *Server) fold(name string) string {
	if s.opt.Normalises {
		name = norm.NFC.String(name)
	}
	if !s.opt.ASCIIFold {
		return strings.ToLower(name)
	}
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 32
		}
		return r
	}, name)
}

// clash is the live node that has the name in the folder, or nil.
func (s *Server) clash(parent, name, except string) *node {
	for _, id := range s.order {
		n := s.nodes[id]
		if n.id != except && n.name != "" && (n.status == "AVAILABLE" || n.status == "PENDING") && n.kind != "ASSET" &&
			slices.Contains(n.parents, parent) && s.fold(n.name) == s.fold(name) {
			return n
		}
	}
	return nil
}

// alive says whether a node and one chain of its ancestors are in no trash.
func (s *Server) alive(n *node) bool {
	if n == nil || n.status == "TRASH" {
		return false
	}
	if n.isRoot {
		return true
	}
	for _, p := range n.parents {
		if s.alive(s.nodes[p]) {
			return true
		}
	}
	return false
}

func (s *Server) below(n *node, top string) bool {
	if n == nil {
		return false
	}
	if n.id == top {
		return true
	}
	for _, p := range n.parents {
		if s.below(s.nodes[p], top) {
			return true
		}
	}
	return false
}

func (s *Server) strays(parent string) {
	for _, n := range []*node{
		{name: "thumb.jpg", kind: "ASSET", status: "AVAILABLE"},
		{name: "half done.bin", kind: "FILE", status: "PENDING"},
		{name: "", kind: "FILE", status: "AVAILABLE"},
		{name: "Summer", kind: "VISUAL_COLLECTION", status: "AVAILABLE"},
	} {
		n.id, n.parents, n.createdBy = s.newID(), []string{parent}, "CloudDriveWeb"
		s.add(n)
	}
}

func (s *Server) issueLocked() {
	s.issued++
	s.access = fmt.Sprintf("Atza|%d|%s", s.issued, strings.Repeat("x", 350))
	s.left = s.opt.TokenCalls
	if s.left == 0 {
		s.left = 1 << 40
	}
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != "id" || secret != "secret" {
		answer(w, 401, map[string]any{"error": "invalid_client", "error_description": "Client authentication failed"})
		return
	}
	if r.PostFormValue("grant_type") != "refresh_token" || r.PostFormValue("refresh_token") != s.refresh {
		s.complainLocked("token request %v, the refresh token is %s", r.PostForm, s.refresh)
		answer(w, 400, map[string]any{"error": "invalid_grant", "error_description": "The request has an invalid grant parameter : refresh_token"})
		return
	}
	s.issueLocked()
	out := map[string]any{"access_token": s.access, "token_type": "bearer"}
	switch s.opt.ExpiresIn {
	case "":
		out["expires_in"] = 3600
	case "string":
		out["expires_in"] = "3600"
	}
	if s.opt.Rotate {
		s.refresh = fmt.Sprintf("Atzr|%d", s.issued)
		out["refresh_token"] = s.refresh
	}
	answer(w, 200, out)
}

// answered remembers the status for the log.
type answered struct {
	http.ResponseWriter
	status int
}

func (a *answered) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// call is what all calls with a token have in common.
func (s *Server) call(h http.HandlerFunc) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		w := &answered{ResponseWriter: rw}
		began := time.Now()
		defer func() {
			q, _ := url.QueryUnescape(r.URL.RawQuery)
			s.mu.Lock()
			s.log = append(s.log, fmt.Sprintf("%s %s %s ?%s → %d in %v", began.Format("05.000"), r.Method, r.URL.Path, q, w.status, time.Since(began).Round(time.Millisecond)))
			s.mu.Unlock()
		}()
		if s.opt.Slow > 0 {
			select {
			case <-time.After(s.opt.Slow):
			case <-r.Context().Done():
				return
			}
		}
		w.Header().Set("x-amzn-RequestId", strconv.FormatInt(began.UnixNano(), 36))
		s.mu.Lock()
		s.calls++
		n := s.calls
		good := r.Header.Get("Authorization") == "Bearer "+s.access && s.left > 0
		if good {
			s.left--
		}
		s.mu.Unlock()
		switch {
		case s.opt.Throttle > 0 && n%s.opt.Throttle == 0:
			if s.opt.ThrottleRaw {
				_ = s.fail(w, 429, `{}`)
				return
			}
			w.Header().Set("Retry-After", "1")
			if s.opt.ThrottleDate {
				w.Header().Set("Retry-After", time.Now().Add(time.Second).UTC().Format(http.TimeFormat))
			}
			_ = s.fail(w, 429, `{"message":"Rate exceeded"}`)
		case s.opt.Flaky > 0 && n%s.opt.Flaky == 0:
			_ = s.fail(w, []int{500, 503, 502}[n/s.opt.Flaky%3], []string{`{"message":"Internal failure"}`, "", "<html>bad gateway</html>"}[n/s.opt.Flaky%3])
		case !good:
			switch s.opt.Expired {
			case "":
				_ = s.fail(w, 401, `{"message":"Token has expired"}`)
			case "empty":
				_ = s.fail(w, 401, "")
			case "wrapped":
				_ = s.fail(w, 400, `{"message":"com.amazon.clouddrive.client.exceptions.UnauthourizedAccessException: HTTP status code=[401] RequestId=[x] Token has expired"}`)
			}
		default:
			if s.fooled(r) {
				h(discard{http.Header{}}, r)
				_ = s.fail(w, 500, `{"message":"Internal failure"}`)
				return
			}
			h(w, r)
		}
	}
}

// fooled says whether a change is to answer an error although it works.
func (s *Server) fooled(r *http.Request) bool {
	if s.opt.FalseErrors == 0 || r.Method == "GET" || strings.HasSuffix(r.URL.Path, "/changes") {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed++
	return s.changed%s.opt.FalseErrors == 0
}

// discard is an answer nobody gets.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func (s *Server) serveEndpoint(w http.ResponseWriter, _ *http.Request) {
	s.hosts.Lock()
	meta, contents := s.meta, s.contents
	s.hosts.Unlock()
	if s.opt.NoSlash {
		meta, contents = strings.TrimSuffix(meta, "/"), strings.TrimSuffix(contents, "/")
	}
	answer(w, 200, map[string]any{"customerExists": true, "metadataUrl": meta, "contentUrl": contents, "region": "EU"})
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

func (s *Server) fail(w http.ResponseWriter, status int, body string) error {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, err := w.Write([]byte(body))
	return err
}

func (s *Server) problem(w http.ResponseWriter, status int, message string) {
	if status == 404 {
		switch s.opt.NotFound {
		case "empty":
			_ = s.fail(w, 404, "")
			return
		case "xml":
			_ = s.fail(w, 404, "<UnknownOperationException/>")
			return
		case "html":
			w.Header().Set("Content-Type", "text/html")
			_ = s.fail(w, 404, "<html><body>Not here</body></html>")
			return
		}
	}
	answer(w, status, map[string]any{"logref": "0d6f2c4e-8d2b-11e5-9f6a-0d1f6e2b3c4d", "message": message, "code": ""})
}

func (s *Server) taken(w http.ResponseWriter, n *node, parent string) {
	if s.opt.BareConflict {
		_ = s.fail(w, 409, "{}")
		return
	}
	body := map[string]any{
		"logref":  "0d6f2c4e-8d2b-11e5-9f6a-0d1f6e2b3c4d",
		"message": fmt.Sprintf("Node with the name %s already exists under parentId %s conflicting NodeId: %s", strings.ToLower(n.name), parent, n.id),
		"code":    "NAME_ALREADY_EXISTS", "info": map[string]any{"nodeId": n.id},
	}
	if s.opt.Conflict != "" {
		s.unreadable(w, 409, s.opt.Conflict, body)
		return
	}
	answer(w, 409, body)
}

// hiccup says whether a get is to miss its node.
func (s *Server) hiccup() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hiccupLocked()
}

func (s *Server) hiccupLocked() bool {
	if s.opt.Hiccups == 0 {
		return false
	}
	s.gets++
	return s.gets%s.opt.Hiccups == 0
}

func (s *Server) newFile() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files++
	return filepath.Join(s.dir, strconv.Itoa(s.files))
}
