package drivetest_test

import (
	"fmt"
	"net/url"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// clock is a service clock that only tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2016, 3, 4, 5, 6, 7, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func TestFilters(t *testing.T) {
	cl := newClock()
	a := newAPI(t, drivetest.Options{Clock: cl.now, TokenLife: 24 * time.Hour})
	dir := a.mkdir(a.root(), "Dir").id()
	sub := a.mkdir(dir, "sub").id()
	cl.add(time.Hour)
	one := a.put(dir, "a (1).txt", "one")
	a.put(dir, "A&B %41\\x.jpg", "four")
	a.put(sub, "sample", "12345")
	a.put(sub, "Sample1", "123456")
	trashed := a.put(dir, "old.txt", "x").id()
	a.do("PUT", "/drive/v1/trash/"+trashed, nil).want(t, 200)
	a.json("PATCH", "/drive/v1/nodes/"+one.id(), obj{"labels": []string{"red", "blue"}, "description": "my text"}).want(t, 200)
	for _, tc := range []struct{ filter, want string }{
		{"isRoot:true", ""},
		{"kind:FOLDER AND isRoot:true", ""},
		{"kind:FOLDER AND isRoot:false", "Dir,sub"},
		{"parents:" + dir, "A&B %41\\x.jpg,a (1).txt,sub"},
		{`parents:"` + dir + `" AND name:"a\ \(1\).txt"`, "a (1).txt"},
		{`parents:` + dir + ` AND name:a\ \(1\).txt`, "a (1).txt"},
		{`parents:"` + dir + `" AND name:"A (1).TXT"`, "a (1).txt"},
		{`name:"A\&B\ %41\\x.jpg"`, "A&B %41\\x.jpg"},
		{"parents:" + dir + " and kind:FOLDER", "sub"},
		{"name:sample", "sample"},
		{"name:sample*", "Sample1,sample"},
		{"name:nothing", ""},
		{"status:TRASH", "old.txt"},
		{"status:TRASH AND kind:FILE AND parents:" + dir, "old.txt"},
		{"status:AVAILABLE AND kind:FILE AND parents:" + dir, "A&B %41\\x.jpg,a (1).txt"},
		{"kind:(FILE* OR FOLDER*) AND parents:" + dir, "A&B %41\\x.jpg,a (1).txt,sub"},
		{"parents:" + sub + " AND (name:sample OR name:sample1)", "Sample1,sample"},
		{"labels:red", "a (1).txt"},
		{"labels:(red AND blue)", "a (1).txt"},
		{"labels:(red AND green)", ""},
		{`description:"my text"`, "a (1).txt"},
		{"contentProperties.md5:" + md5hex("12345"), "sample"},
		{"contentProperties.extension:txt", "a (1).txt"},
		{"contentProperties.contentType:image*", "A&B %41\\x.jpg"},
		{"contentProperties.size:5", "sample"},
		{"contentProperties.size:{4 TO *]", "Sample1,sample"},
		{"kind:FILE AND contentProperties.size:[4 TO 5]", "A&B %41\\x.jpg,sample"},
		{`createdDate:{"2016-03-04T05:06:07.000Z" TO *]`, "A&B %41\\x.jpg,Sample1,a (1).txt,sample"},
		{`modifiedDate:{* TO "2016-03-04T06:06:07.000Z"} AND isRoot:false`, "Dir,sub"},
		{`createdDate:["2016-03-04T05:06:07.000Z" TO "2016-03-04T05:06:07.000Z"] AND isRoot:false`, "Dir,sub"},
		{`createdDate:2016-03-04T05:06:07.000Z AND isRoot:false`, "Dir,sub"},
		{`contentProperties.contentDate:[* TO *]`, "A&B %41\\x.jpg,Sample1,a (1).txt,sample"},
	} {
		l := a.find(tc.filter)
		var got []string
		for _, n := range l {
			if n["isRoot"] != true {
				got = append(got, n.str("name"))
			}
		}
		sort.Strings(got)
		if s := strings.Join(got, ","); s != tc.want {
			t.Errorf("%s: %q, want %q", tc.filter, s, tc.want)
		}
		if strings.Contains(tc.filter, "isRoot:true") && (len(l) != 1 || l[0].str("name") != "" || l[0].id() != a.root()) {
			t.Errorf("%s: %v", tc.filter, l)
		}
	}
	for _, bad := range []string{"name", "nope:x", "name:", "name:*", "(name:x", "name:x)", `name:"x`, "isRoot:maybe", "parents:x*", "name:[a TO b]",
		"createdDate:yesterday", "contentProperties.size:[1 5]", strings.Repeat("name:x AND ", 8) + "name:x"} {
		e := a.do("GET", "/drive/v1/nodes?filters="+url.QueryEscape(bad), nil).want(t, 400)
		if !strings.HasPrefix(e.str("message"), "Invalid filter:") {
			t.Errorf("%s: %v", bad, e)
		}
	}
	exact := newAPI(t, drivetest.Options{NameFilterCaseSensitive: true})
	exact.mkdir(exact.root(), "Hello")
	if len(exact.find("name:hello")) != 0 || len(exact.find("name:Hello")) != 1 || len(exact.find("parents:"+exact.root()+" AND name:HELLO")) != 0 {
		t.Error("NameFilterCaseSensitive is not heeded")
	}
}

