package drive

import (
	"net/http"
	"testing"
	"time"
)

// The service's clock is the one that dates nodes, whatever this machine's is,
// and whatever machine of the service writes the headers.
func TestServiceTime(t *testing.T) {
	s, c := socketless(t, nil)
	if !c.ServiceTime().IsZero() {
		t.Error("a date before any answer")
	}
	header, stamp := time.Now().Add(-5*time.Hour), time.Now().Add(-3*time.Hour)
	s.HandleFunc("POST /meta/nodes", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", header.UTC().Format(http.TimeFormat))
		reply(w, 201, map[string]any{"id": "f", "name": "n", "kind": "FOLDER", "status": "AVAILABLE", "createdDate": stamp.UTC().Format("2006-01-02T15:04:05.000Z")})
	})
	s.HandleFunc("GET /meta/nodes/f", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", header.UTC().Format(http.TimeFormat))
		reply(w, 200, map[string]any{"id": "f", "name": "n", "kind": "FOLDER", "status": "AVAILABLE", "createdDate": "1999-01-01T00:00:00.000Z"})
	})
	near := func(what string, want time.Time) {
		t.Helper()
		if d := c.ServiceTime().Sub(want).Abs(); d > 10*time.Second {
			t.Errorf("%s: %v off", what, d)
		}
	}
	if _, err := c.Get(bg, "f"); err != nil {
		t.Fatal(err)
	}
	near("after an answer", header)
	if _, err := c.CreateFolder(bg, NewNode{Name: "n"}); err != nil {
		t.Fatal(err)
	}
	near("after a node was made", stamp)
	if _, err := c.Get(bg, "f"); err != nil {
		t.Fatal(err)
	}
	near("after an old node was got", stamp)
}
