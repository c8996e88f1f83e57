package drivetest_test

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func md5hex(s string) string { m := md5.Sum([]byte(s)); return hex.EncodeToString(m[:]) }

func TestUpload(t *testing.T) {
	a := newAPI(t)
	n := a.put(a.root(), "Notes.TXT", "hello")
	cp := n.sub("contentProperties")
	if cp.num("size") != 5 || cp.str("md5") != md5hex("hello") || cp.num("version") != 1 || cp.str("extension") != "txt" || !strings.HasPrefix(cp.str("contentType"), "text/plain") {
		t.Errorf("contentProperties: %v", cp)
	}
	if n.str("status") != "AVAILABLE" || n.str("kind") != "FILE" || n.str("location") == "" {
		t.Errorf("node: %v", n)
	}
	empty := a.put(a.root(), "empty", "")
	if cp := empty.sub("contentProperties"); cp.num("size") != 0 || cp.str("md5") != "d41d8cd98f00b204e9800998ecf8427e" || cp["extension"] != nil {
		t.Errorf("empty file: %v", cp)
	}
	// No parents, and an empty list: the root.
	for i, parents := range []any{nil, []string{}} {
		m := obj{"name": fmt.Sprint("at root ", i), "kind": "FILE", "parents": parents}
		n := a.upload("?suppress=deduplication", m, "x").want(t, 201)
		if p, _ := n["parents"].([]any); len(p) != 1 || p[0] != a.root() {
			t.Errorf("parents: %v", n["parents"])
		}
	}
	ct, body := form(obj{"name": "typed", "kind": "FILE"}, "x", "Content-Type", "image/png")
	r := a.do("POST", "/cdproxy/nodes?suppress=deduplication", bytes.NewReader(append(body, "epilogue\r\n"...)), "Content-Type", ct)
	if cp := r.want(t, 201).sub("contentProperties"); cp.str("contentType") != "image/png" {
		t.Errorf("content type of the part: %v", cp)
	}
	// Dates of the client are ignored.
	r = a.upload("?suppress=deduplication", obj{"name": "old", "kind": "FILE", "modifiedDate": "1999-01-01T00:00:00.000Z"}, "x")
	if d := r.want(t, 201).str("modifiedDate"); strings.HasPrefix(d, "1999") || !strings.HasSuffix(d, "Z") || len(d) != 24 {
		t.Errorf("modifiedDate %s", d)
	}
}

func TestUploadRefused(t *testing.T) {
	a := newAPI(t, drivetest.Options{MaxUpload: 1000})
	meta := obj{"name": "f", "kind": "FILE"}
	ct, good := form(meta, "hello")
	boundary := strings.TrimPrefix(ct, "multipart/form-data; boundary=")
	section := func(head, body string) string { return "--" + boundary + "\r\n" + head + "\r\n\r\n" + body + "\r\n" }
	m := section(`Content-Disposition: form-data; name="metadata"`, `{"name":"f","kind":"FILE"}`)
	c := section(`Content-Disposition: form-data; name="content"; filename="f"`, "hello")
	nameless := section(`Content-Disposition: form-data; name="content"`, "hello")
	end := "--" + boundary + "--\r\n"
	chunked := func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} } // no length known
	sum := md5.Sum([]byte("hello"))
	emptyType, empty := form(meta, "")
	for _, tc := range []struct {
		name, message string
		body          io.Reader
		headers       []string
	}{
		{"wrong order", `{"name":"content","Content-Type":"application/octet-stream"}`, strings.NewReader(c + m + end), nil},
		{"no file name", `{"name":"content"`, strings.NewReader(m + nameless + end), nil},
		{"no content", `{"name":"content"`, strings.NewReader(m + end), nil},
		{"no metadata", `{"name":"content"`, strings.NewReader(c + end), nil},
		{"cut", "Cannot complete upload", bytes.NewReader(good[:len(good)-len(end)-4]), nil},
		{"empty and chunked", "Bytes not received for request.", chunked(string(empty)), []string{"Content-Type", emptyType}},
		{"not multipart", `{"name":"content"`, strings.NewReader("x"), []string{"Content-Type", "text/plain"}},
		{"digest", "Content-MD5", bytes.NewReader(good), []string{"Content-MD5", base64.StdEncoding.EncodeToString(sum[:15]) + "AA"}},
	} {
		e := a.do("POST", "/cdproxy/nodes?suppress=deduplication", tc.body, append([]string{"Content-Type", ct}, tc.headers...)...).want(t, 400)
		if !strings.Contains(e.str("message"), tc.message) {
			t.Errorf("%s: %v", tc.name, e)
		}
	}
	a.upload("?suppress=deduplication", obj{"name": "big", "kind": "FILE"}, strings.Repeat("x", 1001)).want(t, 400)
	if l := a.find("kind:FILE"); len(l) != 0 {
		t.Errorf("refused uploads left %v", names(l))
	}
	a.do("POST", "/cdproxy/nodes?suppress=deduplication", chunked(string(good)), "Content-Type", ct,
		"Content-MD5", base64.StdEncoding.EncodeToString(sum[:])).want(t, 201)
}

