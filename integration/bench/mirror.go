package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// runMirror is a large account: first start, restart, much news.
func runMirror(ctx context.Context, b *bench, t *table) error {
	const perDir = 1000
	nodes := pick(b, 100_000, 1_000_000)
	changed := min(nodes/2, 100_000)
	d, err := b.startDrive(serveConfig{})
	if err != nil {
		return err
	}
	if err := d.ask(ctx, "bulk", values("n", nodes, "per", perDir), nil, nil); err != nil {
		return err
	}
	t.note("%d nodes in folders of %d, no latency:", nodes, perDir)
	s, err := b.mount(d)
	if err != nil {
		return err
	}
	defer func() { s.drop() }()
	peak := s.proc.peak()
	written := s.profiled("mirror-sync", 2*time.Second)
	if _, err := os.ReadDir(s.mnt); err != nil {
		return err
	}
	first := time.Since(s.began)
	if err := stat(s.path("bulk-0000001", "file-000001.txt")); err != nil {
		return err
	}
	deep := time.Since(s.began)
	if err := s.complete(ctx); err != nil {
		return err
	}
	sync, cpu := time.Since(s.began), s.proc.cpu()
	written()
	most := peak()
	resting := s.proc.anonymous()
	db, err := sizeOf(filepath.Join(s.state, "state"))
	if err != nil {
		return err
	}
	t.row(row{"first ls / after the start", seconds, sec(first), none, none, "", []target{{"", "≤", 2}}})
	t.row(row{"stat of a file in a folder, after the start", seconds, sec(deep), none, none, "", []target{{"", "≤", 2}}})
	t.row(row{"whole sync", perSec, perSecond(float64(nodes), sync), none, none, fmt.Sprintf("%.1f s; %.1f s of one processor", sync.Seconds(), cpu.Seconds()), []target{{"", "≥", 60_000}}})
	t.row(row{"anonymous memory after it", size, float64(resting), none, none, fmt.Sprintf("peak %s", bytesText(float64(most))), []target{{"", "≤", 350 * mib}}})
	t.row(row{"state directory", size, float64(db), none, none, fmt.Sprintf("%.0f bytes a node", float64(db)/float64(nodes)), []target{{"", "≤", 500e6}}})
	// From here on the feed is heard when the measurement says so.
	s.flags = append(s.flags, "--poll-interval", "0")
	if err := s.again(ctx); err != nil {
		return err
	}
	if _, err := os.ReadDir(s.mnt); err != nil {
		return err
	}
	ready := time.Since(s.began)
	t.row(row{"restart to ready", seconds, sec(ready), none, none, "", []target{{"", "≤", 1}}})

	// Everything is known to the kernel while the news come.
	if _, _, err := walk(ctx, s.mnt); err != nil {
		return err
	}
	if err := d.ask(ctx, "change", values("n", changed), nil, nil); err != nil {
		return err
	}
	quiet, _, err := walk(ctx, s.mnt)
	if err != nil {
		return err
	}
	known := s.proc.anonymous()
	written = s.profiled("mirror-changes", 3*time.Second)
	took, longest, where, err := s.beside(ctx, func() error {
		_, err := s.verb(ctx, "refresh")
		return err
	})
	if err != nil {
		return err
	}
	written()
	t.row(row{fmt.Sprintf("%d changed nodes, refresh while find runs", changed), seconds, sec(took), none, none, fmt.Sprintf("half of them renamed; memory with all nodes known to the kernel %s", bytesText(float64(known))), []target{{"", "≤", 5}}})
	t.row(row{"… longest wait of that find; limit: before the news", seconds, sec(longest), sec(quiet), none, "in " + filepath.Base(where), []target{{"", "≤", 0.05}}})

	peak = s.proc.peak()
	took, longest, where, err = s.beside(ctx, func() error {
		_, err := s.asked(ctx, "check")
		return err
	})
	most = peak()
	if err != nil {
		return err
	}
	t.row(row{fmt.Sprintf("check of %d nodes while find runs", nodes), seconds, sec(took), none, none, fmt.Sprintf("memory, peak %s", bytesText(float64(most))), nil})
	t.row(row{"… longest wait of that find; limit: before the news", seconds, sec(longest), sec(quiet), none, "in " + filepath.Base(where), []target{{"", "≤", 0.05}}})
	s.drop()
	d.proc.end()
	return b.hugeFolder(ctx, t)
}

