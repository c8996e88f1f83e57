package cache

import (
	"maps"
	"testing"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/tree"
)

// TestPropsComeWithTheAnswer: what went up together with a new node is in the
// mirror from the answer on, so that the end of the intent has nothing to write.
func TestPropsComeWithTheAnswer(t *testing.T) {
	w := newWorld(t)
	w.write("first", "tells our owner name")
	w.flush()
	owner := w.s.remote.Owner()
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
	props := map[string]string{tree.PropAttr: "1"}
	answer.Properties = map[string]map[string]string{owner: props}
	if err := w.answered(ino, answer); err != nil {
		t.Fatal(err)
	}
	r, ok, err := w.s.mirror.Get(ino)
	if err != nil || !ok || !maps.Equal(r.Props, props) || r.PropsVersion != r.Version {
		t.Fatal(r, ok, err)
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
	if err := w.answered(ino, listed); err != nil {
		t.Fatal(err)
	}
	props := map[string]string{tree.PropAttr: "p=0640"}
	var e *journal.Entry
	err = w.s.tree.Change(func(tx *tree.Tx) (err error) {
		e, err = tx.Edit(ino)
		if err == nil {
			e.Props, e.Due = props, time.Now().Add(time.Hour)
			tx.Put(e)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if done, err := w.s.tree.Fulfil(ino, e.Rev); !done || err != nil {
		t.Fatal(done, err)
	}
	listed.Properties = map[string]map[string]string{w.s.remote.Owner(): {}}
	if err := w.s.intake.node(listed); err != nil {
		t.Fatal(err)
	}
	if r, ok, err := w.s.mirror.Get(ino); err != nil || !ok || !maps.Equal(r.Props, props) {
		t.Errorf("after the listing: %v (%v, %v)", r.Props, ok, err)
	}
}

// TestNewsDuringLook: what a look at a folder showed is not believed once there
// was news in it, whenever it is noted.
func TestNewsDuringLook(t *testing.T) {
	var p properties
	f, ask := p.look(7)
	if !ask {
		t.Fatal("a folder nobody looked at is not asked for")
	}
	p.forget(7)
	p.note(f, true, 0)
	if f, ask = p.look(7); !ask {
		t.Error("news between look and note was lost")
	}
	p.note(f, false, propsRetry)
	if _, ask = p.look(7); ask {
		t.Error("asked again at once")
	}
	p.forget(7)
	if f, ask = p.look(7); !ask {
		t.Error("news does not end the pause")
	}
	p.note(f, true, 0)
	if _, ask = p.look(7); ask {
		t.Error("asked for although all was told")
	}
}