func TestDuplicates(t *testing.T) {
	a := newAPI(t)
	first := a.upload("", obj{"name": "a", "kind": "FILE"}, "same").want(t, 201)
	e := a.upload("", obj{"name": "b", "kind": "FILE"}, "same").want(t, 409)
	if e.str("code") != "MD5_DUPLICATE" || e.sub("info").str("nodeId") != first.id() {
		t.Errorf("duplicate: %v", e)
	}
	a.put(a.root(), "c", "same")
	for _, n := range []string{"d", "e"} { // empty files never count
		a.upload("", obj{"name": n, "kind": "FILE"}, "").want(t, 201)
	}
}

func TestOverwrite(t *testing.T) {
	a := newAPI(t)
	n := a.put(a.root(), "f.txt", "one")
	o := a.overwrite(n.id(), "two two").want(t, 200)
	cp := o.sub("contentProperties")
	if o.id() != n.id() || o.num("version") <= n.num("version") || cp.num("version") != 2 || cp.str("md5") != md5hex("two two") || o.str("eTagResponse") == n.str("eTagResponse") {
		t.Errorf("overwritten: %v", o)
	}
	if b, _ := a.s.Else().ReadFile("F.TXT"); string(b) != "two two" {
		t.Errorf("content %q", b)
	}
	if cp := a.overwrite(n.id(), "").want(t, 200).sub("contentProperties"); cp.num("size") != 0 || cp.num("version") != 3 {
		t.Errorf("truncated: %v", cp)
	}
	a.overwrite("AAAAAAAAAAAAAAAAAAAAAA", "x").want(t, 404)
	a.overwrite(a.root(), "x").want(t, 400)
	ct, b := form(obj{"any": 1}, "with metadata") // tolerated, §7.2
	a.do("PUT", "/cdproxy/nodes/"+n.id()+"/content", bytes.NewReader(b), "Content-Type", ct).want(t, 200)
	// If-Match: the present tag, bare or quoted, or 412.
	tag := a.get(n.id()).str("eTagResponse")
	a.overwrite(n.id(), "three", "If-Match", `"`+tag+`"`).want(t, 200)
	a.overwrite(n.id(), "four", "If-Match", tag).want(t, 412)
	a.json("PATCH", "/drive/v1/nodes/"+n.id(), obj{"name": "g"}, "If-Match", tag).want(t, 412)
	if b, _ := a.s.Else().ReadFile("f.txt"); string(b) != "three" {
		t.Errorf("content %q", b)
	}
}

func TestIfMatchSwitches(t *testing.T) {
	for _, tc := range []struct {
		mode           drivetest.IfMatch
		patch, content int
	}{{drivetest.IfMatchAll, 412, 412}, {drivetest.IfMatchUpdate, 412, 200}, {drivetest.IfMatchNone, 200, 200}} {
		a := newAPI(t, drivetest.Options{HonourIfMatch: tc.mode})
		n := a.put(a.root(), "f", "x")
		if s := a.json("PATCH", "/drive/v1/nodes/"+n.id(), obj{"name": "g"}, "If-Match", "old").status; s != tc.patch {
			t.Errorf("mode %d: PATCH %d", tc.mode, s)
		}
		if s := a.overwrite(n.id(), "y", "If-Match", "old").status; s != tc.content {
			t.Errorf("mode %d: overwrite %d", tc.mode, s)
		}
	}
}