// page fetches one page of a listing.
func (a *api) page(path string, q url.Values) (o object, names []string) {
	a.t.Helper()
	o = a.do("GET", path+"?"+q.Encode(), nil).want(a.t, 200)
	for _, n := range o.list("data") {
		names = append(names, n.str("name"))
	}
	return o, names
}

func TestPages(t *testing.T) {
	cl := newClock()
	a := newAPI(t, drivetest.Options{Clock: cl.now})
	if err := a.s.Bulk(451, 450); err != nil {
		t.Fatal(err)
	}
	dir, err := a.s.Else().Lookup("bulk-0000000")
	if err != nil {
		t.Fatal(err)
	}
	path := "/drive/v1/nodes/" + dir.ID + "/children"
	q := url.Values{"sort": {`["name ASC"]`}}
	seen := map[string]bool{}
	var sizes []int
	var token string
	for {
		o, names := a.page(path, q)
		if o.num("count") != 450 {
			t.Errorf("count %v", o["count"])
		}
		for _, n := range names {
			seen[n] = true
		}
		sizes = append(sizes, len(names))
		if token = o.str("nextToken"); token == "" {
			break
		}
		q.Set("startToken", token)
	}
	if fmt.Sprint(sizes) != "[200 200 50]" || len(seen) != 450 {
		t.Errorf("pages %v, %d names", sizes, len(seen))
	}
	// limit, offset, sort.
	_, l := a.page(path, url.Values{"limit": {"2"}, "sort": {`['name DESC']`}})
	if fmt.Sprint(l) != "[file-000449.txt file-000448.txt]" {
		t.Errorf("sorted: %v", l)
	}
	_, l = a.page(path, url.Values{"limit": {"2"}, "offset": {"448"}, "sort": {`["name ASC"]`}})
	if fmt.Sprint(l) != "[file-000448.txt file-000449.txt]" {
		t.Errorf("offset: %v", l)
	}
	if o, l := a.page(path, url.Values{"limit": {"1000"}}); len(l) != 200 || o.str("nextToken") == "" {
		t.Errorf("limit above 200: %d", len(l))
	}
	for _, bad := range []string{"limit=0", "limit=x", "offset=9900&limit=100", `sort=["nope ASC"]`, `sort=["parents ASC"]`, "startToken=zzz"} {
		a.do("GET", path+"?"+strings.ReplaceAll(bad, " ", "+"), nil).want(t, 400)
	}
	// A token lives ten minutes.
	o, _ := a.page(path, url.Values{"limit": {"10"}})
	cl.add(9 * time.Minute)
	next := url.Values{"limit": {"10"}, "startToken": {o.str("nextToken")}}
	a.page(path, next)
	cl.add(time.Minute)
	a.token = a.s.Token().AccessToken
	if e := a.do("GET", path+"?"+next.Encode(), nil).want(t, 400); e.str("message") != "Next token is expired" {
		t.Errorf("old token: %v", e)
	}
	// Pages are no snapshot: what is trashed meanwhile is not told.
	o, _ = a.page(path, url.Values{"limit": {"10"}, "sort": {`["name ASC"]`}})
	n, _ := a.s.Else().Lookup("bulk-0000000/file-000010.txt")
	if _, err := a.s.Else().Trash(n.ID); err != nil {
		t.Fatal(err)
	}
	if _, l := a.page(path, url.Values{"limit": {"10"}, "startToken": {o.str("nextToken")}}); l[0] != "file-000011.txt" || len(l) != 10 {
		t.Errorf("second page: %v", l)
	}
	a.do("GET", "/drive/v1/nodes/AAAAAAAAAAAAAAAAAAAAAA/children", nil).want(t, 404)
}