// runOrders is the first sync of one account, told in any order: that of a real
// feed is interleaved, children of many folders by turns.
func runOrders(ctx context.Context, b *bench, t *table) error {
	nodes := pick(b, 100_000, 1_000_000)
	t.note("%d nodes in folders of 100, no latency:", nodes)
	for _, order := range []string{"", drivetest.Interleaved, drivetest.Shuffled, drivetest.ChildrenFirst} {
		if err := b.firstSync(ctx, t, order, nodes); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) firstSync(ctx context.Context, t *table, order string, nodes int) error {
	d, err := b.startDrive(serveConfig{})
	if err != nil {
		return err
	}
	defer d.proc.end()
	if err := d.ask(ctx, "bulk", values("n", nodes, "per", 100, "order", order), nil, nil); err != nil {
		return err
	}
	s, err := b.mount(d)
	if err != nil {
		return err
	}
	defer s.drop()
	peak := s.proc.peak()
	written := s.profiled("orders-"+order, 2*time.Second)
	if err := stat(s.path("bulk-0000007", "file-000050.txt")); err != nil {
		return err
	}
	deep := time.Since(s.began)
	if err := s.complete(ctx); err != nil {
		return err
	}
	sync, cpu := time.Since(s.began), s.proc.cpu()
	written()
	if order == "" {
		order = "folder by folder"
	}
	t.row(row{"first sync, " + order, perSec, perSecond(float64(nodes), sync), none, none, fmt.Sprintf("%.1f s; %.1f µs of a processor a node; stat of a path meanwhile %.2f s; memory, peak %s", sync.Seconds(), cpu.Seconds()*1e6/float64(nodes), deep.Seconds(), bytesText(float64(peak()))), []target{{"", "≥", 100_000}}})
	return nil
}

// beside does something while find runs, and returns how long it took, and the
// longest wait of that find and where that was.
func (s *subject) beside(ctx context.Context, do func() error) (took, longest time.Duration, where string, err error) {
	done := make(chan error, 1)
	began := time.Now()
	go func() {
		err := do()
		took = time.Since(began)
		done <- err
	}()
	for {
		wait, at, werr := walk(ctx, s.mnt)
		if wait > longest {
			longest, where = wait, at
		}
		select {
		case err := <-done:
			return took, longest, where, errors.Join(err, werr)
		default:
		}
		if werr != nil {
			return 0, 0, "", errors.Join(werr, <-done)
		}
	}
}

// hugeFolder is one folder that nobody has told about yet.
func (b *bench) hugeFolder(ctx context.Context, t *table) error {
	n := pick(b, 20_000, 100_000)
	d, err := b.startDrive(serveConfig{})
	if err != nil {
		return err
	}
	defer d.proc.end()
	if err := d.ask(ctx, "bulk", values("n", n+1, "per", n), nil, nil); err != nil {
		return err
	}
	if err := d.fill(ctx, "other", 0, 100, 1); err != nil {
		return err
	}
	s, err := b.mount(d, "--poll-interval", "0")
	if err != nil {
		return err
	}
	defer s.drop()
	if _, err := os.ReadDir(s.path("other")); err != nil {
		return err
	}
	peak := s.proc.peak()
	done := make(chan error, 1)
	var took time.Duration
	began := time.Now()
	written := s.profiled("mirror-huge", 2*time.Second)
	go func() {
		_, err := b.command(ctx, []string{"LC_ALL=C.UTF-8"}, "bash", "-c", `ls -U "$0" > /dev/null`, s.path("bulk-0000000"))
		took = time.Since(began)
		done <- err
	}()
	var longest time.Duration
	for i := 0; ; i++ {
		began := time.Now()
		// Absent names are asked for each time.
		if err := stat(s.path("other", fmt.Sprint("absent", i))); err == nil {
			return errors.New("an absent name is there")
		}
		longest = max(longest, time.Since(began))
		select {
		case err = <-done:
		default:
			continue
		}
		break
	}
	most := peak()
	if err != nil {
		return err
	}
	written()
	t.row(row{fmt.Sprintf("ls of one folder of %d, listed on demand", n), seconds, sec(took), none, none, fmt.Sprintf("memory, peak %s", bytesText(float64(most))), []target{{"", "≤", 15}}})
	t.row(row{"… longest lookup elsewhere beside it", seconds, sec(longest), none, none, "", []target{{"", "≤", 0.02}}})
	return nil
}

// walk is find with stat, and returns its longest wait and where that was.
// What vanishes meanwhile is no error.
func walk(ctx context.Context, dir string) (longest time.Duration, where string, err error) {
	note := func(began time.Time, at string) {
		if d := time.Since(began); d > longest {
			longest, where = d, at
		}
	}
	began := time.Now()
	top, err := os.ReadDir(dir)
	note(began, dir)
	if err != nil {
		return 0, "", err
	}
	for _, e := range top {
		if ctx.Err() != nil {
			return 0, "", ctx.Err()
		}
		if !e.IsDir() {
			continue
		}
		at := filepath.Join(dir, e.Name())
		began := time.Now()
		f, err := os.Open(at)
		note(began, at)
		if err != nil {
			return 0, "", err
		}
		for {
			// A call of the kernel each, as find does.
			began := time.Now()
			names, err := f.Readdirnames(256)
			note(began, at)
			if len(names) == 0 || err != nil {
				break
			}
			for _, name := range names {
				var st unix.Stat_t
				began := time.Now()
				err := unix.Lstat(at+"/"+name, &st)
				note(began, at+"/"+name)
				if err != nil && !errors.Is(err, unix.ENOENT) {
					return 0, "", errors.Join(err, f.Close())
				}
			}
		}
		if err := f.Close(); err != nil {
			return 0, "", err
		}
	}
	return longest, where, nil
}

// sizeOf is what the files below dir take on disk.
func sizeOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if st, ok := sysOf(fi); ok {
			n += st.Blocks * 512
		}
		return err
	})
	return n, err
}

func sysOf(fi fs.FileInfo) (*syscall.Stat_t, bool) {
	if fi == nil {
		return nil, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return st, ok
}
