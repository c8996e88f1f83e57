package writeback

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// stream has the file streamed, and waits until some of it has arrived.
func (f *writer) stream() {
	f.w.Helper()
	f.w.s.Stream(f.ino, time.Now())
	f.w.until("bytes arrive", func() bool { return f.w.srv.BytesReceived() > 0 })
}

// until waits for a condition that nobody signals.
func (w *world) until(what string, ok func() bool) {
	w.Helper()
	ctx := w.ctx()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.dump()
			w.Fatalf("never: %s", what)
		}
	}
}

func (w *world) idle(f *writer) {
	w.Helper()
	w.until("the stream ends", func() bool {
		for _, p := range w.s.Active() {
			if p.Ino == f.ino {
				return false
			}
		}
		return true
	})
}

// slowly settles closed files only after an hour, so that what arrives
// earlier was streamed.
var slowly = func() Options { o := fast; o.UploadDelay = time.Hour; return o }()

const mib = 1 << 20

// The file is there a moment after its close, by one call, one body.
func TestStream(t *testing.T) {
	for name, early := range map[string]bool{"plain": false, "with a descriptor closed at once": true} {
		bubble(t, name, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, slowly).run()
			f := w.begin("a")
			if early {
				f.commit()
			}
			f.write(data(2*mib, 1))
			f.stream()
			p := w.s.Active()
			if len(p) != 1 || p[0].Op != "upload" || p[0].Sent == 0 || p[0].Size == 0 {
				t.Errorf("active: %+v", p)
			}
			for i := range 30 {
				f.write(data(100_000, byte(i)))
			}
			f.close()
			w.until("settled", func() bool { return w.j.Len() == 0 })
			w.wantTree(map[string]string{"a": string(f.all)})
			w.wantCalls(map[string]int{"nodes.list": 1, "content.upload": 1})
			if n := w.srv.BytesReceived(); n != int64(len(f.all)) {
				t.Errorf("%d bytes sent of %d", n, len(f.all))
			}
		})
	}
}

// Whatever else is done to the file ends the stream, and counts.
func TestStreamSuperseded(t *testing.T) {
	body := data(3*mib, 2)
	for _, tt := range []struct {
		name string
		do   func(w *world, f *writer)
		want map[string]string // nil = {"a": as written}
		gone bool              // of the stream, before the close
	}{
		{name: "written behind", do: func(w *world, f *writer) { f.writeAt([]byte("changed"), 5) }, gone: true},
		{name: "cut", do: func(w *world, f *writer) {
			if err := f.d.Truncate(10); err != nil {
				w.Fatal(err)
			}
			f.all = f.all[:10]
		}, gone: true},
		{name: "renamed", do: func(w *world, f *writer) { w.rename("a", "b") }, want: map[string]string{"b": string(body)}, gone: true},
		{name: "moved", do: func(w *world, f *writer) { w.mkdir("d"); w.rename("a", "d/a") },
			want: map[string]string{"d": "/", "d/a": string(body)}, gone: true},
		{name: "removed", do: func(w *world, f *writer) { w.remove("a") }, want: map[string]string{}, gone: true},
		{name: "closed by one, written on", do: func(w *world, f *writer) { f.commit(); f.write(data(mib, 9)) }},
		{name: "closed, then written behind", do: func(w *world, f *writer) {
			f.commit()
			w.s.Written(f.ino)
			f.writeAt([]byte("changed"), 5)
		}},
		{name: "closed, then renamed", do: func(w *world, f *writer) {
			f.commit()
			w.s.Written(f.ino)
			w.rename("a", "b")
		}, want: map[string]string{"b": string(body)}},
		{name: "closed, then removed", do: func(w *world, f *writer) {
			f.commit()
			w.s.Written(f.ino)
			w.remove("a")
		}, want: map[string]string{}},
	} {
		for _, so := range []drivetest.Options{{}, {PendingUploads: true}} {
			bubbles(t, fmt.Sprint(tt.name, ",pending=", so.PendingUploads), func(t *testing.T) {
				w := newWorld(t, so, fast).run()
				f := w.begin("a")
				f.write(body)
				f.stream()
				tt.do(w, f)
				if tt.gone {
					w.idle(f)
					if e, ok := w.j.Clone(f.ino); ok && e.Sent != nil {
						t.Errorf("left: %+v", e.Sent)
					}
				}
				f.close()
				w.flush()
				want := tt.want
				if want == nil {
					want = map[string]string{"a": string(f.all)}
				}
				w.wantTree(want)
				if n := w.notes(""); len(n) > 0 {
					t.Errorf("reported: %q", n)
				}
			})
		}
	}
}

