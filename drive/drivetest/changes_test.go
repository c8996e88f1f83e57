package drivetest_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestChanges(t *testing.T) {
	a := newAPI(t)
	f := a.changes(nil)
	if !f.reset || !f.ended || len(f.nodes) != 1 || f.nodes[0]["isRoot"] != true {
		t.Fatalf("from the start: %+v", f)
	}
	d := a.mkdir(a.root(), "d").id()
	x := a.put(d, "x", "1").id()
	f2 := a.changes(obj{"checkpoint": f.checkpoint})
	if f2.reset || names(f2.nodes) != "d,x" || !f2.ended {
		t.Errorf("news: %+v", f2)
	}
	// No news: one chunk with a checkpoint, then the end.
	f3 := a.changes(obj{"checkpoint": f2.checkpoint})
	if f3.reset || len(f3.chunks) != 1 || len(f3.nodes) != 0 || !f3.ended || f3.checkpoint == "" {
		t.Errorf("no news: %+v", f3)
	}
	// Only the newest state; the root is not told.
	a.json("PATCH", "/drive/v1/nodes/"+x, obj{"name": "y"}).want(t, 200)
	a.json("PATCH", "/drive/v1/nodes/"+x, obj{"name": "z"}).want(t, 200)
	a.json("PATCH", "/drive/v1/nodes/"+a.root(), obj{"description": "r"}).want(t, 200)
	f4 := a.changes(obj{"checkpoint": f3.checkpoint})
	if names(f4.nodes) != "z" {
		t.Errorf("newest state: %+v", f4.nodes)
	}
	// Trashing tells the folder and what was below it.
	a.do("PUT", "/drive/v1/trash/"+d, nil).want(t, 200)
	f5 := a.changes(obj{"checkpoint": f4.checkpoint})
	if names(f5.nodes) != "d,z" || f5.nodes[0].str("status") != "TRASH" || f5.nodes[1]["recursivelyTrashed"] != true {
		t.Errorf("trashed: %+v", f5.nodes)
	}
	if err := a.s.Else().Purge(d); err != nil {
		t.Fatal(err)
	}
	if n := a.changes(obj{"checkpoint": f5.checkpoint}).nodes; len(n) != 0 {
		t.Errorf("purged nodes nobody asked for: %v", n)
	}
	for _, yes := range []any{"true", true} {
		n := a.changes(obj{"checkpoint": f5.checkpoint, "includePurged": yes}).nodes
		if len(n) != 2 || n[0].str("status") != "PURGED" || n[0].id() != d {
			t.Errorf("purged, %v: %v", yes, n)
		}
	}
	for _, bad := range []string{"nonsense", "CPX_AAAA", "CPX_" + strings.Repeat("A", 22)} {
		if f := a.changes(obj{"checkpoint": bad}); !f.reset || len(f.nodes) != 1 {
			t.Errorf("checkpoint %s: %+v", bad, f)
		}
	}
}

func TestChangesChunks(t *testing.T) {
	a := newAPI(t)
	if err := a.s.Bulk(100, 49); err != nil {
		t.Fatal(err)
	}
	f := a.changes(obj{"chunkSize": 40})
	if len(f.chunks) != 3 || len(f.nodes) != 101 {
		t.Errorf("%d chunks, %d nodes", len(f.chunks), len(f.nodes))
	}
	// Every chunk's checkpoint goes on after it.
	rest := a.changes(obj{"checkpoint": f.chunks[0].str("checkpoint")})
	if rest.reset || len(rest.nodes) != 61 {
		t.Errorf("after the first chunk: %d", len(rest.nodes))
	}
	// maxNodes: the answer ends early, the next begins there.
	total, cp := 0, ""
	for range 10 {
		f := a.changes(obj{"checkpoint": cp, "chunkSize": 10, "maxNodes": 30})
		if !f.ended {
			t.Fatal("no end line")
		}
		if len(f.nodes) == 0 {
			break
		}
		total, cp = total+len(f.nodes), f.checkpoint
	}
	if total != 101 {
		t.Errorf("%d nodes by maxNodes", total)
	}
	req, _ := http.NewRequest("POST", a.base()+"/drive/v1/changes", strings.NewReader("{}"))
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := a.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	z, err := gzip.NewReader(resp.Body)
	if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("gzip: %v", err)
	}
	b, err := io.ReadAll(z)
	if err != nil || !strings.HasSuffix(string(b), "{\"end\":true}\n") {
		t.Errorf("gzip body: %v", err)
	}
}

