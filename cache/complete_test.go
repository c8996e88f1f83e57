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
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
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
	// One range for all; how many downloads share it depends on how fast they are
	// found to be, half a MiB each at least. There are 120 changes.
	if n := w.srv.Requests()["content.download"]; n > 48 {
		t.Errorf("%d downloads", n)
	}
}
