package drivetest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func (a *api) fail(rules ...drivetest.Rule) { a.s.SetFaults(drivetest.Faults{Rules: rules}) }

func TestStatusFaults(t *testing.T) {
	a := newAPI(t)
	mk := func(name string) answer {
		return a.json("POST", "/drive/v1/nodes", obj{"name": name, "kind": "FOLDER"})
	}
	for _, tc := range []struct {
		f      drivetest.Fault
		status int
		body   string
	}{
		{drivetest.Fault{Status: 500}, 500, `{"message":"Internal failure"}`},
		{drivetest.Fault{Status: 503, Body: "braces"}, 503, "{}"},
		{drivetest.Fault{Status: 504, Body: "empty"}, 504, ""},
		{drivetest.Fault{Status: 502, Body: "html"}, 502, "<!DOCTYPE html>"},
		{drivetest.Fault{Status: 500, Body: "xml"}, 500, "<UnknownOperationException/>"},
		{drivetest.Fault{Status: 400, Msg: "Next token is expired"}, 400, `{"message":"Next token is expired"}`},
		{drivetest.Fault{Status: 429, RetryAfter: 7}, 429, "Rate exceeded"},
		{drivetest.Fault{Do: drivetest.DoExpired}, 401, `{"message":"Token has expired"}`},
		{drivetest.Fault{Do: drivetest.DoEmpty401}, 401, ""},
		{drivetest.Fault{Do: drivetest.DoWrapped}, 400, "UnauthourizedAccessException"},
		{drivetest.Fault{Do: drivetest.DoSporadic}, 403, "Authorization header requires 'Credential'"},
		{drivetest.Fault{Do: drivetest.DoOverQuota}, 403, "NO_ACTIVE_SUBSCRIPTION_FOUND"},
		{drivetest.Fault{Do: drivetest.DoConflict}, 409, "NAME_ALREADY_EXISTS"},
	} {
		a.fail(drivetest.Rule{Op: "nodes.create", Fault: tc.f})
		r := mk("x")
		if r.status != tc.status || !strings.Contains(string(r.body), tc.body) || tc.body == "" && len(r.body) > 0 {
			t.Errorf("%+v: %d %s", tc.f, r.status, r.body)
		}
		if tc.f.RetryAfter > 0 && r.header.Get("Retry-After") != "7" {
			t.Errorf("Retry-After: %v", r.header)
		}
	}
	if _, err := a.s.Else().Lookup("x"); !errors.Is(err, drivetest.ErrNotFound) {
		t.Errorf("a fault without effect had one: %v", err)
	}
	a.fail(drivetest.Rule{Op: "nodes.create", Fault: drivetest.Fault{Status: 500, Effect: drivetest.EffectDone}})
	mk("x").want(t, 500)
	if _, err := a.s.Else().Lookup("x"); err != nil {
		t.Errorf("a fault with effect had none: %v", err)
	}
	a.fail(drivetest.Rule{Op: "nodes.create", Fault: drivetest.Fault{Do: drivetest.DoReset, Effect: drivetest.EffectDone}})
	if _, err := a.try("POST", "/drive/v1/nodes", strings.NewReader(`{"name":"y","kind":"FOLDER"}`)); err == nil {
		t.Error("no reset")
	}
	if _, err := a.s.Else().Lookup("y"); err != nil {
		t.Errorf("reset after the effect: %v", err)
	}
}

