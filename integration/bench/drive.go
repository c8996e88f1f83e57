package main

import (
	"bytes"
	"context"
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
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// serveConfig is what the drive's process is told.
type serveConfig struct {
	Latency time.Duration
	Rate    int64 // bytes a second and connection, 0 = no bound
	Lag     time.Duration
}

// serveInfo is what the drive's process answers on its first line.
type serveInfo struct {
	Endpoint, TokenURL, ClientID, ClientSecret string
	Admin                                      string // base of what is below
	Proxy                                      string // leads Amazon's hosts here
	CA                                         string // PEM of who vouches for them
	Token                                      drivetest.Token
}

// stats is what the drive saw since the last reset.
type stats struct {
	Requests map[string]int
	In, Out  int64
	Nodes    int // live
}

// calls is the number of requests of all kinds whose name has one of these
// prefixes, all of them without any.
func (s stats) calls(prefixes ...string) (n int) {
	for op, k := range s.Requests {
		for _, p := range prefixes {
			if strings.HasPrefix(op, p) {
				n += k
			}
		}
		if len(prefixes) == 0 {
			n += k
		}
	}
	return n
}

// amazonHosts are those compiled into rclone.
var amazonHosts = []string{"drive.amazonaws.com", "api.amazon.com", "www.amazon.com"}

// serveDrive is the hidden subcommand: a drivetest server with a private
// listener to fill and question it.
func serveDrive(arg string) error {
	var c serveConfig
	if err := json.Unmarshal([]byte(arg), &c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGINT) // the parent ends us
	s, err := drivetest.Start(drivetest.Options{Latency: c.Latency, Rate: c.Rate, ListingLag: c.Lag, TokenLife: 24 * time.Hour})
	if err != nil {
		return err
	}
	defer s.Close()
	ca, cert, err := authority()
	if err != nil {
		return err
	}
	front, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		return err
	}
	var listeners [2]net.Listener
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	to := front.Addr().String()
	for l, h := range map[net.Listener]http.Handler{
		front: s.Handler(), listeners[0]: admin(s),
		listeners[1]: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { lead(w, r, to) }),
	} {
		srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
		go func() { _ = srv.Serve(l) }()
		defer srv.Close()
	}
	info := serveInfo{
		Endpoint: s.Endpoint(), TokenURL: s.TokenURL(), ClientID: s.ClientID(), ClientSecret: s.ClientSecret(),
		Admin: "http://" + listeners[0].Addr().String(), Proxy: "http://" + listeners[1].Addr().String(),
		CA: string(ca), Token: s.Token(),
	}
	if err := json.NewEncoder(os.Stdout).Encode(info); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// authority makes a certificate for Amazon's hosts, and who vouches for it.
func authority() (caPEM []byte, cert tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, cert, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "drivefs bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: amazonHosts,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, cert, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// lead answers CONNECT by leading to one address, whoever was meant.
func lead(w http.ResponseWriter, r *http.Request, to string) {
	if r.Method != http.MethodConnect {
		http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
		return
	}
	up, err := net.Dial("tcp", to)
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
		go func() { // ends when either side does
			_, _ = io.Copy(d[0], d[1])
			_ = d[0].Close()
			_ = d[1].Close()
		}()
	}
}

// admin fills and questions the drive, past latency and faults.
func admin(s *drivetest.Server) http.Handler {
	mux := http.NewServeMux()
	on := func(name string, fn func(q url.Values, body io.Reader) (any, error)) {
		mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
			out, err := fn(r.URL.Query(), r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			_ = json.NewEncoder(w).Encode(out)
		})
	}
	num := func(q url.Values, key string) int {
		n, _ := strconv.Atoi(q.Get(key))
		return n
	}
	on("bulk", func(q url.Values, _ io.Reader) (any, error) {
		if order := q.Get("order"); order != "" {
			return nil, s.BulkInOrder(order, num(q, "n"), num(q, "per"))
		}
		return nil, s.Bulk(num(q, "n"), num(q, "per"))
	})
	on("put", func(q url.Values, body io.Reader) (any, error) {
		dir, err := s.Else().MkdirAll(path.Dir("/" + q.Get("path")))
		if err != nil {
			return nil, err
		}
		return s.Else().Put(dir.ID, path.Base(q.Get("path")), body)
	})
	// size bytes each, files of them, dirs folders, under a name.
	on("make", func(q url.Values, _ io.Reader) (any, error) {
		size := int64(num(q, "size"))
		for d := range max(1, num(q, "dirs")) {
			at := q.Get("under")
			if num(q, "dirs") > 0 {
				at = fmt.Sprintf("%s/d%03d", at, d)
			}
			dir, err := s.Else().MkdirAll(at)
			if err != nil {
				return nil, err
			}
			for f := range num(q, "files") {
				if _, err := s.Else().Put(dir.ID, fmt.Sprintf("f%05d.bin", f), noise(int64(d)<<32|int64(f), size)); err != nil {
					return nil, err
				}
			}
		}
		return nil, nil
	})
	on("change", func(q url.Values, _ io.Reader) (any, error) {
		left := num(q, "n")
		for _, dir := range s.Else().Children(s.Else().Root()) {
			for _, n := range s.Else().Children(dir.ID) {
				if left--; left < 0 {
					return nil, nil
				}
				var err error
				if left%2 == 0 {
					_, err = s.Else().Touch(n.ID)
				} else {
					_, err = s.Else().Rename(n.ID, "changed-"+n.Name)
				}
				if err != nil {
					return nil, err
				}
			}
		}
		return nil, fmt.Errorf("%d nodes are missing", left)
	})
	on("stats", func(q url.Values, _ io.Reader) (any, error) {
		st := stats{Requests: s.Requests(), In: s.BytesReceived(), Out: s.BytesServed()}
		if q.Get("tree") != "" {
			st.Nodes = len(s.Else().Tree())
		}
		if q.Get("reset") != "" {
			s.ResetRequests()
		}
		return st, nil
	})
	on("log", func(url.Values, io.Reader) (any, error) { return s.RequestLog(), nil })
	on("id", func(q url.Values, _ io.Reader) (any, error) {
		n, err := s.Else().Lookup(q.Get("path"))
		return n.ID, err
	})
	// wait returns when the file is there with its size.
	mux.HandleFunc("POST /wait", func(w http.ResponseWriter, r *http.Request) {
		look := time.NewTicker(2 * time.Millisecond)
		defer look.Stop()
		for {
			n, err := s.Else().Lookup(r.URL.Query().Get("path"))
			if err == nil && n.Content != nil && n.Content.Size == int64(num(r.URL.Query(), "size")) {
				_ = json.NewEncoder(w).Encode(nil)
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-look.C:
			}
		}
	})
	on("check", func(url.Values, io.Reader) (any, error) { return nil, s.Check() })
	return mux
}