func TestParents(t *testing.T) {
	a := newAPI(t)
	x, y := a.mkdir(a.root(), "x").id(), a.mkdir(a.root(), "y").id()
	f := a.put(x, "f", "1").id()
	a.put(y, "taken", "2")
	children := func(id string) string {
		_, l := a.page("/drive/v1/nodes/"+id+"/children", nil)
		return strings.Join(l, ",")
	}
	add := func(parent, child string) answer {
		return a.do("PUT", "/drive/v1/nodes/"+parent+"/children/"+child, nil)
	}
	remove := func(parent, child string) answer {
		return a.do("DELETE", "/drive/v1/nodes/"+parent+"/children/"+child, nil)
	}
	move := func(child, from, to string) answer {
		return a.json("POST", "/drive/v1/nodes/"+to+"/children", obj{"fromParent": from, "childId": child})
	}
	add(y, f).want(t, 200)
	add(y, f).want(t, 200)
	if children(x) != "f" || children(y) != "f,taken" {
		t.Errorf("two parents: %s / %s", children(x), children(y))
	}
	// A rename must be free in all parents.
	a.json("PATCH", "/drive/v1/nodes/"+f, obj{"name": "TAKEN"}).want(t, 409)
	remove(x, f).want(t, 200)
	remove(x, f).want(t, 400)
	if n := move(f, y, x).want(t, 200); n.id() != f || children(y) != "taken" {
		t.Errorf("moved: %v", n)
	}
	move(f, y, a.root()).want(t, 400)
	move(f, x, "AAAAAAAAAAAAAAAAAAAAAA").want(t, 404)
	move("AAAAAAAAAAAAAAAAAAAAAA", x, y).want(t, 404)
	dup := a.put(x, "TAKEN", "3").id()
	if e := move(dup, x, y).want(t, 409); e.str("code") != "NAME_ALREADY_EXISTS" {
		t.Errorf("move onto a name: %v", e)
	}
	add(y, dup).want(t, 409)
	// No cycles.
	sub := a.mkdir(x, "sub").id()
	move(x, a.root(), sub).want(t, 400)
	add(sub, x).want(t, 400)
	add(x, x).want(t, 400)
	// PATCH of parents moves as well.
	if n := a.json("PATCH", "/drive/v1/nodes/"+dup, obj{"parents": []string{sub}, "name": "d"}).want(t, 200); n.str("name") != "d" || children(sub) != "d" {
		t.Errorf("PATCH of parents: %v", n)
	}
	a.json("PATCH", "/drive/v1/nodes/"+dup, obj{"contentProperties": obj{"size": 1}}).want(t, 403)
	// The last parent: to the root, or nowhere.
	remove(sub, dup).want(t, 200)
	if !strings.Contains(children(a.root()), "d") {
		t.Errorf("root after the last parent went: %s", children(a.root()))
	}
	o := newAPI(t, drivetest.Options{LastParentOrphans: true})
	d := o.mkdir(o.root(), "d").id()
	if n := o.do("DELETE", "/drive/v1/nodes/"+o.root()+"/children/"+d, nil).want(t, 200); len(n["parents"].([]any)) != 0 {
		t.Errorf("orphan: %v", n)
	}
}

func TestTrash(t *testing.T) {
	a := newAPI(t)
	d := a.mkdir(a.root(), "d").id()
	sub := a.mkdir(d, "sub").id()
	f, other := a.put(sub, "f", "1").id(), a.mkdir(a.root(), "other").id()
	two := a.put(sub, "two", "2").id()
	a.do("PUT", "/drive/v1/nodes/"+other+"/children/"+two, nil).want(t, 200)
	trash := func(id string) answer { return a.do("PUT", "/drive/v1/trash/"+id, strings.NewReader("{}")) }
	restore := func(id string) answer { return a.do("POST", "/drive/v1/trash/"+id+"/restore", nil) }
	trash(a.root()).want(t, 403)
	trash("AAAAAAAAAAAAAAAAAAAAAA").want(t, 404)
	n := trash(d).want(t, 200)
	if n.str("status") != "TRASH" || n["exclusivelyTrashed"] != true || n["recursivelyTrashed"] != nil {
		t.Errorf("trashed: %v", n)
	}
	if n := a.get(f); n.str("status") != "TRASH" || n["recursivelyTrashed"] != true || len(n["parents"].([]any)) != 1 {
		t.Errorf("below a trashed folder: %v", n)
	}
	if n := a.get(two); n.str("status") != "AVAILABLE" {
		t.Errorf("with another parent: %v", n)
	}
	if l := a.do("GET", "/drive/v1/trash", nil).want(t, 200).list("data"); names(l) != "d" {
		t.Errorf("trash list: %s", names(l))
	}
	if l := a.find("kind:FOLDER AND isRoot:false"); names(l) != "other" {
		t.Errorf("listing without status: %s", names(l))
	}
	if e := a.json("POST", "/drive/v1/nodes", obj{"name": "x", "kind": "FOLDER", "parents": []string{sub}}).want(t, 400); e.str("message") != "A node cannot be added to trashed parent" {
		t.Errorf("below the trash: %v", e)
	}
	a.json("POST", "/drive/v1/nodes/"+other+"/children", obj{"fromParent": sub, "childId": f}).want(t, 400)
	// Rename and parents work in the trash.
	a.json("PATCH", "/drive/v1/nodes/"+d, obj{"name": "D2"}).want(t, 200)
	a.do("PUT", "/drive/v1/nodes/"+other+"/children/"+d, nil).want(t, 200)
	a.do("GET", "/cdproxy/nodes/"+f+"/content", nil).want(t, 200)
	restore(sub).want(t, 400) // its parent is trashed
	taken := a.mkdir(a.root(), "d2").id()
	if e := restore(d).want(t, 409); e.sub("info").str("nodeId") != taken {
		t.Errorf("restore onto a name: %v", e)
	}
	trash(taken).want(t, 200)
	if n := restore(d).want(t, 200); n.str("status") != "AVAILABLE" || n["exclusivelyTrashed"] != nil {
		t.Errorf("restored: %v", n)
	}
	if n := a.get(f); n.str("status") != "AVAILABLE" || n["recursivelyTrashed"] != nil {
		t.Errorf("restored with its folder: %v", n)
	}
	if err := a.s.Else().Purge(taken); err != nil {
		t.Fatal(err)
	}
	a.do("GET", "/drive/v1/nodes/"+taken, nil).want(t, 404)
	strict := newAPI(t, drivetest.Options{TrashedContent404: true})
	g := strict.put(strict.root(), "g", "1").id()
	strict.do("PUT", "/drive/v1/trash/"+g, nil).want(t, 200)
	strict.do("GET", "/cdproxy/nodes/"+g+"/content", nil).want(t, 404)
	strict.overwrite(g, "2").want(t, 404)
}

