package fs

import (
	"bytes"
	"testing"
)

// The memory of a buffer that a read does not need is given back, once.
func TestGiveBack(t *testing.T) {
	for _, from := range []int{0, 1, 4096 - 4} {
		b := bytes.Repeat([]byte{7}, scratchMin+3*4096)[from:]
		giveBack(b)
		if n := len(b) - bytes.Count(b, []byte{0}); n > 3*pageSize {
			t.Errorf("from %d: %d bytes are still there", from, n)
		}
		b[scratchMin/2] = 9
		giveBack(b)
		if b[scratchMin/2] != 9 {
			t.Errorf("from %d: given back twice", from)
		}
	}
	short := bytes.Repeat([]byte{7}, 4096)
	giveBack(short)
	if bytes.Contains(short, []byte{0}) {
		t.Error("a short buffer was given back")
	}
}