// API §13.2 and §7.1, for a body that was sent while it was written.
func TestStreamAnswers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault drivetest.Fault
		posts int
		over  int
	}{
		{"504, there at once", drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectDone}, 1, 0},
		{"504, late", drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectLate, After: 60 * time.Millisecond}, 1, 0},
		{"504, truncated", drivetest.Fault{Status: 504, Body: "empty", Effect: drivetest.EffectTruncated, After: 60 * time.Millisecond}, 1, 1},
		{"504, never", drivetest.Fault{Status: 504, Body: "empty"}, 2, 0},
		{"stored cut short, answered well", drivetest.Fault{Status: 200, Effect: drivetest.EffectTruncated}, 1, 1},
		{"reset at the end", drivetest.Fault{Do: drivetest.DoReset, Effect: drivetest.EffectDone}, 1, 0},
		{"reset on the way", drivetest.Fault{Do: drivetest.DoReset, At: mib}, 2, 0},
		{"reset at the beginning", drivetest.Fault{Do: drivetest.DoReset, At: -1}, 2, 0},
		{"503 on the way", drivetest.Fault{Status: 503, At: mib}, 2, 0},
		{"411", drivetest.Fault{Status: http.StatusLengthRequired, At: -1}, 2, 0},
		{"411 at the end", drivetest.Fault{Status: http.StatusLengthRequired}, 2, 0},
		{"400", drivetest.Fault{Status: 400, At: -1}, 2, 0},
		{"429", drivetest.Fault{Status: 429, At: -1}, 2, 0},
		{"token refused", drivetest.Fault{Do: drivetest.DoExpired, At: -1}, 2, 0},
		{"quota, for once", drivetest.Fault{Do: drivetest.DoOverQuota, At: -1}, 2, 0},
		{"taken, they say", drivetest.Fault{Do: drivetest.DoConflict, At: -1}, 2, 0},
		{"left pending", drivetest.Fault{Do: drivetest.DoReset, Effect: drivetest.EffectPending, At: mib}, 2, 1},
	} {
		bubbles(t, tt.name, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, fast).run()
			w.srv.SetFaults(rule("content.upload", 1, tt.fault))
			f := w.begin("a")
			f.write(data(2*mib, 1))
			w.s.Stream(f.ino, time.Now())
			w.until("it was asked", func() bool { return w.srv.Requests()["content.upload"] == 1 })
			for i := range 30 {
				f.write(data(100_000, byte(i)))
			}
			f.close()
			w.flush()
			w.wantTree(map[string]string{"a": string(f.all)})
			w.wantTrash()
			got := w.srv.Requests()
			if got["content.upload"] != tt.posts || got["content.overwrite"] != tt.over {
				t.Errorf("%d uploads, %d overwrites; want %d, %d", got["content.upload"], got["content.overwrite"], tt.posts, tt.over)
			}
			if n := w.notes(""); len(n) > 0 {
				t.Errorf("reported: %q", n)
			}
		})
	}
}