func TestRuleMatching(t *testing.T) {
	a := newAPI(t)
	id := a.mkdir(a.root(), "dir").id()
	e := drivetest.Fault{Status: 500}
	status := func(n int, do func() answer) (out []int) {
		for range n {
			out = append(out, do().status)
		}
		return out
	}
	get := func() answer { return a.do("GET", "/drive/v1/nodes/"+id, nil) }
	root := func() answer { return a.do("GET", "/drive/v1/nodes/"+a.root(), nil) }
	for _, tc := range []struct {
		name string
		r    drivetest.Rule
		do   func() answer
		want []int
	}{
		{"nth", drivetest.Rule{Op: "nodes.get", Nth: 2, Fault: e}, get, []int{200, 500, 200, 200}},
		{"every", drivetest.Rule{Op: "nodes.*", Every: 2, Fault: e}, get, []int{200, 500, 200, 500}},
		{"times", drivetest.Rule{Times: 2, Fault: e}, get, []int{500, 500, 200}},
		{"node", drivetest.Rule{Node: id, Fault: e}, get, []int{500}},
		{"other node", drivetest.Rule{Node: id, Fault: e}, root, []int{200}},
		{"name", drivetest.Rule{Name: "d*", Fault: e}, get, []int{500}},
		{"other name", drivetest.Rule{Name: "x*", Fault: e}, get, []int{200}},
		{"method", drivetest.Rule{Method: "POST", Fault: e}, get, []int{200}},
		{"other op", drivetest.Rule{Op: "content.*", Fault: e}, get, []int{200}},
	} {
		a.fail(tc.r)
		if got := status(len(tc.want), tc.do); !equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	// The same seed gives the same faults.
	run := func(seed uint64) []int {
		a.s.SetFaults(drivetest.Faults{Seed: seed, Rules: []drivetest.Rule{{Probability: 0.5, Fault: e}}})
		return status(40, get)
	}
	one, again, two := run(1), run(1), run(2)
	if !equal(one, again) || equal(one, two) {
		t.Errorf("seeds: %v %v %v", one, again, two)
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestHook(t *testing.T) {
	a := newAPI(t)
	var seen []drivetest.Op
	a.s.Hook(func(op drivetest.Op) *drivetest.Fault {
		seen = append(seen, op)
		if op.Node == "bad" {
			return &drivetest.Fault{Status: 503}
		}
		return nil
	})
	id := a.mkdir(a.root(), "good").id()
	a.upload("?suppress=deduplication", obj{"name": "bad", "kind": "FILE"}, "xyz").want(t, 503)
	a.get(id)
	a.s.Hook(nil)
	if len(seen) != 3 || seen[0].Name != "nodes.create" || seen[0].Node != "good" || seen[1].Name != "content.upload" || seen[1].Size <= 3 || seen[2].NodeID != id || seen[2].Node != "good" || seen[2].N != 1 {
		t.Errorf("ops: %+v", seen)
	}
	if c := a.s.Requests(); c["nodes.create"] != 1 || c["content.upload"] != 1 || c["nodes.get"] != 1 {
		t.Errorf("requests: %v", c)
	}
	log := a.s.RequestLog()
	if len(log) != 3 || log[1].Status != 503 || log[1].Fault != "status" || log[1].Op != "content.upload" || log[1].In != 3 {
		t.Errorf("log: %+v", log)
	}
	a.s.ResetRequests()
	if len(a.s.Requests()) != 0 || len(a.s.RequestLog()) != 0 || a.s.BytesReceived() != 0 {
		t.Error("counts after reset")
	}
}

// The upload that fails and succeeds (§13.2): the whole body is read, the
// answer is an error, and the file appears later, right, cut or never.
func TestLateUploads(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault drivetest.Fault
		want  string
		none  bool
	}{
		{"right after 504", drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectLate, After: -1}, "0123456789", false},
		{"right after a reset", drivetest.Fault{Do: drivetest.DoReset, Effect: drivetest.EffectLate, After: -1}, "0123456789", false},
		{"half", drivetest.Fault{Status: 500, Effect: drivetest.EffectTruncated, After: -1}, "01234", false},
		{"cut at", drivetest.Fault{Status: 408, Effect: drivetest.EffectTruncated, At: 3, After: -1}, "012", false},
		{"never", drivetest.Fault{Status: 504, Body: "empty"}, "", true},
		{"never, reset in the middle", drivetest.Fault{Do: drivetest.DoReset, At: 4}, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newAPI(t)
			old := a.put(a.root(), "old", "before").id()
			a.fail(drivetest.Rule{Op: "content.*", Times: 2, Fault: tc.fault})
			ct, b := form(obj{"name": "f", "kind": "FILE"}, "0123456789")
			r, err := a.try("POST", "/cdproxy/nodes?suppress=deduplication&localId=L", bytes.NewReader(b), "Content-Type", ct)
			if (tc.fault.Do == drivetest.DoReset) != (err != nil) || err == nil && r.status != tc.fault.Status {
				t.Fatalf("upload: %d %v", r.status, err)
			}
			ct, b = form(nil, "0123456789")
			if r, err = a.try("PUT", "/cdproxy/nodes/"+old+"/content", bytes.NewReader(b), "Content-Type", ct); err == nil && r.status != tc.fault.Status {
				t.Fatalf("overwrite: %d", r.status)
			}
			if l := a.find("name:f"); len(l) != 0 {
				t.Errorf("there at once: %v", l)
			}
			if want := map[bool]int{true: 0, false: 2}[tc.none]; a.s.Late() != want {
				t.Errorf("%d late files", a.s.Late())
			}
			a.s.Settle()
			got, err := a.s.Else().ReadFile("f")
			if tc.none != (err != nil) || string(got) != tc.want {
				t.Errorf("appeared: %q %v", got, err)
			}
			want := tc.want
			if tc.none {
				want = "before"
			}
			if got, _ := a.s.Else().ReadFile("old"); string(got) != want {
				t.Errorf("overwritten: %q", got)
			}
			if !tc.none { // the blind retry meets the file
				e := a.upload("?suppress=deduplication", obj{"name": "f", "kind": "FILE"}, "0123456789").want(t, 409)
				n, _ := a.s.Else().Lookup("f")
				if e.sub("info").str("nodeId") != n.ID {
					t.Errorf("retry: %v", e)
				}
			}
		})
	}
}

