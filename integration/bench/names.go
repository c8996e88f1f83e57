package main

import (
	"context"
	"fmt"
	"time"

	"github.com/drivefs/drivefs/integration/bench/memfs"
)

// runNames removes, makes and moves many at the line's latency.
func runNames(ctx context.Context, b *bench, t *table) error {
	const folders, perFolder, made, moved = 50, 100, 500, 500
	d, err := b.startDrive(line())
	if err != nil {
		return err
	}
	if err := d.fill(ctx, "tree", folders, perFolder, 100); err != nil {
		return err
	}
	if err := d.fill(ctx, "from", 0, moved, 100); err != nil {
		return err
	}
	if err := d.ask(ctx, "put", values("path", "to/keep"), nil, nil); err != nil {
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
	lim, err := b.limit(memfs.Options{})
	if err != nil {
		return err
	}
	defer lim.drop()
	// do runs a script in the mount; command, until settled, calls.
	do := func(name, script string) (command, settled time.Duration, seen stats, err error) {
		if _, err = d.take(ctx); err != nil {
			return
		}
		written := s.profiled("names-"+name, time.Second)
		began := time.Now()
		if command, err = b.command(ctx, nil, "bash", "-c", "cd \"$0\" && "+script, s.mnt); err != nil {
			return
		}
		if _, err = s.verb(ctx, "flush"); err != nil {
			return
		}
		settled = time.Since(began)
		written()
		seen, err = d.take(ctx)
		return
	}
	before, err := d.nodes(ctx)
	if err != nil {
		return err
	}
	command, settled, seen, err := do("rm", "rm -r tree")
	if err != nil {
		return err
	}
	t.note("%v a request:", lineLatency)
	t.row(row{fmt.Sprintf("rm -r of %d files in %d folders: the command", folders*perFolder, folders), seconds, sec(command), none, none, "", []target{{"", "≤", 3}}})
	t.row(row{"… until the drive has settled (flush)", seconds, sec(settled), none, none, fmt.Sprint(seen.Requests), []target{{"", "≤", 15}}})
	t.row(row{"… calls a folder", count, float64(seen.calls()) / folders, none, none, "", []target{{"", "≤", 3}}})
	after, err := d.nodes(ctx)
	if err != nil {
		return err
	}
	if gone := before - after; gone != folders*(perFolder+1)+1 {
		return fmt.Errorf("rm -r: %d nodes are gone from the drive, want %d", gone, folders*(perFolder+1)+1)
	}
	// The same command on a filesystem where nothing waits.
	mkdirs := fmt.Sprintf("mkdir -p new/d{001..%03d}", made)
	limit, err := b.command(ctx, nil, "bash", "-c", "cd \"$0\" && "+mkdirs, lim.mnt)
	if err != nil {
		return err
	}
	if command, settled, seen, err = do("mkdir", mkdirs); err != nil {
		return err
	}
	t.row(row{fmt.Sprintf("mkdir -p of %d folders: the command", made), seconds, sec(command), sec(limit), none, fmt.Sprint(seen.Requests), []target{{"", "≤", 3}}})
	t.row(row{"… until the drive has settled; limit: folders × trip ÷ 16", seconds, sec(settled), sec(waves(made, connections, lineLatency)), none, "", nil})
	if command, settled, seen, err = do("mv", "mv from/* to/"); err != nil {
		return err
	}
	t.row(row{fmt.Sprintf("mv of %d files: the command", moved), seconds, sec(command), none, none, fmt.Sprint(seen.Requests), []target{{"", "≤", 3}}})
	t.row(row{"… until the drive has settled; limit: files × trip ÷ 16", seconds, sec(settled), sec(waves(moved, connections, lineLatency)), none, "", nil})
	return nil
}
