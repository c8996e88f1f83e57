package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/integration/bench/memfs"
)

// runMeta lists trees of which the mirror knows everything.
func runMeta(ctx context.Context, b *bench, t *table) error {
	const perDir = 1000
	files := pick(b, 10_000, 100_000)
	nodes := files + files/perDir
	d, err := b.startDrive(serveConfig{Latency: lineLatency})
	if err != nil {
		return err
	}
	if err := d.ask(ctx, "bulk", values("n", nodes, "per", perDir), nil, nil); err != nil {
		return err
	}
	walks := []struct {
		name string
		args []string
	}{
		{"find", []string{"find"}},
		{"ls -lR", []string{"ls", "-lR"}},
	}
	list := func(args []string, dir string) (float64, error) {
		took, err := b.command(ctx, []string{"LC_ALL=C.UTF-8"}, append([]string{"bash", "-c", `"$@" > /dev/null`, "-"}, append(args, dir)...)...)
		return sec(took), err
	}
	peers := map[string]float64{}
	if b.rclone != "" {
		for _, w := range walks {
			r, err := b.mountRclone(ctx, d)
			if err != nil {
				return err
			}
			if peers[w.name], err = list(w.args, r.mnt); err != nil {
				return err
			}
			r.drop()
		}
	}
	for _, xattrs := range []string{"on", "off"} {
		t.note("%d files in folders of %d, --xattrs %s; rclone cold at %v:", files, perDir, xattrs, lineLatency)
		s, err := b.mount(d, "--xattrs", xattrs)
		if err != nil {
			return err
		}
		if err := s.complete(ctx); err != nil {
			return err
		}
		for _, w := range walks {
			// Each pass on a fresh mount, so that the kernel knows nothing; in
			// turns, the best of three.
			cold, warm, limit, limitWarm := math.Inf(1), math.Inf(1), math.Inf(1), math.Inf(1)
			for range 3 {
				lim, err := b.limit(memfs.Options{Nodes: nodes, PerDir: perDir, Xattrs: xattrs == "on"})
				if err != nil {
					return err
				}
				if err := s.again(ctx); err != nil {
					return err
				}
				for _, p := range []struct {
					s  *subject
					at *float64
				}{{lim, &limit}, {s, &cold}, {lim, &limitWarm}, {s, &warm}} {
					written := func() {}
					if p.at == &cold {
						written = s.profiled(fmt.Sprintf("meta-%s-xattrs-%s", w.args[0], xattrs), time.Second)
					}
					took, err := list(w.args, p.s.mnt)
					if err != nil {
						return err
					}
					written()
					*p.at = min(*p.at, took)
				}
				lim.drop()
			}
			t.row(row{w.name + ", the kernel knows nothing", seconds, cold, limit, peer(peers, w.name), "", []target{{"limit", "≥", 1 / 1.3}, {"rclone", "≥", 10}}})
			t.row(row{w.name + ", again", seconds, warm, limitWarm, none, "", []target{{"limit", "≥", 1 / 1.3}}})
		}
		if xattrs == "off" {
			if err := b.stats(ctx, t, s, files, perDir); err != nil {
				return err
			}
		}
		s.drop()
	}
	d.proc.end()
	return b.wideFolder(ctx, t)
}

func peer(m map[string]float64, k string) float64 {
	if v, ok := m[k]; ok {
		return v
	}
	return none
}

// stats is stat of every file whose name is known, on a fresh mount.
func (b *bench) stats(ctx context.Context, t *table, s *subject, files, perDir int) error {
	lim, err := b.limit(memfs.Options{Nodes: files + files/perDir, PerDir: perDir})
	if err != nil {
		return err
	}
	defer lim.drop()
	one := func(s *subject) (float64, error) {
		for i := range files / perDir {
			if err := stat(s.path(fmt.Sprintf("bulk-%07d", i))); err != nil {
				return 0, err
			}
		}
		began := time.Now()
		var st unix.Stat_t
		for i := range files {
			if err := unix.Lstat(s.mnt+fmt.Sprintf("/bulk-%07d/file-%06d.txt", i/perDir, i%perDir), &st); err != nil {
				return 0, err
			}
			if i%1000 == 0 && ctx.Err() != nil {
				return 0, ctx.Err()
			}
		}
		return perSecond(float64(files), time.Since(began)), nil
	}
	var ours float64
	for range 3 {
		if err := s.again(ctx); err != nil {
			return err
		}
		written := s.profiled("meta-stat", time.Second)
		v, err := one(s)
		if err != nil {
			return err
		}
		written()
		ours = max(ours, v)
	}
	limit, err := one(lim)
	if err != nil {
		return err
	}
	t.row(row{"cold stat of known names", perSec, ours, limit, none, "", []target{{"", "≥", 20_000}}})
	return nil
}

// wideFolder is one folder of ten thousand.
func (b *bench) wideFolder(ctx context.Context, t *table) error {
	const n = 10_000
	d, err := b.startDrive(serveConfig{})
	if err != nil {
		return err
	}
	defer d.proc.end()
	if err := d.ask(ctx, "bulk", values("n", n+1, "per", n), nil, nil); err != nil {
		return err
	}
	s, err := b.mount(d, "--xattrs", "off")
	if err != nil {
		return err
	}
	defer s.drop()
	if err := s.complete(ctx); err != nil {
		return err
	}
	lim, err := b.limit(memfs.Options{Nodes: n + 1, PerDir: n})
	if err != nil {
		return err
	}
	defer lim.drop()
	ours, limit := math.Inf(1), math.Inf(1)
	for range 4 { // the first is cold
		for _, p := range []struct {
			s  *subject
			at *float64
		}{{lim, &limit}, {s, &ours}} {
			took, err := b.command(ctx, []string{"LC_ALL=C.UTF-8"}, "bash", "-c", `ls -l "$0" > /dev/null`, p.s.path("bulk-0000000"))
			if err != nil {
				return err
			}
			*p.at = min(*p.at, sec(took))
		}
	}
	t.row(row{fmt.Sprintf("ls -l of one folder of %d, warm, --xattrs off", n), seconds, ours, limit, none, "", []target{{"", "≤", 0.06}}})
	return nil
}
