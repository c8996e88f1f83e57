package writeback

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func bytesOf(s string) io.Reader { return bytes.NewReader([]byte(s)) }

// rule is one fault on the first n matching requests.
func rule(op string, n int, f drivetest.Fault) drivetest.Faults {
	return drivetest.Faults{Rules: []drivetest.Rule{{Op: op, Times: n, Fault: f}}}
}

// The bodies are what fits into memory and what is read from the draft.
var bodies = map[string]string{
	"small": "hello, drive",
	"large": string(data(3<<20, 1)),
}

// API §13.2: the service answers 504 after the last byte and the file appears
// later, whole, cut short, or never.
func TestAmbiguousUpload(t *testing.T) {
	for size, body := range bodies {
		for _, tt := range []struct {
			name    string
			fault   drivetest.Fault
			posts   int
			over    int
			withOld bool
		}{
			{"at once", drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectDone}, 1, 0, false},
			{"late", drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectLate, After: 60 * time.Millisecond}, 1, 0, false},
			{"truncated", drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectTruncated, After: 60 * time.Millisecond}, 1, 1, false},
			{"never", drivetest.Fault{Status: 504, Body: "empty"}, 2, 0, false},
			{"reset at the end", drivetest.Fault{Do: drivetest.DoReset, Effect: drivetest.EffectDone}, 1, 0, false},
			{"cannot complete", drivetest.Fault{Status: 400, Msg: "Cannot complete upload", Effect: drivetest.EffectLate, After: 60 * time.Millisecond}, 1, 0, false},
			{"500", drivetest.Fault{Status: 500, Body: "html", Effect: drivetest.EffectDone}, 1, 0, false},
			{"stored cut short, answered well", drivetest.Fault{Status: 200, Effect: drivetest.EffectTruncated}, 1, 1, false},
			{"late, overwriting", drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectLate, After: 60 * time.Millisecond}, 0, 1, true},
			{"truncated, overwriting", drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectTruncated, After: 60 * time.Millisecond}, 0, 2, true},
			{"never, overwriting", drivetest.Fault{Status: 504, Body: "empty"}, 0, 2, true},
		} {
			bubbles(t, tt.name+"/"+size, func(t *testing.T) {
				w := newWorld(t, drivetest.Options{}, fast).run()
				op := "content.upload"
				if tt.withOld {
					w.write("a.bin", "old")
					w.flush()
					op = "content.overwrite"
				}
				w.srv.SetFaults(rule(op, 1, tt.fault))
				w.srv.ResetRequests()
				w.write("a.bin", body)
				w.flush()
				w.wantTree(map[string]string{"a.bin": body})
				w.wantTrash()
				got := w.srv.Requests()
				if got["content.upload"] != tt.posts || got["content.overwrite"] != tt.over {
					t.Errorf("%d uploads, %d overwrites; want %d, %d", got["content.upload"], got["content.overwrite"], tt.posts, tt.over)
				}
			})
		}
	}
}

// The file appears after we gave up looking: the second POST meets it.
func TestAppearsAfterGivingUp(t *testing.T) {
	for size, body := range bodies {
		bubble(t, size, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, fast).run()
			var n int
			w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
				if op.Name != "content.upload" {
					return nil
				}
				if n++; n == 1 {
					return &drivetest.Fault{Status: 504, Effect: drivetest.EffectLate, After: -1}
				}
				w.srv.Settle()
				return nil
			})
			w.write("a", body)
			w.flush()
			w.wantTree(map[string]string{"a": body})
			w.wantCalls(map[string]int{"content.upload": 2, "nodes.list": w.srv.Requests()["nodes.list"], "nodes.get": 1})
		})
	}
}

