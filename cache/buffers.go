package cache

import (
	"math/bits"
	"sync"
)

// readBuffers are what reads of files that were written here are answered from:
// by powers of two, up to the largest READ of the kernel.
var readBuffers [21]sync.Pool // of *buffer

// buffer is a View of memory that is used again after its Release.
type buffer struct {
	b    []byte
	one  [1][]byte
	pool int // index in readBuffers; -1 = too large to keep
}

// newBuffer gives n bytes with anything in them.
func newBuffer(n int) *buffer {
	i := bits.Len(uint(max(n, 1) - 1))
	if i >= len(readBuffers) {
		return &buffer{b: make([]byte, n), pool: -1}
	}
	v, ok := readBuffers[i].Get().(*buffer)
	if !ok {
		v = &buffer{b: make([]byte, 1<<i), pool: i}
	}
	v.b = v.b[:n]
	return v
}

// Slices is the one slice there is.
func (v *buffer) Slices() [][]byte {
	v.one[0] = v.b
	return v.one[:]
}

// Len is its length.
func (v *buffer) Len() int { return len(v.b) }

// Release gives the memory back.
func (v *buffer) Release() {
	if v.pool >= 0 {
		readBuffers[v.pool].Put(v)
	}
}