func TestLateUploadByTime(t *testing.T) {
	a := newAPI(t)
	a.fail(drivetest.Rule{Op: "content.upload", Times: 1, Fault: drivetest.Fault{Status: 504, Effect: drivetest.EffectLate, After: 20 * time.Millisecond}})
	a.upload("?suppress=deduplication", obj{"name": "f", "kind": "FILE"}, "x").want(t, 504)
	for deadline := time.Now().Add(time.Minute); len(a.find("name:f")) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the file never appeared")
		}
	}
}

func TestPendingFault(t *testing.T) {
	a := newAPI(t)
	a.fail(drivetest.Rule{Op: "content.upload", Times: 1, Fault: drivetest.Fault{Status: 500, Effect: drivetest.EffectPending}})
	a.upload("?suppress=deduplication", obj{"name": "f", "kind": "FILE"}, "x").want(t, 500)
	if l := a.find("name:f"); len(l) != 1 || l[0].str("status") != "PENDING" {
		t.Errorf("left behind: %v", l)
	}
}

func TestTokenFaults(t *testing.T) {
	a := newAPI(t)
	a.fail(drivetest.Rule{Op: "content.upload", Times: 1, Fault: drivetest.Fault{Do: drivetest.DoExpireMid}})
	if e := a.upload("?suppress=deduplication", obj{"name": "f", "kind": "FILE"}, "x").want(t, 401); e.str("message") != "Token has expired" {
		t.Errorf("expired in mid-upload: %v", e)
	}
	a.do("GET", "/drive/v1/nodes", nil).want(t, 401)
	a.token = a.s.Token().AccessToken
	if l := a.find("name:f"); len(l) != 0 {
		t.Errorf("the upload took effect: %v", l)
	}
}