// The file is changed before the first content appears, after we gave up looking:
// the second POST meets content that an earlier one sent, whichever of name and
// localId the service complains about.
func TestAppearsChanged(t *testing.T) {
	for name, change := range map[string]func(w *world) string{
		"overwritten": func(w *world) string { w.write("a", "newest"); return "newest" },
		"cut":         func(w *world) string { w.write("a", "hel"); return "hel" },
	} {
		for _, fault := range []*drivetest.Fault{nil, {Do: drivetest.DoConflict}, {Do: drivetest.DoStatus, Status: 409, Body: "empty"}, {Do: drivetest.DoStatus, Status: 409, Body: "<html>"}} {
			bubble(t, fmt.Sprint(name, fault), func(t *testing.T) {
				w := newWorld(t, drivetest.Options{}, fast).run()
				var n int
				w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
					if op.Name != "content.upload" {
						return nil
					}
					if n++; n == 1 {
						return &drivetest.Fault{Status: 504, Effect: drivetest.EffectLate, After: -1}
					}
					w.srv.Settle()
					return fault
				})
				w.write("a", "hello, drive")
				w.until("it was sent", func() bool { return w.srv.Requests()["content.upload"] > 0 })
				want := change(w)
				w.flush()
				w.srv.Hook(nil)
				w.wantTree(map[string]string{"a": want})
				w.wantTrash()
				if n := w.notes(""); len(n) > 0 {
					t.Errorf("reported: %q", n)
				}
			})
		}
	}
}

// What was stored late, and was met by the second POST without being seen, is
// not wanted any more then: it stays removed.
func TestStoredLateThenRemoved(t *testing.T) {
	for name, second := range map[string]drivetest.Fault{
		"409, named": {Do: drivetest.DoStatus, Status: 409, Body: `{"code":"NAME_ALREADY_EXISTS","info":{"nodeId":"abcdefghijklmnopqrstuv"}}`},
		"409, empty": {Do: drivetest.DoStatus, Status: 409, Body: "empty"},
		"409, reset": {Do: drivetest.DoReset},
	} {
		bubble(t, name, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, fast).run()
			var n int
			w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
				if op.Name != "content.upload" {
					return nil
				}
				if n++; n == 1 {
					return &drivetest.Fault{Status: 504, Effect: drivetest.EffectLate, After: -1}
				}
				return &second
			})
			w.write("a", "hello, drive")
			w.until("it was sent again", func() bool { return w.srv.Requests()["content.upload"] > 1 })
			time.Sleep(time.Millisecond)
			w.remove("a")
			time.Sleep(20 * time.Millisecond)
			w.srv.Settle()
			w.flush()
			w.wantTree(nil)
			w.wantTrash("a")
		})
	}
}

func TestResetMidBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.srv.SetFaults(rule("content.upload", 2, drivetest.Fault{Do: drivetest.DoReset, At: 1 << 20}))
		body := string(data(30<<20, 2)) // more than the buffers of a connection hold
		w.write("a", body)
		w.flush()
		w.wantTree(map[string]string{"a": body})
		w.wantCalls(map[string]int{"content.upload": 3, "nodes.list": 3}) // a look before each, none after
	})
}

// A broken upload may leave a PENDING node behind that keeps the localId
// (API §5.3): it is given its content.
func TestPendingLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{PendingUploads: true}, fast).run()
		w.srv.SetFaults(rule("content.upload", 1, drivetest.Fault{Do: drivetest.DoReset, At: 1 << 20}))
		body := string(data(30<<20, 2))
		w.write("a", body)
		w.flush()
		w.wantTree(map[string]string{"a": body})
		if n := len(w.other.Children(w.other.Root())); n != 1 {
			t.Errorf("%d nodes", n)
		}
	})
}

func TestNameTakenByOthers(t *testing.T) {
	for size, body := range bodies {
		bubble(t, size, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, fast).run()
			if _, err := w.other.PutPath("a.txt", []byte("theirs")); err != nil {
				t.Fatal(err)
			}
			if _, err := w.other.PutPath("same.txt", []byte(body)); err != nil {
				t.Fatal(err)
			}
			w.write("a.txt", body)
			w.write("same.txt", body) // the same bytes: theirs is ours
			w.flush()
			w.wantTree(map[string]string{"a.txt": "theirs", "same.txt": body, "a (conflict HOST).txt": body})
			if len(w.notes("conflict")) != 1 {
				t.Errorf("reported: %q", w.notes(""))
			}
		})
	}
}

