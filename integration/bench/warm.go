package main

import (
	"context"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// warm has the machine give us n bytes of memory and gives them back, in a
// process of its own. In a virtual machine the first touch of memory that the
// host has (or took back, some seconds after it became free) costs ten times
// as much as any later one, and what fills a cache or pages touches much of
// it: without this the row would tell about the host and not about the
// subject. Limits that need no memory would win by it.
func (b *bench) warm(ctx context.Context, n int64) error {
	_, err := b.command(ctx, nil, b.self, roleWarm, strconv.FormatInt(n, 10))
	return err
}

// touchMemory is the hidden subcommand behind warm.
func touchMemory(arg string) error {
	n, err := strconv.Atoi(arg)
	if err != nil {
		return err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	n = min(n, int(uint64(info.Freeram)*uint64(info.Unit)/2)) // nobody's memory is taken away for it
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("mapping %d bytes: %w", n, err)
	}
	_ = unix.Madvise(p, unix.MADV_HUGEPAGE) // faster; small pages do as well
	for i := 0; i < n; i += 4096 {
		p[i] = 1
	}
	return unix.Munmap(p)
}