func TestDownloadFaults(t *testing.T) {
	a := newAPI(t)
	content := strings.Repeat("0123456789", 10_000)
	id := a.put(a.root(), "f", content).id()
	path := "/cdproxy/nodes/" + id + "/content"
	for _, do := range []string{drivetest.DoShort, drivetest.DoReset} {
		a.fail(drivetest.Rule{Op: "content.download", Fault: drivetest.Fault{Do: do, At: 70_000}})
		r, err := a.try("GET", path, nil)
		if err == nil || r.status != 200 || len(r.body) > 70_000 || do == drivetest.DoShort && len(r.body) != 70_000 {
			t.Errorf("%s: %d bytes, %v", do, len(r.body), err)
		}
	}
	a.fail(drivetest.Rule{Op: "content.download", Fault: drivetest.Fault{Do: drivetest.DoRange}})
	a.do("GET", path, nil).want(t, 416)
	a.fail(drivetest.Rule{Op: "content.download", Fault: drivetest.Fault{Do: drivetest.DoRedirect}})
	a.do("GET", path, nil).want(t, 302)
	a.fail(drivetest.Rule{Op: "content.download", Fault: drivetest.Fault{Do: drivetest.DoWholeFile}})
	if r := a.do("GET", path, nil, "Range", "bytes=5-6"); r.status != 200 || len(r.body) != len(content) {
		t.Errorf("range ignored: %d, %d bytes", r.status, len(r.body))
	}
	a.fail(drivetest.Rule{Op: "content.download", Fault: drivetest.Fault{Do: drivetest.DoOtherBytes}})
	if r := a.do("GET", path, nil); len(r.body) != len(content) || string(r.body) == content {
		t.Errorf("garbage: %d bytes", len(r.body))
	}
	// A stall: some bytes, then nothing, until the client goes.
	a.fail(drivetest.Rule{Op: "content.download", Fault: drivetest.Fault{Do: drivetest.DoStall, At: 1000}})
	req, _ := http.NewRequest("GET", a.base()+path, nil)
	req.Header.Set("Authorization", "Bearer "+a.token)
	resp, err := a.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != content[:1000] {
		t.Errorf("before the stall: %v", err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := resp.Body.Read(buf)
		read <- err
	}()
	select {
	case err := <-read:
		t.Errorf("no stall: %v", err)
	case <-time.After(30 * time.Millisecond):
	}
	_ = resp.Body.Close()
	<-read
	a.fail(drivetest.Rule{Op: "content.download", Fault: drivetest.Fault{Do: drivetest.DoStall, At: 1000, Stall: 10 * time.Millisecond}})
	if r := a.do("GET", path, nil); string(r.body) != content {
		t.Errorf("after a stall: %d bytes", len(r.body))
	}
}

// An upload that stalls goes on where it was.
func TestUploadStall(t *testing.T) {
	a := newAPI(t)
	a.fail(drivetest.Rule{Op: "content.upload", Fault: drivetest.Fault{Do: drivetest.DoStall, At: 5, Stall: 30 * time.Millisecond}})
	begin := time.Now()
	a.put(a.root(), "f", "0123456789")
	if d := time.Since(begin); d < 30*time.Millisecond {
		t.Errorf("no stall: %v", d)
	}
	if b, _ := a.s.Else().ReadFile("f"); string(b) != "0123456789" {
		t.Errorf("content %q", b)
	}
}

// A refusal in the middle of the body reaches a client that still sends.
func TestRefusalInMidBody(t *testing.T) {
	a := newAPI(t)
	n := a.put(a.root(), "f", "x")
	a.fail(drivetest.Rule{Op: "content.upload", Fault: drivetest.Fault{Do: drivetest.DoConflict, At: 1000}})
	e := a.upload("?suppress=deduplication", obj{"name": "F", "kind": "FILE"}, strings.Repeat("x", 400<<10)).want(t, 409)
	if e.sub("info").str("nodeId") != n.id() {
		t.Errorf("conflict: %v", e)
	}
}

func TestListingFaults(t *testing.T) {
	a := newAPI(t)
	for _, n := range []string{"a", "b", "c", "d"} {
		a.mkdir(a.root(), n)
	}
	path := "/drive/v1/nodes/" + a.root() + "/children?limit=2"
	list := func(p string) (object, string) {
		o := a.do("GET", p, nil).want(t, 200)
		return o, names(o.list("data"))
	}
	a.fail(drivetest.Rule{Op: "nodes.children", Fault: drivetest.Fault{Do: drivetest.DoMissing}})
	if o, l := list(path); l != "a" || o.num("count") != 4 {
		t.Errorf("missing: %v %s", o, l)
	}
	a.fail(drivetest.Rule{Op: "nodes.children", Fault: drivetest.Fault{Do: drivetest.DoDuplicate}})
	o, l := list(path)
	if l != "a,b,a" {
		t.Errorf("duplicate in a page: %s", l)
	}
	next := path + "&startToken=" + strings.ReplaceAll(o.str("nextToken"), "+", "%2B")
	if _, l := list(next); l != "b,c,d" {
		t.Errorf("duplicate across pages: %s", l)
	}
	a.fail(drivetest.Rule{Op: "nodes.children", Nth: 2, Fault: drivetest.Fault{Do: drivetest.DoPageToken}})
	o, _ = list(path)
	next = path + "&startToken=" + strings.ReplaceAll(o.str("nextToken"), "+", "%2B")
	if e := a.do("GET", next, nil).want(t, 400); e.str("message") != "Next token is expired" {
		t.Errorf("page token: %v", e)
	}
	// One stale listing: what it shows is ten seconds old.
	a.fail(drivetest.Rule{Op: "nodes.children", Nth: 1, Fault: drivetest.Fault{Do: drivetest.DoStale}})
	a.mkdir(a.root(), "e")
	path = "/drive/v1/nodes/" + a.root() + "/children"
	if _, l := list(path); l != "a,b,c,d" {
		t.Errorf("stale: %s", l)
	}
	if _, l := list(path); l != "a,b,c,d,e" {
		t.Errorf("fresh: %s", l)
	}
}

func TestChangesFaults(t *testing.T) {
	a := newAPI(t)
	d := a.mkdir(a.root(), "d").id()
	start := a.changes(nil).checkpoint
	for _, n := range []string{"a", "b", "c"} {
		a.mkdir(d, n)
	}
	req := obj{"checkpoint": start, "chunkSize": 1}
	do := func(f drivetest.Fault) feed {
		a.fail(drivetest.Rule{Op: "changes", Fault: f})
		return a.changes(req)
	}
	if f := do(drivetest.Fault{Do: drivetest.DoCut, At: 1}); f.ended || f.err != nil || names(f.nodes) != "a,b" {
		t.Errorf("cut: %+v", f)
	}
	if f := do(drivetest.Fault{Do: drivetest.DoBadTail, At: 1}); f.ended || f.err == nil || names(f.nodes) != "a" {
		t.Errorf("bad tail: %+v", f)
	}
	if f := do(drivetest.Fault{Do: drivetest.DoReset, At: 1}); f.ended || f.err == nil {
		t.Errorf("reset: %+v", f)
	}
	if f := do(drivetest.Fault{Do: drivetest.DoChunkStatus, At: 2, Status: 503}); f.ended || len(f.chunks) != 3 || f.chunks[2].num("statusCode") != 503 {
		t.Errorf("chunk status: %+v", f)
	}
	if f := do(drivetest.Fault{Do: drivetest.DoFeedReset}); !f.reset || !f.ended || len(f.nodes) != 5 {
		t.Errorf("feed reset: %+v", f)
	}
	if f := do(drivetest.Fault{Do: drivetest.DoRepeat, At: 2}); !f.ended || len(f.nodes) != 4 || names(f.nodes) != "d,a,b,c" {
		t.Errorf("repeat: %+v", names(f.nodes))
	}
	if f := do(drivetest.Fault{Do: drivetest.DoDisorder}); names(f.nodes) != "c,b,a" || !f.ended {
		t.Errorf("disorder: %s", names(f.nodes))
	}
	if f := do(drivetest.Fault{Do: drivetest.DoEndOnly}); len(f.chunks) != 0 || !f.ended {
		t.Errorf("end only: %+v", f)
	}
	a.fail(drivetest.Rule{Op: "changes", Fault: drivetest.Fault{Status: 400}})
	a.do("POST", "/drive/v1/changes", nil).want(t, 400)
}

func TestThrottle(t *testing.T) {
	cl := newClock()
	a := newAPI(t, drivetest.Options{Clock: cl.now})
	a.s.SetFaults(drivetest.Faults{Throttle: &drivetest.Throttle{PerSecond: 2, Burst: 3, RetryAfter: 5}})
	get := func() answer { return a.do("GET", "/drive/v1/account/info", nil) }
	for range 3 {
		get().want(t, 200)
	}
	if r := get(); r.status != 429 || r.header.Get("Retry-After") != "5" {
		t.Errorf("beyond the burst: %d %v", r.status, r.header)
	}
	cl.add(time.Second)
	for i, want := range []int{200, 200, 429} {
		if r := get(); r.status != want {
			t.Errorf("a second later, %d: %d", i, r.status)
		}
	}
}

func TestOverQuotaFault(t *testing.T) {
	a := newAPI(t, drivetest.Options{Faults: drivetest.Faults{OverQuota: true}})
	a.upload("?suppress=deduplication", obj{"name": "f", "kind": "FILE"}, "x").want(t, 403)
	a.mkdir(a.root(), "folders are free")
}

func TestFaultsJSON(t *testing.T) {
	text := `{"seed":7,"rules":[{"op":"content.upload","name":"*.bin","nth":2,"fault":{"status":504,"body":"empty","effect":"late","after":"1m30s","delay":"5ms"}}],"throttle":{"per_second":5},"listing_lag":"2s"}`
	f, err := drivetest.ParseFaults([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if r := f.Rules[0]; r.Nth != 2 || r.Fault.After != 90*time.Second || r.Fault.Delay != 5*time.Millisecond || f.ListingLag != 2*time.Second || f.Throttle.PerSecond != 5 {
		t.Errorf("parsed: %+v", f)
	}
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	again, err := drivetest.ParseFaults(b)
	if err != nil || again.Rules[0].Fault != f.Rules[0].Fault || again.ListingLag != f.ListingLag {
		t.Errorf("written and read: %s %v", b, err)
	}
	for _, bad := range []string{`{`, `{"nope":1}`, `{"rules":[{"fault":{"do":"explode"}}]}`, `{"rules":[{"fault":{"status":500,"effect":"much"}}]}`,
		`{"rules":[{"op":"[","fault":{}}]}`, `{"rules":[{"fault":{"delay":"soon"}}]}`, `{"rules":[{"fault":{"do":"status","status":99}}]}`, `{"throttle":{}}`} {
		if _, err := drivetest.ParseFaults([]byte(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestAdmin(t *testing.T) {
	a := newAPI(t)
	admin := func(method, path string, body io.Reader, headers ...string) answer {
		return a.do(method, path, body, append([]string{"Authorization", "Bearer " + a.s.Secret()}, headers...)...)
	}
	admin("POST", "/admin/faults", strings.NewReader(`{"rules":[{"op":"nodes.list","fault":{"status":503}}]}`)).want(t, 200)
	a.do("GET", "/drive/v1/nodes", nil).want(t, 503)
	if o := admin("GET", "/admin/faults", nil).want(t, 200); len(o.list("rules")) != 1 {
		t.Errorf("faults: %v", o)
	}
	if r := admin("POST", "/admin/faults", strings.NewReader(`{"rules":"x"}`)); r.status != 400 {
		t.Errorf("bad faults: %d", r.status)
	}
	admin("DELETE", "/admin/faults", nil).want(t, 200)
	a.do("GET", "/drive/v1/nodes", nil).want(t, 200)
	if o := admin("GET", "/admin/requests", nil).want(t, 200); o.sub("requests").num("nodes.list") != 2 {
		t.Errorf("requests: %v", o)
	}
	admin("GET", "/admin/check", nil).want(t, 200)
	admin("POST", "/admin/expire", nil).want(t, 200)
	a.do("GET", "/drive/v1/nodes", nil).want(t, 401)
	if r := admin("GET", "/admin/faults", nil, "Origin", "https://example.com"); r.status != 403 {
		t.Errorf("from a web page: %d", r.status)
	}
	admin("GET", "/admin/nope", nil).want(t, 404)
}
