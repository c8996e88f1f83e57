package drivetest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func (a *api) modes(m drivetest.Modes) { a.s.SetFaults(drivetest.Faults{Modes: m}) }

func TestModesJSON(t *testing.T) {
	want := drivetest.Faults{Seed: 3, Modes: drivetest.Modes{
		ContentETag: drivetest.ETagNode, PropertiesLag: time.Second, FeedOrder: drivetest.OrderShuffle, IgnoreMaxNodes: true,
		BadCheckpoint: "400", IfMatch: "none", ClockSkew: -3 * time.Hour, Delay: time.Minute,
		Delays: map[string]time.Duration{"nodes.*": 2 * time.Second},
	}}
	text := `{"seed":3,"content_etag":"node","properties_lag":"1s","feed_order":"shuffle","ignore_max_nodes":true,
		"bad_checkpoint":"400","if_match":"none","clock_skew":"-3h","delay":"1m","delays":{"nodes.*":"2s"}}`
	got, err := drivetest.ParseFaults([]byte(text))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parsed: %+v, %v", got, err)
	}
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := drivetest.ParseFaults(b); err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("written and read: %s %v", b, err)
	}
	for _, bad := range []string{`{"content_etag":"x"}`, `{"feed_order":"x"}`, `{"bad_checkpoint":"x"}`, `{"if_match":"x"}`,
		`{"delays":{"[":"1s"}}`, `{"delay":"x"}`, `{"clock_skew":3}`, `{"rules":[{"fault":{"do":"missing","names":"["}}]}`} {
		if _, err := drivetest.ParseFaults([]byte(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestContentETag(t *testing.T) {
	a := newAPI(t)
	id := a.put(a.root(), "f", "bytes").id()
	tag := func() string { return a.do("GET", "/cdproxy/nodes/"+id+"/content", nil).header.Get("ETag") }
	changes := []func(){
		func() { a.json("PATCH", "/drive/v1/nodes/"+id, obj{"name": "g"}).want(t, 200) },
		func() {
			a.json("PUT", "/drive/v1/nodes/"+id+"/properties/drivefs/mode", obj{"value": "1"}).want(t, 201)
		},
		func() { _, _ = a.s.Else().Touch(id) },
	}
	before := tag()
	for i, change := range changes {
		if change(); tag() != before || before == "" {
			t.Errorf("change %d: the tag of the bytes moved", i)
		}
	}
	a.modes(drivetest.Modes{ContentETag: drivetest.ETagNode})
	for i, change := range changes {
		before := tag()
		if change(); tag() == before {
			t.Errorf("change %d: the tag of the node stayed %s", i, before)
		}
	}
	if tag() != `"`+a.get(id).str("eTagResponse")+`"` {
		t.Errorf("the tag %s is not the node's", tag())
	}
	a.modes(drivetest.Modes{ContentETag: drivetest.ETagNone})
	if tag() != "" {
		t.Errorf("there is a tag: %s", tag())
	}
}

func TestPropertiesLag(t *testing.T) {
	cl := newClock()
	a := newAPI(t, drivetest.Options{Clock: cl.now, Faults: drivetest.Faults{Modes: drivetest.Modes{PropertiesLag: 10 * time.Second}}})
	id := a.json("POST", "/drive/v1/nodes", obj{"name": "d", "kind": "FOLDER", "properties": obj{"drivefs": obj{"k": "new"}}}).want(t, 201).id()
	shown := func() string {
		one := a.do("GET", "/drive/v1/nodes/"+id+`?fields=["properties"]`, nil).want(t, 200).sub("properties")
		all := a.do("GET", "/drive/v1/nodes/"+a.root()+`/children?fields=["properties"]`, nil).want(t, 200).list("data")[0].sub("properties")
		if !reflect.DeepEqual(one, all) {
			t.Errorf("get shows %v, the listing %v", one, all)
		}
		s, _ := one["drivefs"].(map[string]any)
		v, _ := s["k"].(string)
		return v
	}
	set := func(v string) {
		a.json("PUT", "/drive/v1/nodes/"+id+"/properties/drivefs/k", obj{"value": v}).want(t, 201)
	}
	if v := shown(); v != "" {
		t.Errorf("at once: %q", v)
	}
	if v := a.do("GET", "/drive/v1/nodes/"+id+"/properties/drivefs/k", nil).want(t, 200).str("value"); v != "new" {
		t.Errorf("the properties call: %q", v)
	}
	cl.add(6 * time.Second)
	set("second")
	cl.add(5 * time.Second) // 11 s after the first, 5 s after the second
	if v := shown(); v != "new" {
		t.Errorf("after 11 s: %q", v)
	}
	cl.add(6 * time.Second)
	if v := shown(); v != "second" {
		t.Errorf("after 17 s: %q", v)
	}
	for _, n := range a.changes(nil).nodes {
		if n["properties"] != nil {
			t.Errorf("the feed tells properties: %v", n)
		}
	}
	set("third")
	a.modes(drivetest.Modes{})
	if v := shown(); v != "third" {
		t.Errorf("without lag: %q", v)
	}
}

// Whatever the order and wherever it breaks off, going on from the last
// checkpoint brings everything.
func TestFeedOrder(t *testing.T) {
	a := newAPI(t)
	parent, depth := a.root(), map[string]int{}
	for i := range 6 {
		parent = a.mkdir(parent, fmt.Sprint("d", i)).id()
		depth[parent] = i + 1
		for j := range 5 {
			depth[a.put(parent, fmt.Sprint("f", i, j), "x").id()] = i + 2
		}
	}
	all := names(a.changes(nil).nodes)
	orders := map[string]string{}
	for _, f := range []drivetest.Faults{
		{Modes: drivetest.Modes{FeedOrder: drivetest.OrderNewest}},
		{Modes: drivetest.Modes{FeedOrder: drivetest.OrderChildren}},
		{Modes: drivetest.Modes{FeedOrder: drivetest.OrderShuffle}, Seed: 1},
		{Modes: drivetest.Modes{FeedOrder: drivetest.OrderShuffle}, Seed: 2},
	} {
		name := fmt.Sprint(f.FeedOrder, f.Seed)
		a.s.SetFaults(f)
		got := a.changes(obj{"chunkSize": 3})
		orders[name] = names(got.nodes)
		for other, o := range orders {
			if other != name && o == orders[name] || o == all {
				t.Errorf("%s is in the order of %s", name, other)
			}
		}
		if again := names(a.changes(obj{"chunkSize": 7}).nodes); again != orders[name] {
			t.Errorf("%s: another order the second time", name)
		}
		if len(got.nodes) != len(depth)+1 || !got.ended || !got.reset || !onlyFirstResets(got) {
			t.Errorf("%s: %d nodes, ended %v", name, len(got.nodes), got.ended)
		}
		if f.FeedOrder == drivetest.OrderChildren && !slices.IsSortedFunc(got.nodes, func(x, y object) int { return depth[y.id()] - depth[x.id()] }) {
			t.Errorf("%s: a parent before a child: %s", name, orders[name])
		}
		if rest := a.changes(obj{"checkpoint": got.checkpoint}); len(rest.nodes) != 0 || rest.reset {
			t.Errorf("%s: %d nodes behind the end", name, len(rest.nodes))
		}
		// Cut after each chunk, with changes in between.
		cut := f
		cut.Rules = []drivetest.Rule{{Op: "changes", Every: 2, Fault: drivetest.Fault{Do: drivetest.DoCut, At: 2}}, {Op: "changes", Nth: 1, Fault: drivetest.Fault{Do: drivetest.DoCut, At: 1}}}
		a.s.SetFaults(cut)
		known, cp := map[string]int64{}, ""
		for round := range 50 {
			req := obj{"chunkSize": 4}
			if cp != "" {
				req["checkpoint"] = cp
			}
			got := a.changes(req)
			for _, n := range got.nodes {
				known[n.id()] = max(known[n.id()], n.num("version"))
			}
			cp = got.checkpoint
			if round < 4 {
				for id := range depth {
					_, _ = a.s.Else().Touch(id)
					break
				}
			}
			if got.ended && round >= 4 {
				break
			}
		}
		for id := range depth {
			if known[id] != a.get(id).num("version") {
				t.Errorf("%s: node %s is known with version %d, it has %d", name, id, known[id], a.get(id).num("version"))
			}
		}
		// Another order meanwhile: nothing is missed either.
		a.s.SetFaults(cut)
		half := a.changes(obj{"chunkSize": 4})
		a.modes(drivetest.Modes{})
		seen := map[string]bool{}
		for _, n := range append(half.nodes, a.changes(obj{"checkpoint": half.checkpoint}).nodes...) {
			seen[n.id()] = true
		}
		for id := range depth {
			if !seen[id] {
				t.Errorf("%s: %s is missing after a change of the order", name, id)
			}
		}
	}
}

func onlyFirstResets(f feed) bool {
	for i, c := range f.chunks {
		if (c["reset"] == true) != (i == 0) {
			return false
		}
	}
	return true
}

func TestIgnoreMaxNodes(t *testing.T) {
	a := newAPI(t)
	for i := range 10 {
		a.mkdir(a.root(), fmt.Sprint(i))
	}
	req := obj{"chunkSize": 2, "maxNodes": 4}
	if f := a.changes(req); len(f.nodes) != 4 || !f.ended {
		t.Errorf("heeded: %d nodes", len(f.nodes))
	}
	a.modes(drivetest.Modes{IgnoreMaxNodes: true})
	if f := a.changes(req); len(f.nodes) != 11 || !f.ended {
		t.Errorf("ignored: %d nodes", len(f.nodes))
	}
}

func TestRefusedCheckpoints(t *testing.T) {
	a := newAPI(t)
	for i := range 5 {
		a.mkdir(a.root(), fmt.Sprint(i))
	}
	post := func(cp string) answer { return a.json("POST", "/drive/v1/changes", obj{"checkpoint": cp}) }
	if r := post("CPX_nonsense"); r.status != 200 {
		t.Errorf("a reset is expected: %d", r.status)
	}
	a.modes(drivetest.Modes{BadCheckpoint: "400"})
	if r := post("CPX_nonsense"); r.status != 400 {
		t.Errorf("a refusal is expected: %d", r.status)
	}
	cp := a.changes(nil).checkpoint
	if r := post(cp); r.status != 200 {
		t.Errorf("a good one: %d", r.status)
	}
	a.fail(drivetest.Rule{Op: "changes", Fault: drivetest.Fault{Do: drivetest.DoCheckpoint, At: 1}})
	for range 3 {
		f := a.changes(obj{"chunkSize": 2})
		if f.ended || len(f.nodes) != 4 || f.checkpoint == "" {
			t.Errorf("cut after the second chunk: %+v", f)
		}
		if r := post(f.checkpoint); r.status != 400 {
			t.Errorf("the checkpoint before the cut: %d", r.status)
		}
	}
}

func TestIfMatchMode(t *testing.T) {
	a := newAPI(t, drivetest.Options{HonourIfMatch: drivetest.IfMatchNone})
	id := a.put(a.root(), "f", "1").id()
	for mode, want := range map[string][2]int{"": {200, 200}, "all": {412, 412}, "update": {412, 200}, "none": {200, 200}} {
		a.modes(drivetest.Modes{IfMatch: mode})
		update := a.json("PATCH", "/drive/v1/nodes/"+id, obj{"description": "x"}, "If-Match", "stale").status
		overwrite := a.overwrite(id, "2", "If-Match", "stale").status
		if got := [2]int{update, overwrite}; got != want {
			t.Errorf("%q: %v, want %v", mode, got, want)
		}
	}
}

func TestClockSkew(t *testing.T) {
	cl := newClock()
	a := newAPI(t, drivetest.Options{Clock: cl.now})
	told := func(o object, k string) time.Duration {
		at, err := time.Parse(time.RFC3339, o.str(k))
		if err != nil {
			t.Fatalf("%s: %v", k, err)
		}
		return at.Sub(cl.now())
	}
	for _, skew := range []time.Duration{0, 3 * time.Hour, -3 * time.Hour} {
		a.modes(drivetest.Modes{ClockSkew: skew})
		f := a.put(a.root(), fmt.Sprint("f", skew), "x")
		got := []time.Duration{
			told(f, "createdDate"), told(f, "modifiedDate"), told(f.sub("contentProperties"), "contentDate"),
			told(a.json("PATCH", "/drive/v1/nodes/"+f.id(), obj{"description": "x"}).want(t, 200), "modifiedDate"),
			told(a.do("GET", "/drive/v1/account/quota", nil).want(t, 200), "lastCalculated"),
		}
		if slices.Min(got) != skew || slices.Max(got) != skew {
			t.Errorf("skew %v: %v", skew, got)
		}
		date, err := http.ParseTime(a.do("GET", "/drive/v1/account/info", nil).header.Get("Date"))
		if err != nil || date.Sub(cl.now()) != skew {
			t.Errorf("skew %v: Date is %v off, %v", skew, date.Sub(cl.now()), err)
		}
	}
	a.do("GET", "/drive/v1/account/info", nil).want(t, 200) // the token lives by the true clock
}

func TestDelays(t *testing.T) {
	a := newAPI(t)
	a.modes(drivetest.Modes{Delay: 40 * time.Millisecond, Delays: map[string]time.Duration{"nodes.*": 80 * time.Millisecond, "nodes.get": 80 * time.Millisecond}})
	for path, want := range map[string]time.Duration{
		"/drive/v1/account/info": 40 * time.Millisecond, "/drive/v1/nodes": 120 * time.Millisecond, "/drive/v1/nodes/" + a.root(): 200 * time.Millisecond,
	} {
		began := time.Now()
		a.do("GET", path, nil).want(t, 200)
		if d := time.Since(began); d < want {
			t.Errorf("%s took %v, want %v", path, d, want)
		}
	}
}

func TestPerNodeRules(t *testing.T) {
	a := newAPI(t)
	one, two := a.put(a.root(), "one", "1").id(), a.put(a.root(), "two", "2").id()
	rules := []drivetest.Rule{}
	for _, op := range []string{"nodes.get", "content.download", "nodes.children"} {
		rules = append(rules, drivetest.Rule{Op: op, PerNode: true, Times: 2, Fault: drivetest.Fault{Status: 404}})
	}
	a.fail(rules...)
	get := func(path string) int { return a.do("GET", path, nil).status }
	for _, id := range []string{one, two} {
		for i, want := range []int{404, 404, 200, 200} {
			for _, path := range []string{"/drive/v1/nodes/" + id, "/cdproxy/nodes/" + id + "/content", "/drive/v1/nodes/" + id + "/children"} {
				if got := get(path); got != want {
					t.Errorf("call %d of %s: %d", i, path, got)
				}
			}
		}
	}
	// A lookup by name has the name and the folder for rules too.
	a.fail(drivetest.Rule{Op: "nodes.list", Name: "one", Node: a.root(), Fault: drivetest.Fault{Do: drivetest.DoMissing}},
		drivetest.Rule{Op: "nodes.children", Fault: drivetest.Fault{Do: drivetest.DoMissing, Names: "o*"}})
	if l := a.find(`parents:"` + a.root() + `" AND name:"one"`); len(l) != 0 {
		t.Errorf("one is there: %v", l)
	}
	if l := a.find(`parents:"` + a.root() + `" AND name:"two"`); len(l) != 1 {
		t.Errorf("two is not there: %v", l)
	}
	o := a.do("GET", "/drive/v1/nodes/"+a.root()+"/children", nil).want(t, 200)
	if names(o.list("data")) != "two" || o.num("count") != 2 {
		t.Errorf("the listing: %v", o)
	}
	// Faults told and set again count anew.
	a.fail(drivetest.Rule{Op: "nodes.get", Times: 1, Fault: drivetest.Fault{Status: 404}})
	for range 2 {
		if got := get("/drive/v1/nodes/" + one); got != 404 {
			t.Errorf("the first get: %d", got)
		}
		a.s.SetFaults(a.s.Faults())
	}
}

func TestSpoiledAnswers(t *testing.T) {
	a := newAPI(t)
	mkdir := func(name string) (int, []byte, error) {
		b, _ := json.Marshal(obj{"name": name, "kind": "FOLDER"})
		r, err := a.try("POST", "/drive/v1/nodes", bytes.NewReader(b))
		return r.status, r.body, err
	}
	for _, body := range []string{"", "half", "empty", "html", "braces"} {
		a.fail(drivetest.Rule{Op: "nodes.create", Times: 1, Fault: drivetest.Fault{Do: drivetest.DoSpoil, Status: 409, Body: body}})
		name := "made " + body
		if status, b, err := mkdir(name); status != 201 || err != nil || !json.Valid(b) {
			t.Errorf("%q: the create: %d %s %v", body, status, b, err)
		}
		status, b, err := mkdir(name)
		switch {
		case body == "":
			if err == nil {
				t.Errorf("the cut 409: %d %s", status, b)
			}
		case status != 409 || err != nil || json.Valid(b) != (body == "braces"):
			t.Errorf("%q: the repeat: %d %s %v", body, status, b, err)
		}
		if status, b, err := mkdir(name); status != 409 || err != nil || !strings.Contains(string(b), "NAME_ALREADY_EXISTS") {
			t.Errorf("%q: the second repeat: %d %s %v", body, status, b, err)
		}
		a.fail(drivetest.Rule{Op: "*.upload", Fault: drivetest.Fault{Do: drivetest.DoSpoil, Status: 201, Body: body}})
		ct, form := form(obj{"name": "file " + body, "kind": "FILE"}, "bytes")
		r, err := a.try("POST", "/cdproxy/nodes?suppress=deduplication", bytes.NewReader(form), "Content-Type", ct)
		if err == nil && (body == "" || r.status != 201 || json.Valid(r.body) && body != "braces") {
			t.Errorf("%q: the upload: %d %s", body, r.status, r.body)
		}
		if got, err := a.s.Else().ReadFile("file " + body); err != nil || string(got) != "bytes" {
			t.Errorf("%q: the file is not there: %v", body, err)
		}
	}
	a.s.SetFaults(drivetest.Faults{})
	a.s.Hook(func(op drivetest.Op) *drivetest.Fault {
		return &drivetest.Fault{Do: drivetest.DoSpoil, Status: 201, Body: "html"}
	})
	if status, b, _ := mkdir("by hook"); status != 201 || json.Valid(b) {
		t.Errorf("by hook: %d %s", status, b)
	}
	if status, b, _ := mkdir("by hook"); status != 409 || !json.Valid(b) {
		t.Errorf("another status: %d %s", status, b)
	}
}

func TestEmptyTrash(t *testing.T) {
	a := newAPI(t)
	d := a.mkdir(a.root(), "d").id()
	f := a.put(d, "f", "x").id()
	kept := a.put(a.root(), "kept", "y").id()
	cp := a.changes(nil).checkpoint
	a.do("PUT", "/drive/v1/trash/"+f, nil).want(t, 200)
	a.do("PUT", "/drive/v1/trash/"+d, nil).want(t, 200)
	a.do("POST", "/admin/emptytrash?secret="+a.s.Secret(), nil, "Authorization", "").want(t, 200)
	if l := a.changes(obj{"checkpoint": cp}).nodes; len(l) != 0 {
		t.Errorf("the feed tells of purged nodes: %v", l)
	}
	got := a.changes(obj{"checkpoint": cp, "includePurged": "true"}).nodes
	if len(got) != 2 || got[0].str("status") != "PURGED" || got[1].str("status") != "PURGED" {
		t.Errorf("with includePurged: %v", got)
	}
	for id, want := range map[string]int{d: 404, f: 404, kept: 200} {
		a.do("GET", "/drive/v1/nodes/"+id, nil).want(t, want)
	}
	r, err := a.s.Else().Open(kept)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, _ := io.ReadAll(r); string(b) != "y" {
		t.Errorf("the one that was kept: %q", b)
	}
}
