package drive

import (
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

func TestChildrenFollowsPages(t *testing.T) {
	s, c := socketless(t, nil)
	var queries []string
	s.HandleFunc("GET /meta/nodes/{id}/children", func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		switch r.URL.Query().Get("startToken") {
		case "":
			reply(w, 200, map[string]any{"count": 5, "nextToken": "a+b/c=", "data": []any{
				node("1", "one", "-p"), node("2", "moved away", "other"), map[string]any{"kind": "FILE"}}})
		case "a+b/c=":
			n := node("4", "pending", "-p", "q")
			n["status"], n["createdDate"] = "PENDING", "not a date"
			reply(w, 200, map[string]any{"nextToken": "t3", "data": []any{node("1", "one", "-p"), n}})
		case "t3":
			reply(w, 200, map[string]any{"nextToken": nil, "data": []any{node("5", "", "-p")}})
		}
	})
	got, err := ids(c.Children(bg, "-p", true))
	if err != nil || !slices.Equal(got, []string{"1", "4", "5"}) {
		t.Fatalf("got %v, %v", got, err)
	}
	for _, q := range queries {
		if !strings.Contains(q, "limit=200") || !strings.Contains(q, "fields=%5B%22properties%22%5D") || strings.Contains(q, "+") {
			t.Errorf("query %s", q)
		}
	}
	if got := s.count("GET /meta/nodes/-p/children"); got != 3 {
		t.Errorf("%d pages asked", got)
	}
	for n, err := range c.Children(bg, "-p", true) {
		if err != nil || n.Properties == nil {
			t.Fatalf("properties %v, %v", n.Properties, err)
		}
		break // and no further page
	}
	if got := s.count("GET /meta/nodes/-p/children"); got != 4 {
		t.Errorf("%d pages asked", got)
	}
}

func TestListingEndsOnEmptyPage(t *testing.T) {
	s, c := socketless(t, nil)
	s.HandleFunc("GET /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("startToken") != "" {
			reply(w, 200, `{"nextToken":"more","data":[]}`)
			return
		}
		reply(w, 200, `{"nextToken":"more","data":[{"id":"1"}]}`)
	})
	got, err := ids(matching(c, "kind:FILE", []string{"name ASC"}))
	if err != nil || len(got) != 1 {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestListingThatDoesNotAdvance(t *testing.T) {
	s, c := socketless(t, nil)
	s.HandleFunc("GET /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
		reply(w, 200, `{"nextToken":"same","data":[{"id":"1"}]}`)
	})
	_, err := ids(matching(c, "kind:FILE", nil))
	wantIs(t, err, ErrProtocol)
}

func TestListingRestartsOnExpiredToken(t *testing.T) {
	s, c := socketless(t, nil)
	expired := 0
	s.HandleFunc("GET /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
		switch tok := r.URL.Query().Get("startToken"); {
		case tok == "":
			reply(w, 200, `{"nextToken":"2","data":[{"id":"1"},{"id":"2"}]}`)
		case expired < 2:
			expired++
			reply(w, 400, `{"message":"Next token is expired"}`)
		default:
			reply(w, 200, `{"data":[{"id":"2"},{"id":"3"}]}`)
		}
	})
	got, err := ids(matching(c, "kind:FILE", nil))
	if err != nil || !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Fatalf("got %v, %v", got, err)
	}
	expired = -1000
	got, err = ids(matching(c, "kind:FILE", nil))
	wantIs(t, err, ErrTokenExpired)
	if len(got) != 2 {
		t.Errorf("yielded %v", got)
	}
	if n := expired + 1000; n != maxRestarts+1 {
		t.Errorf("%d restarts", n-1)
	}
}

func TestListingRetries502(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := socketless(t, nil)
		n := 0
		s.HandleFunc("GET /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
			if n++; n < 3 {
				reply(w, 502, "<html>bad gateway</html>")
				return
			}
			reply(w, 200, `{"data":[{"id":"1"}]}`)
		})
		got, err := ids(matching(c, "kind:FILE", nil))
		if err != nil || len(got) != 1 {
			t.Fatalf("got %v, %v", got, err)
		}
		if k := c.Counters()["nodes.query"]; k != (Count{Count: 1, Retries: 2}) {
			t.Errorf("counters %+v", k)
		}
	})
}