func TestDownload(t *testing.T) {
	a := newAPI(t)
	id := a.put(a.root(), "f.txt", "0123456789").id()
	empty := a.put(a.root(), "empty", "").id()
	for _, tc := range []struct {
		id, rng string
		status  int
		body    string
		header  string
	}{
		{id, "", 200, "0123456789", ""},
		{id, "bytes=2-4", 206, "234", "bytes 2-4/10"},
		{id, "bytes=7-", 206, "789", "bytes 7-9/10"},
		{id, "bytes=0-9", 206, "0123456789", "bytes 0-9/10"},
		{id, "bytes=8-100", 206, "89", "bytes 8-9/10"},
		{id, "bytes=-3", 206, "789", "bytes 7-9/10"},
		{id, "bytes=10-", 416, "", "bytes */10"},
		{id, "bytes=5-4", 200, "0123456789", ""},
		{empty, "bytes=0-", 416, "", "bytes */0"},
		{empty, "", 200, "", ""},
	} {
		r := a.do("GET", "/cdproxy/nodes/"+tc.id+"/content", nil, "Range", tc.rng)
		if r.status != tc.status || r.status < 300 && string(r.body) != tc.body || r.header.Get("Content-Range") != tc.header {
			t.Errorf("%s %q: %d %q %q", tc.id, tc.rng, r.status, r.body, r.header.Get("Content-Range"))
		}
	}
	r := a.do("GET", "/cdproxy/nodes/"+id+"/content?download=true&response-content-type=a/b", nil)
	if r.header.Get("Content-Type") != "a/b" || !strings.HasPrefix(r.header.Get("Content-Disposition"), "attachment") || r.header.Get("ETag") == "" || r.header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("headers: %v", r.header)
	}
	a.do("GET", "/cdproxy/nodes/"+a.root()+"/content", nil).want(t, 400)
	if got, want := a.s.BytesServed(), int64(10+3+3+10+2+3+10+10); got != want {
		t.Errorf("BytesServed %d, want %d", got, want)
	}
	if got := a.s.BytesReceived(); got != 10 {
		t.Errorf("BytesReceived %d", got)
	}
}

func TestRedirectAndTempLink(t *testing.T) {
	a := newAPI(t, drivetest.Options{RedirectThreshold: 8})
	small, big := a.put(a.root(), "small", "1234567").id(), a.put(a.root(), "big", "123456789").id()
	uni := a.put(a.root(), "größer 漢字", "123456789").id()
	a.do("GET", "/cdproxy/nodes/"+small+"/content", nil).want(t, 200)
	r := a.do("GET", "/cdproxy/nodes/"+big+"/content", nil, "Range", "bytes=3-")
	r.want(t, 302)
	at := r.header.Get("Location")
	if !strings.Contains(at, "X-Amz-Algorithm=") {
		t.Errorf("Location %s", at)
	}
	if r := a.do("GET", at, nil); r.status != 400 || !strings.Contains(string(r.body), "<Code>InvalidArgument</Code>") {
		t.Errorf("with Authorization: %d %s", r.status, r.body)
	}
	if r := a.do("GET", at, nil, "Authorization", "", "Range", "bytes=3-"); r.status != 206 || string(r.body) != "456789" {
		t.Errorf("without: %d %s", r.status, r.body)
	}
	if r := a.do("GET", at, nil, "Authorization", "", "X-Amz-Meta", "1"); r.status != 403 {
		t.Errorf("with an unsigned header: %d", r.status)
	}
	at = a.do("GET", "/cdproxy/nodes/"+uni+"/content", nil).header.Get("Location")
	if r := a.do("GET", at, nil, "Authorization", ""); r.status != 400 || !strings.Contains(string(r.body), "ISO-8859-1") {
		t.Errorf("non-Latin name: %d %s", r.status, r.body)
	}
	link := a.do("GET", "/drive/v1/nodes/"+uni+"?tempLink=true", nil).want(t, 200).str("tempLink")
	if r := a.do("GET", link, nil, "Authorization", "", "Range", "bytes=0-1"); r.status != 206 || string(r.body) != "12" {
		t.Errorf("tempLink: %d %s", r.status, r.body)
	}
	a.do("GET", a.base()+"/cdproxy/templink/nonsense", nil, "Authorization", "").want(t, 404)
	for _, n := range a.do("GET", "/drive/v1/nodes?tempLink=true", nil).want(t, 200).list("data") {
		if (n.str("tempLink") != "") != (n.str("kind") == "FILE") {
			t.Errorf("tempLink of a listed %s: %v", n.str("kind"), n["tempLink"])
		}
	}
	if n := a.get(big); n["tempLink"] != nil {
		t.Error("a tempLink nobody asked for")
	}
}

