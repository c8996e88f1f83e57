package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drivefs/drivefs/integration/bench/memfs"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	// The line of the targets: drivetest's latency a request and bytes a
	// second a connection.
	lineLatency = 50 * time.Millisecond
	lineRate    = 50e6

	connections = 16 // --uploads and --downloads
)

func line() serveConfig { return serveConfig{Latency: lineLatency, Rate: lineRate} }

func runRead(ctx context.Context, b *bench, t *table) error {
	return errors.Join(b.readLine(ctx, t), b.readFast(ctx, t), b.readOnce(ctx, t))
}

// readLine is reading over a line with latency.
func (b *bench) readLine(ctx context.Context, t *table) error {
	big, peer := pick[int64](b, gib, 2*gib), pick[int64](b, 256*mib, 2*gib)
	d, err := b.startDrive(line())
	if err != nil {
		return err
	}
	defer d.proc.end()
	if err := errors.Join(d.fill(ctx, "big", 0, 1, big), d.fill(ctx, "peer", 0, 1, peer), d.fill(ctx, "small", 0, 20, 8*mib)); err != nil {
		return err
	}
	t.note("%v a request, %s a connection:", d.cfg.Latency, bytesText(lineRate)+"/s")
	whole, err := d.bare(ctx, "big/f00000.bin", big, connections, 0)
	if err != nil {
		return err
	}
	pieces, err := d.bare(ctx, "big/f00000.bin", big, connections, 4*mib)
	if err != nil {
		return err
	}

	s, err := b.mount(d)
	if err != nil {
		return err
	}
	if err := s.complete(ctx); err != nil {
		return err
	}
	if _, err := d.take(ctx); err != nil {
		return err
	}
	if err := b.warm(ctx, 2*big+gib); err != nil { // the kernel's pages, the disk tier's, the cache
		return err
	}
	written := s.profiled("read-line", 2*time.Second)
	cpu := s.proc.cpu()
	took, err := readAll(ctx, s.path("big/f00000.bin"), big, mib)
	if err != nil {
		return err
	}
	cpu = s.proc.cpu() - cpu
	written()
	seen, err := d.take(ctx)
	if err != nil {
		return err
	}
	theirs := none
	var peerSeeks, peerFirst []time.Duration
	if b.rclone != "" {
		r, err := b.mountRclone(ctx, d)
		if err != nil {
			return err
		}
		if err := b.warm(ctx, peer+gib); err != nil {
			return err
		}
		took, err := readAll(ctx, r.path("peer/f00000.bin"), peer, mib)
		if err != nil {
			return err
		}
		theirs = perSecond(float64(peer), took)
		r.drop()
		if r, err = b.mountRclone(ctx, d); err != nil {
			return err
		}
		if peerFirst, err = firsts(ctx, r, 5); err != nil {
			return err
		}
		if peerSeeks, err = seeks(ctx, r.path("big/f00000.bin"), big, 64<<10, 20, 3); err != nil {
			return err
		}
		r.drop()
	}
	ours := perSecond(float64(big), took)
	t.row(row{"cold sequential; limit: 16 connections, one range each", rate, ours, perSecond(float64(big), whole), theirs, "",
		[]target{{"limit", "≥", 0.9}, {"rclone", "≥", 8}}})
	t.row(row{"cold sequential; limit: 16 connections, ranges of 4 MiB", rate, ours, perSecond(float64(big), pieces), none, "", nil})
	t.row(row{"… bytes downloaded ÷ size", trips, float64(seen.Out) / float64(big), 1, none, fmt.Sprintf("%d requests", seen.calls("content.")), []target{{"", "≤", 1.004}}})
	t.row(row{"… processor seconds a GiB", seconds, cpu.Seconds() / float64(big) * gib, none, none, "", nil})
	if err := s.stop(ctx); err != nil {
		return err
	}

	// Fresh state: nothing is cached.
	if s, err = b.mount(d); err != nil {
		return err
	}
	defer s.drop()
	if err := s.complete(ctx); err != nil {
		return err
	}
	first, err := firsts(ctx, s, 20)
	if err != nil {
		return err
	}
	far, err := seeks(ctx, s.path("big/f00000.bin"), big, 64<<10, 50, 3)
	if err != nil {
		return err
	}
	trip := func(d time.Duration) float64 {
		if d == 0 {
			return none
		}
		return float64(d) / float64(lineLatency)
	}
	t.row(row{"first 64 KiB after open, median, in round trips", trips, trip(quantile(first, 0.5)), 1, trip(quantile(peerFirst, 0.5)), "", []target{{"", "≤", 1.15}}})
	t.row(row{"first 64 KiB after open, p99", trips, trip(quantile(first, 0.99)), 1, trip(quantile(peerFirst, 0.99)), "", []target{{"", "≤", 1.5}}})
	t.row(row{"64 KiB after each of 50 seeks, median", trips, trip(quantile(far, 0.5)), 1, trip(quantile(peerSeeks, 0.5)), "", []target{{"", "≤", 1.15}}})
	t.row(row{"64 KiB after each of 50 seeks, p99", trips, trip(quantile(far, 0.99)), 1, trip(quantile(peerSeeks, 0.99)), "", []target{{"", "≤", 1.5}}})
	return nil
}

