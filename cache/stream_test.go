package cache

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

const mib = 1 << 20

func noise(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, seed))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// fill writes b in pieces as a program does.
func (w *world) fill(h *Handle, b []byte, off int) {
	w.Helper()
	for len(b) > 0 {
		n := min(len(b), 128<<10)
		if _, err := h.Write(w.Context(), b[:n], int64(off)); err != nil {
			w.Fatal("write", err)
		}
		b, off = b[n:], off+n
	}
}

// until waits for a condition that nobody signals.
func (w *world) until(what string, ok func() bool) {
	w.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			w.Fatalf("never: %s; %+v", what, w.s.Status())
		}
	}
}

func (w *world) settled() {
	w.Helper()
	w.until("settled", func() bool { return w.s.Status().Pending == 0 })
}

// A new file that is written in order is on the drive a moment after its
// close, although closed files settle for a day here.
func TestStream(t *testing.T) {
	for name, early := range map[string]bool{"plain": false, "with a descriptor closed at once": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.write("/first", "tells the owner name")
			w.flush()
			w.s.o.UploadDelay = 24 * time.Hour // the empty file must not go up by itself
			w.srv.ResetRequests()
			body := noise(20*mib, 1)
			h := w.create("/film", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
			if early {
				if err := h.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			w.fill(h, body[:18*mib], 0)
			w.until("bytes arrive", func() bool { return w.srv.BytesReceived() > 0 })
			st := w.s.Status()
			if len(st.Active) != 1 || st.Active[0].Path != "/film" || st.Active[0].Op != "upload" || st.Active[0].Sent == 0 {
				t.Errorf("active: %+v", st.Active)
			}
			w.fill(h, body[18*mib:], 18*mib)
			w.shut(h)
			w.settled()
			w.want(w.drive("/film"), string(body))
			got := w.srv.Requests()
			if got["content.upload"] != 1 || got["content.overwrite"] != 0 || w.srv.BytesReceived() != int64(len(body)) {
				t.Errorf("%v, %d bytes", got, w.srv.BytesReceived())
			}

			// The properties went after it, and stay what they are.
			e, err := w.s.Resolve(t.Context(), "/film")
			if err != nil {
				t.Fatal(err)
			}
			w.srv.ResetRequests()
			w.poll()
			now, err := w.s.Resolve(t.Context(), "/film")
			if err != nil || now.Gen != e.Gen || !now.Attr.Mtime.Equal(e.Attr.Mtime) || now.Attr.Mode != e.Attr.Mode {
				t.Errorf("after the feed: %+v, before: %+v, %v", now, e, err)
			}
			if got := w.srv.Requests(); got["nodes.children"] != 0 || got["nodes.get"] != 0 {
				t.Errorf("asked again: %v", got)
			}
		})
	}
}

// What does not stream goes up after its close, once.
func TestStreamNot(t *testing.T) {
	body := noise(22*mib, 2)
	for _, tt := range []struct {
		name  string
		path  string
		setup func(w *world)
		write func(w *world, h *Handle)
	}{
		{name: "temporary name", path: "/.film.aB3dE6"},
		{name: "download", path: "/film.part"},
		{name: "overwrite", path: "/film", setup: func(w *world) { w.write("/film", "old"); w.flush() }},
		{name: "beside a backup of it", path: "/film", setup: func(w *world) {
			w.write("/film", "old")
			w.flush()
			w.rename("/film", "/film~")
			w.flush()
		}},
		{name: "written backwards", path: "/film", write: func(w *world, h *Handle) {
			for off := len(body) - mib; off >= 0; off -= mib {
				w.fill(h, body[off:off+mib], off)
			}
		}},
		{name: "allocated", path: "/film", write: func(w *world, h *Handle) {
			if err := h.Allocate(w.Context(), 0, int64(len(body)), false); err != nil {
				w.Fatal(err)
			}
			w.fill(h, body[:len(body)-1], 0)
			w.fill(h, body[len(body)-1:], len(body)-1)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.UploadDelay = 1 }) // ns: at once
			if tt.setup != nil {
				tt.setup(w)
			}
			w.srv.ResetRequests()
			h := w.create(tt.path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
			if tt.write != nil {
				tt.write(w, h)
			} else {
				w.fill(h, body, 0)
			}
			if h.f.IsStreamed() {
				t.Error("it streams")
			}
			h.Release()
			w.flush()
			w.want(w.drive(tt.path), string(body))
			if got := w.srv.Requests(); got["content.upload"]+got["content.overwrite"] != 1 {
				t.Errorf("%v", got)
			}
		})
	}
}