// A conflict that does not say what it is about takes nothing from anybody,
// whether or not it names the node.
func TestNameTakenWithoutReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, named := range []bool{false, true} {
			w := newWorld(t, drivetest.Options{}, fast).run()
			n, err := w.other.PutPath("a.txt", []byte("theirs"))
			if err != nil {
				t.Fatal(err)
			}
			body := "{}"
			if named {
				body = `{"message":"conflict","info":{"nodeId":"` + n.ID + `"}}`
			}
			var once atomic.Bool
			w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
				if op.Name != "content.upload" || !once.CompareAndSwap(false, true) {
					return nil
				}
				return &drivetest.Fault{Do: drivetest.DoStatus, Status: 409, Body: body}
			})
			w.write("a.txt", "mine")
			w.flush()
			w.wantTree(map[string]string{"a.txt": "theirs", "a (conflict HOST).txt": "mine"})
			w.srv.Hook(nil)
		}
	})
}

// A service that folds names in other ways than ours, here by composing them.
func TestNameTakenByAnotherSpelling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		composed, decomposed := "caf\u00e9", "cafe\u0301"
		n, err := w.other.PutPath(composed, []byte("theirs"))
		if err != nil {
			t.Fatal(err)
		}
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			if op.Name != "content.upload" || len(w.notes("conflict")) > 0 {
				return nil
			}
			return &drivetest.Fault{Do: drivetest.DoStatus, Status: 409, Body: `{"code":"NAME_ALREADY_EXISTS","info":{"nodeId":"` + n.ID + `"}}`}
		})
		defer w.srv.Hook(nil)
		w.write(decomposed, "mine")
		w.flush()
		w.wantTree(map[string]string{composed: "theirs", decomposed + " (conflict HOST)": "mine"})
	})
}

// An overwrite that works, and answers the node as it was before (API §7.2).
func TestOverwriteAnswersTheOldNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a.txt", "old")
		w.flush()
		n, err := w.other.Lookup("a.txt")
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(map[string]any{
			"id": n.ID, "name": "a.txt", "kind": "FILE", "status": "AVAILABLE", "version": 1, "parents": n.Parents,
			"contentProperties": map[string]any{"version": 1, "size": 3, "md5": n.Content.MD5},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			if op.Name != "content.overwrite" {
				return nil
			}
			return &drivetest.Fault{Do: drivetest.DoStatus, Status: 200, Body: string(body), Effect: drivetest.EffectDone}
		})
		defer w.srv.Hook(nil)
		w.srv.ResetRequests()
		w.write("a.txt", "newer")
		w.flush()
		w.wantTree(map[string]string{"a.txt": "newer"})
		if n := w.srv.Requests()["content.overwrite"]; n != 1 {
			t.Errorf("overwritten %d times", n)
		}
	})
}

func TestContentConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a.txt", "base")
		w.flush()
		n, _ := w.other.Lookup("a.txt")
		if _, err := w.other.Overwrite(n.ID, bytesOf("theirs")); err != nil {
			t.Fatal(err)
		}
		w.write("a.txt", "mine")
		w.flush()
		w.wantTree(map[string]string{"a.txt": "theirs", "a (conflict HOST).txt": "mine"})
		w.wantTrash()
	})
}

// Somebody else's change of anything but the content is no conflict.
func TestTouchedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("d")
		w.write("a.txt", "base")
		w.flush()
		n, _ := w.other.Lookup("a.txt")
		if _, err := w.other.Touch(n.ID); err != nil {
			t.Fatal(err)
		}
		w.rename("a.txt", "b.txt") // with the tag of before
		w.flush()
		d, _ := w.other.Lookup("d")
		if _, err := w.other.Move(n.ID, w.other.Root(), d.ID); err != nil {
			t.Fatal(err)
		}
		w.write("b.txt", "mine") // the edit follows the node
		w.flush()
		w.wantTree(map[string]string{"d": "/", "d/b.txt": "mine"})
	})
}

func TestLostNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a.txt", "base")
		w.flush()
		n, _ := w.other.Lookup("a.txt")
		if _, err := w.other.Trash(n.ID); err != nil {
			t.Fatal(err)
		}
		w.write("a.txt", "mine")
		w.flush()
		w.wantTree(map[string]string{"a.txt": "mine"})
		w.wantTrash("a.txt")
		if len(w.notes("edit")) != 1 {
			t.Errorf("reported: %q", w.notes(""))
		}
	})
}

