package cache

import (
	"testing"
	"time"
)

// TestMkdirRefusedWithItsParent: a folder that could not be made because the
// one above it went to the trash is made at once where that is made again; of
// what was refused nothing can come that would have to be waited for.
func TestMkdirRefusedWithItsParent(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.CallTimeout = time.Millisecond })
	w.put("/d/old", "base")
	w.poll()
	if _, err := w.other.Trash(w.id("/d")); err != nil {
		t.Fatal(err)
	}
	w.srv.ResetRequests()
	w.mkdir("/d/new")
	w.write("/d/new/f", "text")
	w.flush()
	w.want(w.drive("/d/new/f"), "text")
	if n := w.srv.Requests()["nodes.list"]; n > 2 {
		t.Errorf("looked for %d times", n)
	}
}