// A service that takes no chunked bodies is not asked again.
func TestStreamRefusedForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		var mu sync.Mutex
		chunked := 0
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			if op.Name != "content.upload" || op.Size >= 0 {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			chunked++
			return &drivetest.Fault{Status: http.StatusLengthRequired, At: -1}
		})
		want := map[string]string{}
		for _, name := range []string{"a", "b", "c"} {
			f := w.begin(name)
			f.write(data(2*mib, 1))
			w.s.Stream(f.ino, time.Now())
			w.until("refused", func() bool { return w.s.noStream.Load() })
			w.idle(f)
			f.close()
			w.flush()
			want[name] = string(f.all)
		}
		w.wantTree(want)
		if chunked != 1 {
			t.Errorf("asked %d times", chunked)
		}
	})
}

// Who does not write on gives the connection back; what was closed is sent.
func TestStreamIdle(t *testing.T) {
	for name, closed := range map[string]bool{"open": false, "closed by one of two": true} {
		bubble(t, name, func(t *testing.T) {
			o := slowly
			o.StreamIdle = 30 * time.Millisecond
			w := newWorld(t, drivetest.Options{}, o).run()
			f := w.begin("a")
			f.write(data(2*mib, 1))
			if closed {
				f.commit()
			}
			f.stream()
			if closed {
				w.until("settled", func() bool { return w.j.Len() == 0 })
				w.wantTree(map[string]string{"a": string(f.all)})
			} else {
				w.idle(f)
				w.s.Stream(f.ino, time.Now()) // one try is all
				f.write(data(2*mib, 2))
			}
			f.close()
			w.flush()
			w.wantTree(map[string]string{"a": string(f.all)})
			if n := w.srv.Requests()["content.upload"]; n != 1 && closed || n != 2 && !closed {
				t.Errorf("%d uploads", n)
			}
		})
	}
}

// What must not stream: with few connections, when the name is taken, with no
// folder yet, when the service is away. It arrives after its close.
func TestStreamNot(t *testing.T) {
	few := fast
	few.Uploads = 2
	for _, tt := range []struct {
		name  string
		o     Options
		setup func(w *world)
		want  map[string]string
		posts int
	}{
		{name: "few connections", o: few, posts: 1},
		{name: "name taken", o: fast, posts: 2, setup: func(w *world) {
			if _, err := w.other.PutPath("a", []byte("theirs")); err != nil {
				w.Fatal(err)
			}
		}, want: map[string]string{"a": "theirs"}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, tt.o).run()
			if tt.setup != nil {
				tt.setup(w)
			}
			f := w.begin("a")
			f.write(data(2*mib, 1))
			w.s.Stream(f.ino, time.Now())
			asked := make(chan struct{})
			w.s.tell(func(*queue) { close(asked) })
			<-asked
			w.idle(f)
			if n := w.srv.Requests()["content.upload"]; n != 0 {
				t.Errorf("%d uploads while open", n)
			}
			f.close()
			w.flush()
			want := map[string]string{"a": string(f.all)}
			if tt.want != nil {
				want = map[string]string{"a": "theirs", "a (conflict HOST)": string(f.all)}
			}
			w.wantTree(want)
			if n := w.srv.Requests()["content.upload"]; n != tt.posts {
				t.Errorf("%d uploads, want %d", n, tt.posts)
			}
		})
	}
}

// A file in a new folder streams once the folder is there.
func TestStreamInNewFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, slowly).run()
		w.s.Pause(true)
		w.mkdir("d")
		f := w.begin("d/a")
		f.write(data(2*mib, 1))
		w.s.Stream(f.ino, time.Now())
		w.s.Pause(false)
		w.until("bytes arrive", func() bool { return w.srv.BytesReceived() > 0 })
		f.close()
		w.until("settled", func() bool { return w.j.Len() == 0 })
		w.wantTree(map[string]string{"d": "/", "d/a": string(f.all)})
	})
}

