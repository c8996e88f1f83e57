package fs

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// go-fuse hands every READ a buffer as long as the kernel's request, from a
// pool, before it is known that the answer refers to the cache's own memory.
// Fifty reads of 1 MiB that wait for the network would hold 50 MiB of it, and
// as much again until the collector has been round, for nothing.

// scratchMin is how long a buffer must be for its memory to be worth a call.
const scratchMin = 256 << 10

// scratchMark is at the start of a buffer whose memory was given back: it is in
// the pool from then on, and nobody writes to it. The collector's next user of
// that memory gets it cleared, without the mark.
const scratchMark = 0x647266735f756e75

var pageSize = os.Getpagesize()

// giveBack returns the memory of buf, all but its first page, to the system;
// it is zeros from then on. For a short buffer, or one that was given back
// before, nothing is done.
func giveBack(buf []byte) {
	if len(buf) < scratchMin || binary.NativeEndian.Uint64(buf) == scratchMark {
		return
	}
	// Whole pages after the first bytes, wherever the buffer begins.
	skip := pageSize - int(uintptr(unsafe.Pointer(&buf[0]))%uintptr(pageSize))
	if skip < 8 {
		skip += pageSize
	}
	rest := buf[skip:]
	rest = rest[:len(rest)/pageSize*pageSize]
	if unix.Madvise(rest, unix.MADV_DONTNEED) == nil {
		binary.NativeEndian.PutUint64(buf, scratchMark)
	}
}
