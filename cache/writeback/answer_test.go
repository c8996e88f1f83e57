package writeback

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// once is a hook for the first request of an operation.
func once(op string, fn func() *drivetest.Fault) func(drivetest.Op) *drivetest.Fault {
	do := sync.OnceValue(fn)
	first := true
	var mu sync.Mutex
	return func(o drivetest.Op) *drivetest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if o.Name != op || !first {
			return nil
		}
		first = false
		return do()
	}
}

// Whoever waits for an intent does not hear of a refusal that came too late to
// undo it: another intent had taken its place.
func TestRefusedWhileItChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a", "a")
		w.flush()
		if _, err := w.other.PutPath("taken", []byte("theirs")); err != nil {
			t.Fatal(err)
		}
		changed := false
		w.changing = func() { // the worker has met what has the name
			if !changed {
				changed = true
				w.rename("taken", "free")
			}
		}
		err := w.told(func() (ino, rev uint64, err error) { return w.tryRename("a", "taken") })
		if err != nil || !changed {
			t.Errorf("told %v, changed meanwhile: %v", err, changed)
		}
		w.flush()
		w.wantTree(map[string]string{"free": "a", "taken": "theirs"})
	})
}

// A flush does not wait long for an answer that never comes.
func TestAnswerThatNeverComes(t *testing.T) {
	for _, effect := range []string{drivetest.EffectDone, drivetest.EffectNone} {
		for _, what := range []string{"new", "overwrite", "stream"} {
			bubble(t, what+","+effect, func(t *testing.T) {
				w := newWorld(t, drivetest.Options{}, Options{Seed: 1}).run()
				if what == "overwrite" {
					w.write("a", "old")
					w.flush()
				}
				w.srv.ResetRequests()
				silent := func() *drivetest.Fault { return &drivetest.Fault{Do: drivetest.DoSilent, Effect: effect} }
				upload, overwrite := once("content.upload", silent), once("content.overwrite", silent)
				w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
					if f := upload(op); f != nil {
						return f
					}
					return overwrite(op)
				})
				body := string(data(2*mib, 1))
				if what == "stream" {
					f := w.begin("a")
					f.write([]byte(body))
					f.stream()
					f.close()
				} else {
					w.write("a", body)
				}
				began := time.Now()
				w.flushLong()
				if took := time.Since(began); took > time.Minute {
					t.Errorf("flush took %v", took)
				}
				w.wantTree(map[string]string{"a": body})
				want := 1
				if effect == drivetest.EffectNone {
					want = 2
				}
				if n := w.srv.Requests(); n["content.upload"]+n["content.overwrite"] != want {
					t.Errorf("sent %d times", n["content.upload"]+n["content.overwrite"])
				}
			})
		}
	}
}

// An overwrite arrived cut short; before that is known, the file is changed
// again. What is left is the last content, and nothing beside it.
func TestTruncatedOverwriteChangedAgain(t *testing.T) {
	again := map[string]func(w *world){
		"cut and written": func(w *world) { w.write("a", "newest") },
		"appended":        func(w *world) { w.append("a", "more") },
	}
	for name, change := range again {
		for _, restart := range []bool{false, true} {
			for _, size := range []int{1000, smallFile + 1000} {
				bubble(t, fmt.Sprintf("%s,restart=%v,%d", name, restart, size), func(t *testing.T) {
					w := newWorld(t, drivetest.Options{}, fast).run()
					w.write("a", "old")
					w.flush()
					w.srv.Hook(once("content.overwrite", func() *drivetest.Fault {
						return &drivetest.Fault{Status: 504, Effect: drivetest.EffectTruncated, After: 20 * time.Millisecond}
					}))
					sent := string(data(size, 1))
					w.write("a", sent)
					w.until("it is not known what became of it", func() bool { return w.s.Stats().Active == 0 && w.srv.Requests()["content.overwrite"] > 0 })
					want := "newest"
					if name == "appended" {
						want = sent + "more"
					}
					change(w)
					if restart {
						w.reopen()
						w.run()
					}
					w.flush()
					w.wantTree(map[string]string{"a": want})
					w.wantTrash()
					if n := w.notes(""); len(n) > 0 {
						t.Errorf("reported: %q", n)
					}
				})
			}
		}
	}
}