// A flush is not about files that are being written.
func TestStreamFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, slowly).run()
		f := w.begin("a")
		f.commit()
		f.write(data(2*mib, 1))
		f.stream()
		w.write("b", "b")
		w.flush()
		w.s.Pause(true)
		if got := w.tree(); got["b"] != "b" || got["a"] != "" {
			t.Errorf("after the flush: %d files", len(got))
		}
		w.s.Pause(false)
		f.close()
		w.flush()
		w.wantTree(map[string]string{"a": string(f.all), "b": "b"})
		if n := w.srv.Requests()["content.upload"]; n != 2 {
			t.Errorf("%d uploads", n)
		}
	})
}

// TestStreamKill stops settling at every request and before every write of
// the journal, after the close and before it.
func TestStreamKill(t *testing.T) {
	body := data(smallFile+mib/4, 5)
	for _, answer := range []drivetest.Fault{
		{},
		{Status: 504, Effect: drivetest.EffectDone},
		{Status: 504, Effect: drivetest.EffectLate, After: 20 * time.Millisecond},
		{Status: 504, Effect: drivetest.EffectTruncated, After: 20 * time.Millisecond},
	} {
		for _, so := range []drivetest.Options{{}, {PendingUploads: true}} {
			if so.PendingUploads && answer.Status != 0 {
				continue
			}
			for _, where := range []string{"request", "request, after its effect", "note"} {
				bubbles(t, fmt.Sprintf("answer %d %s,pending=%v,%s", answer.Status, answer.Effect, so.PendingUploads, where), func(t *testing.T) {
					for at := 1; at < 30; at++ {
						if !killStream(t, so, answer, body, where, at) {
							if at < 3 {
								t.Errorf("killed %d times only", at-1)
							}
							return
						}
					}
				})
			}
		}
	}
}

func killStream(t *testing.T, so drivetest.Options, answer drivetest.Fault, body []byte, where string, at int) (killed bool) {
	t.Helper()
	w := newWorld(t, so, fast).run()
	w.s.Pause(true)
	f := w.begin("a")
	f.write(body[:mib/2])
	a := w.arm(at, strings.HasSuffix(where, "effect"))
	if where == "note" {
		a.at = 1 << 30
		var n atomic.Int64
		w.beforeWrite.Store(ptr(func() {
			if n.Add(1) == int64(at) {
				a.kill("note")
			}
		}))
	}
	if answer.Status != 0 {
		hook := a.hook
		once := sync.OnceValue(func() *drivetest.Fault { return &answer })
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			if flt := hook(op); flt != nil || op.Name != "content.upload" {
				return flt
			}
			return once()
		})
	}
	w.s.Stream(f.ino, time.Now())
	w.unpause()
	f.write(body[mib/2:])
	w.until("asked or dead", func() bool {
		return a.isDead() || w.srv.Requests()["content.upload"] > 0
	})
	open := a.isDead() // killed while it was being written
	if !open {
		f.close()
	}
	if killed = a.died(); killed {
		if open {
			f.drop()
		}
		// What was never closed is set aside, and that is said.
		if e, err := closedIn(a.dir); err != nil {
			t.Fatal(err)
		} else if !e {
			w.halt()
			return true
		}
		a.rise()
	}
	w.flush()
	w.wantTree(map[string]string{"a": string(body)})
	w.wantTrash()
	if n := w.notes(""); len(n) > 0 {
		t.Errorf("reported: %q", n)
	}
	if t.Failed() {
		t.Logf("at %d, %s", at, a.killed)
		w.logRequests()
	}
	w.halt()
	w.disconnect()
	return killed
}

// closedIn reports whether the journal in dir has a file that was closed.
func closedIn(dir string) (closed bool, err error) {
	j, err := journal.Open(journal.Options{Dir: dir, GroupCommit: time.Hour})
	if err != nil {
		return false, err
	}
	for _, ino := range j.Inos() {
		e, _ := j.Get(ino)
		closed = closed || !e.Open
	}
	return closed, errors.Join(j.Close())
}
