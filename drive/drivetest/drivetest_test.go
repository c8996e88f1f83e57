package drivetest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"), goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

// api speaks the protocol by hand: what the tests see is what is on the wire.
type api struct {
	t     *testing.T
	s     *drivetest.Server
	token string
	http  *http.Client
}

func newAPI(t *testing.T, o ...drivetest.Options) *api {
	t.Helper()
	s := drivetest.New(t, o...)
	return apiOf(t, s)
}

func apiOf(t *testing.T, s *drivetest.Server) *api {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &api{t: t, s: s, token: s.Token().AccessToken, http: &http.Client{Transport: tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// answer is a response with its body read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a *api) base() string { return strings.TrimSuffix(a.s.Endpoint(), "/drive/v1/") }

// do sends one request; path begins at the host. Headers are pairs.
func (a *api) do(method, path string, body io.Reader, headers ...string) answer {
	a.t.Helper()
	ans, err := a.try(method, path, body, headers...)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	return ans
}

func (a *api) try(method, path string, body io.Reader, headers ...string) (answer, error) {
	a.t.Helper()
	target := path
	if !strings.HasPrefix(path, "http") {
		target = a.base() + path
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b}, err
}

func (a *api) json(method, path string, body any, headers ...string) answer {
	a.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.do(method, path, bytes.NewReader(b), headers...)
}

// want fails unless the status is as expected, and gives the JSON.
func (r answer) want(t *testing.T, status int) object {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d; body %s", r.status, status, r.body)
	}
	var o object
	if len(r.body) > 0 && r.body[0] == '{' {
		if err := json.Unmarshal(r.body, &o); err != nil {
			t.Fatalf("body %s: %v", r.body, err)
		}
	}
	return o
}

// object is a JSON object with shortcuts.
type object map[string]any

func (o object) str(k string) string { s, _ := o[k].(string); return s }
func (o object) id() string          { return o.str("id") }
func (o object) num(k string) int64  { f, _ := o[k].(float64); return int64(f) }
func (o object) sub(k string) object { m, _ := o[k].(map[string]any); return m }

func (o object) list(k string) []object {
	l, _ := o[k].([]any)
	var out []object
	for _, v := range l {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

func names(l []object) string {
	var out []string
	for _, n := range l {
		out = append(out, n.str("name"))
	}
	return strings.Join(out, ",")
}

func (a *api) mkdir(parent, name string) object {
	a.t.Helper()
	return a.json("POST", "/drive/v1/nodes", map[string]any{"name": name, "kind": "FOLDER", "parents": []string{parent}}).want(a.t, 201)
}

// form is a multipart body as clients sent it.
func form(meta any, content string, headers ...string) (contentType string, body []byte) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if meta != nil {
		j, _ := json.Marshal(meta)
		_ = w.WriteField("metadata", string(j))
	}
	h := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="content"; filename="x"`}, "Content-Type": {"application/octet-stream"}}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	p, _ := w.CreatePart(h)
	_, _ = io.WriteString(p, content)
	_ = w.Close()
	return w.FormDataContentType(), b.Bytes()
}

type obj = map[string]any

func (a *api) upload(query string, meta obj, content string) answer {
	a.t.Helper()
	ct, b := form(meta, content)
	return a.do("POST", "/cdproxy/nodes"+query, bytes.NewReader(b), "Content-Type", ct)
}

func (a *api) put(parent, name, content string) object {
	a.t.Helper()
	return a.upload("?suppress=deduplication", obj{"name": name, "kind": "FILE", "parents": []string{parent}}, content).want(a.t, 201)
}

func (a *api) overwrite(id, content string, headers ...string) answer {
	a.t.Helper()
	ct, b := form(nil, content)
	return a.do("PUT", "/cdproxy/nodes/"+id+"/content", bytes.NewReader(b), append(headers, "Content-Type", ct)...)
}

func (a *api) get(id string) object {
	a.t.Helper()
	return a.do("GET", "/drive/v1/nodes/"+id, nil).want(a.t, 200)
}

func (a *api) find(filter string) []object {
	a.t.Helper()
	return a.do("GET", "/drive/v1/nodes?filters="+url.QueryEscape(filter), nil).want(a.t, 200).list("data")
}

func (a *api) root() string { return a.s.Else().Root() }

// feed is a changes answer, read as a stream of JSON values.
type feed struct {
	checkpoint string
	reset      bool
	nodes      []object
	ended      bool
	err        error
	chunks     []object
}

func (a *api) changes(body any) feed {
	a.t.Helper()
	b, _ := json.Marshal(body)
	ans, err := a.try("POST", "/drive/v1/changes", bytes.NewReader(b))
	var f feed
	if err == nil && ans.status != 200 {
		a.t.Fatalf("changes: %d %s", ans.status, ans.body)
	}
	f.err = err
	d := json.NewDecoder(bytes.NewReader(ans.body))
	for {
		var o object
		if err := d.Decode(&o); err != nil {
			if err != io.EOF {
				f.err = err
			}
			return f
		}
		if o["end"] == true {
			f.ended = true
			continue
		}
		f.chunks = append(f.chunks, o)
		if o["reset"] == true {
			f.reset, f.nodes = true, nil
		}
		if o["statusCode"] == float64(200) {
			f.checkpoint = o.str("checkpoint")
		}
		f.nodes = append(f.nodes, o.list("nodes")...)
	}
}

func TestDiscoveryAndAccount(t *testing.T) {
	a := newAPI(t, drivetest.Options{Quota: 1000})
	e := a.do("GET", "/drive/v1/account/endpoint", nil).want(t, 200)
	for _, k := range []string{"contentUrl", "metadataUrl"} {
		if u := e.str(k); !strings.HasPrefix(u, a.base()) || !strings.HasSuffix(u, "/") {
			t.Errorf("%s = %q", k, u)
		}
	}
	if e["customerExists"] != true {
		t.Error("customerExists is not true")
	}
	a.do("GET", "/drive/v1/account/info", nil).want(t, 200)
	if u := a.do("GET", "/drive/v1/account/usage", nil).want(t, 200); len(u) != 0 {
		t.Errorf("usage of an empty account: %v", u)
	}
	a.put(a.root(), "a.jpg", strings.Repeat("x", 400))
	if q := a.do("GET", "/drive/v1/account/quota", nil).want(t, 200); q.num("available") != 600 || q.num("quota") != 1000 {
		t.Errorf("quota: %v", q)
	}
	if u := a.do("GET", "/drive/v1/account/usage", nil).want(t, 200); u.sub("photo").sub("total").num("bytes") != 400 {
		t.Errorf("usage: %v", u)
	}
	r := a.upload("?suppress=deduplication", obj{"name": "b", "kind": "FILE"}, strings.Repeat("y", 700))
	if e := r.want(t, 403); e.str("code") != "NO_ACTIVE_SUBSCRIPTION_FOUND" {
		t.Errorf("over quota: %v", e)
	}
	a.s.SetFaults(drivetest.Faults{NoAccount: true})
	if e := a.do("GET", "/drive/v1/account/endpoint", nil).want(t, 200); e["customerExists"] != false {
		t.Errorf("endpoint: %v", e)
	}
	a.do("GET", "/drive/v1/nodes", nil).want(t, 403)
}

func TestRoutes(t *testing.T) {
	a := newAPI(t)
	id := a.put(a.root(), "f", "x").id()
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/drive/v1/nope", 404},
		{"PUT", "/drive/v1/nodes", 405},
		{"DELETE", "/drive/v1/trash/" + id, 405},
		{"GET", "/drive/v1//nodes//" + id, 200}, // §1.1
		{"GET", "/drive/v1/nodes/" + id + "/properties//k", 404},
		{"PUT", "/drive/v1/nodes/" + id + "/properties/drivefs", 405},
		{"GET", "/drive/v1/nodes/AAAAAAAAAAAAAAAAAAAAAA", 404},
		{"DELETE", "/drive/v1/nodes/" + id, 403},
		{"GET", "/", 404},
	} {
		if got := a.do(c.method, c.path, nil).status; got != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, got, c.status)
		}
	}
	if b := a.do("GET", "/drive/v1/nope", nil).body; !strings.Contains(string(b), "<UnknownOperationException/>") {
		t.Errorf("unknown route: %s", b)
	}
	if r := a.do("GET", "/drive/v1/nodes/"+id, nil); r.header.Get("x-amzn-RequestId") == "" {
		t.Error("no request id")
	}
	r := a.do("POST", "/drive/v1/nodes/"+id, strings.NewReader(`{"name":"g"}`), "X-HTTP-Method-Override", "PATCH")
	if r.want(t, 200).str("name") != "g" {
		t.Errorf("override: %s", r.body)
	}
}

func TestNamesAndConflicts(t *testing.T) {
	a := newAPI(t)
	d := a.mkdir(a.root(), "Dir")
	if len(d.id()) != 22 || d.num("version") != 1 || d.str("createdBy") != "drivefs" {
		t.Errorf("folder: %v", d)
	}
	for _, name := range []string{"dir", "DIR", "Dir"} {
		e := a.json("POST", "/drive/v1/nodes", obj{"name": name, "kind": "FOLDER"}).want(t, 409)
		if e.str("code") != "NAME_ALREADY_EXISTS" || e.sub("info").str("nodeId") != d.id() || !strings.Contains(e.str("message"), "the name dir already") || e.str("logref") == "" {
			t.Errorf("conflict of %s: %v", name, e)
		}
		if e := a.upload("?suppress=deduplication", obj{"name": name, "kind": "FILE"}, "x").want(t, 409); e.sub("info").str("nodeId") != d.id() {
			t.Errorf("upload over a folder: %v", e)
		}
	}
	f := a.put(a.root(), "ÄÖ &%\\ 'x'. ", "x")
	a.upload("?suppress=deduplication", obj{"name": "äö &%\\ 'X'. ", "kind": "FILE"}, "x").want(t, 409)
	patch := func(id, name string) answer { return a.json("PATCH", "/drive/v1/nodes/"+id, obj{"name": name}) }
	if n := patch(d.id(), "DIR").want(t, 200); n.num("version") != 2 || n.str("name") != "DIR" || n.str("eTagResponse") == d.str("eTagResponse") {
		t.Errorf("rename to another case: %v", n)
	}
	patch(f.id(), "dir").want(t, 409)
	patch(f.id(), "").want(t, 400)
	// The limit counts UTF-16 units: an emoji is two.
	patch(f.id(), strings.Repeat("😀", 140)).want(t, 200)
	if e := patch(f.id(), strings.Repeat("😀", 140)+"x").want(t, 400); !strings.Contains(e.str("message"), "less than or equal to 280") {
		t.Errorf("long name: %v", e)
	}
	// Normal forms are different names.
	a.put(a.root(), "é", "1")
	a.put(a.root(), "e\u0301", "2")
	// A trashed name is free, also for several of the same.
	for range 3 {
		x := a.put(a.root(), "again", "x")
		a.do("PUT", "/drive/v1/trash/"+x.id(), nil).want(t, 200)
	}
	if n := len(a.find(`status:TRASH AND name:again`)); n != 3 {
		t.Errorf("%d trashed nodes of one name", n)
	}
	dash := false
	for i := range 40 {
		dash = dash || a.mkdir(d.id(), fmt.Sprint(i)).id()[0] == '-'
	}
	if !dash {
		t.Error("no id begins with -")
	}
}

func TestCreate(t *testing.T) {
	a := newAPI(t)
	f := a.put(a.root(), "f", "x")
	gone := a.mkdir(a.root(), "gone")
	a.do("PUT", "/drive/v1/trash/"+gone.id(), nil).want(t, 200)
	for _, c := range []struct {
		name string
		body obj
		msg  string
	}{
		{"unknown parent", obj{"name": "a", "kind": "FOLDER", "parents": []string{"nope"}}, "One of the parentId doesn't exists"},
		{"trashed parent", obj{"name": "a", "kind": "FOLDER", "parents": []string{gone.id()}}, "A node cannot be added to trashed parent"},
		{"file as parent", obj{"name": "a", "kind": "FOLDER", "parents": []string{f.id()}}, "not a folder"},
		{"kind", obj{"name": "a", "kind": "FILE"}, "kind"},
		{"no name", obj{"kind": "FOLDER"}, "name"},
		{"labels", obj{"name": "a", "kind": "FOLDER", "labels": make([]string, 11)}, "labels"},
	} {
		if e := a.json("POST", "/drive/v1/nodes", c.body).want(t, 400); !strings.Contains(e.str("message"), c.msg) {
			t.Errorf("%s: %v", c.name, e)
		}
	}
	a.do("POST", "/drive/v1/nodes", strings.NewReader("{")).want(t, 400)
	n := a.json("POST", "/drive/v1/nodes?localId=L1", obj{"name": "p", "kind": "FOLDER", "labels": []string{"l"}, "description": "d",
		"properties": obj{"drivefs": obj{"k": "v"}}}).want(t, 201)
	if n.str("location") == "" || n.str("description") != "d" || n["properties"] != nil {
		t.Errorf("created: %v", n)
	}
	// The same localId always maps to the same node, whatever the name.
	for _, name := range []string{"p", "q"} {
		e := a.json("POST", "/drive/v1/nodes?localId=L1", obj{"name": name, "kind": "FOLDER"}).want(t, 409)
		if e.sub("info").str("nodeId") != n.id() {
			t.Errorf("localId: %v", e)
		}
	}
	if e := a.upload("?suppress=deduplication&localId=L1", obj{"name": "r", "kind": "FILE"}, "x").want(t, 409); e.sub("info").str("nodeId") != n.id() {
		t.Errorf("localId of an upload: %v", e)
	}
	p := a.do("GET", "/drive/v1/nodes/"+n.id()+`?fields=["properties"]`, nil).want(t, 200)
	if p.sub("properties").sub("drivefs").str("k") != "v" {
		t.Errorf("properties: %v", p)
	}
}
