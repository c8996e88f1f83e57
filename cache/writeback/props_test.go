package writeback

import (
	"maps"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		props := func(p string) map[string]string {
			n, err := w.other.Lookup(p)
			if err != nil {
				t.Fatal(err)
			}
			got, err := w.client.GetWithProperties(w.ctx(), n.ID)
			if err != nil {
				t.Fatal(err)
			}
			return got.Properties["drivefs"]
		}
		// The owner is not known before the first node: one call after it.
		must[uint64, uint64](t)(w.tryWrite("a", []byte("x"), map[string]string{"attr": "1"}))
		w.flush()
		w.wantCalls(map[string]int{"content.upload": 1, "nodes.properties": 1})
		if got := props("a"); got["attr"] != "1" {
			t.Errorf("a: %v", got)
		}
		w.srv.ResetRequests()
		must[uint64, uint64](t)(w.tryWrite("b", []byte("x"), map[string]string{"attr": "2", "gone": ""}))
		w.flush()
		// It is looked once whether the drive keeps them.
		w.wantCalls(map[string]int{"content.upload": 1, "nodes.get": 1})
		if got := props("b"); got["attr"] != "2" {
			t.Errorf("b: %v", got)
		}
		// The mirror knows both: what no answer tells is kept with it.
		for p, want := range map[string]map[string]string{"a": {"attr": "1"}, "b": {"attr": "2"}} {
			if r, _, err := w.m.Get(w.ino(p)); err != nil || !maps.Equal(r.Props, want) {
				t.Errorf("%s: the mirror has %v, %v", p, r.Props, err)
			}
		}
		w.srv.ResetRequests()
		w.setProps("a", map[string]string{"attr": "", "mode": "600"})
		w.flush()
		w.wantCalls(map[string]int{"nodes.properties": 2})
		if got := props("a"); len(got) != 1 || got["mode"] != "600" {
			t.Errorf("a: %v", got)
		}
	})
}

// Before our first own node tells whose they would be, properties of a node
// that others made stay with the host.
func TestPropertiesWithoutOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		n, err := w.other.PutPath("theirs", []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.client.Get(w.ctx(), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		w.tell(got)
		w.srv.ResetRequests()
		w.setProps("theirs", map[string]string{"attr": "1"})
		w.flush()
		w.wantTree(map[string]string{"theirs": "x"})
		w.wantCalls(map[string]int{})
	})
}

// A service that takes no properties takes the nodes all the same.
func TestPropertiesRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("owner", "x")
		w.flush()
		w.srv.ResetRequests()
		var refused atomic.Int32
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			first := op.Name == "content.upload" && refused.CompareAndSwap(0, 1)
			if first || op.Name == "nodes.properties" {
				return &drivetest.Fault{Do: drivetest.DoStatus, Status: 403, Body: `{"message":"not yours"}`}
			}
			return nil
		})
		defer w.srv.Hook(nil)
		attr := map[string]string{"attr": "1"}
		must[uint64, uint64](t)(w.tryWrite("a", []byte("a"), attr))
		w.flush()
		must[uint64, uint64](t)(w.tryWrite("b", []byte("b"), attr))
		w.flush()
		w.wantTree(map[string]string{"owner": "x", "a": "a", "b": "b"})
		w.wantCalls(map[string]int{"content.upload": 3, "nodes.properties": 2})
	})
}