func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.srv.SetFaults(drivetest.Faults{OverQuota: true})
		ino, _ := must[uint64, uint64](t)(w.tryWrite("a", []byte("x"), nil))
		failed, err := w.s.Flush(w.ctx())
		if err != nil || len(failed) != 1 || failed[0].Ino != ino || !errors.Is(failed[0].Err, drive.ErrQuota) {
			t.Fatalf("flush: %v, %v", failed, err)
		}
		if st := w.s.Stats(); st.Failed != 1 || st.Pending != 1 || st.PendingBytes != 1 {
			t.Errorf("stats: %+v", st)
		}
		e, _ := w.j.Clone(ino)
		if e.Failed == "" || e.Attempts == 0 || !e.RetryAt.After(time.Now()) {
			t.Errorf("not visible: %+v", e)
		}
		w.srv.SetFaults(drivetest.Faults{})
		w.flush()
		w.wantTree(map[string]string{"a": "x"})
		if st := w.s.Stats(); st.Failed != 0 {
			t.Errorf("stats: %+v", st)
		}
	})
}

func TestThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fast
		o.Uploads = 8
		w := newWorld(t, drivetest.Options{}, o)
		w.srv.SetFaults(rule("content.upload", 3, drivetest.Fault{Status: 429}))
		want := map[string]string{}
		for _, n := range []string{"a", "b", "c", "d", "e", "f"} {
			w.write(n, n)
			want[n] = n
		}
		low := 8
		w.run()
		waitFor(t, func() bool {
			st := w.s.Stats()
			if st.Uploads > 0 {
				low = min(low, st.Uploads)
			}
			return st.Pending == 0
		})
		w.wantTree(want)
		if low >= 4 {
			t.Errorf("never fewer than %d uploads at once", low)
		}
	})
}

// A refused token needs a login; a flush does not wait for that. After it,
// everything goes on by itself.
func TestTokenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.srv.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{{Fault: drivetest.Fault{Do: drivetest.DoExpired}}}})
		ino, rev := must[uint64, uint64](t)(w.tryWrite("a", []byte("x"), nil))
		failed, err := w.s.Flush(w.ctx())
		if err != nil || len(failed) != 1 || !errors.Is(failed[0].Err, drive.ErrAuth) {
			t.Fatalf("flush: %v, %v", failed, err)
		}
		w.srv.SetFaults(drivetest.Faults{})
		if err := w.s.Wait(w.ctx(), ino, rev); err != nil {
			t.Fatal(err)
		}
		w.wantTree(map[string]string{"a": "x"})
	})
}

func TestServiceAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast)
		w.srv.SetFaults(drivetest.Faults{Rules: []drivetest.Rule{{Fault: drivetest.Fault{Status: 503}}}})
		want := map[string]string{}
		for i := range 50 {
			n := string(rune('A'+i%26)) + string(rune('a'+i/26))
			w.mkdir(n)
			want[n] = "/"
		}
		w.srv.ResetRequests()
		w.run()
		waitFor(t, func() bool { return w.client.State().Kind == drive.Offline && w.s.Stats().Failed > 2 })
		if st := w.s.Stats(); st.Failed > 25 {
			t.Errorf("%d entries were tried while the service is away", st.Failed)
		}
		w.srv.SetFaults(drivetest.Faults{})
		w.flush()
		w.wantTree(want)
	})
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(10 * time.Second)
	defer end.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatal("waited in vain")
		}
	}
}

// A change while its upload is in flight: the old bytes are cut off or
// followed by the new ones, and there is one node.
func TestChangeDuringUpload(t *testing.T) {
	for size, body := range bodies {
		bubble(t, size, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, fast).run()
			entered, leave := make(chan struct{}, 8), make(chan struct{})
			w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
				if op.Name == "content.upload" {
					entered <- struct{}{}
					<-leave
				}
				return nil
			})
			w.write("a", body)
			<-entered
			w.write("a", "second")
			w.rename("a", "b")
			close(leave)
			w.flush()
			w.wantTree(map[string]string{"b": "second"})
			w.wantTrash()
		})
	}
}

