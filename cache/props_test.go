package cache

import (
	"maps"
	"testing"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// TestPropsComeWithTheAnswer: what went up together with a new node is in the
// mirror from the answer on, so that the end of the wish has nothing to write.
func TestPropsComeWithTheAnswer(t *testing.T) {
	w := newWorld(t)
	w.write("first", "tells our owner name")
	w.flush()
	owner := w.s.owner()
	if owner == "" {
		t.Fatal("no owner")
	}
	n, err := w.other.PutPath("node", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := w.o.Remote.Get(w.Context(), n.ID)
	if err != nil {
		t.Fatal(err)
	}
	ino, err := w.s.mirror.NewIno()
	if err != nil {
		t.Fatal(err)
	}
	props := map[string]string{propAttr: "1"}
	answer.Properties = map[string]map[string]string{owner: props}
	if err := (host{w.s}).Answered(ino, answer); err != nil {
		t.Fatal(err)
	}
	r, ok, err := w.s.mirror.Get(ino)
	if err != nil || !ok || !maps.Equal(r.Props, props) || r.PropsVersion != r.Version {
		t.Fatal(r, ok, err)
	}
	e := &journal.Entry{Ino: ino, Intent: journal.Intent{Props: props}, Progress: journal.Progress{NodeID: n.ID, Base: &journal.Base{Version: r.Version}}}
	if !knows(&r, e) {
		t.Errorf("the answer's properties would be written again: %+v", r)
	}
}

// TestChangedPropsAreKept: what was set after the answer is not taken for known.
func TestChangedPropsAreKept(t *testing.T) {
	r := mirror.Record{Version: 1, Props: map[string]string{"a": "1"}, PropsVersion: 1}
	base := &journal.Base{Version: 1}
	for name, c := range map[string]struct {
		edit func(*mirror.Record, *journal.Entry)
		want bool
	}{
		"as it went up":       {func(*mirror.Record, *journal.Entry) {}, true},
		"another value":       {func(_ *mirror.Record, e *journal.Entry) { e.Props["a"] = "2" }, false},
		"one more":            {func(_ *mirror.Record, e *journal.Entry) { e.Props["b"] = "2" }, false},
		"removed":             {func(_ *mirror.Record, e *journal.Entry) { e.Props["a"] = "" }, false},
		"absent, as wished":   {func(_ *mirror.Record, e *journal.Entry) { e.Props["b"] = "" }, true},
		"nothing known":       {func(r *mirror.Record, _ *journal.Entry) { r.Props, r.PropsVersion = nil, 0 }, false},
		"set after the node":  {func(_ *mirror.Record, e *journal.Entry) { e.Base.Version = 2 }, false},
		"of a former version": {func(r *mirror.Record, _ *journal.Entry) { r.Version = 2 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, e, b := r, &journal.Entry{Intent: journal.Intent{Props: map[string]string{"a": "1"}}}, *base
			e.Base = &b
			c.edit(&r, e)
			if got := knows(&r, e); got != c.want {
				t.Errorf("knows: %v", got)
			}
		})
	}
}

// TestListingBeforeProps: while our owner name is not known, a new node goes
// up without properties and they are set one by one. A listing that the
// service gave before that, and that comes after it, does not take them away.
func TestListingBeforeProps(t *testing.T) {
	w := newWorld(t)
	w.write("first", "tells our owner name")
	w.flush()
	n, err := w.other.PutPath("node", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	listed, err := w.o.Remote.Get(w.Context(), n.ID)
	if err != nil {
		t.Fatal(err)
	}
	ino, err := w.s.mirror.NewIno()
	if err != nil {
		t.Fatal(err)
	}
	if err := (host{w.s}).Answered(ino, listed); err != nil {
		t.Fatal(err)
	}
	props := map[string]string{propAttr: "p=0640"}
	e := &journal.Entry{Ino: ino, Intent: journal.Intent{Props: props}, Progress: journal.Progress{NodeID: n.ID, Base: &journal.Base{Version: listed.Version}}}
	if err := w.s.keepProps(e); err != nil {
		t.Fatal(err)
	}
	listed.Properties = map[string]map[string]string{w.s.owner(): {}}
	if err := (host{w.s}).Foreign(listed); err != nil {
		t.Fatal(err)
	}
	if r, ok, err := w.s.mirror.Get(ino); err != nil || !ok || !maps.Equal(r.Props, props) {
		t.Errorf("after the listing: %v (%v, %v)", r.Props, ok, err)
	}
}