// Saves by rename take the stream back and keep the document's node.
func TestStreamRenamedOver(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = 1 })
	w.write("/doc", "old")
	w.flush()
	id := w.id("/doc")
	body := noise(20*mib, 3)
	h := w.create("/new", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	w.srv.ResetRequests()
	w.fill(h, body[:18*mib], 0)
	w.until("bytes arrive", func() bool { return w.srv.BytesReceived() > 0 })
	w.rename("/new", "/doc")
	w.fill(h, body[18*mib:], 18*mib)
	h.Release()
	w.flush()
	w.want(w.drive("/doc"), string(body))
	w.want(w.id("/doc"), id)
	if n := len(w.other.Children(w.other.Root())); n != 1 {
		t.Errorf("%d nodes", n)
	}
	if n := len(w.other.TrashList()); n != 0 {
		t.Errorf("%d nodes in the trash", n)
	}
}

// Unlinked while it streams: nothing of it reaches the drive, and who has it
// open goes on.
func TestStreamUnlinked(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = 1 })
	body := noise(20*mib, 4)
	h := w.create("/film", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	w.fill(h, body[:18*mib], 0)
	w.until("bytes arrive", func() bool { return w.srv.BytesReceived() > 0 })
	w.unlink("/film")
	w.fill(h, body[18*mib:], 18*mib)
	got, err := w.readHandle(h)
	if err != nil || got != string(body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	h.Release()
	w.flush()
	if n := len(w.other.Children(w.other.Root())); n != 0 {
		t.Errorf("%d nodes", n)
	}
}

// Close does not wait for a slow line.
func TestStreamCloseIsLocal(t *testing.T) {
	w := newWorldOn(t, drivetest.Options{Rate: 4 * mib}, func(o *Options) { o.UploadDelay = 1 })
	body := noise(24*mib, 5)
	h := w.create("/film", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	w.fill(h, body, 0)
	w.until("bytes arrive", func() bool { return w.srv.BytesReceived() > 0 })
	w.shut(h)
	if n := w.srv.BytesReceived(); n >= int64(len(body)) {
		t.Errorf("%d bytes were sent when close returned", n)
	}
	w.settled()
	if !bytes.Equal([]byte(w.drive("/film")), body) {
		t.Error("other bytes on the drive")
	}
	if got := w.srv.Requests(); got["content.upload"] != 1 {
		t.Errorf("%v", got)
	}
}

// The delay of a large new file runs from its creation, whether it was closed
// by then or not; that of others from their close.
func TestDelayOfLargeFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBubbleWorld(t, func(*drivetest.Server) {}, false)
		w.s.o.UploadDelay = time.Hour
		began := time.Now()
		for name, size := range map[string]int{"large": 17 * mib, "small": mib, "large.part": 17 * mib} {
			h := w.create("/"+name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
			w.fill(h, noise(size, 1), 0)
			defer h.Release()
		}
		time.Sleep(50 * time.Minute)
		for name, due := range map[string]time.Duration{"large": 300 * time.Millisecond, "small": 110 * time.Minute, "large.part": 110 * time.Minute} {
			h := w.openAt("/"+name, unix.O_WRONLY)
			w.shut(h)
			if e, ok := w.s.journal.Get(h.Ino()); !ok || e.Due.Sub(began) != due {
				t.Errorf("%s: %+v is due, want after %v", name, e, due)
			}
		}
	})
}
