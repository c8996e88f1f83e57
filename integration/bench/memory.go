package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

// runMemory opens many files and reads many of them at once.
func runMemory(ctx context.Context, b *bench, t *table) error {
	const open, reading = 200, 50
	budget := pick[int64](b, 128*mib, 512*mib)
	size1 := pick[int64](b, 8*mib, 64*mib)
	churn := pick[int64](b, 3*gib, 20*gib)
	d, err := b.startDrive(serveConfig{Latency: 5 * time.Millisecond})
	if err != nil {
		return err
	}
	if err := d.fill(ctx, "many", 0, open, size1); err != nil {
		return err
	}
	s, err := b.mount(d, "--cache-memory", fmt.Sprintf("%dMiB", budget/mib))
	if err != nil {
		return err
	}
	defer s.drop()
	if err := s.complete(ctx); err != nil {
		return err
	}
	started := s.proc.anonymous()
	peak := s.proc.peak()
	files := make([]*os.File, open)
	for i := range files {
		if files[i], err = os.Open(s.path("many", fmt.Sprintf("f%05d.bin", i))); err != nil {
			return err
		}
		defer files[i].Close()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, reading)
	began := time.Now()
	written := s.profiled("memory-churn", 3*time.Second)
	for r := range reading {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(r), 9))
			var err error
			for left := churn / reading; left > 0 && err == nil; left -= size1 {
				name := s.path("many", fmt.Sprintf("f%05d.bin", rng.IntN(open)))
				if err = forget(name); err == nil {
					_, err = readAll(ctx, name, size1, 128<<10)
				}
			}
			if err != nil {
				cancel()
			}
			errs <- err
		}()
	}
	for range reading {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	took := time.Since(began)
	written()
	most := peak()
	t.note("%d files open, %d read at once, %s read in all, --cache-memory %s:", open, reading, bytesText(float64(churn)), bytesText(float64(budget)))
	t.row(row{"anonymous memory (RssAnon + RssShmem), peak", size, float64(most), float64(budget), none, fmt.Sprintf("%s before", bytesText(float64(started))),
		[]target{{"", "≤", float64(budget + 64*mib)}}})
	t.row(row{"… afterwards", size, float64(s.proc.anonymous()), float64(budget), none, "", []target{{"", "≤", float64(budget + 64*mib)}}})
	t.row(row{"… read in all", rate, perSecond(float64(churn), took), none, none, "", nil})
	return nil
}
