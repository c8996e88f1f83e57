package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// runLooks counts what is downloaded for those who want a part of a film, and how
// long small files take, over the line of the targets.
func runLooks(ctx context.Context, b *bench, t *table) error {
	const film, small, smallSize = 512 * mib, 400, 10 << 10
	d, err := b.startDrive(line())
	if err != nil {
		return err
	}
	defer d.proc.end()
	if err := d.fill(ctx, "films", 0, 5, film); err != nil {
		return err
	}
	if err := d.fill(ctx, "small", 0, small, smallSize); err != nil {
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
	peer := &subject{}
	if b.rclone != "" {
		if peer, err = b.mountRclone(ctx, d); err != nil {
			return err
		}
		defer peer.drop()
	}
	// The kernel's own read-ahead, 1 MiB as root, is read as well.
	looks := []struct {
		name  string
		offs  []int64
		n     int64
		most  float64
		place string
	}{
		{"4 KiB anywhere, 20 times", spread(20, 17*mib), 4096, 20 * 512 << 10, "512 KiB each"},
		{"the first MiB", spread(1, 0), mib, 4 * mib, "4 MiB"},
		{"the first 2 MiB", spread(2, mib), mib, 6.5 * mib, ""},
		{"8 MiB and close", spread(8, mib), mib, 18.5 * mib, ""},
		{"a MiB here and there, 8 times", spread(8, 51*mib), mib, 8 * 4 * mib, "4 MiB each"},
	}
	for i, x := range looks {
		name := fmt.Sprintf("films/f%05d.bin", i)
		var got [2]float64
		for j, sub := range []*subject{s, peer} {
			got[j] = none
			if j == 1 && b.rclone == "" {
				continue
			}
			if _, err := d.take(ctx); err != nil {
				return err
			}
			f, err := os.Open(sub.path(name))
			if err != nil {
				return err
			}
			buf := make([]byte, x.n)
			for _, off := range x.offs {
				if _, err := f.ReadAt(buf, off); err != nil {
					return err
				}
			}
			if err := f.Close(); err != nil {
				return err
			}
			time.Sleep(500 * time.Millisecond)
			seen, err := d.take(ctx)
			if err != nil {
				return err
			}
			got[j] = float64(seen.Out)
		}
		t.row(row{x.name + ": downloaded", size, got[0], float64(x.n) * float64(len(x.offs)), got[1], x.place, []target{{"", "≤", x.most}}})
	}
	to := b.dir("copied")
	took, err := b.command(ctx, nil, "cp", "-r", s.path("small"), to)
	if err != nil {
		return err
	}
	theirs := none
	if b.rclone != "" {
		took, err := b.command(ctx, nil, "cp", "-r", peer.path("small"), b.dir("copied"))
		if err != nil {
			return err
		}
		theirs = perSecond(small, took)
	}
	// One connection asks for one after the other.
	t.row(row{fmt.Sprintf("cp -r of %d files of %s; limit: one after the other", small, bytesText(smallSize)), perSec,
		perSecond(small, took), 1 / lineLatency.Seconds(), theirs, "", []target{{"limit", "≥", 8}}})
	return nil
}

// spread are n places, step apart.
func spread(n int, step int64) (offs []int64) {
	for i := range int64(n) {
		offs = append(offs, i*step)
	}
	return offs
}