func TestScopes(t *testing.T) {
	a := newAPI(t)
	pic, doc := a.put(a.root(), "p.jpg", "x").id(), a.put(a.root(), "d.pdf", "y").id()
	for _, tc := range []struct {
		scope                   string
		list, write, image, pdf int
	}{
		{"clouddrive:read_all", 200, 403, 200, 200},
		{"clouddrive:read", 200, 403, 200, 200},
		{"clouddrive:read_image", 200, 403, 200, 403},
		{"clouddrive:read_document clouddrive:write", 200, 409, 403, 200},
		{"clouddrive:write", 200, 409, 403, 403},
		{"profile", 403, 403, 403, 403},
	} {
		a.token = a.s.TokenFor(tc.scope).AccessToken
		list := a.do("GET", "/drive/v1/nodes", nil).status
		write := a.json("POST", "/drive/v1/nodes", obj{"name": "p.jpg", "kind": "FOLDER"}).status
		image := a.do("GET", "/cdproxy/nodes/"+pic+"/content", nil).status
		pdf := a.do("GET", "/cdproxy/nodes/"+doc+"/content", nil).status
		if list != tc.list || write != tc.write || image != tc.image || pdf != tc.pdf {
			t.Errorf("%s: list %d write %d image %d pdf %d", tc.scope, list, write, image, pdf)
		}
	}
}

func TestEarlyConflict(t *testing.T) {
	a := newAPI(t, drivetest.Options{EarlyConflict: true})
	n := a.put(a.root(), "f", "x")
	r, w := io.Pipe()
	ct, body := form(obj{"name": "F", "kind": "FILE"}, strings.Repeat("z", 1<<20))
	done := make(chan struct{})
	go func() { // a body that never ends by itself
		defer close(done)
		_, _ = w.Write(body[:1000])
	}()
	e := a.do("POST", "/cdproxy/nodes?suppress=deduplication", r, "Content-Type", ct).want(t, http.StatusConflict)
	if e.sub("info").str("nodeId") != n.id() {
		t.Errorf("early conflict: %v", e)
	}
	_ = r.Close()
	<-done
}

// A token that dies while the body arrives fails the upload at its end (§2.4).
func TestTokenDiesInUpload(t *testing.T) {
	a := newAPI(t)
	r, w := io.Pipe()
	ct, body := form(obj{"name": "f", "kind": "FILE"}, strings.Repeat("z", 1<<20))
	go func() {
		_, _ = w.Write(body[:1<<19])
		a.s.ExpireTokens()
		_, _ = w.Write(body[1<<19:])
		_ = w.Close()
	}()
	if e := a.do("POST", "/cdproxy/nodes?suppress=deduplication", r, "Content-Type", ct).want(t, 401); e.str("message") != "Token has expired" {
		t.Errorf("answer: %v", e)
	}
	if l := len(a.s.Else().Children(a.root())); l != 0 {
		t.Errorf("%d files", l)
	}
}

// Of many creators of one name, one wins.
func TestCreatorsRace(t *testing.T) {
	a := newAPI(t)
	statuses := make(chan int, 16)
	for i := range 16 {
		name := []string{"same", "Same", "SAME", "sAme"}[i%4]
		go func() {
			if i < 8 {
				ct, b := form(obj{"name": name, "kind": "FILE"}, fmt.Sprint(i))
				r, _ := a.try("POST", "/cdproxy/nodes?suppress=deduplication", bytes.NewReader(b), "Content-Type", ct)
				statuses <- r.status
				return
			}
			r, _ := a.try("POST", "/drive/v1/nodes", strings.NewReader(`{"kind":"FOLDER","name":"`+name+`"}`))
			statuses <- r.status
		}()
	}
	count := map[int]int{}
	for range 16 {
		count[<-statuses]++
	}
	if count[201] != 1 || count[409] != 15 {
		t.Errorf("statuses: %v", count)
	}
}

func TestPendingUploads(t *testing.T) {
	a := newAPI(t, drivetest.Options{PendingUploads: true})
	ct, body := form(obj{"name": "f", "kind": "FILE"}, strings.Repeat("z", 1<<20))
	a.do("POST", "/cdproxy/nodes?suppress=deduplication", bytes.NewReader(body[:5000]), "Content-Type", ct).want(t, 400)
	l := a.find("name:f")
	if len(l) != 1 || l[0].str("status") != "PENDING" || l[0]["contentProperties"] != nil {
		t.Fatalf("after a broken upload: %v", l)
	}
	if n := a.put(a.root(), "g", "x"); n.str("status") != "AVAILABLE" || n.sub("contentProperties").num("version") != 1 {
		t.Errorf("completed: %v", n)
	}
	if n := a.json("PATCH", "/drive/v1/nodes/"+l[0].id(), obj{"status": "AVAILABLE"}).want(t, 200); n.str("status") != "AVAILABLE" {
		t.Errorf("by PATCH: %v", n)
	}
}
