package cache

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCompleteAsksForMuchAtOnce: what is missing of a large file with many
// small changes comes in few requests, and is what it was.
func TestCompleteAsksForMuchAtOnce(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.UploadDelay = time.Hour
		o.Downloads = 1 // several would share a range by how fast they are found to be
	})
	rng := rand.NewChaCha8([32]byte{1})
	base := make([]byte, 24<<20)
	_, _ = rng.Read(base)
	w.put("/big", string(base))
	w.poll()
	for off := int64(0); off < int64(len(base)); off += 200_000 {
		w.writeAt("/big", "changed", off, unix.O_WRONLY)
		copy(base[off:], "changed")
	}
	w.srv.ResetRequests()
	w.flush()
	if got := w.drive("/big"); !bytes.Equal([]byte(got), base) {
		t.Error("the drive has something else")
	}
	if n := w.srv.Requests()["content.download"]; n > 8 {
		t.Errorf("%d downloads", n)
	}
}
