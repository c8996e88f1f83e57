package writeback

import (
	"fmt"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// A 404 for a node that is there is lag or a hiccup: whatever was wanted of it
// comes about, and nothing is made anew.
func TestNotFoundForAWhile(t *testing.T) {
	for name, do := range map[string]func(w *world){
		"overwrite": func(w *world) { w.write("d/a", "new") },
		"rename":    func(w *world) { w.rename("d/a", "d/b") },
		"move":      func(w *world) { w.rename("d/a", "b") },
		"unlink":    func(w *world) { w.remove("d/a") },
		"rmdir":     func(w *world) { w.remove("d/a"); w.remove("d") },
		"new file":  func(w *world) { w.write("d/n", "n") },
		"mkdir":     func(w *world) { w.mkdir("d/n") },
	} {
		for _, op := range []string{"nodes.get", "*"} {
			for _, times := range []int{1, 2, 3} {
				bubble(t, fmt.Sprintf("%s,%s,%d", name, op, times), func(t *testing.T) {
					o := fast
					o.MissingWait = time.Minute
					w := newWorld(t, drivetest.Options{}, o).run()
					w.mkdir("d")
					w.write("d/a", "old")
					w.flush()
					left := times
					w.srv.Hook(func(o drivetest.Op) *drivetest.Fault {
						if o.NodeID == "" || op != "*" && o.Name != op || o.Name == "nodes.list" || left == 0 {
							return nil
						}
						left--
						return &drivetest.Fault{Do: drivetest.DoStatus, Status: 404, Body: "empty"}
					})
					do(w)
					w.flush()
					w.srv.Hook(nil)
					switch name {
					case "overwrite":
						w.wantTree(map[string]string{"d": "/", "d/a": "new"})
					case "rename":
						w.wantTree(map[string]string{"d": "/", "d/b": "old"})
					case "move":
						w.wantTree(map[string]string{"d": "/", "b": "old"})
					case "unlink":
						w.wantTree(map[string]string{"d": "/"})
						w.wantTrash("a")
					case "rmdir":
						w.wantTree(nil)
						w.wantTrash("d")
					case "new file":
						w.wantTree(map[string]string{"d": "/", "d/a": "old", "d/n": "n"})
					case "mkdir":
						w.wantTree(map[string]string{"d": "/", "d/a": "old", "d/n": "/"})
					}
					if n := w.notes(""); len(n) > 0 {
						t.Errorf("reported: %q", n)
					}
				})
			}
		}
	}
}

// What neither the node's own address nor its folder knows is gone after a
// poll; not before, and without one after a while.
func TestGoneAfterAPoll(t *testing.T) {
	for _, poll := range []bool{true, false} {
		bubble(t, fmt.Sprint("poll=", poll), func(t *testing.T) {
			o := fast
			o.MissingWait = 10 * time.Minute
			w := newWorld(t, drivetest.Options{}, o).run()
			w.write("a", "old")
			w.flush()
			n, err := w.other.Lookup("a")
			if err == nil {
				_, err = w.other.Trash(n.ID)
			}
			if err == nil {
				err = w.other.Purge(n.ID)
			}
			if err != nil {
				t.Fatal(err)
			}
			w.srv.ResetRequests()
			w.write("a", "new")
			time.Sleep(time.Minute)
			if got := w.srv.Requests(); got["content.upload"] > 0 || got["nodes.list"] == 0 || got["nodes.get"] == 0 {
				t.Errorf("calls: %v", got)
			}
			began := time.Now()
			if poll {
				w.s.Polled()
			}
			w.flushLong()
			if took := time.Since(began); poll && took > time.Second || !poll && took < 5*time.Minute {
				t.Errorf("took %v", took)
			}
			w.wantTree(map[string]string{"a": "new"})
		})
	}
}

// A folder that was removed is not taken for empty because its listing was not
// found once.
func TestListingNotFound(t *testing.T) {
	for _, times := range []int{1, 2} {
		bubble(t, fmt.Sprint(times), func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, fast).run()
			w.mkdir("d")
			w.flush()
			d, err := w.other.Lookup("d")
			if err == nil {
				_, err = w.other.PutPath("d/theirs", []byte("theirs"))
			}
			if err != nil {
				t.Fatal(err)
			}
			left := times
			w.srv.Hook(func(o drivetest.Op) *drivetest.Fault {
				if o.Name != "nodes.children" || o.NodeID != d.ID || left == 0 {
					return nil
				}
				left--
				return &drivetest.Fault{Do: drivetest.DoStatus, Status: 404, Body: "empty"}
			})
			w.remove("d")
			w.flush()
			w.wantTree(map[string]string{"d": "/", "d/theirs": "theirs"})
			w.wantTrash()
		})
	}
}