// firsts opens n small files one after the other and reads their first 64 KiB.
func firsts(ctx context.Context, s *subject, n int) ([]time.Duration, error) {
	var out []time.Duration
	for i := range n {
		name := s.path("small", fmt.Sprintf("f%05d.bin", i))
		if i == 0 { // the folder's own listing is not what is asked
			if err := stat(name); err != nil {
				return nil, err
			}
		}
		d, err := seeks(ctx, name, 64<<10, 64<<10, 1, 1)
		if err != nil {
			return nil, err
		}
		out = append(out, d...)
	}
	return out, nil
}

// readFast is reading without latency: what the machine can do.
func (b *bench) readFast(ctx context.Context, t *table) error {
	big, warm := pick[int64](b, gib, 2*gib), int64(256*mib)
	d, err := b.startDrive(serveConfig{})
	if err != nil {
		return err
	}
	defer d.proc.end()
	if err := errors.Join(d.fill(ctx, "big", 0, 2, big), d.fill(ctx, "warm", 0, 1, warm)); err != nil {
		return err
	}
	t.note("no latency, no limit:")
	stored := b.dir("stored")
	if err := writeNoise(stored, warm); err != nil {
		return err
	}
	lim, err := b.limit(memfs.Options{Files: map[string]int64{"big": big, "warm": warm}, Stored: map[string]string{"stored": stored}})
	if err != nil {
		return err
	}
	defer lim.drop()
	s, err := b.mount(d)
	if err != nil {
		return err
	}
	defer func() { s.drop() }()
	if err := s.complete(ctx); err != nil {
		return err
	}
	if err := b.warm(ctx, 2*big+gib); err != nil {
		return err
	}
	if _, err := readAll(ctx, lim.path("big"), big, mib); err != nil { // faults memory in
		return err
	}
	h, err := d.bare(ctx, "big/f00000.bin", big, connections, 0)
	if err != nil {
		return err
	}
	if err := forget(lim.path("big")); err != nil {
		return err
	}
	limCPU := lim.proc.cpu()
	f, err := readAll(ctx, lim.path("big"), big, mib)
	if err != nil {
		return err
	}
	limCPU = lim.proc.cpu() - limCPU
	if err := b.warm(ctx, 3*big+gib); err != nil {
		return err
	}
	written := s.profiled("read-fast", 2*time.Second)
	cpu := s.proc.cpu()
	took, err := readAll(ctx, s.path("big/f00000.bin"), big, mib)
	if err != nil {
		return err
	}
	cpu = s.proc.cpu() - cpu
	written()
	fr, hr := perSecond(float64(big), f), perSecond(float64(big), h)
	t.row(row{"cold sequential; limit: 1/(1/F + 1/H)", rate, perSecond(float64(big), took), shared(fr, hr), none,
		fmt.Sprintf("F = %s, H = %s", rate.text(fr), rate.text(hr)), []target{{"limit", "≥", 0.7}}})
	// The first film also fills the cache's memory for the first time.
	second, err := readAll(ctx, s.path("big/f00001.bin"), big, mib)
	if err != nil {
		return err
	}
	t.row(row{"… a second file, the cache's memory is warm", rate, perSecond(float64(big), second), shared(fr, hr), none, "", []target{{"limit", "≥", 0.7}}})
	t.row(row{"… processor seconds a GiB; limit: F alone", seconds, cpu.Seconds() / float64(big) * gib, limCPU.Seconds() / float64(big) * gib, none, "", nil})

	var peer *subject
	if b.rclone != "" {
		if peer, err = b.mountRclone(ctx, d, "--vfs-cache-mode", "full"); err != nil {
			return err
		}
		defer peer.drop()
	}
	// Warm, each a row: what the kernel has, what memory has, what disk has.
	type figures struct{ pages, memory, disk, small float64 }
	measure := func(s *subject, name string) (g figures, err error) {
		path := s.path(name)
		for range 2 { // the second pass makes it worth keeping
			if err == nil {
				_, err = readAll(ctx, path, warm, mib)
			}
			if err == nil {
				err = forget(path)
			}
		}
		best := func(v *float64, drop bool) {
			for range 3 {
				if err != nil {
					return
				}
				if drop {
					if err = forget(path); err != nil {
						return
					}
				}
				var took time.Duration
				took, err = readAll(ctx, path, warm, mib)
				*v = max(*v, perSecond(float64(warm), took))
			}
		}
		written := func() {}
		if s.state != "" {
			written = s.profiled("read-warm-memory", time.Second)
		}
		best(&g.memory, true)
		best(&g.pages, false)
		written()
		if err == nil {
			g.small, err = randomReads(ctx, path, warm, 4096, 20_000)
		}
		return g, err
	}
	ours, err := measure(s, "warm/f00000.bin")
	if err != nil {
		return err
	}
	limit, err := measure(lim, "warm")
	if err != nil {
		return err
	}
	theirs := figures{none, none, none, none}
	if peer != nil {
		if theirs, err = measure(peer, "warm/f00000.bin"); err != nil {
			return err
		}
	}
	if _, err := d.take(ctx); err != nil {
		return err
	}
	if err := s.again(ctx); err != nil {
		return err
	}
	if err := b.warm(ctx, gib); err != nil {
		return err
	}
	written = s.profiled("read-warm-disk", time.Second)
	// Every remount forgets memory; the best of two passes, as above of three.
	for i := range 2 {
		if i > 0 {
			written()
			written = func() {}
			if err := s.again(ctx); err != nil {
				return err
			}
		}
		took, err := readAll(ctx, s.path("warm/f00000.bin"), warm, mib)
		if err != nil {
			return err
		}
		ours.disk = max(ours.disk, perSecond(float64(warm), took))
	}
	for range 2 {
		if err := forget(lim.path("stored")); err != nil {
			return err
		}
		took, err := readAll(ctx, lim.path("stored"), warm, mib)
		if err != nil {
			return err
		}
		limit.disk = max(limit.disk, perSecond(float64(warm), took))
	}
	seen, err := d.take(ctx)
	if err != nil {
		return err
	}
	t.row(row{"warm, page cache, 256 MiB", rate, ours.pages, limit.pages, theirs.pages, "", []target{{"limit", "≥", 0.8}}})
	t.row(row{"warm, memory (ristretto)", rate, ours.memory, limit.memory, theirs.memory, "rclone: its disk cache", []target{{"limit", "≥", 0.8}}})
	// The limit reads a file of the same disk, without looking at its bytes.
	t.row(row{"warm, disk tier, after a restart; limit: F of a file", rate, ours.disk, limit.disk, none,
		fmt.Sprintf("F ×%.2f, %s downloaded", ours.disk/limit.memory, bytesText(float64(seen.Out))), []target{{"limit", "≥", 0.8}}})
	t.row(row{"random 4 KiB reads, warm, past the page cache", perSec, ours.small, limit.small, theirs.small, "", []target{{"limit", "≥", 0.8}}})
	return nil
}

