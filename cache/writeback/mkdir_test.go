package writeback

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// A mkdir whose answer is lost makes one folder, whatever the repeat is
// answered, whoever tells of the folder first, and whether or not the process
// dies in between.
func TestMkdirUnanswered(t *testing.T) {
	lost := map[string]drivetest.Fault{
		"504":             {Status: 504, Body: "empty", Effect: drivetest.EffectDone},
		"reset":           {Do: drivetest.DoReset, Effect: drivetest.EffectDone},
		"201, a page":     {Do: drivetest.DoStatus, Status: 201, Body: "<html>", Effect: drivetest.EffectDone},
		"201, cut":        {Do: drivetest.DoStatus, Status: 201, Body: `{"id":"abc`, Effect: drivetest.EffectDone},
		"201, no content": {Do: drivetest.DoStatus, Status: 201, Body: "empty", Effect: drivetest.EffectDone},
	}
	repeats := map[string]string{"told": "", "empty": "empty", "a page": "<html><body>Conflict</body></html>", "cut": `{"code":"NAME_ALREADY_EXI`, "nothing": "{}"}
	for how, fault := range lost {
		for told, body := range repeats {
			for _, kill := range []bool{false, true} {
				for _, feed := range []bool{false, true} {
					if how != "504" && how != "201, a page" && (kill || feed) {
						continue // once is enough
					}
					bubble(t, fmt.Sprintf("%s,409 %s,kill=%v,feed=%v", how, told, kill, feed), func(t *testing.T) {
						w := newWorld(t, drivetest.Options{}, fast).run()
						var mu sync.Mutex
						n := 0
						made := func() {
							if !feed {
								return
							}
							if n, err := w.other.Lookup("d"); err == nil {
								w.tell(asNode(n))
							}
						}
						a := w.arm(1<<30, true)
						w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
							if op.Name != "nodes.create" {
								return nil
							}
							mu.Lock()
							defer mu.Unlock()
							if n++; n == 1 {
								if kill {
									a.kill(op.Name)
								}
								return &fault
							}
							if n == 2 {
								made()
							}
							if told == "told" {
								return nil
							}
							return &drivetest.Fault{Do: drivetest.DoStatus, Status: 409, Body: body}
						})
						w.s.Pause(true)
						w.mkdir("d")
						w.write("d/f", "x")
						w.unpause()
						if kill {
							<-a.dead
							w.stop()
							w.stop = func() {}
							hook := func(op drivetest.Op) *drivetest.Fault {
								if op.Name != "nodes.create" {
									return nil
								}
								made()
								if told == "told" {
									return nil
								}
								return &drivetest.Fault{Do: drivetest.DoStatus, Status: 409, Body: body}
							}
							time.Sleep(10 * time.Millisecond)
							a.rise()
							w.srv.Hook(hook)
						}
						w.flush()
						w.srv.Hook(nil)
						w.wantTree(map[string]string{"d": "/", "d/f": "x"})
						w.wantTrash()
						if n := w.notes(""); len(n) > 0 {
							t.Errorf("reported: %q", n)
						}
					})
				}
			}
		}
	}
}