// Where the service ignores If-Match, a change of others may get between our
// look and our overwrite; and when it comes right after, it must not be
// overwritten in turn.
func TestOverwriteBesideOthers(t *testing.T) {
	theirs := func(w *world) drivetest.Node {
		n, err := w.other.Lookup("a")
		if err == nil {
			n, err = w.other.Overwrite(n.ID, strings.NewReader("theirs"))
		}
		if err != nil {
			w.Fatal(err)
		}
		return n
	}
	so := drivetest.Options{HonourIfMatch: drivetest.IfMatchNone}
	bubble(t, "before", func(t *testing.T) {
		w := newWorld(t, so, fast).run()
		w.write("a", "old")
		w.flush()
		w.srv.Hook(once("content.overwrite", func() *drivetest.Fault { theirs(w); return nil }))
		w.write("a", "ours")
		w.flush()
		w.wantTree(map[string]string{"a": "ours"})
		if n := w.notes("notice"); len(n) != 1 {
			t.Errorf("reported: %q", n)
		}
	})
	bubble(t, "after", func(t *testing.T) {
		w := newWorld(t, so, fast).run()
		w.write("a", "old")
		w.flush()
		// The answer to the overwrite tells what came right after it.
		w.srv.Hook(once("content.overwrite", func() *drivetest.Fault {
			n, err := w.other.Lookup("a")
			if err == nil {
				_, err = w.other.Overwrite(n.ID, strings.NewReader("ours"))
			}
			if err != nil {
				t.Error(err)
			}
			n = theirs(w)
			return &drivetest.Fault{Do: drivetest.DoStatus, Status: 200, Body: fmt.Sprintf(
				`{"id":%q,"name":"a","kind":"FILE","status":"AVAILABLE","version":%d,"parents":[%q],"contentProperties":{"version":%d,"size":%d,"md5":%q}}`,
				n.ID, n.Version, n.Parents[0], n.Content.Version, n.Content.Size, n.Content.MD5)}
		}))
		w.write("a", "ours")
		w.flush()
		w.wantTree(map[string]string{"a": "theirs", "a (conflict HOST)": "ours"})
	})
}

// A service that takes properties without a word and keeps none is found out,
// and they are sent once more on their own.
func TestPropertiesDropped(t *testing.T) {
	attr := map[string]string{"attr": "1"}
	for _, all := range []bool{false, true} {
		bubble(t, fmt.Sprint("all=", all), func(t *testing.T) {
			w := newWorld(t, drivetest.Options{DropNewProperties: true, DropProperties: all}, fast).run()
			w.write("owner", "x")
			w.flush()
			for _, p := range []string{"a", "b", "c"} {
				must[uint64, uint64](t)(w.tryWrite(p, []byte(p), attr))
				w.flush()
				n, err := w.other.Lookup(p)
				if err != nil {
					t.Fatal(err)
				}
				if have := n.Properties["drivefs"]["attr"]; have != "1" && !all || have != "" && all {
					t.Errorf("%s has %q", p, have)
				}
			}
			want := map[string]int{"content.upload": 4, "nodes.properties": 3, "nodes.get": 2}
			if all {
				want["nodes.properties"] = 1
			}
			w.wantCalls(want)
			if n := w.notes("notice"); all != (len(n) == 1) {
				t.Errorf("reported: %q", n)
			}
			w.wantTree(map[string]string{"owner": "x", "a": "a", "b": "b", "c": "c"})
		})
	}
}

// Without a createdBy the owner name of properties stays unknown.
func TestNoCreatedBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{NoCreatedBy: true}, fast).run()
		for _, p := range []string{"a", "b"} {
			must[uint64, uint64](t)(w.tryWrite(p, []byte(p), map[string]string{"attr": "1"}))
			w.flush()
		}
		w.wantCalls(map[string]int{"content.upload": 2, "nodes.get": 1})
		if n := w.notes("notice"); len(n) != 1 {
			t.Errorf("reported: %q", n)
		}
	})
}
