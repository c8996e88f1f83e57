//go:build !race

package chunk

import "golang.org/x/sys/unix"

// newSlab maps memory outside the Go heap, so that the collector neither
// scans it nor lets the heap grow to twice its size before it looks again.
// Huge pages are a wish only.
func newSlab(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b, nil
}

func freeSlab(b []byte) { _ = unix.Munmap(b) }
