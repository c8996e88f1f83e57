package drivetest

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func randomNode(r *rand.Rand) *node {
	str := func() string {
		b := make([]rune, r.IntN(6))
		for i := range b {
			b[i] = []rune("aZ\"\\\x01é😀/ ")[r.IntN(9)]
		}
		return string(b)
	}
	list := func() (l []string) {
		for range r.IntN(3) {
			l = append(l, str())
		}
		return l
	}
	n := &node{
		num: r.Uint64(), seq: r.Uint64() >> 1, changed: r.Int64(), id: str(), name: str(), kind: str(), status: str(), version: r.Int64(),
		parents: list(), created: r.Int64N(1 << 42), modified: r.Int64N(1 << 42), createdBy: str(), description: str(), labels: list(),
		isRoot: r.IntN(2) == 0, exclTrashed: r.IntN(2) == 0, recTrashed: r.IntN(2) == 0,
	}
	if r.IntN(2) == 0 {
		n.props = map[string]map[string]string{str(): {str(): str(), "k": str()}, "owner": {}}
	}
	if r.IntN(2) == 0 {
		n.content = &content{size: r.Int64(), contentType: str(), ext: str(), version: r.Int64N(9), date: r.Int64N(1 << 42), blob: str()}
		r.Uint64()
		n.content.md5[r.IntN(16)] = byte(r.IntN(256))
	}
	return n
}

func TestRecords(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	d := decoder{intern: map[string]string{}}
	for range 500 {
		n := randomNode(r)
		rec := n.encode(nil)
		got, ok := d.node(n.num, rec)
		if !ok {
			t.Fatalf("cannot read back %+v", n)
		}
		if diff := cmp.Diff(n, got, cmp.AllowUnexported(node{}, content{})); diff != "" {
			t.Fatal(diff)
		}
		for cut := range rec { // no prefix of a record is a record
			if _, ok := d.node(n.num, rec[:cut]); ok {
				t.Fatalf("a record of %d bytes was read from %d", len(rec), cut)
			}
		}
		var v map[string]any
		if err := json.Unmarshal(appendNode(nil, n, &shape{owner: "owner", extra: true}), &v); err != nil {
			t.Fatalf("JSON of %+v: %v", n, err)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"", "isRoot:true", `parents:"-x" AND name:"a\ \(1\)"`, "kind:(FILE* OR FOLDER*)", `createdDate:{"2014-12-31T23:59:59.000Z" TO *]`,
		"contentProperties.size:[1 TO 2} OR (name:x* and labels:(a AND b))", "name:\\", "((", ":", `name:"`, "contentProperties.size:["} {
		f.Add(s)
	}
	n := &node{name: "x", kind: KindFile, status: StatusAvailable, content: &content{}}
	f.Fuzz(func(t *testing.T, s string) {
		flt, e := parseFilter(s, false)
		if e == nil {
			flt.match(n)
			flt.required("parents")
		}
	})
}

// A node whose last folder in the tree is taken away goes where its others are.
func TestLastLiveParent(t *testing.T) {
	s := New(t)
	e := s.Else()
	in, err := e.MkdirAll("in")
	if err != nil {
		t.Fatal(err)
	}
	gone, err := e.MkdirAll("gone")
	if err != nil {
		t.Fatal(err)
	}
	d, err := e.MkdirAll("in/d")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.PutPath("in/d/f", []byte("f")); err != nil {
		t.Fatal(err)
	}
	if _, err := e.AddParent(d.ID, gone.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Trash(gone.ID); err != nil {
		t.Fatal(err)
	}
	if n, err := e.Get(d.ID); err != nil || n.Status != StatusAvailable {
		t.Errorf("with a folder left it is %s (%v)", n.Status, err)
	}
	if n, err := e.RemoveParent(d.ID, in.ID); err != nil || n.Status != StatusTrash {
		t.Errorf("without one it is %s (%v)", n.Status, err)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	if _, err := e.Restore(gone.ID); err != nil {
		t.Fatal(err)
	}
	if b, err := e.ReadFile("gone/d/f"); err != nil || string(b) != "f" {
		t.Errorf("after the restore: %q (%v)", b, err)
	}
}