func TestProperties(t *testing.T) {
	a := newAPI(t)
	n := a.put(a.root(), "f", "1")
	base := "/drive/v1/nodes/" + n.id() + "/properties/drivefs"
	set := func(k, v string) answer { return a.json("PUT", base+"/"+k, obj{"value": v}) }
	if r := set("k1", "v1").want(t, 201); r.str("key") != "k1" || r.str("value") != "v1" || !strings.HasSuffix(r.str("location"), "/properties/drivefs/k1") {
		t.Errorf("set: %v", r)
	}
	set("k1", "v2").want(t, 201)
	if r := a.do("GET", base+"/k1", nil).want(t, 200); r.str("value") != "v2" {
		t.Errorf("get: %v", r)
	}
	if m := a.get(n.id()); m.num("version") != 3 || m["properties"] != nil {
		t.Errorf("node: %v", m)
	}
	set("bad-key", "v").want(t, 400)
	set(strings.Repeat("k", 51), "v").want(t, 400)
	set("k", strings.Repeat("v", 501)).want(t, 400)
	for i := 2; i <= 10; i++ {
		set(fmt.Sprint("k", i), "v").want(t, 201)
	}
	set("k11", "v").want(t, 400)
	set("k10", strings.Repeat("v", 500)).want(t, 201)
	if r := a.do("GET", base, nil).want(t, 200); r.num("count") != 10 || r.sub("data").str("k1") != "v2" {
		t.Errorf("list: %v", r)
	}
	a.do("DELETE", base+"/k1", nil).want(t, 204)
	a.do("GET", base+"/k1", nil).want(t, 404)
	a.do("GET", "/drive/v1/nodes/"+n.id()+"/properties/other/k", nil).want(t, 403)
	a.json("PUT", "/drive/v1/nodes/"+n.id()+"/properties/other/k", obj{"value": "v"}).want(t, 403)
	l := a.do("GET", `/drive/v1/nodes/`+a.root()+`/children?fields=["properties"]`, nil).want(t, 200).list("data")
	if len(l[0].sub("properties").sub("drivefs")) != 9 {
		t.Errorf("listed: %v", l)
	}
	g := a.put(a.root(), "g", "1")
	if p := a.do("GET", "/drive/v1/nodes/"+g.id()+`?fields=["properties"]`, nil).want(t, 200)["properties"]; p == nil || len(p.(map[string]any)) != 0 {
		t.Errorf("asked and none: %v", p)
	}
}

func TestAssets(t *testing.T) {
	a := newAPI(t)
	f := a.put(a.root(), "p.jpg", "1").id()
	if _, err := a.s.Else().PutRaw(drivetest.Node{Name: "thumb", Kind: drivetest.KindAsset, Parents: []string{f}, Content: &drivetest.Content{Size: 3}}); err != nil {
		t.Fatal(err)
	}
	if l := a.find("kind:ASSET"); names(l) != "thumb" {
		t.Errorf("assets: %v", l)
	}
	n := a.do("GET", "/drive/v1/nodes/"+f+"?asset=ALL", nil).want(t, 200)
	if names(n.list("assets")) != "thumb" || a.get(f)["assets"] != nil {
		t.Errorf("mapped: %v", n)
	}
}
