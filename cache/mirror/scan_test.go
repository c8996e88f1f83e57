package mirror

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drivefs/drivefs/drive"
)

// scanned is a folder as Scan has it, what it lends copied.
func scanned(m *Mirror, dir Ino) (rs []Record, err error) {
	err = m.Scan(dir, 0, int(^uint(0)>>1), func(r *Record) bool {
		c := *r
		for _, s := range []*string{&c.ID, &c.Name, &c.Shown, &c.ETag, &c.CreatedBy, &c.MD5, &c.ContentType} {
			*s = strings.Clone(*s)
		}
		c.Parents = slices.Clone(r.Parents)
		c.Props = nil
		if r.Props != nil {
			c.Props = map[string]string{}
		}
		for k, v := range r.Props {
			c.Props[strings.Clone(k)] = strings.Clone(v)
		}
		rs = append(rs, c)
		return true
	})
	return rs, err
}

// TestScan: what is lent is what is given, record by record, and costs nothing.
func TestScan(t *testing.T) {
	m := open(t, Options{Owner: func() string { return "me" }})
	apply(t, m, dir("d", "d", 1), dir("e", "e", 1))
	long := strings.Repeat("long ", 60)
	many := []drive.Node{
		leaf("a", "a", 1, "d"), dir("folder", "folder", 1, "d"), leaf("A", "A", 2, "d"), leaf("long", long, 1, "d"),
		leaf("slash", "a/b", 1, "d"), leaf("both", "both", 3, "e", "d"), dir("within", "within", 1, "e", "d"),
		with(leaf("own", "own", 1, "d"), func(n *drive.Node) {
			n.CreatedBy, n.Properties = "me", map[string]map[string]string{"me": {"m": "1", "x": "y"}}
		}),
		with(leaf("none", "none", 1, "d"), func(n *drive.Node) {
			n.CreatedBy, n.Properties = "me", map[string]map[string]string{}
		}),
		with(leaf("odd", "odd", 1, "d"), func(n *drive.Node) { n.Content.MD5 = "no md5" }),
		with(leaf("empty", "empty", 1, "d"), func(n *drive.Node) { n.Content = nil }),
	}
	for i := range 500 {
		many = append(many, leaf(fmt.Sprint("id", i), fmt.Sprintf("file-%06d.txt", i), 1, "d"))
	}
	apply(t, m, many...)
	d := get(t, m, "d").Ino
	var want []Record
	if err := m.List(d, 0, len(many)+1, func(r *Record) bool {
		c := *r
		c.Parents, c.Props = slices.Clone(r.Parents), maps.Clone(r.Props)
		want = append(want, c)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	got, err := scanned(m, d)
	if err != nil || len(got) != len(want) || len(got) != len(many) {
		t.Fatalf("%d scanned, %d listed of %d: %v", len(got), len(want), len(many), err)
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("scanned %+v\n listed %+v", got[i], want[i])
		}
	}
	n := testing.AllocsPerRun(5, func() {
		if err := m.Scan(d, 0, 1000, func(*Record) bool { return true }); err != nil {
			t.Fatal(err)
		}
	})
	if n > float64(len(many))/2 {
		t.Errorf("%v allocations for %d records", n, len(many))
	}
}

// TestCheckIsCheap: what Check reads a million times it does not copy each time.
func TestCheckIsCheap(t *testing.T) {
	m := open(t, Options{})
	var many []drive.Node
	for i := range 2000 {
		many = append(many, leaf(fmt.Sprint("id", i), fmt.Sprintf("file-%06d.txt", i), 1))
	}
	apply(t, m, many...)
	n := testing.AllocsPerRun(3, func() {
		if errs := m.Check(t.Context()); len(errs) > 0 {
			t.Error(errs)
		}
	})
	if n > 20*float64(len(many)) {
		t.Errorf("%v allocations for %d nodes", n, len(many))
	}
}