// An upload whose answer never came, and a change of name while looking.
func TestRenameWhileLooking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.srv.SetFaults(rule("content.upload", 1, drivetest.Fault{Status: 504, Effect: drivetest.EffectLate, After: 100 * time.Millisecond}))
		ino, _ := must[uint64, uint64](t)(w.tryWrite("a", []byte("x"), nil))
		waitFor(t, func() bool { return w.s.Stats().Failed == 1 })
		w.rename("a", "b")
		w.flush()
		w.wantTree(map[string]string{"b": "x"})
		w.wantCalls(map[string]int{"content.upload": 1, "nodes.update": 1, "nodes.list": w.srv.Requests()["nodes.list"]})
		_ = ino

		// … and a removal: what appears goes to the trash.
		w.srv.SetFaults(rule("content.upload", 1, drivetest.Fault{Status: 504, Effect: drivetest.EffectLate, After: 100 * time.Millisecond}))
		w.write("c", "x")
		waitFor(t, func() bool { return w.s.Stats().Failed == 1 })
		w.remove("c")
		w.flush()
		w.wantTree(map[string]string{"b": "x"})
		w.wantTrash("c")
	})
}

// Missing parts of the base are fetched before anything is sent.
func TestCompleteBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fast
		o.Fetch = func(_ context.Context, _ chunk.Version, off, end int64, write func([]byte, int64) error) (int64, error) {
			return end - off, write([]byte("0123456789")[off:end], off)
		}
		w := newWorld(t, drivetest.Options{}, o).run()
		w.write("a", "0123456789")
		w.flush()
		r, _, err := w.m.Get(w.ino("a"))
		if err != nil {
			t.Fatal(err)
		}
		base := &journal.DraftState{Size: 10, Limit: 10, BaseID: r.ID, BaseGen: r.Content, BaseLen: 10, BaseMD5: r.MD5}
		must[uint64, uint64](t)(w.edit("a", nil, base, func(d *journal.Draft) error {
			_, err := d.WriteAt([]byte("XY"), 4)
			return err
		}))
		w.flush()
		w.wantTree(map[string]string{"a": "0123XY6789"})
	})
}

// A file that grows while it is sent arrives nevertheless, version by version.
func TestAppendDuringUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		entered, leave := make(chan struct{}, 8), make(chan struct{}, 8)
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			if op.Name == "content.upload" || op.Name == "content.overwrite" {
				entered <- struct{}{}
				<-leave
			}
			return nil
		})
		body := data(30<<20, 1)
		w.write("a", string(body))
		<-entered
		w.append("a", "more")
		leave <- struct{}{}
		<-entered // the first version is there, and now the second is on its way
		if n, err := w.other.Lookup("a"); err != nil || n.Content == nil || n.Content.Size != int64(len(body)) {
			t.Errorf("the first version did not arrive: %+v, %v", n.Content, err)
		}
		leave <- struct{}{}
		w.flush()
		w.wantTree(map[string]string{"a": string(body) + "more"})
	})
}

// A rename does not wait for uploads to end.
func TestRenameBesideUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fast
		o.Uploads = 1
		w := newWorld(t, drivetest.Options{}, o).run()
		w.write("a", "x")
		w.flush()
		entered, leave := make(chan struct{}, 8), make(chan struct{})
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			if op.Name == "content.upload" || op.Name == "content.overwrite" {
				entered <- struct{}{}
				<-leave
			}
			return nil
		})
		w.write("busy", "x")
		<-entered
		w.write("a", "y")
		w.rename("a", "b")
		waitFor(t, func() bool { _, err := w.other.Lookup("b"); return err == nil })
		close(leave)
		w.flush()
		w.wantTree(map[string]string{"b": "y", "busy": "x"})
	})
}

// Small files do not wait for large ones.
func TestSmallBesideLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fast
		o.Uploads = 2
		w := newWorld(t, drivetest.Options{}, o).run()
		leave := make(chan struct{})
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			if op.Name == "content.upload" && op.Size > smallFile {
				<-leave
			}
			return nil
		})
		for _, n := range []string{"l1", "l2", "l3"} {
			w.write(n, bodies["large"])
		}
		ino, rev := must[uint64, uint64](t)(w.tryWrite("small", []byte("x"), nil))
		err := w.s.Wait(w.ctx(), ino, rev)
		close(leave)
		if err != nil {
			t.Fatal(err)
		}
		w.flush()
	})
}