// A connection that breaks within a page is a failed try, and no end of the listing.
func TestListingCutInMidPage(t *testing.T) {
	s, c := overTCP(t, nil)
	n := 0
	s.HandleFunc("GET /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "40")
		w.WriteHeader(200)
		_, _ = w.Write([]byte(`{"data":[{"id":"1"},`))
		w.(http.Flusher).Flush()
		if n++; n == 1 {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write([]byte(`{"id":"2"}]}        `))
	})
	got, err := ids(matching(c, "kind:FILE", nil))
	if err != nil || !slices.Equal(got, []string{"1", "2"}) || c.Counters()["nodes.query"].Retries != 1 {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestFindComparesByItself(t *testing.T) {
	s, c := socketless(t, nil)
	var filter string
	s.HandleFunc("GET /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
		filter = r.URL.Query().Get("filters")
		trashed := node("3", "a (1).txt", "p")
		trashed["status"] = "TRASH"
		reply(w, 200, map[string]any{"data": []any{node("1", "A (1).TXT", "p"), node("2", "a (12).txt", "p"), trashed, node("4", "a (1).txt", "q")}})
	})
	got, err := c.Find(bg, "p", "a (1).txt")
	if err != nil || len(got) != 1 || got[0].ID != "1" {
		t.Fatalf("got %v, %v", got, err)
	}
	if want := `parents:"p" AND name:"a\ \(1\).txt"`; filter != want {
		t.Errorf("filter %s, want %s", filter, want)
	}
}

func TestRoot(t *testing.T) {
	s, c := socketless(t, nil)
	answer := `{"data":[{"id":"r","isRoot":true,"kind":"FOLDER","status":"AVAILABLE","parents":[]}]}`
	s.HandleFunc("GET /meta/nodes", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, answer) })
	n, err := c.Root(bg)
	if err != nil || n.ID != "r" || !n.Live() {
		t.Fatalf("%+v %v", n, err)
	}
	answer = `{"count":0,"data":[]}`
	_, err = c.Root(bg)
	wantIs(t, err, ErrProtocol)
}

func TestNodeAnswers(t *testing.T) {
	tests := []struct {
		body string
		want error
		name string
	}{
		{`{"id":"x","name":"n","new":{"a":[1]}}`, nil, "n"},
		{`{"id":"x","name":"n","version":"seven","modifiedDate":"","labels":{}}`, nil, "n"},
		{`{"id":"x","name":"n","contentProperties":{"size":"big","md5":7}}`, nil, "n"},
		{`{"name":"n"}`, ErrProtocol, ""},
		{`<html>login to the hotel</html>`, ErrProtocol, ""},
		{`{"id":"x","na`, ErrProtocol, ""},
		{``, ErrProtocol, ""},
		{`[]`, ErrProtocol, ""},
	}
	for _, tt := range tests {
		s, c := socketless(t, nil)
		s.HandleFunc("GET /meta/nodes/{id}", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, tt.body) })
		n, err := c.Get(bg, "x")
		if !errors.Is(err, tt.want) || n.Name != tt.name {
			t.Errorf("%s: %+v, %v", tt.body, n, err)
		}
	}
}

func TestListTrash(t *testing.T) {
	s, c := socketless(t, nil)
	trashed := func(id, kind, parent string) map[string]any {
		n := node(id, id, parent)
		n["status"], n["kind"] = "TRASH", kind
		return n
	}
	s.HandleFunc("GET /meta/trash", func(w http.ResponseWriter, r *http.Request) {
		reply(w, 200, map[string]any{"data": []any{trashed("folder", "FOLDER", "live")}})
	})
	s.HandleFunc("GET /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
		switch f := r.URL.Query().Get("filters"); f {
		case "status:TRASH AND kind:FOLDER":
			reply(w, 200, map[string]any{"data": []any{trashed("deep", "FOLDER", "sub"), trashed("sub", "FOLDER", "folder"), trashed("folder", "FOLDER", "live")}})
		case "status:TRASH AND kind:FILE":
			reply(w, 200, map[string]any{"data": []any{trashed("inside", "FILE", "deep"), trashed("alone", "FILE", "live")}})
		default:
			t.Errorf("filter %s", f)
		}
	})
	got, err := ids(c.ListTrash(bg))
	if err != nil || fmt.Sprint(got) != "[folder alone]" {
		t.Fatalf("got %v, %v", got, err)
	}
}

// matching yields the nodes that match a filter, page by page.
func matching(c *Client, filter string, sort []string) iter.Seq2[Node, error] {
	return c.list(bg, listing{op: "nodes.query", ref: "nodes", filter: filter, sort: sort})
}