// readOnce counts what is downloaded.
func (b *bench) readOnce(ctx context.Context, t *table) error {
	film := pick[int64](b, 256*mib, 2*gib)
	blocks := []int{4 << 10, 128 << 10, mib}
	d, err := b.startDrive(serveConfig{})
	if err != nil {
		return err
	}
	defer d.proc.end()
	if err := d.fill(ctx, "films", 0, len(blocks), film); err != nil {
		return err
	}
	t.note("bytes downloaded ÷ size of the file, no latency:")
	s, err := b.mount(d, "--cache-memory", "64MiB", "--cache-disk", "0")
	if err != nil {
		return err
	}
	if err := s.complete(ctx); err != nil {
		return err
	}
	for i, block := range blocks {
		if _, err := d.take(ctx); err != nil {
			return err
		}
		if _, err := readAll(ctx, s.path("films", fmt.Sprintf("f%05d.bin", i)), film, block); err != nil {
			return err
		}
		seen, err := d.take(ctx)
		if err != nil {
			return err
		}
		t.row(row{fmt.Sprintf("sequential, blocks of %s, 64 MiB memory, no disk tier", bytesText(float64(block))), trips,
			float64(seen.Out) / float64(film), 1, none, "", []target{{"", "≤", 1.004}}}) // 1.00 as printed
	}
	s.drop()
	return b.readTwice(ctx, t, film)
}

// readTwice counts what two readers of one file download.
func (b *bench) readTwice(ctx context.Context, t *table, film int64) error {
	d, err := b.startDrive(line())
	if err != nil {
		return err
	}
	defer d.proc.end()
	if err := d.fill(ctx, "films", 0, 1, film); err != nil {
		return err
	}
	s, err := b.mount(d)
	if err != nil {
		return err
	}
	defer s.drop()
	if err := s.complete(ctx); err != nil {
		return err
	}
	if _, err := d.take(ctx); err != nil {
		return err
	}
	name := s.path("films", "f00000.bin")
	errs := make(chan error, 2)
	for _, from := range []int64{0, film / 2} {
		go func() {
			err := readPart(ctx, name, from, film-from, 128<<10)
			if err == nil && from > 0 {
				err = readPart(ctx, name, 0, from, 128<<10)
			}
			errs <- err
		}()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		return err
	}
	seen, err := d.take(ctx)
	if err != nil {
		return err
	}
	t.row(row{fmt.Sprintf("two readers at different places, all of it each, %v", lineLatency), trips, float64(seen.Out) / float64(film), 1, none, "", []target{{"", "≤", 1.05}}})
	return nil
}