func TestFeedLag(t *testing.T) {
	cl := newClock()
	a := newAPI(t, drivetest.Options{Clock: cl.now, FeedLag: time.Minute})
	cl.add(2 * time.Minute)
	cp := a.changes(nil).checkpoint
	x := a.mkdir(a.root(), "x").id()
	f := a.changes(obj{"checkpoint": cp})
	if len(f.nodes) != 0 {
		t.Errorf("at once: %v", f.nodes)
	}
	cl.add(40 * time.Second)
	a.json("PATCH", "/drive/v1/nodes/"+x, obj{"name": "y"}).want(t, 200)
	cl.add(40 * time.Second)
	f = a.changes(obj{"checkpoint": f.checkpoint})
	if len(f.nodes) != 0 {
		t.Errorf("hidden by a later change: %v", f.nodes)
	}
	cl.add(40 * time.Second)
	if f = a.changes(obj{"checkpoint": f.checkpoint}); names(f.nodes) != "y" {
		t.Errorf("after the lag: %v", f.nodes)
	}
}

func TestQuietDescendants(t *testing.T) {
	a := newAPI(t, drivetest.Options{QuietDescendants: true})
	d := a.mkdir(a.root(), "d").id()
	x := a.put(d, "x", "1").id()
	cp := a.changes(nil).checkpoint
	a.do("PUT", "/drive/v1/trash/"+d, nil).want(t, 200)
	if f := a.changes(obj{"checkpoint": cp}); names(f.nodes) != "d" {
		t.Errorf("feed: %v", f.nodes)
	}
	if n := a.get(x); n.str("status") != "TRASH" {
		t.Errorf("descendant: %v", n)
	}
}

func TestListingLag(t *testing.T) {
	cl := newClock()
	a := newAPI(t, drivetest.Options{Clock: cl.now, ListingLag: 10 * time.Second})
	x, y := a.mkdir(a.root(), "x").id(), a.mkdir(a.root(), "y").id()
	f, g := a.put(x, "f", "1").id(), a.put(x, "g", "1").id()
	kids := func(id string) []object {
		return a.do("GET", "/drive/v1/nodes/"+id+"/children", nil).want(t, 200).list("data")
	}
	if l := kids(x); len(l) != 0 || a.get(f).id() != f {
		t.Errorf("fresh nodes are listed: %v", names(l))
	}
	a.upload("?suppress=deduplication", obj{"name": "F", "kind": "FILE", "parents": []string{x}}, "1").want(t, 409)
	cl.add(11 * time.Second)
	if l := kids(x); names(l) != "f,g" {
		t.Errorf("after the lag: %v", names(l))
	}
	a.json("POST", "/drive/v1/nodes/"+y+"/children", obj{"fromParent": x, "childId": f}).want(t, 200)
	a.do("PUT", "/drive/v1/trash/"+g, nil).want(t, 200)
	l := kids(x)
	if names(l) != "f,g" || l[0]["parents"].([]any)[0] != y || l[1].str("status") != "AVAILABLE" {
		t.Errorf("old folder: %v", l)
	}
	if l := a.find("parents:" + y + " AND name:f"); len(l) != 0 {
		t.Errorf("new folder: %v", l)
	}
	if n := a.get(g); n.str("status") != "TRASH" {
		t.Errorf("by id: %v", n)
	}
	cl.add(11 * time.Second)
	if names(kids(x)) != "" || names(kids(y)) != "f" {
		t.Errorf("after the lag: %v %v", kids(x), kids(y))
	}
}

func TestOddNodes(t *testing.T) {
	a := newAPI(t)
	el := a.s.Else()
	for _, n := range []drivetest.Node{
		{}, // nameless
		{Name: "pending", Status: drivetest.StatusPending},
		{Name: "group", Kind: "VISUAL_COLLECTION"},
		{Name: "twin", Content: &drivetest.Content{Size: 1}},
		{Name: "TWIN", Content: &drivetest.Content{Size: 2}},
		{Name: "orphan", Parents: []string{}},
		{Name: "more", Extra: map[string]any{"xAccntParents": []any{1, "two"}}},
	} {
		if _, err := el.PutRaw(n); err != nil {
			t.Fatal(err)
		}
	}
	b := a.do("GET", "/drive/v1/nodes/"+a.root()+"/children", nil).want(t, 200)
	if names(b.list("data")) != ",pending,group,twin,TWIN,more" {
		t.Errorf("listed: %s", names(b.list("data")))
	}
	f := a.changes(nil)
	var raw []byte
	raw, _ = json.Marshal(f.nodes)
	if len(f.nodes) != 8 || !strings.Contains(string(raw), `"xAccntParents":[1,"two"]`) {
		t.Errorf("feed: %s", raw)
	}
	if l := a.find(`parents:` + a.root() + ` AND name:twin`); len(l) != 2 {
		t.Errorf("twins by name: %v", l)
	}
	// The one that goes makes place for the other.
	n, err := el.Lookup("Twin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := el.Trash(n.ID); err != nil {
		t.Fatal(err)
	}
	if m, err := el.Lookup("twin"); err != nil || m.ID == n.ID {
		t.Errorf("after one of the twins went: %v %v", m, err)
	}
	a.s.SetFaults(drivetest.Faults{ExtraFields: true})
	if o := a.get(a.root()); o["ownerId"] == nil {
		t.Errorf("extra fields: %v", o)
	}
}