// theDrive is a drive's process, and how to ask it.
type theDrive struct {
	serveInfo
	cfg  serveConfig
	proc *proc
	http *http.Client
}

// startDrive starts one with an empty directory of its own.
func (b *bench) startDrive(c serveConfig) (*theDrive, error) {
	arg, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	d := &theDrive{cfg: c, http: &http.Client{}}
	// Its directory is a private one, which is not synced, below the run's.
	p, line, err := b.start([]string{"TMPDIR=" + b.mkdir("drive")}, b.self, roleDrive, string(arg))
	if err != nil {
		return nil, fmt.Errorf("starting the drive: %w", err)
	}
	d.proc = p
	if err := json.Unmarshal([]byte(line), &d.serveInfo); err != nil {
		return nil, fmt.Errorf("the drive said %q: %s", line, p.said())
	}
	return d, nil
}

// ask asks the admin side. out may be nil.
func (d *theDrive) ask(ctx context.Context, what string, q url.Values, body io.Reader, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.Admin+"/"+what+"?"+q.Encode(), body)
	if err != nil {
		return err
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the drive: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the drive, %s: %s", what, bytes.TrimSpace(b))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

func values(kv ...any) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(kv); i += 2 {
		q.Set(fmt.Sprint(kv[i]), fmt.Sprint(kv[i+1]))
	}
	return q
}

// fill makes files of pseudo-random bytes under a folder: dirs folders d000 …
// with files f00000.bin … each; dirs 0 puts them into the folder itself.
func (d *theDrive) fill(ctx context.Context, under string, dirs, files int, size int64) error {
	return d.ask(ctx, "make", values("under", under, "dirs", dirs, "files", files, "size", size), nil, nil)
}

// take is what was seen since the last take.
func (d *theDrive) take(ctx context.Context) (stats, error) {
	var s stats
	err := d.ask(ctx, "stats", values("reset", 1), nil, &s)
	return s, err
}

// nodes counts the live nodes, the root included.
func (d *theDrive) nodes(ctx context.Context) (int, error) {
	var s stats
	err := d.ask(ctx, "stats", values("tree", 1), nil, &s)
	return s.Nodes, err
}

var errShort = errors.New("the content is shorter than asked for")

// bare reads a file over conns connections with plain ranged requests of
// piece bytes each (0 = one request a connection), as fast as they go.
func (d *theDrive) bare(ctx context.Context, file string, size int64, conns int, piece int64) (time.Duration, error) {
	var id string
	if err := d.ask(ctx, "id", values("path", file), nil, &id); err != nil {
		return 0, err
	}
	u := strings.TrimSuffix(d.Endpoint, "/drive/v1/") + "/cdproxy/nodes/" + url.PathEscape(id) + "/content"
	tr := &http.Transport{MaxIdleConnsPerHost: conns, MaxConnsPerHost: conns, ReadBufferSize: 64 << 10}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	if piece <= 0 {
		piece = (size + int64(conns) - 1) / int64(conns)
	}
	get := func(buf []byte, off int64) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return err
		}
		n := min(piece, size-off)
		req.Header.Set("Authorization", "Bearer "+d.Token.AccessToken)
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusPartialContent {
			return fmt.Errorf("bare request: %s", resp.Status)
		}
		var got int64
		for {
			k, err := resp.Body.Read(buf)
			got += int64(k)
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
		if got != n {
			return errShort
		}
		return nil
	}
	next := make(chan int64)
	errs := make(chan error, conns)
	began := time.Now()
	for range conns {
		go func() {
			buf := make([]byte, 1<<20)
			var err error
			for off := range next {
				if err == nil {
					err = get(buf, off)
				}
			}
			errs <- err
		}()
	}
	for off := int64(0); off < size; off += piece {
		next <- off
	}
	close(next)
	var err error
	for range conns {
		err = errors.Join(err, <-errs)
	}
	return time.Since(began), err
}
